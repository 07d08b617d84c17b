#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| evenkeel::fuzzing::http2(data));

//! Arguments in, exit code out; everything else is the library.

#![forbid(unsafe_code)]

use std::process::ExitCode;

// The allocator of glibc gives memory of short-lived threads and large bodies back late; a proxy
// that runs for months needs one whose memory stays flat.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    evenkeel::cli::main(std::env::args_os())
}

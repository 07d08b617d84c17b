//! Replays what fuzzing has kept: every input through the function that it was made for.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use evenkeel::fuzzing::TARGETS;

#[test]
fn every_kept_input_holds() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, target) in TARGETS {
        let inputs: Vec<_> = fs::read_dir(corpus.join(name))
            .unwrap_or_else(|error| panic!("the corpus of {name}: {error}"))
            .map(|entry| entry.unwrap().path())
            .collect();
        assert!(inputs.len() >= 5, "{name} has {} inputs", inputs.len());
        for input in inputs {
            // Told when the input breaks something.
            println!("{}", input.display());
            target(&fs::read(&input).unwrap());
        }
        // And what no corpus needs to hold.
        for data in [&b""[..], b"\0", b"\xff", b"\n", b"\r\n\r\n", &[0; 4096], &[0xff; 4096]] {
            target(data);
        }
    }
}

/// Inputs made from kept ones: cut, spliced, and with words and bytes put in that mean something somewhere.
/// Blind to what the code does with them, but quick, and in every test run; `fuzz/run` sees. The seed is
/// fixed: a fault that is found is found again. `EVENKEEL_FUZZ_SECONDS` gives each target more time.
#[test]
fn inputs_made_from_kept_ones_hold() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let time = std::env::var("EVENKEEL_FUZZ_SECONDS").map_or(1, |seconds| seconds.parse().unwrap());
    for (name, target) in TARGETS {
        let mut kept: Vec<_> = fs::read_dir(corpus.join(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
        kept.sort();
        let kept: Vec<Vec<u8>> = kept.iter().map(|path| fs::read(path).unwrap()).collect();
        let mut random = Random(0x9E37_79B9_7F4A_7C15);
        let (began, mut made) = (Instant::now(), 0_u64);
        while began.elapsed() < Duration::from_secs(time) {
            for _ in 0..64 {
                let input = mutated(&kept, &mut random);
                made += 1;
                if std::panic::catch_unwind(|| target(&input)).is_err() {
                    let file = std::env::temp_dir().join(format!("evenkeel-fuzz-{name}"));
                    fs::write(&file, &input).unwrap();
                    panic!("{name}: input {made}, kept as {}: {:?}", file.display(), String::from_utf8_lossy(&input));
                }
            }
        }
        println!("{name}: {made} inputs");
    }
}

/// SplitMix64 of Sebastiano Vigna.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

/// What parsers look for, and what they trip over.
const WORDS: &[&str] = &[
    "\r\n",
    "\n",
    "\r",
    "\r\n\r\n",
    " ",
    "\t",
    "\0",
    "\u{7f}",
    "é",
    ":",
    ";",
    ",",
    "=",
    "\"",
    "/",
    "//",
    "/../",
    "/./",
    "..;",
    "%2e%2e",
    "%2f",
    "%5c",
    "%00",
    "%25",
    "%3b",
    "%C0%AE",
    "%",
    "?",
    "#",
    "@",
    "*",
    "[",
    "]",
    "[::1]",
    "0",
    "00",
    "-1",
    "+1",
    "5",
    "18446744073709551616",
    "0x5",
    "chunked",
    "identity",
    "content-length: 5\r\n",
    "transfer-encoding: chunked\r\n",
    "host: a\r\n",
    "connection: upgrade\r\n",
    "upgrade: websocket\r\n",
    "expect: 100-continue\r\n",
    "cookie: a=b\r\n",
    "x-forwarded-for: ",
    "HTTP/1.1",
    "HTTP/1.0",
    "HTTP/2.0",
    "GET ",
    "POST ",
    "CONNECT ",
    "OPTIONS * ",
    "http://",
    "https://u:p@",
    "/admin/",
    "/api",
    "evenkeel=",
    "PROXY TCP4 ",
    "65536",
    "127.0.0.1",
    "10.0.0.1",
    "::ffff:10.0.0.1",
    "[[listener]]\n",
    "[upstream.app]\n",
    "bind = ",
    "servers = [",
    "{",
    "}",
    "'''",
    "\"1s\"",
    "= 1\n",
    "policy = ",
    "check = ",
    "\u{feff}",
];

fn mutated(kept: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut input = kept[random.below(kept.len())].clone();
    for _ in 0..=random.below(6) {
        let at = random.below(input.len() + 1);
        match random.below(8) {
            0 if at < input.len() => input[at] = random.next() as u8,
            1 if at < input.len() => input[at] ^= 1 << random.below(8),
            2 => input.truncate(at),
            3 => {
                let end = (at + 1 + random.below(16)).min(input.len());
                input.drain(at.min(end)..end);
            }
            4 => {
                let other = &kept[random.below(kept.len())];
                let from = random.below(other.len() + 1);
                let end = (from + random.below(64)).min(other.len());
                input.splice(at..at, other[from..end].iter().copied());
            }
            5 => {
                let end = (at + random.below(32)).min(input.len());
                let again = input[at..end].to_vec();
                input.splice(at..at, again);
            }
            _ => {
                let word = WORDS[random.below(WORDS.len())].as_bytes();
                input.splice(at..at, word.iter().copied());
            }
        }
    }
    input
}

/// A target that is not listed is not replayed, and one without a program is not fuzzed.
#[test]
fn targets_programs_and_corpora_are_the_same() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let names = |dir: &str| -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(fuzz.join(dir))
            .unwrap()
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        names.sort();
        names
    };
    let mut listed: Vec<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    listed.sort();
    assert_eq!(names("fuzz_targets"), listed);
    assert_eq!(names("corpus"), listed);
}

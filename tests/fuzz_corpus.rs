//! Replays what fuzzing has kept: every input through the function that it was made for.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use std::fs;
use std::path::Path;

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

//! The three encodings behind one face: bytes in, bytes out, flushed when they must be.
//!
//! What an encoder keeps is bounded by its window, 256 KiB whatever the level, by tables that follow from
//! window and level (a few times the window), and by what it has made and nobody has taken.

use std::fmt;
use std::io::{self, Write};

use brotli::CompressorWriter;
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::config::plan::{Encoding, Level};

/// Bits of the window of zstd and brotli. Their own defaults keep megabytes for each answer.
const WINDOW_BITS: u32 = 18;
const BROTLI_BUFFER: usize = 4096;

pub(super) enum Encoder {
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
    Br(Box<CompressorWriter<Vec<u8>>>),
    Gzip(GzEncoder<Vec<u8>>),
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Zstd(_) => "Encoder::Zstd",
            Self::Br(_) => "Encoder::Br",
            Self::Gzip(_) => "Encoder::Gzip",
        })
    }
}

impl Encoder {
    pub(super) fn new(encoding: Encoding, level: Level) -> io::Result<Self> {
        let of = |levels: [u32; 3]| match level {
            Level::Fast => levels[0],
            Level::Balanced => levels[1],
            Level::Small => levels[2],
        };
        Ok(match encoding {
            Encoding::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), of([1, 3, 12]) as i32)?;
                encoder.window_log(WINDOW_BITS)?;
                Self::Zstd(encoder)
            }
            Encoding::Br => {
                // From 7 on its tables take many megabytes for each answer.
                let (quality, output) = (of([2, 5, 6]), Vec::new());
                Self::Br(Box::new(CompressorWriter::new(output, BROTLI_BUFFER, quality, WINDOW_BITS)))
            }
            Encoding::Gzip => Self::Gzip(GzEncoder::new(Vec::new(), Compression::new(of([2, 6, 9])))),
        })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Zstd(encoder) => encoder.write_all(bytes),
            Self::Br(encoder) => encoder.write_all(bytes),
            Self::Gzip(encoder) => encoder.write_all(bytes),
        }
    }

    /// Brings out everything that was written, so that the client can read all of it.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Zstd(encoder) => encoder.flush(),
            Self::Br(encoder) => encoder.flush(),
            Self::Gzip(encoder) => encoder.flush(),
        }
    }

    /// What has come out and was not taken yet.
    pub(super) fn output(&mut self) -> &mut Vec<u8> {
        match self {
            Self::Zstd(encoder) => encoder.get_mut(),
            Self::Br(encoder) => encoder.get_mut(),
            Self::Gzip(encoder) => encoder.get_mut(),
        }
    }

    /// Ends it: the rest of what comes out.
    pub(super) fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Self::Zstd(encoder) => encoder.finish(),
            Self::Br(encoder) => Ok(encoder.into_inner()),
            Self::Gzip(encoder) => encoder.finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn decoded(encoding: Encoding, bytes: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        // An encoding that was flushed and not ended can be read up to there.
        let _ = match encoding {
            Encoding::Zstd => zstd::stream::read::Decoder::new(bytes).unwrap().read_to_end(&mut plain),
            Encoding::Br => brotli::Decompressor::new(bytes, 4096).read_to_end(&mut plain),
            Encoding::Gzip => flate2::read::GzDecoder::new(bytes).read_to_end(&mut plain),
        };
        plain
    }

    #[test]
    fn every_encoding_gives_back_what_it_got() {
        let text: Vec<u8> = (0..200_000_u32).flat_map(|n| (n % 977).to_le_bytes()).collect();
        for encoding in Encoding::ALL {
            for level in [Level::Fast, Level::Balanced, Level::Small] {
                let mut encoder = Encoder::new(encoding, level).unwrap();
                let mut out = Vec::new();
                for piece in text.chunks(70_001) {
                    encoder.write(piece).unwrap();
                    out.append(encoder.output());
                }
                out.extend(encoder.finish().unwrap());
                assert!(decoded(encoding, &out) == text, "{encoding:?} {level:?}");
                assert!(out.len() < text.len() / 2, "{encoding:?} {level:?}: {}", out.len());
            }
        }
    }

    #[test]
    fn what_is_flushed_can_be_read() {
        for encoding in Encoding::ALL {
            let mut encoder = Encoder::new(encoding, Level::Fast).unwrap();
            let mut out = Vec::new();
            for (n, word) in ["one ", "two ", "three "].into_iter().enumerate() {
                encoder.write(word.as_bytes()).unwrap();
                encoder.flush().unwrap();
                out.append(encoder.output());
                assert_eq!(decoded(encoding, &out), &b"one two three "[..[4, 8, 14][n]], "{encoding:?}");
            }
        }
    }
}

//! Reads a log line by line.

use std::io::{self, BufRead, Read as _};

use super::Replay;
use super::line::{self, Line};
use super::summary::BadLine;

/// A longer line is a bad one.
const LONGEST_LINE: u64 = 1 << 16;

impl Replay {
    /// Reads a log to its end. Several may follow each other.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(&mut self, log: &mut dyn BufRead) -> io::Result<()> {
        let mut line = Vec::new();
        loop {
            line.clear();
            if (&mut *log).take(LONGEST_LINE).read_until(b'\n', &mut line)? == 0 {
                return Ok(());
            }
            self.numbers += 1;
            if line.len() as u64 == LONGEST_LINE && line.last() != Some(&b'\n') {
                self.bad(&line, "it is longer than 64 KiB");
                skip_line(log)?;
                continue;
            }
            match line::read(&line) {
                Ok(Line::Request(logged)) => self.request(&logged),
                Ok(Line::Unsent) => self.told.left_out += 1,
                Ok(Line::Lost(lines)) => self.told.lost = self.told.lost.saturating_add(lines),
                Err(why) => self.bad(&line, why),
            }
        }
    }

    fn bad(&mut self, line: &[u8], why: &'static str) {
        self.told.bad.lines += 1;
        if self.told.bad.first.is_none() {
            let text = String::from_utf8_lossy(line.trim_ascii_end());
            let text = text.chars().take(120).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
            self.told.bad.first = Some(BadLine { number: self.numbers, why, text });
        }
    }
}

fn skip_line(log: &mut dyn BufRead) -> io::Result<()> {
    loop {
        let buffer = log.fill_buf()?;
        if buffer.is_empty() {
            return Ok(());
        }
        let end = memchr::memchr(b'\n', buffer);
        let used = end.map_or(buffer.len(), |at| at + 1);
        log.consume(used);
        if end.is_some() {
            return Ok(());
        }
    }
}

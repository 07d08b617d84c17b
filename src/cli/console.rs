//! Where verbs write to: answers on standard output, everything else on standard error.
//!
//! No verb prints by itself, so that a closed pipe ends quietly, colours stay off where nobody asked
//! for them, and tests read what a person would.

use std::io::{self, IsTerminal, Write};

use super::args::{Color, Global, Output};
use super::exit::{Exit, Failure};

/// The terminal as verbs see it.
pub(super) struct Console {
    out: Box<dyn Write>,
    err: Box<dyn Write>,
    /// Whether answers may be coloured.
    pub color: bool,
    /// Whether messages on standard error may be coloured.
    pub color_err: bool,
    /// Whether a line may be written over, because a person looks at it.
    pub live: bool,
    /// Whether answers are JSON.
    pub json: bool,
    /// Whether confirmations are left out.
    pub quiet: bool,
    /// How much more than usual is told.
    pub verbose: u8,
    /// Length of the line that will be written over.
    live_width: usize,
    /// Whether that line goes when the next one comes.
    passing: bool,
}

impl std::fmt::Debug for Console {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Console").field("color", &self.color).field("live", &self.live).finish_non_exhaustive()
    }
}

impl Console {
    /// The process's own terminal.
    #[must_use]
    pub(super) fn new(global: &Global) -> Self {
        let out_is_terminal = io::stdout().is_terminal();
        let colors_wanted = std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
            && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let color = |terminal: bool| match global.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => terminal && colors_wanted,
        };
        Self {
            out: Box::new(io::stdout()),
            err: Box::new(io::stderr()),
            color: color(out_is_terminal),
            color_err: color(io::stderr().is_terminal()),
            live: out_is_terminal && global.output == Output::Human,
            json: global.output == Output::Json,
            quiet: global.quiet,
            verbose: global.verbose,
            live_width: 0,
            passing: false,
        }
    }

    /// Writes bytes to standard output as they are.
    ///
    /// # Errors
    /// When standard output is closed or full.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.out.write_all(bytes).and_then(|()| self.out.flush()).map_err(|e| lost(&e))
    }

    /// Writes one line of an answer.
    ///
    /// # Errors
    /// When standard output is closed or full.
    pub(super) fn line(&mut self, text: &str) -> Result<(), Failure> {
        self.end_live()?;
        self.write(format!("{text}\n").as_bytes())
    }

    /// Writes one line of an answer as JSON.
    ///
    /// # Errors
    /// When standard output is closed or full.
    pub(super) fn json_line(&mut self, value: &impl serde::Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string(value)
            .map_err(|e| Failure::new(Exit::Failure, format!("cannot write the answer as JSON: {e}")))?;
        self.line(&text)
    }

    /// Confirms something to a person; nothing when they asked for quiet or for JSON.
    ///
    /// # Errors
    /// When standard output is closed or full.
    pub(super) fn confirm(&mut self, text: &str) -> Result<(), Failure> {
        if self.quiet || self.json { Ok(()) } else { self.line(text) }
    }

    /// Writes over the last line on a terminal. Only for [`Console::live`].
    ///
    /// # Errors
    /// When standard output is closed or full.
    pub(super) fn refresh(&mut self, text: &str) -> Result<(), Failure> {
        let width = text.chars().count();
        let padding = " ".repeat(self.live_width.saturating_sub(width));
        self.live_width = width.max(1);
        self.write(format!("\r{text}{padding}").as_bytes())
    }

    /// Writes over the last line on a terminal, and leaves nothing of it behind. Only for [`Console::live`].
    ///
    /// # Errors
    /// When standard output is closed or full.
    pub(super) fn progress(&mut self, text: &str) -> Result<(), Failure> {
        if self.quiet {
            return Ok(());
        }
        // A line that the terminal breaks could not be written over.
        let most = rustix::termios::tcgetwinsize(io::stdout()).map_or(80, |size| usize::from(size.ws_col).max(20));
        let text: String = text.chars().take(most - 1).collect();
        self.refresh(&text)?;
        self.passing = true;
        Ok(())
    }

    fn end_live(&mut self) -> Result<(), Failure> {
        let width = std::mem::take(&mut self.live_width);
        match (width, std::mem::take(&mut self.passing)) {
            (0, _) => Ok(()),
            (_, false) => self.write(b"\n"),
            (_, true) => self.write(format!("\r{}\r", " ".repeat(width)).as_bytes()),
        }
    }

    /// Writes to standard error. Losing such a text is no reason to fail.
    pub(super) fn note(&mut self, text: &str) {
        let _ = self.end_live();
        let _ = writeln!(self.err, "{text}");
    }

    /// Tells why a verb failed.
    pub(super) fn fail(&mut self, failure: &Failure) {
        if failure.message.is_empty() {
            return;
        }
        if failure.verbatim {
            self.note(failure.message.trim_end());
        } else {
            self.note(&format!("evenkeel: {}", failure.message));
        }
    }
}

/// The reader of our output is gone (`evenkeel status | head`), which is no failure of ours; a full
/// disk is.
fn lost(error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Failure::new(Exit::Ok, "");
    }
    Failure::new(Exit::Failure, format!("cannot write to standard output: {error}"))
}

/// A console that remembers what was written to it.
#[cfg(test)]
pub(super) mod capture {
    use std::sync::{Arc, Mutex};

    use super::{Console, Write, io};

    #[derive(Clone, Default)]
    pub(in crate::cli) struct Text(Arc<Mutex<Vec<u8>>>);

    impl Text {
        pub(in crate::cli) fn read(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Text {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The console, its standard output and its standard error.
    pub(in crate::cli) fn console() -> (Console, Text, Text) {
        let (out, err) = (Text::default(), Text::default());
        let console = Console {
            out: Box::new(out.clone()),
            err: Box::new(err.clone()),
            color: false,
            color_err: false,
            live: false,
            json: false,
            quiet: false,
            verbose: 0,
            live_width: 0,
            passing: false,
        };
        (console, out, err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refreshed_line_covers_the_one_before_it_and_ends_before_the_next() {
        let (mut console, out, _) = capture::console();
        console.refresh("12 left").unwrap();
        console.refresh("9 left").unwrap();
        console.line("done").unwrap();
        assert_eq!(out.read(), "\r12 left\r9 left \ndone\n");
    }

    #[test]
    fn progress_leaves_nothing_behind() {
        let (mut console, out, _) = capture::console();
        console.progress("12 left").unwrap();
        console.progress("9 left").unwrap();
        console.line("done").unwrap();
        assert_eq!(out.read(), "\r12 left\r9 left \r      \rdone\n");
    }

    #[test]
    fn a_reader_that_left_is_not_a_failure_and_a_full_disk_is() {
        assert_eq!(lost(&io::ErrorKind::BrokenPipe.into()).exit, Exit::Ok);
        assert_eq!(lost(&io::ErrorKind::StorageFull.into()).exit, Exit::Failure);
    }

    #[test]
    fn confirmations_are_for_people_only() {
        let (mut console, out, _) = capture::console();
        console.json = true;
        console.confirm("done").unwrap();
        console.json = false;
        console.quiet = true;
        console.confirm("done").unwrap();
        assert_eq!(out.read(), "");
    }
}

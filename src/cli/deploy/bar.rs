//! How far a deploy is, in a line for a terminal.

use std::time::Duration;

use tokio::time::Instant;

use crate::cli::console::Console;
use crate::cli::table::ago;

/// Characters of the bar.
const WIDTH: usize = 20;

/// How far it is, and since when.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bar {
    began: Instant,
    /// What was done before that.
    before: usize,
    of: usize,
}

impl Bar {
    /// A bar of so many turns, some of which are done.
    pub(super) fn begin(before: usize, of: usize) -> Self {
        Self { began: Instant::now(), before, of }
    }

    /// Writes over the last line, where somebody looks at it. `part` of the turn under way is done.
    pub(super) fn show(&self, done: usize, part: f64, text: &str, console: &mut Console) {
        if console.live {
            let _ = console.progress(&self.line(done, part, text, self.began.elapsed()));
        }
    }

    fn line(&self, done: usize, part: f64, text: &str, elapsed: Duration) -> String {
        let of = self.of.max(1);
        let all = (done as f64 + part.clamp(0.0, 1.0)) / of as f64;
        let full = ((all * WIDTH as f64) as usize).min(WIDTH);
        let mut line = format!("[{}{}] {done}/{of}  {text}", "#".repeat(full), "-".repeat(WIDTH - full));
        // One whole turn says how long others take.
        let own = done.saturating_sub(self.before);
        if own > 0 {
            let left = elapsed.as_secs_f64() / own as f64 * (of as f64 - done as f64 - part).max(0.0);
            line.push_str(&format!("; about {} left in all", ago(left.ceil() as u64)));
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_bar_grows_and_says_how_long_it_will_take() {
        let bar = Bar::begin(0, 4);
        let seconds = Duration::from_secs;
        assert_eq!(bar.line(0, 0.5, "shop/a drains", seconds(5)), "[##------------------] 0/4  shop/a drains");
        assert_eq!(
            bar.line(2, 0.0, "shop/c drains: 3 sessions left", seconds(60)),
            "[##########----------] 2/4  shop/c drains: 3 sessions left; about 1 min left in all"
        );
        assert_eq!(bar.line(4, 0.0, "done", seconds(80)), "[####################] 4/4  done; about 0 s left in all");
        // What another command has done says nothing of the time that this one takes.
        assert_eq!(Bar::begin(2, 4).line(2, 0.0, "x", seconds(9)), "[##########----------] 2/4  x");
    }
}

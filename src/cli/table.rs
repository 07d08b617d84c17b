//! Aligned columns, and colours for states.

use std::borrow::Cow;

/// How a text is coloured, where colours are on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    Plain,
    Bold,
    Dim,
    Good,
    Warn,
    Bad,
}

impl Style {
    /// Wraps `text` in this style, or leaves it as it is where colours are off.
    #[must_use]
    pub(super) fn paint(self, text: &str, color: bool) -> Cow<'_, str> {
        let code = match self {
            Self::Plain => return text.into(),
            Self::Bold => "1",
            Self::Dim => "2",
            Self::Good => "32",
            Self::Warn => "33",
            Self::Bad => "31",
        };
        if color { format!("\x1b[{code}m{text}\x1b[0m").into() } else { text.into() }
    }
}

/// One field of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cell {
    text: String,
    style: Style,
    right: bool,
}

impl Cell {
    /// Words, aligned to the left.
    pub(super) fn word(text: impl AsRef<str>, style: Style) -> Self {
        Self { text: printable(text.as_ref()), style, right: false }
    }

    /// A number, aligned to the right.
    pub(super) fn number(text: impl AsRef<str>) -> Self {
        Self { text: printable(text.as_ref()), style: Style::Plain, right: true }
    }

    /// The same in another style.
    #[must_use]
    pub(super) fn styled(self, style: Style) -> Self {
        Self { style, ..self }
    }
}

/// A line of a table: fields under the columns, or a remark across all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Row {
    Cells(Vec<Cell>),
    Remark(String, Style),
}

/// Writes rows with every column as wide as its widest field, each line behind `indent`.
#[must_use]
pub(super) fn render(rows: &[Row], indent: &str, color: bool) -> String {
    let mut widths: Vec<usize> = Vec::new();
    for row in rows {
        let Row::Cells(cells) = row else { continue };
        widths.resize(widths.len().max(cells.len()), 0);
        for (width, cell) in widths.iter_mut().zip(cells) {
            *width = (*width).max(cell.text.chars().count());
        }
    }
    let mut out = String::new();
    for row in rows {
        let line = match row {
            Row::Cells(cells) => line(cells, &widths, color),
            Row::Remark(text, style) => format!("  {}", style.paint(&printable(text), color)),
        };
        out.push_str(indent);
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

fn line(cells: &[Cell], widths: &[usize], color: bool) -> String {
    let fields: Vec<String> = cells
        .iter()
        .zip(widths)
        .map(|(cell, width)| {
            let padding = " ".repeat(width - cell.text.chars().count());
            let text = cell.style.paint(&cell.text, color);
            if cell.right { format!("{padding}{text}") } else { format!("{text}{padding}") }
        })
        .collect();
    fields.join("  ")
}

/// Texts from elsewhere, such as a check's error, must not be able to steer the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// `1234567` as `1,234,567`.
#[must_use]
pub(super) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A time for people, in its two largest units: `42 s`, `3 min 5 s`, `2 h 10 min`, `5 d 3 h`.
#[must_use]
pub(super) fn ago(seconds: u64) -> String {
    let (large, unit, small, small_unit) = match seconds {
        0..60 => return format!("{seconds} s"),
        60..3_600 => (seconds / 60, "min", seconds % 60, "s"),
        3_600..86_400 => (seconds / 3_600, "h", seconds % 3_600 / 60, "min"),
        _ => (seconds / 86_400, "d", seconds % 86_400 / 3_600, "h"),
    };
    if small == 0 { format!("{large} {unit}") } else { format!("{large} {unit} {small} {small_unit}") }
}

/// `n` with its noun: `1 session`, `2 sessions`.
#[must_use]
pub(super) fn count(n: u64, noun: &str) -> String {
    format!("{} {noun}{}", thousands(n), if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_nothing_trails() {
        let row = |name: &str, n: &str| Row::Cells(vec![Cell::word(name, Style::Plain), Cell::number(n)]);
        let rows = [row("a", "1"), row("naïve", "1,000"), Row::Remark("left".into(), Style::Dim), row("b", "")];
        assert_eq!(render(&rows, " ", false), " a          1\n naïve  1,000\n   left\n b\n");
    }

    #[test]
    fn colours_do_not_move_columns() {
        let rows = [Row::Cells(vec![Cell::word("up", Style::Good), Cell::word("x", Style::Plain)])];
        assert_eq!(render(&rows, "", true), "\x1b[32mup\x1b[0m  x\n");
    }

    #[test]
    fn a_text_cannot_steer_the_terminal() {
        let rows = [Row::Remark("\x1b[2Jgone\n".into(), Style::Plain)];
        assert_eq!(render(&rows, "", false), "  \u{fffd}[2Jgone\u{fffd}\n");
    }

    #[test]
    fn numbers_and_times_for_people() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(thousands), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(
            [0, 59, 60, 185, 7_800, 442_800].map(ago),
            ["0 s", "59 s", "1 min", "3 min 5 s", "2 h 10 min", "5 d 3 h"]
        );
        assert_eq!(count(1, "session"), "1 session");
        assert_eq!(count(0, "session"), "0 sessions");
    }
}

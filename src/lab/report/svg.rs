//! Charts as inline SVG: no script, no font, no request; colours come from the page's style.

use std::fmt::Write as _;

/// Inner room of a chart, in the units of its view box.
const LEFT: f64 = 46.0;
const BOTTOM: f64 = 26.0;
const TOP: f64 = 10.0;
const RIGHT: f64 = 10.0;
/// More bars than this have no room for a name each.
const MOST_NAMES: usize = 24;

/// How values become places.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    pub(super) from: f64,
    pub(super) to: f64,
    pub(super) is_log: bool,
}

impl Scale {
    pub(super) fn linear(to: f64) -> Self {
        Self { from: 0.0, to: if to > 0.0 { to } else { 1.0 }, is_log: false }
    }

    /// Whole decades around the values.
    pub(super) fn log(low: f64, high: f64) -> Self {
        let from = 10f64.powf(low.max(1e-3).log10().floor());
        let to = 10f64.powf(high.max(from * 1.001).log10().ceil());
        Self { from, to, is_log: true }
    }

    /// From 0 to 1.
    fn place(self, value: f64) -> f64 {
        let place = if self.is_log {
            (value.max(self.from) / self.from).log10() / (self.to / self.from).log10()
        } else {
            (value - self.from) / (self.to - self.from)
        };
        place.clamp(0.0, 1.0)
    }

    /// Values worth a line.
    fn ticks(self) -> Vec<f64> {
        if self.is_log {
            let decades = (self.to / self.from).log10().round() as i32;
            return (0..=decades).map(|n| self.from * 10f64.powi(n)).collect();
        }
        let rough = (self.to - self.from) / 5.0;
        let magnitude = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|n| n * magnitude).into_iter().find(|step| *step >= rough);
        let step = step.unwrap_or(rough);
        (0..).map(|n| self.from + f64::from(n) * step).take_while(|x| *x <= self.to * 1.0001).collect()
    }
}

/// A chart that is being drawn.
#[derive(Debug)]
pub(super) struct Chart {
    text: String,
    width: f64,
    height: f64,
    x: Scale,
    y: Scale,
    /// Where the label of an event ends, by row.
    labels: Vec<f64>,
}

impl Chart {
    /// An empty one; `label` says to those who cannot see it what it shows.
    pub(super) fn new(width: f64, height: f64, x: Scale, y: Scale, label: &str) -> Self {
        let label = escape(label);
        let text = format!(
            "<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{label}\"><title>{label}</title>\n"
        );
        Self { text, width, height, x, y, labels: Vec::new() }
    }

    fn at(&self, x: f64, y: f64) -> (f64, f64) {
        let (wide, high) = (self.width - LEFT - RIGHT, self.height - TOP - BOTTOM);
        (LEFT + self.x.place(x) * wide, TOP + (1.0 - self.y.place(y)) * high)
    }

    /// Lines of the vertical axis with their values.
    pub(super) fn y_axis(&mut self, show: impl Fn(f64) -> String) {
        for tick in self.y.ticks() {
            let (right, (left, y)) = (self.width - RIGHT, self.at(self.x.from, tick));
            let _ = writeln!(
                self.text,
                "<line class=\"grid\" x1=\"{left:.1}\" y1=\"{y:.1}\" x2=\"{right:.1}\" y2=\"{y:.1}\"/>"
            );
            let _ = writeln!(
                self.text,
                "<text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                left - 5.0,
                y + 3.5,
                escape(&show(tick))
            );
        }
    }

    /// Values of the horizontal axis.
    pub(super) fn x_axis(&mut self, show: impl Fn(f64) -> String) {
        for tick in self.x.ticks() {
            let (x, y) = self.at(tick, self.y.from);
            let text = show(tick);
            // One at the right edge would be cut off.
            let is_last = x + wide(&text) / 2.0 > self.width;
            let (x, anchor) = if is_last { (self.width - 1.0, "end") } else { (x, "middle") };
            let _ = writeln!(
                self.text,
                "<text class=\"tick\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>",
                y + 15.0,
                escape(&text)
            );
        }
    }

    /// Bars side by side, the n-th between n and n + 1, each with its name below.
    pub(super) fn bars(&mut self, bars: &[(String, f64)], highlighted: Option<usize>) {
        for (n, (name, value)) in bars.iter().enumerate() {
            let (left, top) = self.at(n as f64 + 0.12, *value);
            let (right, bottom) = self.at(n as f64 + 0.88, self.y.from);
            let class = if highlighted == Some(n) { "hot" } else { "bar" };
            let _ = writeln!(
                self.text,
                "<rect class=\"{class}\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\"><title>{}: {value:.0}</title></rect>",
                right - left,
                (bottom - top).max(0.0),
                escape(name)
            );
            if bars.len() > MOST_NAMES {
                continue;
            }
            let middle = f64::midpoint(left, right);
            let _ = writeln!(
                self.text,
                "<text class=\"tick\" x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                bottom + 14.0,
                escape(name)
            );
        }
    }

    /// A line across at a value.
    pub(super) fn level(&mut self, value: f64, label: &str) {
        let ((left, y), right) = (self.at(self.x.from, value), self.width - RIGHT);
        let _ = writeln!(
            self.text,
            "<line class=\"level\" x1=\"{left:.1}\" y1=\"{y:.1}\" x2=\"{right:.1}\" y2=\"{y:.1}\"><title>{}</title></line>",
            escape(label)
        );
    }

    /// A line across the n-th bar at a value.
    pub(super) fn mark(&mut self, n: usize, value: f64, label: &str) {
        let ((left, y), (right, _)) = (self.at(n as f64, value), self.at(n as f64 + 1.0, value));
        let _ = writeln!(
            self.text,
            "<line class=\"level\" x1=\"{left:.1}\" y1=\"{y:.1}\" x2=\"{right:.1}\" y2=\"{y:.1}\"><title>{}</title></line>",
            escape(label)
        );
    }

    /// A line through points.
    pub(super) fn line(&mut self, points: impl Iterator<Item = (f64, f64)>, class: &str, label: &str) {
        let mut path = String::new();
        for (n, (x, y)) in points.enumerate() {
            let (x, y) = self.at(x, y);
            let _ = write!(path, "{}{x:.1} {y:.1}", if n == 0 { "M" } else { "L" });
        }
        let _ =
            writeln!(self.text, "<path class=\"line {class}\" d=\"{path}\"><title>{}</title></path>", escape(label));
    }

    /// A mark from top to bottom where something happened. Its label is in the first row that has room for it.
    pub(super) fn event(&mut self, x: f64, label: &str) {
        /// Of a row.
        const HIGH: f64 = 11.0;
        let ((x, bottom), top) = (self.at(x, self.y.from), TOP);
        let wide = wide(label);
        let (begin, anchor, place) =
            if x + 3.0 + wide > self.width { (x - 3.0 - wide, "end", x - 3.0) } else { (x + 3.0, "start", x + 3.0) };
        let row = self.labels.iter().position(|end| *end < begin).unwrap_or(self.labels.len());
        self.labels.resize(self.labels.len().max(row + 1), 0.0);
        self.labels[row] = begin + wide;
        let y = top + 8.0 + row as f64 * HIGH;
        let label = escape(label);
        let _ = writeln!(
            self.text,
            "<line class=\"event\" x1=\"{x:.1}\" y1=\"{top}\" x2=\"{x:.1}\" y2=\"{bottom:.1}\"><title>{label}</title></line>\
             <text class=\"tick\" x=\"{place:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{label}</text>",
        );
    }

    pub(super) fn end(mut self) -> String {
        self.text.push_str("</svg>\n");
        self.text
    }
}

/// How wide the text of a tick is, about: letters of its font are some half as wide as high.
fn wide(text: &str) -> f64 {
    text.chars().count() as f64 * 5.6
}

/// Text that may stand in a page.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_place_and_tick() {
        let linear = Scale::linear(90.0);
        assert_eq!(linear.ticks(), [0.0, 20.0, 40.0, 60.0, 80.0]);
        assert_eq!((linear.place(45.0), linear.place(200.0)), (0.5, 1.0));
        let log = Scale::log(2.0, 700.0);
        assert_eq!(log.ticks(), [1.0, 10.0, 100.0, 1000.0]);
        assert!((log.place(10.0) - 1.0 / 3.0).abs() < 1e-9);
        assert_eq!(Scale::linear(0.0).place(0.0), 0.0);
    }

    /// The rows and the anchors of the labels of three events, the second close to the first, the third at the edge.
    #[test]
    fn labels_of_events_neither_overlap_nor_leave_the_chart() {
        let mut chart = Chart::new(360.0, 190.0, Scale::linear(10.0), Scale::linear(1.0), "x");
        for (at, what) in [(1.0, "s2 is killed"), (1.5, "s2 is started"), (9.9, "deploy"), (5.0, "later")] {
            chart.event(at, what);
        }
        let text = chart.end();
        let label = |what: &str| {
            let line = text.lines().find(|line| line.ends_with(&format!(">{what}</text>"))).unwrap();
            let of = |name: &str| {
                let rest = line.rsplit_once("<text").unwrap().1.split_once(&format!(" {name}=\"")).unwrap().1;
                rest.split('"').next().unwrap().to_owned()
            };
            (of("y"), of("text-anchor"))
        };
        assert_eq!(label("s2 is killed"), ("18.0".into(), "start".into()));
        assert_eq!(label("s2 is started"), ("29.0".into(), "start".into()));
        assert_eq!(label("deploy"), ("18.0".into(), "end".into()));
        let mut chart = Chart::new(360.0, 190.0, Scale::linear(10.0), Scale::linear(1.0), "x");
        chart.x_axis(|value| format!("{value} s"));
        assert!(chart.end().contains("x=\"359.0\" y=\"179.0\" text-anchor=\"end\">10 s<"));
    }

    #[test]
    fn names_cannot_break_a_page() {
        let mut chart = Chart::new(100.0, 50.0, Scale::linear(1.0), Scale::linear(1.0), "<script>");
        chart.bars(&[("a\"><script>".to_owned(), 1.0)], None);
        let text = chart.end();
        assert!(!text.contains("<script>"), "{text}");
    }
}

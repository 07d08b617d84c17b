//! What is wrong with a configuration: every problem, each with its place and a way out.
//!
//! Rendered for people as compilers do, and serialized for tools. The text that a report carries has
//! its secrets blotted out, because reports travel: to terminals, logs and the admin API.

use std::fmt;
use std::ops::Range;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Level, Origin, Renderer, Snippet};
use serde::{Serialize, Serializer};

/// Whether a configuration with this problem is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Error,
    Warning,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub severity: Severity,
    pub message: String,
    /// Bytes of the text; none when the problem is the file itself, or something it lacks.
    pub span: Option<Range<usize>>,
    /// What would be right.
    pub hint: Option<String>,
    /// Another place that belongs to the problem, and why.
    pub related: Option<(Range<usize>, String)>,
}

/// All problems of one configuration, in the order of their places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Name of the file, as the user gave it.
    pub file: String,
    text: String,
    problems: Vec<Problem>,
}

/// A problem as tools read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry<'a> {
    pub severity: Severity,
    pub file: &'a str,
    /// From 1; none when the problem has no place.
    pub line: Option<usize>,
    /// From 1, in characters.
    pub column: Option<usize>,
    pub message: &'a str,
    pub hint: Option<&'a str>,
}

impl Report {
    pub(super) fn new(file: &str, text: &str, mut problems: Vec<Problem>) -> Self {
        for problem in &mut problems {
            problem.message = harmless(&problem.message);
            problem.hint = problem.hint.take().map(|hint| harmless(&hint));
            problem.span = problem.span.take().map(|span| within(text, span));
            problem.related = problem.related.take().map(|(span, label)| (within(text, span), label));
        }
        problems.sort_by_key(|p| (p.span.as_ref().map_or(usize::MAX, |s| s.start), p.severity != Severity::Error));
        Self { file: file.to_owned(), text: text.to_owned(), problems }
    }

    /// The problems, in the order of their places.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.problems.is_empty()
    }

    /// Whether the configuration has to be refused.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.count(Severity::Error) > 0
    }

    /// For people: each problem with its line, a caret and a hint, then how many there are. Empty
    /// when nothing is wrong.
    #[must_use]
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let renderer = renderer.decor_style(DecorStyle::Ascii);
        let mut out = String::new();
        for problem in &self.problems {
            out.push_str(&self.render_one(problem, &renderer));
            out.push_str("\n\n");
        }
        if !self.problems.is_empty() {
            out.push_str(&self.summary());
            out.push('\n');
        }
        out
    }

    fn render_one(&self, problem: &Problem, renderer: &Renderer) -> String {
        let level = match problem.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = level.primary_title(&problem.message);
        let mut group = if let Some(span) = &problem.span {
            let mut snippet = Snippet::source(self.text.as_str())
                .path(self.file.as_str())
                .annotation(AnnotationKind::Primary.span(span.clone()));
            if let Some((span, label)) = &problem.related {
                snippet = snippet.annotation(AnnotationKind::Context.span(span.clone()).label(label.as_str()));
            }
            title.element(snippet)
        } else {
            title.element(Origin::path(self.file.as_str()))
        };
        if let Some(hint) = &problem.hint {
            group = group.element(Level::HELP.message(hint));
        }
        renderer.render(&[group])
    }

    /// `2 errors, 1 warning in evenkeel.toml`
    #[must_use]
    pub fn summary(&self) -> String {
        let counted = |n: usize, what: &str| match n {
            0 => None,
            1 => Some(format!("1 {what}")),
            n => Some(format!("{n} {what}s")),
        };
        let parts = [counted(self.count(Severity::Error), "error"), counted(self.count(Severity::Warning), "warning")];
        let parts: Vec<_> = parts.into_iter().flatten().collect();
        let counts = if parts.is_empty() { "no problem".to_owned() } else { parts.join(", ") };
        format!("{counts} in {}", self.file)
    }

    fn count(&self, severity: Severity) -> usize {
        self.problems.iter().filter(|p| p.severity == severity).count()
    }

    /// For tools.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry<'_>> {
        self.problems
            .iter()
            .map(|problem| {
                let place = problem.span.as_ref().map(|span| line_and_column(&self.text, span.start));
                Entry {
                    severity: problem.severity,
                    file: &self.file,
                    line: place.map(|(line, _)| line),
                    column: place.map(|(_, column)| column),
                    message: &problem.message,
                    hint: problem.hint.as_deref(),
                }
            })
            .collect()
    }

    /// For logs: one line per problem, `evenkeel.toml:3:1: unknown key ...`.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let line = |entry: &Entry<'_>| {
            let place = match (entry.line, entry.column) {
                (Some(line), Some(column)) => format!("{}:{line}:{column}", entry.file),
                _ => entry.file.to_owned(),
            };
            let hint = entry.hint.map(|hint| format!(" ({hint})")).unwrap_or_default();
            format!("{place}: {}{hint}", entry.message)
        };
        self.entries().iter().map(line).collect()
    }
}

impl Serialize for Report {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.entries())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.render(false).trim_end())
    }
}

impl std::error::Error for Report {}

/// Line and column of a byte, both from 1, the column in characters.
pub(super) fn line_and_column(text: &str, at: usize) -> (usize, usize) {
    let before = &text[..within(text, at..at).start];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// Words of the file stand in messages, and messages reach terminals and logs.
fn harmless(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { out.extend(c.escape_debug()) } else { out.push(c) }
    }
    out
}

/// The span moved onto the text and onto whole characters: a parser's idea of where the end of a
/// file is must not bring the renderer down.
fn within(text: &str, span: Range<usize>) -> Range<usize> {
    let start = text.floor_char_boundary(span.start.min(text.len()));
    let end = text.ceil_char_boundary(span.end.clamp(start, text.len()));
    start..end
}

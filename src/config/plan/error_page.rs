//! Pages in the place of the answers that evenkeel makes itself.

use std::ops::RangeInclusive;
use std::path::PathBuf;

/// What is said for some statuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorPagePlan {
    /// Each a status alone or a class of them; at least one.
    pub statuses: Vec<RangeInclusive<u16>>,
    pub file: PathBuf,
    /// The text of the file, taken apart.
    pub pieces: Vec<Piece>,
    pub content_type: String,
    /// Whether servers' own answers with these statuses are replaced, too.
    pub intercept: bool,
}

/// A part of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    Text(String),
    Variable(Variable),
}

/// What differs from answer to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variable {
    Status,
    Title,
    Reason,
    Message,
    RequestId,
}

impl Variable {
    /// Every one, as it is written.
    pub const ALL: [(&'static str, Self); 5] = [
        ("{status}", Self::Status),
        ("{title}", Self::Title),
        ("{reason}", Self::Reason),
        ("{message}", Self::Message),
        ("{request_id}", Self::RequestId),
    ];
}

impl ErrorPagePlan {
    /// Takes a text apart. Braces that hold no variable are text, as in style sheets and scripts.
    #[must_use]
    pub fn pieces_of(text: &str) -> Vec<Piece> {
        let (mut pieces, mut rest) = (Vec::new(), text);
        let next = |rest: &str| {
            let found = Variable::ALL.iter().filter_map(|(name, variable)| Some((rest.find(name)?, *name, *variable)));
            found.min_by_key(|(at, ..)| *at)
        };
        while let Some((at, name, variable)) = next(rest) {
            if at > 0 {
                pieces.push(Piece::Text(rest[..at].to_owned()));
            }
            pieces.push(Piece::Variable(variable));
            rest = &rest[at + name.len()..];
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        pieces
    }

    /// Whether it is for people with a browser.
    #[must_use]
    pub fn is_html(&self) -> bool {
        self.content_type.starts_with("text/html")
    }

    /// The best of `pages` for a status: one for it alone before one for its class, then one of the wanted
    /// kind, then the first.
    #[must_use]
    pub fn best(pages: &[Self], status: u16, html: bool) -> Option<&Self> {
        let width = |page: &Self| {
            let fitting = page.statuses.iter().filter(|range| range.contains(&status));
            fitting.map(|range| range.end() - range.start()).min()
        };
        pages
            .iter()
            .filter_map(|page| Some((width(page)?, page.is_html() != html, page)))
            .min_by_key(|(width, other, _)| (*width, *other))
            .map(|(_, _, page)| page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_taken_apart_and_loses_nothing() {
        let text = "{status}: {title} body{color:red} {reason}{request_id}{unknown} {mess{message}";
        let back: String = ErrorPagePlan::pieces_of(text)
            .iter()
            .map(|piece| match piece {
                Piece::Text(text) => text.as_str(),
                Piece::Variable(wanted) => Variable::ALL.iter().find(|(_, v)| v == wanted).unwrap().0,
            })
            .collect();
        assert_eq!(back, text);
        let variables =
            |text| ErrorPagePlan::pieces_of(text).iter().filter(|p| matches!(p, Piece::Variable(_))).count();
        assert_eq!((variables(text), variables("a {b} c"), variables("")), (5, 0, 0));
    }

    #[test]
    fn the_closest_page_wins() {
        let page = |statuses: &[RangeInclusive<u16>], content_type: &str| ErrorPagePlan {
            statuses: statuses.to_vec(),
            file: PathBuf::new(),
            pieces: Vec::new(),
            content_type: content_type.to_owned(),
            intercept: false,
        };
        let pages = [
            page(&[500..=599], "application/json"),
            page(&[500..=599, 404..=404], "text/html; charset=utf-8"),
            page(&[503..=503], "text/plain"),
        ];
        let best = |status, html| {
            let found = ErrorPagePlan::best(&pages, status, html)?;
            pages.iter().position(|page| std::ptr::eq(page, found))
        };
        assert_eq!([best(502, false), best(502, true)], [Some(0), Some(1)]);
        assert_eq!([best(503, false), best(503, true)], [Some(2), Some(2)]);
        assert_eq!([best(404, false), best(404, true), best(400, true)], [Some(1), Some(1), None]);
    }
}

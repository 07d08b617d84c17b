//! Pages in the place of the answers that evenkeel makes itself.

use std::ops::RangeInclusive;
use std::path::Path;

use super::Compiler;
use crate::config::plan::ErrorPagePlan;
use crate::config::spec::{At, ErrorPageSpec};

/// A page is kept in memory and sent as a whole.
const LARGEST: usize = 1 << 20;

impl Compiler<'_> {
    pub(super) fn error_pages(&mut self, specs: &[At<ErrorPageSpec>]) -> Vec<ErrorPagePlan> {
        specs.iter().filter_map(|spec| self.error_page(spec)).collect()
    }

    fn error_page(&mut self, entry: &At<ErrorPageSpec>) -> Option<ErrorPagePlan> {
        let spec = entry.get_ref();
        let mut statuses = Vec::new();
        match &spec.status {
            Some(list) if !list.get_ref().0.is_empty() => {
                for text in &list.get_ref().0 {
                    match statuses_of(text.get_ref()) {
                        Some(range) => statuses.push(range),
                        None => {
                            let message = format!("`{}` is no status of an error", text.get_ref().escape_debug());
                            self.error(text.span(), message, "write \"404\", or \"5xx\" for all from 500 to 599");
                        }
                    }
                }
            }
            _ => self.lack(Some(entry.span()), "this page has no `status`", "add `status = [\"404\", \"5xx\"]`"),
        }
        let Some(file) = &spec.file else {
            self.lack(Some(entry.span()), "this page has no `file`", "add `file = \"/etc/evenkeel/error.html\"`");
            return None;
        };
        let content_type = match &spec.content_type {
            Some(given) if !given.get_ref().bytes().all(|b| b == b' ' || b.is_ascii_graphic()) => {
                self.error(
                    given.span(),
                    "the content type cannot be sent",
                    "write it as in \"text/html; charset=utf-8\"",
                );
                None
            }
            Some(given) => Some(given.get_ref().clone()),
            None => by_ending(file.get_ref()).map(str::to_owned).or_else(|| {
                let hint = "add `content_type = \"text/html; charset=utf-8\"`";
                self.error(file.span(), "the name of this file does not tell its content type", hint);
                None
            }),
        };
        let text = self.file(file, "file")?;
        if text.len() > LARGEST {
            self.error(file.span(), format!("this page has {} bytes", text.len()), "at most 1 MiB is sent");
        }
        let (pieces, intercept) = (ErrorPagePlan::pieces_of(&text), spec.intercept);
        Some(ErrorPagePlan { statuses, file: file.get_ref().clone(), pieces, content_type: content_type?, intercept })
    }
}

/// `404`, `4xx` or `5xx`.
fn statuses_of(text: &str) -> Option<RangeInclusive<u16>> {
    match text {
        "4xx" => Some(400..=499),
        "5xx" => Some(500..=599),
        _ => text.parse().ok().filter(|status| (400..600).contains(status)).map(|status| status..=status),
    }
}

fn by_ending(file: &Path) -> Option<&'static str> {
    Some(match file.extension()?.to_str()? {
        "html" | "htm" => "text/html; charset=utf-8",
        "json" => "application/json",
        "txt" => "text/plain; charset=utf-8",
        "xml" => "application/xml",
        _ => return None,
    })
}

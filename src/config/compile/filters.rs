//! What a route does to answers and beside them.

use super::Compiler;
use crate::config::plan::{CompressPlan, Encoding, Level, MirrorPlan, RouteFilters};
use crate::config::spec::{At, CompressSpec, LevelSpec, MirrorSpec, RouteSpec};
use crate::config::suggest;

const LARGEST_COPY: u64 = 16 << 20;

impl Compiler<'_> {
    pub(super) fn filters(&mut self, spec: &RouteSpec, upstreams: &[String]) -> RouteFilters {
        RouteFilters {
            compress: spec.compress.as_ref().and_then(|s| s.0.as_ref()).map(|s| self.compress(s)),
            mirror: spec.mirror.as_ref().and_then(|entry| self.mirror(entry, upstreams)),
            error_pages: self.error_pages(&spec.error_pages),
        }
    }

    fn mirror(&mut self, entry: &At<MirrorSpec>, upstreams: &[String]) -> Option<MirrorPlan> {
        let spec = entry.get_ref();
        let percent = self.within(&spec.percent, "percent", &(1..=100));
        let max_in_flight = self.within(&spec.max_in_flight, "max_in_flight", &(1..=1 << 20));
        let Some(name) = &spec.to else {
            let known = upstreams.last().map_or("next", String::as_str);
            self.lack(Some(entry.span()), "this mirror has no `to`", &format!("add `to = \"{known}\"`"));
            return None;
        };
        let Some(upstream) = upstreams.iter().position(|known| known == name.get_ref()) else {
            self.unknown(name, "upstream", upstreams);
            return None;
        };
        if spec.max_body.0 > LARGEST_COPY {
            self.error(entry.span(), "`max_body` of a mirror is above 16 MiB", "copies are kept in memory: write less");
        }
        Some(MirrorPlan { upstream, percent, max_body: spec.max_body.0, max_in_flight })
    }

    fn compress(&mut self, spec: &CompressSpec) -> CompressPlan {
        if spec.encodings.get_ref().is_empty() {
            let hint = "name some of \"zstd\", \"br\" and \"gzip\", or leave the key out for all";
            self.error(spec.encodings.span(), "`encodings` is empty", hint);
        }
        let mut encodings = Vec::new();
        for name in spec.encodings.get_ref() {
            match Encoding::ALL.into_iter().find(|known| known.name() == name.get_ref()) {
                Some(encoding) if encodings.contains(&encoding) => {
                    self.warn(name.span(), format!("encoding `{}` is there twice", name.get_ref()), "remove one");
                }
                Some(encoding) => encodings.push(encoding),
                None => {
                    let known = Encoding::ALL.map(Encoding::name);
                    let hint = suggest::hint(name.get_ref(), "encodings", &known).unwrap_or_default();
                    self.error(name.span(), format!("unknown encoding `{}`", name.get_ref()), &hint);
                }
            }
        }
        CompressPlan {
            encodings,
            level: match spec.level {
                LevelSpec::Fast => Level::Fast,
                LevelSpec::Balanced => Level::Balanced,
                LevelSpec::Small => Level::Small,
            },
            min_size: spec.min_size.0,
            types: spec.types.iter().filter_map(|text| self.media_type(text)).collect(),
        }
    }

    /// `text/html`, `text/*` or `application/*+json`.
    fn media_type(&mut self, text: &At<String>) -> Option<String> {
        let lower = text.get_ref().to_ascii_lowercase();
        let token = |part: &str| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b))
        };
        let right = lower.split_once('/').is_some_and(|(kind, sub)| {
            token(kind) && (token(sub) || sub.strip_prefix('*').is_some_and(|rest| rest.is_empty() || token(rest)))
        });
        if !right {
            let message = format!("`{}` is not a media type", text.get_ref().escape_debug());
            self.error(text.span(), message, "write \"text/html\", \"text/*\" or \"application/*+json\"");
        }
        right.then_some(lower)
    }
}

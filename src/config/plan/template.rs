//! Texts with a few variables in braces: `https://{host}{path}`.
//!
//! Parsed once, when the configuration is read, so that a request can neither find a mistake in one
//! nor bring in a variable of its own: values are put in and never read again as templates.

use std::fmt;

/// What can stand in braces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variable {
    ClientIp,
    /// The host that was asked for, in lower case and without port.
    Host,
    /// The host that was asked for, as it was sent.
    Authority,
    /// `http` or `https`.
    Scheme,
    Method,
    /// The path in its one form, before it is rewritten.
    Path,
    /// The query with its question mark; nothing where there is none.
    Query,
    RequestId,
    Route,
    Upstream,
    Server,
    /// What a group of the regular expression matched; 0 is the whole match.
    Capture(usize),
}

impl Variable {
    const NAMED: [(Self, &'static str); 11] = [
        (Self::ClientIp, "client_ip"),
        (Self::Host, "host"),
        (Self::Authority, "authority"),
        (Self::Scheme, "scheme"),
        (Self::Method, "method"),
        (Self::Path, "path"),
        (Self::Query, "query"),
        (Self::RequestId, "request_id"),
        (Self::Route, "route"),
        (Self::Upstream, "upstream"),
        (Self::Server, "server"),
    ];

    /// In the `Location` of a redirect.
    pub const REDIRECT: &'static [Self] =
        &[Self::Host, Self::Authority, Self::Scheme, Self::Path, Self::Query, Self::RequestId, Self::Route];
    /// In a rewritten path.
    pub const REWRITE: &'static [Self] = &[];
    /// In a header of a request.
    pub const REQUEST: &'static [Self] = &[
        Self::ClientIp,
        Self::Host,
        Self::Authority,
        Self::Scheme,
        Self::Method,
        Self::Path,
        Self::Query,
        Self::RequestId,
        Self::Route,
        Self::Upstream,
    ];
    /// In a header of an answer.
    pub const RESPONSE: &'static [Self] = &[Self::ClientIp, Self::RequestId, Self::Route, Self::Upstream, Self::Server];
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Variable(Variable),
}

/// A text with variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
    source: String,
}

/// Where variables get their values from.
pub trait Values {
    /// Writes the value of a variable; nothing where it has none.
    fn write(&self, variable: Variable, out: &mut String);
}

impl Template {
    /// Parses a text. `captures` is how many groups there are, the whole match aside; none: no regular
    /// expression.
    ///
    /// # Errors
    /// What is wrong and what would be right.
    pub fn parse(text: &str, allowed: &[Variable], captures: Option<usize>) -> Result<Self, (String, String)> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            plain.push_str(&rest[..at]);
            let brace = &rest[at..=at];
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix(brace) {
                plain.push_str(brace);
                rest = after;
                continue;
            }
            let name = (brace == "{").then(|| rest.split_once('}')).flatten();
            let Some((name, after)) = name else {
                return Err(("a brace stands alone".to_owned(), "write `{{` or `}}` for a brace itself".to_owned()));
            };
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain)));
            }
            parts.push(Part::Variable(variable(name, allowed, captures)?));
            rest = after;
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(Self { parts, source: text.to_owned() })
    }

    /// The text, where there is no variable in it.
    #[must_use]
    pub fn fixed(&self) -> Option<&str> {
        match &*self.parts {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// Whether it begins with a text of its own.
    #[must_use]
    pub fn begins_with_text(&self) -> bool {
        matches!(self.parts.first(), Some(Part::Text(_)))
    }

    /// The text with values in the places of the variables.
    #[must_use]
    pub fn render(&self, values: &dyn Values) -> String {
        let mut out = String::with_capacity(self.source.len() + 32);
        for part in &self.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Variable(variable) => values.write(*variable, &mut out),
            }
        }
        out
    }
}

fn variable(name: &str, allowed: &[Variable], captures: Option<usize>) -> Result<Variable, (String, String)> {
    if let Ok(number) = name.parse::<usize>() {
        return match captures {
            Some(groups) if number <= groups => Ok(Variable::Capture(number)),
            Some(groups) => Err((
                format!("`{{{number}}}` is not a group of the regular expression"),
                format!("it has groups 0 to {groups}"),
            )),
            None => Err((
                format!("`{{{number}}}` needs a regular expression"),
                "give the route `path = { regex = \"...\" }` with groups".to_owned(),
            )),
        };
    }
    let found = Variable::NAMED.iter().find(|(variable, known)| *known == name && allowed.contains(variable));
    found.map(|(variable, _)| *variable).ok_or_else(|| {
        let known: Vec<_> = Variable::NAMED.iter().filter(|(v, _)| allowed.contains(v)).map(|(_, n)| *n).collect();
        let known = if known.is_empty() { "groups of the regular expression".to_owned() } else { known.join(", ") };
        (format!("unknown variable `{{{}}}`", name.escape_debug()), format!("known here: {known}"))
    })
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Echo;

    impl Values for Echo {
        fn write(&self, variable: Variable, out: &mut String) {
            out.push_str(&format!("<{variable:?}>"));
        }
    }

    #[test]
    fn variables_are_put_in_and_doubled_braces_are_braces() {
        let parse = |text| Template::parse(text, Variable::REDIRECT, Some(2));
        assert_eq!(parse("https://{host}/a{1}{{x}}").unwrap().render(&Echo), "https://<Host>/a<Capture(1)>{x}");
        assert_eq!(parse("/a").unwrap().fixed(), Some("/a"));
        assert_eq!(parse("").unwrap().fixed(), Some(""));
        for bad in ["{", "}", "a{host", "{nope}", "{server}", "{3}", "{}", "{ host }"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(Template::parse("{1}", Variable::REDIRECT, None).is_err());
    }
}

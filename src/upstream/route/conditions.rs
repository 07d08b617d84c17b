//! Whether a request is what a route asks for beside host and path.

use http::HeaderValue;

use super::Asked;
use crate::config::plan::{Conditions, ValuePattern};

/// Whether all of it holds.
pub(super) fn hold(conditions: &Conditions, asked: &Asked<'_>) -> bool {
    let Conditions { methods, headers, query, sources } = conditions;
    (methods.is_empty() || methods.contains(asked.method))
        && (sources.is_empty() || sources.iter().any(|network| network.contains(&asked.client)))
        && headers.iter().all(|(name, pattern)| any_value(asked.headers.get_all(name).iter(), pattern))
        && query.iter().all(|(name, pattern)| any_parameter(asked.query.unwrap_or(""), name, pattern))
}

/// Whether one of a header's lines is as it should be.
fn any_value<'a>(mut values: impl Iterator<Item = &'a HeaderValue>, pattern: &ValuePattern) -> bool {
    match pattern {
        ValuePattern::Present => values.next().is_some(),
        ValuePattern::Absent => values.next().is_none(),
        ValuePattern::Exact(text) => values.any(|value| value.as_bytes() == text.as_bytes()),
        ValuePattern::Regex(pattern) => {
            values.any(|value| std::str::from_utf8(value.as_bytes()).is_ok_and(|text| pattern.regex().is_match(text)))
        }
    }
}

/// Whether one of the parameters of that name is as it should be.
fn any_parameter(query: &str, name: &str, pattern: &ValuePattern) -> bool {
    let mut values = query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .filter(|(key, _)| decoded(key).eq(name.bytes()))
        .map(|(_, value)| value);
    match pattern {
        ValuePattern::Present => values.next().is_some(),
        ValuePattern::Absent => values.next().is_none(),
        ValuePattern::Exact(text) => values.any(|value| decoded(value).eq(text.bytes())),
        ValuePattern::Regex(pattern) => values
            .any(|value| String::from_utf8(decoded(value).collect()).is_ok_and(|text| pattern.regex().is_match(&text))),
    }
}

/// The bytes that a part of a query stands for, as forms write it: `+` is a space.
fn decoded(text: &str) -> impl Iterator<Item = u8> {
    let mut rest = text.as_bytes();
    std::iter::from_fn(move || {
        let digit = |d: u8| char::from(d).to_digit(16).map(|d| d as u8);
        if let [b'%', high, low, after @ ..] = rest
            && let (Some(high), Some(low)) = (digit(*high), digit(*low))
        {
            rest = after;
            return Some(high << 4 | low);
        }
        let (first, after) = rest.split_first()?;
        rest = after;
        Some(if *first == b'+' { b' ' } else { *first })
    })
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use http::{HeaderMap, Method};

    use super::*;
    use crate::config::plan::Pattern;

    fn asked<'a>(query: Option<&'a str>, headers: &'a HeaderMap) -> Asked<'a> {
        let client = IpAddr::from([192, 0, 2, 1]);
        Asked { host: "", path: "/", query, method: &Method::GET, headers, client }
    }

    #[test]
    fn parameters_are_compared_decoded() {
        let headers = HeaderMap::new();
        let regex = |text| ValuePattern::Regex(Pattern::new(text).unwrap());
        for (query, name, pattern, holds) in [
            (Some("a=1&b=x+y%21"), "b", ValuePattern::Exact("x y!".into()), true),
            (Some("a=1&%62=2"), "b", ValuePattern::Exact("2".into()), true),
            (Some("a=1&a=2"), "a", ValuePattern::Exact("2".into()), true),
            (Some("a=12"), "a", ValuePattern::Exact("1".into()), false),
            (Some("a"), "a", ValuePattern::Present, true),
            (Some("aa=1"), "a", ValuePattern::Present, false),
            (Some("b"), "a", ValuePattern::Absent, true),
            (None, "a", ValuePattern::Absent, true),
            (None, "a", ValuePattern::Present, false),
            (Some("v=beta%2D7"), "v", regex("^beta-[0-9]$"), true),
            (Some("v=%ff"), "v", regex("."), false),
        ] {
            let conditions = Conditions { query: vec![(name.to_owned(), pattern)], ..Conditions::default() };
            assert_eq!(hold(&conditions, &asked(query, &headers)), holds, "{query:?} {name}");
        }
    }

    #[test]
    fn headers_and_networks_are_compared() {
        let headers = HeaderMap::from_iter([
            (http::header::ACCEPT, HeaderValue::from_static("text/html")),
            (http::header::ACCEPT, HeaderValue::from_static("image/png")),
        ]);
        let with = |pattern| Conditions { headers: vec![(http::header::ACCEPT, pattern)], ..Conditions::default() };
        for (conditions, holds) in [
            (with(ValuePattern::Exact("image/png".into())), true),
            (with(ValuePattern::Exact("image".into())), false),
            (with(ValuePattern::Regex(Pattern::new("^image").unwrap())), true),
            (with(ValuePattern::Present), true),
            (with(ValuePattern::Absent), false),
            (Conditions { sources: vec!["192.0.2.0/24".parse().unwrap()], ..Conditions::default() }, true),
            (Conditions { sources: vec!["10.0.0.0/8".parse().unwrap()], ..Conditions::default() }, false),
            (Conditions { methods: vec![Method::PUT], ..Conditions::default() }, false),
        ] {
            assert_eq!(hold(&conditions, &asked(None, &headers)), holds, "{conditions:?}");
        }
    }
}

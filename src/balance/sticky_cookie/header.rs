//! Our cookie in the `Cookie` header (RFC 6265 §4.2): finding it and taking it out.
//!
//! Both go by the same reading of a pair, so that what is honoured is what is hidden from servers. No
//! other cookie is looked at, decoded or judged.

use memchr::memchr_iter;

/// The value of the first cookie of that name in the values of all `Cookie` headers, in their order.
///
/// One pass over the bytes; allocates nothing.
pub fn find<'a>(headers: impl IntoIterator<Item = &'a [u8]>, name: &str) -> Option<&'a [u8]> {
    headers.into_iter().find_map(|header| pairs(header).find_map(|pair| value_of(pair, name)))
}

/// The value of a `Cookie` header without any cookie of that name; none when it has no such cookie. An
/// empty result means that the header has to go.
#[must_use]
pub fn strip(header: &[u8], name: &str) -> Option<Vec<u8>> {
    if !pairs(header).any(|pair| value_of(pair, name).is_some()) {
        return None;
    }
    let mut rest = Vec::with_capacity(header.len());
    for pair in pairs(header).filter(|pair| !pair.is_empty() && value_of(pair, name).is_none()) {
        if !rest.is_empty() {
            rest.extend_from_slice(b"; ");
        }
        rest.extend_from_slice(pair);
    }
    Some(rest)
}

/// The parts between semicolons, without the white space around them.
fn pairs(header: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut start = 0;
    memchr_iter(b';', header).chain([header.len()]).map(move |end| {
        let pair = &header[start..end];
        start = end + 1;
        pair.trim_ascii()
    })
}

pub(super) fn value_of<'a>(pair: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let rest = pair.strip_prefix(name.as_bytes())?;
    Some(rest.trim_ascii_start().strip_prefix(b"=")?.trim_ascii_start())
}

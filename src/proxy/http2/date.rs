//! The `Date` of answers that lack one (RFC 9110 §6.6.1), made once a second.

use std::cell::RefCell;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::HeaderValue;

thread_local! {
    static DATE: RefCell<(u64, HeaderValue)> = const { RefCell::new((0, HeaderValue::from_static(""))) };
}

/// The time, as headers say it.
pub(super) fn now() -> HeaderValue {
    let now = SystemTime::now();
    let second = now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    DATE.with_borrow_mut(|(made, value)| {
        if *made != second
            && let Ok(text) = HeaderValue::from_maybe_shared(Bytes::from(httpdate::fmt_http_date(now)))
        {
            (*made, *value) = (second, text);
        }
        value.clone()
    })
}

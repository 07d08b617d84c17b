//! Durations and sizes as people write them in the configuration. A leaf, like [`crate::named`].

use std::fmt;
use std::time::Duration;

use serde::Deserializer;
use serde::de::{self, Unexpected, Visitor};

/// Reads `"250ms"`, `"2s"`, `"5m"`, `"1h"`, `"1d"`, or several of them together (`"1h30m"`).
///
/// # Errors
/// A text that says what would be right.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || {
        format!("`{text}` is not a duration: write a number and a unit (ms, s, m, h, d), such as \"2s\" or \"1h30m\"")
    };
    let mut rest = text.trim();
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let millis_per_unit: u64 = match &rest[..letters] {
            "ms" => 1,
            "s" => 1_000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(wrong()),
        };
        let part = number.checked_mul(millis_per_unit).ok_or_else(wrong)?;
        total = total.checked_add(Duration::from_millis(part)).ok_or_else(wrong)?;
        rest = &rest[letters..];
    }
    Ok(total)
}

/// Writes a duration in the shortest form that [`parse_duration`] reads back exactly.
#[must_use]
pub fn show_duration(duration: Duration) -> String {
    let millis = duration.as_millis() as u64;
    for (unit, factor) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)] {
        if millis >= factor && millis.is_multiple_of(factor) {
            return format!("{}{unit}", millis / factor);
        }
    }
    format!("{millis}ms")
}

/// Reads `"16 KiB"`, `"1MiB"`, `"10MB"`, a bare number of bytes, or `"unlimited"` (`u64::MAX`).
///
/// # Errors
/// A text that says what would be right.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || {
        format!(
            "`{text}` is not a size: write a number and a unit (B, KiB, MiB, GiB, kB, MB, GB), such as \"16KiB\", or \"unlimited\""
        )
    };
    let text_trimmed = text.trim();
    if text_trimmed == "unlimited" {
        return Ok(u64::MAX);
    }
    let digits = text_trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(text_trimmed.len());
    let number: u64 = text_trimmed[..digits].parse().map_err(|_| wrong())?;
    let factor: u64 = match text_trimmed[digits..].trim() {
        "" | "B" => 1,
        "KiB" | "K" | "k" => 1 << 10,
        "MiB" | "M" | "m" => 1 << 20,
        "GiB" | "G" | "g" => 1 << 30,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return Err(wrong()),
    };
    number.checked_mul(factor).ok_or_else(wrong)
}

/// For `#[serde(deserialize_with = "…")]` on a `Duration`.
///
/// # Errors
/// What [`parse_duration`] says.
pub fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    struct Text;

    impl Visitor<'_> for Text {
        type Value = Duration;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a duration in quotes, such as \"2s\"")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
            parse_duration(text).map_err(E::custom)
        }
    }

    deserializer.deserialize_any(Text)
}

/// For `#[serde(deserialize_with = "…")]` on a size in bytes: a text or a whole number.
///
/// # Errors
/// What [`parse_size`] says.
pub fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    struct TextOrNumber;

    impl Visitor<'_> for TextOrNumber {
        type Value = u64;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a size, such as \"16KiB\" or a number of bytes")
        }

        fn visit_i64<E: de::Error>(self, number: i64) -> Result<u64, E> {
            u64::try_from(number).map_err(|_| E::invalid_value(Unexpected::Signed(number), &self))
        }

        fn visit_u64<E: de::Error>(self, number: u64) -> Result<u64, E> {
            Ok(number)
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<u64, E> {
            parse_size(text).map_err(E::custom)
        }
    }

    deserializer.deserialize_any(TextOrNumber)
}

/// For `#[serde(deserialize_with = "…")]` on an optional `Duration`.
///
/// # Errors
/// What [`parse_duration`] says.
pub fn optional_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    duration(deserializer).map(Some)
}

/// A size in the largest unit that tells it exactly, as [`parse_size`] reads it.
#[must_use]
pub fn show_size(bytes: u64) -> String {
    if bytes == u64::MAX {
        return "unlimited".to_owned();
    }
    for (unit, factor) in [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if bytes >= factor && bytes.is_multiple_of(factor) {
            return format!("{}{unit}", bytes / factor);
        }
    }
    format!("{bytes}B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_and_show() {
        for (text, millis) in [("250ms", 250), ("2s", 2_000), ("5m", 300_000), ("1h30m", 5_400_000), ("1d", 86_400_000)]
        {
            let read = parse_duration(text);
            assert_eq!(read, Ok(Duration::from_millis(millis)), "{text}");
            assert_eq!(parse_duration(&show_duration(Duration::from_millis(millis))), read);
        }
        for text in ["", "2", "s", "2 s", "2x", "-1s", "99999999999999999999s", "1.5s"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_read() {
        assert_eq!(parse_size("16KiB"), Ok(16 << 10));
        assert_eq!(parse_size("10 MB"), Ok(10_000_000));
        assert_eq!(parse_size("12"), Ok(12));
        assert_eq!(parse_size("unlimited"), Ok(u64::MAX));
        for text in ["", "KiB", "1XB", "99999999999 GiB", "-1"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}

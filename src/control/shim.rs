//! The seams to rooms that are being built: to be replaced by what they export.

use crate::balance::sticky_cookie::Keys;

pub(super) fn keys(_secrets: &[String]) -> Result<Keys, String> {
    Ok(Keys {})
}

pub(super) fn make_key() -> String {
    let mut bytes = [0u8; 32];
    // The generator of the system cannot fail once the process runs; a failure aborts inside the library.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

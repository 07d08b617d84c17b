//! What a policy is called where there may be two of a name: with the options that somebody has set.

use toml::Value;

use super::choice;
use crate::balance::Policy;

/// A policy's name, and its options as far as they are not the defaults: "ip_hash, max_load 1.25".
pub(in crate::cli) fn label(policy: &Policy) -> String {
    let name = policy.name();
    let options = |policy: &Policy| choice::policy(policy).get(name).cloned();
    // A name alone is the policy with every default.
    let usual: Option<Policy> = Value::from(name).try_into().ok();
    let usual = usual.as_ref().and_then(options);
    let mut out = name.to_owned();
    for (key, value) in options(policy).as_ref().and_then(Value::as_table).into_iter().flatten() {
        if usual.as_ref().and_then(|usual| usual.get(key)) != Some(value) {
            out.push_str(&format!(", {key}"));
            words(value, &mut out);
        }
    }
    out
}

/// An option in the words of a configuration, without its brackets.
fn words(value: &Value, out: &mut String) {
    match value {
        Value::Table(table) => {
            for (key, value) in table {
                out.push_str(&format!(" {key}"));
                words(value, out);
            }
        }
        Value::String(text) => out.push_str(&format!(" {text}")),
        other => out.push_str(&format!(" {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_called_by_its_name_and_by_what_is_unusual() {
        #[derive(serde::Deserialize)]
        struct File {
            policy: Policy,
        }
        for (text, called) in [
            ("'ip_hash'", "ip_hash"),
            ("{ ip_hash = { ipv4_prefix = 32 } }", "ip_hash"),
            ("{ ip_hash = { max_load = 1.25 } }", "ip_hash, max_load 1.25"),
            ("{ ip_hash = { ipv4_prefix = 24, max_load = 2 } }", "ip_hash, ipv4_prefix 24, max_load 2.0"),
            ("{ hash = { by = { header = 'X-User' } } }", "hash, by header x-user"),
            ("{ sticky_cookie = { learn = 'sid' } }", "sticky_cookie, learn sid"),
        ] {
            let file: File = toml::from_str(&format!("policy = {text}")).unwrap();
            assert_eq!(label(&file.policy), called);
        }
    }
}

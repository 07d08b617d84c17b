//! What a report has to say of itself: figures that look good and are of something else than was meant.

use std::collections::BTreeMap;

use crate::lab::run::Measured;
use crate::lab::scenario::Scenario;

/// One answer in so many is a refusal by chance; more of them are what was asked for.
const ONE_IN: u64 = 10;

/// What is odd about a policy's answers. Toy servers answer 401 to who has lost a session, which is counted as that.
pub(super) fn of(scenario: &Scenario, measured: &[Measured]) -> Vec<String> {
    if scenario.targets.is_empty() {
        return Vec::new();
    }
    measured.iter().filter_map(|one| refused(&one.policy, one.outcomes.iter().filter_map(|o| o.status))).collect()
}

/// What is to be said of answers that are refusals of servers: 4xx, which is no failure of theirs, and no success of
/// those who asked.
fn refused(policy: &str, statuses: impl Iterator<Item = u16>) -> Option<String> {
    let mut all = 0;
    let mut refusals: BTreeMap<u16, u64> = BTreeMap::new();
    for status in statuses {
        all += 1;
        if (400..500).contains(&status) {
            *refusals.entry(status).or_default() += 1;
        }
    }
    let sum: u64 = refusals.values().sum();
    if sum * ONE_IN <= all {
        return None;
    }
    let (status, _) = refusals.iter().max_by_key(|(_, count)| **count)?;
    let what = if refusals.len() == 1 { format!("{status}") } else { format!("4xx, most of them {status}") };
    let ask = match status {
        404 => "is the path right?",
        401 | 403 => "does the path need a login?",
        429 => "do the servers limit how much a client may ask?",
        _ => "is that what was asked for?",
    };
    let (sum, all) = (thousands(sum), thousands(all));
    Some(format!("{policy}: {sum} of {all} answers were {what}: {ask}"))
}

/// A number with a comma after each three digits.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_refusals_are_told_and_what_may_be_the_reason() {
        let of = |statuses: &[(u16, usize)]| {
            refused("p", statuses.iter().flat_map(|(status, count)| std::iter::repeat_n(*status, *count)))
        };
        assert_eq!(of(&[(404, 3008)]).unwrap(), "p: 3,008 of 3,008 answers were 404: is the path right?");
        assert_eq!(
            of(&[(200, 80), (401, 15), (404, 5)]).unwrap(),
            "p: 20 of 100 answers were 4xx, most of them 401: does the path need a login?"
        );
        assert!(of(&[(200, 89), (429, 11)]).unwrap().ends_with("limit how much a client may ask?"));
        assert_eq!((of(&[(200, 90), (404, 10)]), of(&[(500, 9)]), of(&[])), (None, None, None));
        assert_eq!(
            (thousands(7), thousands(1_000), thousands(1_234_567)),
            ("7".into(), "1,000".into(), "1,234,567".into())
        );
    }
}

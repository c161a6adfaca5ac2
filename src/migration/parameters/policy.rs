//! `postcopy-policy` as a text.

use std::time::Duration;

use whimbrel_postcopy::source::Policy;

/// A day.
const MAX_SECONDS: u64 = 86_400;

/// The text of a policy.
pub(super) fn text_of(policy: Policy) -> String {
    match policy {
        Policy::Manual => "manual".to_owned(),
        Policy::Stalled => "stalled".to_owned(),
        Policy::AfterPasses(passes) => format!("after-passes={passes}"),
        Policy::After(time) => format!("time={}", time.as_secs()),
    }
}

/// The policy of a text.
pub(super) fn parse(text: &str) -> Option<Policy> {
    // `parse` alone would also accept a sign.
    let number = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten();
    match (text, text.split_once('=')) {
        ("manual", _) => Some(Policy::Manual),
        ("stalled", _) => Some(Policy::Stalled),
        (_, Some(("after-passes", digits))) => Some(Policy::AfterPasses(u32::try_from(number(digits)?).ok()?)),
        (_, Some(("time", digits))) => {
            let seconds = number(digits).filter(|seconds| (1..=MAX_SECONDS).contains(seconds))?;
            Some(Policy::After(Duration::from_secs(seconds)))
        }
        _ => None,
    }
}

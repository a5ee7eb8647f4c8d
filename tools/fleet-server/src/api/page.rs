//! The status page: text of its own, which asks for the overview as any program would.
//!
//! - Nothing in it is of the fleet, so that anybody may have it; only the overview needs an operator.
//! - What it may do is said beside it: its own script and style, by a name that is drawn for each answer.

use super::answer::{self, Answer};
use crate::door::Refused;
use crate::ports::{self, Chance};
use hyper::StatusCode;
use hyper::header::{CONTENT_SECURITY_POLICY, HeaderName, HeaderValue, REFERRER_POLICY};
use sapwood_protocol::fleet::code::Code;
use sapwood_protocol::fleet::id::Hash;

/// Every `NONCE` in it is replaced, and the two places that follow.
const PAGE: &str = include_str!("../../assets/status.html");
/// What it has in common with a device's.
const STYLE: &str = include_str!("../../../page/style.css");
const BASE: &str = include_str!("../../../page/base.js");

/// The page.
///
/// # Errors
/// [`Refused`] when the system has no randomness.
pub(super) fn page(chance: &dyn Chance) -> Result<Answer, Refused> {
    let drawn = ports::draw::<32>(chance);
    let drawn = drawn.map_err(|error| Refused::new(Code::Unavailable, error.to_string()))?;
    let nonce = &Hash(drawn).to_string()[..32];
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; \
         connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    );
    let page = PAGE.replacen("/* STYLE */", STYLE, 1).replacen("/* BASE */", BASE, 1);
    let page = page.replace("NONCE", nonce);
    let mut answer = answer::bytes(StatusCode::OK, "text/html; charset=utf-8", page);
    let policy = HeaderValue::from_str(&policy).unwrap_or(HeaderValue::from_static("sandbox"));
    let headers = answer.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, policy);
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    let sniff = HeaderName::from_static("x-content-type-options");
    headers.insert(sniff, HeaderValue::from_static("nosniff"));
    Ok(answer)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;
    use crate::ports::SystemChance;
    use http_body_util::BodyExt;

    fn told(answer: Answer) -> (String, String) {
        let policy = answer.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap().to_owned();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let body = runtime.block_on(answer.into_body().collect()).unwrap().to_bytes();
        (policy, String::from_utf8(body.to_vec()).unwrap())
    }

    #[test]
    fn only_its_own_script_and_style_run() {
        let (policy, page) = told(page(&SystemChance).unwrap());
        let nonce = policy.split("'nonce-").nth(1).unwrap().split('\'').next().unwrap();
        assert_eq!(page.matches(&format!("nonce=\"{nonce}\"")).count(), 2);
        for left in ["NONCE", "/* STYLE */", "/* BASE */"] {
            assert!(!page.contains(left), "{left}");
        }
        let (other, _) = told(super::page(&SystemChance).unwrap());
        assert_ne!(policy, other);
    }
}

//! The other listener: whether the server lives, whether it can work, and its numbers.
//!
//! - Plain HTTP, for this machine or a network of the operator's; devices never come here.
//! - What tells of the fleet, `/v1/admin/...`, is answered to whoever has the operator's token; where there
//!   is none, to programs of this machine: who calls from elsewhere is none, and a web page that somebody
//!   looks at names another host.

use super::answer::{self, Answer};
use super::page;
use super::shared::Shared;
use crate::door::Refused;
use crate::overview;
use crate::ready;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, HOST, HeaderMap, HeaderValue, ORIGIN};
use hyper::{Method, Request, StatusCode};
use sapwood_protocol::fleet::code::Code;
use sapwood_protocol::fleet::id::Hash;
use std::net::IpAddr;
use std::sync::Arc;

const TEXT: &str = "text/plain; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Answers whoever asks for health.
pub(crate) async fn answer(
    shared: &Arc<Shared>,
    request: &Request<Incoming>,
    from: IpAddr,
) -> Answer {
    match dispatch(shared, request, from).await {
        Ok(answer) => answer,
        Err(refused) => {
            shared.tell(&refused);
            answer::refused(&refused)
        }
    }
}

async fn dispatch(
    shared: &Arc<Shared>,
    request: &Request<Incoming>,
    from: IpAddr,
) -> Result<Answer, Refused> {
    // Of an answer to HEAD the body is left out below.
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        return Err(Refused::new(Code::NotFound, "only GET and HEAD are answered here"));
    }
    match request.uri().path() {
        "/healthz" => Ok(answer::bytes(StatusCode::OK, TEXT, "ok\n")),
        "/readyz" => {
            // A store that hangs is no store.
            let _fetching = shared.fetching().await?;
            let look = |shared: &Shared| {
                let mut faults = ready::faults(&shared.home, shared.judges);
                faults.grave.extend(shared.troubles());
                Ok(faults)
            };
            let faults = shared.blocking(look).await?;
            let status = match faults.is_ready() {
                true => StatusCode::OK,
                false => StatusCode::SERVICE_UNAVAILABLE,
            };
            Ok(answer::bytes(status, TEXT, faults.text()))
        }
        "/metrics" => {
            let numbers = |shared: &Shared| Ok(shared.metrics.text(&shared.home.book)?);
            Ok(answer::bytes(StatusCode::OK, OPEN_METRICS, shared.blocking(numbers).await?))
        }
        "/" => page::page(&*shared.chance),
        "/v1/admin/overview" => {
            is_operator(shared.token, request.headers(), from)?;
            let told = |shared: &Shared| Ok(overview::overview(&shared.home, shared.now_ms())?);
            let json = shared.blocking(told).await?.to_string();
            Ok(answer::json(StatusCode::OK, json))
        }
        _ => Err(Refused::new(Code::NotFound, "there is no such path")),
    }
}

/// Whether an operator asks.
fn is_operator(token: Option<Hash>, headers: &HeaderMap, from: IpAddr) -> Result<(), Refused> {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let Some(token) = token else {
        let here = from.to_canonical().is_loopback()
            && text(HOST).is_some_and(is_this_machine)
            && !headers.contains_key(ORIGIN);
        let message = "expected a caller and a `Host` of this machine: without an operator's token only \
            its own programs are answered";
        return if here { Ok(()) } else { Err(Refused::new(Code::Signature, message)) };
    };
    let given = text(AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
    // Comparing hashes takes the same time wherever they differ.
    match given.map(|given| Hash::of(given.trim().as_bytes()) == token) {
        Some(true) => Ok(()),
        _ => Err(Refused::new(
            Code::Signature,
            "expected the operator's token, `Authorization: Bearer TOKEN`",
        )),
    }
}

/// Whether a host, with or without a port, can only be this machine.
fn is_this_machine(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    let address: Option<IpAddr> = bare.parse().ok();
    address.map_or_else(|| name.eq_ignore_ascii_case("localhost"), |address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever calls from elsewhere may say any `Host`.
    #[test]
    fn without_a_token_only_a_caller_of_this_machine_is_an_operator() {
        let asks = |token: Option<&[u8]>, given: &'static str, from: [u8; 4]| {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, HeaderValue::from_static("localhost"));
            headers.insert(AUTHORIZATION, HeaderValue::from_static(given));
            is_operator(token.map(Hash::of), &headers, from.into()).is_ok()
        };
        assert!(asks(None, "", [127, 0, 0, 1]) && asks(None, "", [127, 9, 0, 1]));
        assert!(!asks(None, "", [10, 77, 0, 2]) && !asks(None, "Bearer x", [10, 77, 0, 2]));
        assert!(asks(Some(b"secret"), "Bearer secret", [10, 77, 0, 2]));
        assert!(!asks(Some(b"secret"), "Bearer other", [127, 0, 0, 1]));
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static("localhost"));
        for (from, here) in [("::1", true), ("::ffff:127.0.0.1", true), ("::ffff:10.77.0.2", false)]
        {
            let from = from.parse().unwrap_or(IpAddr::from([10, 0, 0, 1]));
            assert_eq!(is_operator(None, &headers, from).is_ok(), here, "{from}");
        }
    }

    #[test]
    fn only_names_of_this_machine_are_this_machine() {
        for host in ["localhost", "LocalHost:8444", "127.0.0.1:8444", "[::1]:1", "[::1]"] {
            assert!(is_this_machine(host), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example:1",
            "127.0.0.1.evil.example",
            "10.0.0.7",
            "",
            "[::2]",
        ] {
            assert!(!is_this_machine(host), "{host}");
        }
    }
}

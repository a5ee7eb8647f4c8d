//! Answers: a status, a few headers, bytes that are there or come from a file.

use crate::door::Refused;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use sapwood_protocol::fleet::code::Code;
use sapwood_protocol::fleet::message::{self, Message};
use std::convert::Infallible;
use std::io;

/// An answer.
pub(crate) type Answer = Response<BoxBody<Bytes, io::Error>>;

/// Bytes of a kind.
pub(crate) fn bytes(status: StatusCode, kind: &'static str, bytes: impl Into<Bytes>) -> Answer {
    let body = Full::new(bytes.into()).map_err(|never: Infallible| match never {});
    let mut answer = Response::new(body.boxed());
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

/// JSON.
pub(crate) fn json(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    bytes(status, "application/json", body)
}

/// A message.
///
/// # Errors
/// [`Refused`] for a message that nobody would read, which is a fault of the server.
pub(super) fn message<M: Message>(status: StatusCode, message: &M) -> Result<Answer, Refused> {
    let body = message::write(message).map_err(|error| {
        tracing::error!(%error, "an answer is none");
        Refused::new(Code::Unavailable, "the server made an answer that is none")
    })?;
    Ok(json(status, body))
}

/// A refusal.
pub(crate) fn refused(refused: &Refused) -> Answer {
    let refusal = refused.refusal();
    let status = StatusCode::from_u16(refusal.error.status()).unwrap_or(StatusCode::BAD_REQUEST);
    let mut answer = json(status, refusal.write().unwrap_or_default());
    if let Some(seconds) = refusal.retry_after_s {
        answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    answer
}

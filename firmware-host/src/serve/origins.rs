//! Web pages from elsewhere that may ask: those whose origins the operator names, and no others.
//!
//! - A browser asks before it lets such a page send JSON or a token, and shows the page no answer that
//!   does not name its origin. Both are answered here; whether the request is done says `door`.
//! - Never here: `*`, and leave for cookies. What has no name is not let in, and nothing here reads one.
//!
//! Source: the Fetch standard, "CORS protocol".

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::sync::Arc;

/// Seconds for which a browser need not ask again.
const KEPT_SECONDS: &str = "600";
const METHODS: &str = "GET, POST, DELETE";

/// The origins that are named.
#[derive(Clone, Debug, Default)]
pub(super) struct Origins(Arc<[String]>);

impl Origins {
    pub(super) fn new(named: &[String]) -> Self {
        Self(named.into())
    }

    /// Whether `origin` is one of them, as a browser writes it.
    pub(super) fn has(&self, origin: &str) -> bool {
        self.0.iter().any(|named| named == origin)
    }

    /// The origin of a request, where it is named.
    fn of(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let mut all = headers.get_all(header::ORIGIN).iter();
        let first = all.next().filter(|origin| origin.to_str().is_ok_and(|name| self.has(name)));
        first.filter(|_| all.next().is_none()).cloned()
    }

    /// Answers a browser's question beforehand, and lets a named page see what is answered.
    pub(super) async fn cross(self, request: Request, next: Next) -> Response {
        let named = self.of(request.headers());
        let asks = request.method() == Method::OPTIONS
            && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        let wanted = request.headers().get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned();
        let mut response = match &named {
            // The question comes without a token, so the door would refuse it.
            Some(_) if asks => allowed(wanted),
            _ => next.run(request).await,
        };
        let headers = response.headers_mut();
        if let Some(origin) = named {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            let retry = HeaderValue::from_static("retry-after");
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, retry);
        }
        if !self.0.is_empty() {
            headers.append(header::VARY, HeaderValue::from_static("origin"));
        }
        response
    }
}

/// What a named page may send: any method that is here, any headers.
fn allowed(wanted: Option<HeaderValue>) -> Response {
    let fixed = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(METHODS)),
        (header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(KEPT_SECONDS)),
    ];
    let mut response = (StatusCode::NO_CONTENT, fixed).into_response();
    if let Some(wanted) = wanted {
        response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_HEADERS, wanted);
    }
    response
}

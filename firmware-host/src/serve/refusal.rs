//! What is answered instead of what was asked for: a status, and a body in OpenAI's shape.

use super::ModelError;
use crate::paused::OrderError;
use crate::wire::{self, WireError};
use axum::extract::rejection::PathRejection;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sapwood::inbox::InboxError;
use sapwood::intake::IntakeError;
use sapwood_protocol::fleet::message::one_line;

/// Seconds after which a client may ask again when all turns are taken.
const RETRY_TURN_SECONDS: u64 = 1;
/// The same when the inbox waits for a job.
const RETRY_INBOX_SECONDS: u64 = 30;

/// Models that are named where another was asked for.
const MODELS_SHOWN: usize = 20;
/// Bytes of a name that are told.
const NAME_BYTES_SHOWN: usize = 100;

/// A request that is not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    status: StatusCode,
    message: String,
    param: Option<String>,
    code: Option<&'static str>,
    retry_seconds: Option<u64>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { status, message, param: None, code: Some(code), retry_seconds: None }
    }

    fn with_param(self, param: Option<impl Into<String>>) -> Self {
        Self { param: param.map(Into::into), ..self }
    }

    fn retry(self, seconds: u64) -> Self {
        Self { retry_seconds: Some(seconds), ..self }
    }

    /// The status it is answered with.
    #[cfg(test)]
    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    /// What is told.
    #[cfg(test)]
    pub(super) fn message(&self) -> &str {
        &self.message
    }

    /// A prompt that leaves no room for a text.
    pub(super) fn context(room: usize, prompt: usize) -> Self {
        let message = format!(
            "the prompt has {prompt} tokens: expected fewer than {room}, which it has together with \
             its text"
        );
        Self::new(StatusCode::BAD_REQUEST, "context_length_exceeded", message)
    }

    /// A model that is not there, and those that are.
    pub(super) fn model(got: &str, known: &[&str]) -> Self {
        let got = one_line(got, NAME_BYTES_SHOWN);
        let shown: Vec<String> =
            known.iter().take(MODELS_SHOWN).map(|id| format!("`{id}`")).collect();
        let more = if known.len() > MODELS_SHOWN { " and others of /v1/models" } else { "" };
        let message =
            format!("the model `{got}` does not exist: expected one of {}{more}", shown.join(", "));
        Self::new(StatusCode::NOT_FOUND, "model_not_found", message).with_param(Some("model"))
    }

    /// An order to learn where nobody does.
    pub(super) fn no_learner() -> Self {
        let message =
            "this program serves models as they are and learns nothing: `firmware-host run` does";
        Self::new(StatusCode::NOT_IMPLEMENTED, "no_learner", message)
    }

    /// Every turn is taken, and every place in the queue.
    pub(super) fn busy(running: usize, queue: usize) -> Self {
        let message = format!(
            "{running} texts are being written and {queue} requests wait: expected one of them to \
             end first"
        );
        Self::new(StatusCode::TOO_MANY_REQUESTS, "busy", message).retry(RETRY_TURN_SECONDS)
    }

    /// No turn came within the request's time.
    pub(super) fn late() -> Self {
        let message = "no turn came within the time that a request may take";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "timeout", message).retry(RETRY_TURN_SECONDS)
    }

    /// The program is on its way out, or its worker is gone.
    pub(super) fn stopping() -> Self {
        let message = "the device program is stopping: nothing was done";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", message).retry(RETRY_INBOX_SECONDS)
    }

    /// What ran for the request ended without a word.
    pub(super) fn lost() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", "the request was lost")
    }

    /// No room for another connection that asks for this.
    pub(super) fn crowded() -> Self {
        let message = "all connections are being answered: try again in a moment";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message).retry(RETRY_TURN_SECONDS)
    }

    /// More bytes than a body may have.
    pub(super) fn large(bytes_max: usize) -> Self {
        let message = format!("the body is too large: expected at most {bytes_max} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
    }

    /// The body as JSON.
    pub(super) fn body(&self) -> serde_json::Value {
        let kind = match self.status {
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        wire::refusal(kind, &self.message, self.param.as_deref(), self.code)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, axum::Json(self.body())).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_seconds {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<WireError> for Refusal {
    fn from(error: WireError) -> Self {
        let (status, code) = match &error {
            WireError::Utf8 { .. } | WireError::Json { .. } => {
                (StatusCode::BAD_REQUEST, "invalid_body")
            }
            WireError::Field { .. } => (StatusCode::BAD_REQUEST, "invalid_value"),
            WireError::Schema { .. } => (StatusCode::BAD_REQUEST, "invalid_schema"),
            WireError::Unsupported { .. } => (StatusCode::BAD_REQUEST, "unsupported_parameter"),
        };
        Self::new(status, code, error.to_string()).with_param(error.param())
    }
}

impl From<PathRejection> for Refusal {
    fn from(error: PathRejection) -> Self {
        let message = format!("a part of the path is not what is expected there: {error}");
        Self::new(StatusCode::BAD_REQUEST, "invalid_path", message)
    }
}

impl From<OrderError> for Refusal {
    fn from(error: OrderError) -> Self {
        match &error {
            OrderError::Stopping => Self::stopping(),
            OrderError::Disk { source, .. } => {
                let code = if source.is_full() { "disk_full" } else { "disk_failed" };
                Self::new(StatusCode::INSUFFICIENT_STORAGE, code, error.to_string())
            }
            OrderError::Refused { why, is_missing, is_disk } => {
                let (status, code) = match (is_missing, is_disk) {
                    (true, _) => (StatusCode::NOT_FOUND, "generation_not_found"),
                    (false, true) => (StatusCode::INSUFFICIENT_STORAGE, "disk_failed"),
                    (false, false) => (StatusCode::CONFLICT, "generation_unusable"),
                };
                Self::new(status, code, why)
            }
            OrderError::Late => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", error.to_string())
                    .retry(RETRY_INBOX_SECONDS)
            }
        }
    }
}

impl From<ModelError> for Refusal {
    fn from(error: ModelError) -> Self {
        let (status, code) = match error {
            ModelError::Prompt(_) => (StatusCode::BAD_REQUEST, "invalid_prompt"),
            ModelError::Wish { .. } => (StatusCode::BAD_REQUEST, "invalid_value"),
            ModelError::Form { .. } => (StatusCode::BAD_REQUEST, "invalid_schema"),
            ModelError::Unknown { .. } => (StatusCode::NOT_FOUND, "model_not_found"),
            ModelError::NoText => (StatusCode::CONFLICT, "no_text"),
            ModelError::Late => (StatusCode::SERVICE_UNAVAILABLE, "timeout"),
            ModelError::Failed(_) => (StatusCode::INTERNAL_SERVER_ERROR, "model_failed"),
        };
        let param = match error {
            ModelError::Wish { param, .. } | ModelError::Form { param, .. } => Some(param),
            ModelError::Unknown { .. } => Some("model"),
            ModelError::NoText => Some("texts"),
            ModelError::Prompt(_) | ModelError::Late | ModelError::Failed(_) => None,
        };
        Self::new(status, code, error.to_string()).with_param(param)
    }
}

impl From<InboxError> for Refusal {
    fn from(error: InboxError) -> Self {
        use StatusCode as S;
        let (status, code) = match &error {
            InboxError::Line(_) | InboxError::Sample { .. } | InboxError::Empty => {
                (S::BAD_REQUEST, "invalid_sample")
            }
            InboxError::Large { .. } => (S::PAYLOAD_TOO_LARGE, "body_too_large"),
            InboxError::Full { .. } => (S::TOO_MANY_REQUESTS, "inbox_full"),
            InboxError::Low { .. } => (S::TOO_MANY_REQUESTS, "disk_low"),
            InboxError::Storage(error) if error.is_full() => (S::INSUFFICIENT_STORAGE, "disk_full"),
            InboxError::Newer { .. }
            | InboxError::Storage(_)
            | InboxError::Sync(_)
            | InboxError::Broken => (S::SERVICE_UNAVAILABLE, "disk_failed"),
        };
        let line = match &error {
            InboxError::Line(IntakeError::Line { line, .. }) => Some(format!("line {line}")),
            InboxError::Sample { number, .. } => Some(format!("sample {number}")),
            _ => None,
        };
        let refusal = Self::new(status, code, error.to_string()).with_param(line);
        let again = matches!(status, S::TOO_MANY_REQUESTS | S::INSUFFICIENT_STORAGE);
        if again { refusal.retry(RETRY_INBOX_SECONDS) } else { refusal }
    }
}

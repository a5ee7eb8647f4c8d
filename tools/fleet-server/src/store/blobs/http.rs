//! Requests to a bucket over HTTP/1.1, with TLS or without: what `object_store` sends and hears.
//!
//! - In: requests that are signed. Out: answers of success; every other is a [`Failure`] with status and
//!   code, before anybody reads more into it.
//! - Connections are kept for seconds, and one that the other side has closed costs another try.
//! - Never here: what is tried again, and for how long; that is `s3.rs`.

use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::HOST;
use hyper::http::request::Parts;
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody,
    HttpResponse, HttpResponseBody, HttpService,
};
use sapwood_connections::Known;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(5);
/// How long one that nobody uses is kept: less than the other side does.
const IDLE: Duration = Duration::from_secs(4);
/// Bytes of an answer that says what was wrong.
const TOLD_BYTES_MAX: usize = 64 << 10;
/// Characters of a code.
const CODE_CHARS_MAX: usize = 64;
/// Where systems keep the authorities that they trust.
const SYSTEM: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Why a request came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    /// The store said so.
    #[error("{status}{}", code.as_ref().map_or_else(String::new, |code| format!(" {code}")))]
    Said {
        /// The status of HTTP.
        status: u16,
        /// The store's own word.
        code: Option<String>,
    },
    /// It was not heard, or not understood.
    #[error("{0}")]
    Unheard(String),
}

impl Failure {
    /// The failure in an error of the library's, however deep.
    pub(super) fn of(error: &object_store::Error) -> Self {
        let mut next: Option<&(dyn Error + 'static)> = Some(error);
        let mut last = String::new();
        while let Some(error) = next {
            if let Some(found) = error.downcast_ref::<Self>() {
                return found.clone();
            }
            last = error.to_string();
            next = error.source();
        }
        // What is deepest says what it was, and holds no address.
        Self::Unheard(one_line(&last))
    }

    fn unheard(error: &dyn Error) -> Self {
        let mut last = error.to_string();
        let mut next = error.source();
        while let Some(error) = next {
            last = error.to_string();
            next = error.source();
        }
        Self::Unheard(one_line(&last))
    }

    fn http(self) -> HttpError {
        HttpError::new(HttpErrorKind::Unknown, self)
    }
}

fn one_line(text: &str) -> String {
    text.chars().take(200).map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

type Sender = SendRequest<HttpRequestBody>;

/// Connections to one store.
#[derive(Clone)]
pub(super) struct Lines(Arc<Inner>);

struct Inner {
    ca: Option<PathBuf>,
    known: OnceLock<Known>,
    idle: Mutex<Vec<(Sender, Instant)>>,
}

impl Lines {
    /// - `ca`: authorities that may vouch for the store, in PEM; none: the system's.
    pub(super) fn new(ca: Option<&Path>) -> Self {
        let (known, idle) = (OnceLock::new(), Mutex::default());
        Self(Arc::new(Inner { ca: ca.map(Path::to_owned), known, idle }))
    }

    fn idle(&self) -> Option<Sender> {
        let mut idle = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(sender, since)| sender.is_ready() && since.elapsed() < IDLE);
        idle.pop().map(|(sender, _)| sender)
    }

    /// Keeps a connection once its answer was read to the end.
    fn keep(&self, mut sender: Sender) {
        let lines = self.clone();
        tokio::spawn(async move {
            if sender.ready().await.is_ok() {
                let mut idle = lines.0.idle.lock().unwrap_or_else(PoisonError::into_inner);
                idle.push((sender, Instant::now()));
            }
        });
    }

    async fn connect(&self, uri: &Uri) -> Result<Sender, Failure> {
        let is_tls = uri.scheme_str() == Some("https");
        let host = uri.host().unwrap_or_default();
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        // RFC 6761, 6.3: this machine, which not every system's resolver knows.
        let at = if bare.ends_with(".localhost") { "localhost" } else { bare.as_str() };
        let stream = TcpStream::connect((at, port)).await;
        let stream = stream.map_err(|error| Failure::unheard(&error))?;
        // Without it the last bytes of a request may wait for an answer.
        stream.set_nodelay(true).map_err(|error| Failure::unheard(&error))?;
        let stream: Box<dyn Stream> = match is_tls {
            false => Box::new(stream),
            true => {
                let greeted = self.known()?.greet(&bare, stream).await;
                Box::new(greeted.map_err(|error| Failure::unheard(&error))?)
            }
        };
        let shaken = handshake(TokioIo::new(stream)).await;
        let (sender, connection) = shaken.map_err(|error| Failure::unheard(&error))?;
        // How it ended, whoever waits for an answer is told.
        tokio::spawn(async move { drop(connection.await) });
        Ok(sender)
    }

    fn known(&self) -> Result<&Known, Failure> {
        if let Some(made) = self.0.known.get() {
            return Ok(made);
        }
        let made = known(self.0.ca.as_deref())?;
        Ok(self.0.known.get_or_init(|| made))
    }

    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, Failure> {
        let (parts, body) = request.into_parts();
        let mut sender = match self.idle() {
            Some(sender) => sender,
            None => match timeout(CONNECT, self.connect(&parts.uri)).await {
                Ok(sender) => sender?,
                Err(_) => return Err(Failure::Unheard("it does not answer".to_owned())),
            },
        };
        let answer = sender.send_request(relative(parts, body)?).await;
        let answer = answer.map_err(|error| Failure::unheard(&error))?;
        self.keep(sender);
        let (parts, body) = answer.into_parts();
        if !parts.status.is_success() {
            let code = told(body).await;
            return Err(Failure::Said { status: parts.status.as_u16(), code });
        }
        let body = body.map_err(|error| Failure::unheard(&error).http());
        Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(body)))
    }
}

/// A request as it stands on a line: the path alone, the host beside it.
fn relative(mut parts: Parts, body: HttpRequestBody) -> Result<Request<HttpRequestBody>, Failure> {
    let authority = parts.uri.authority().map(|authority| authority.as_str().parse());
    if let (false, Some(Ok(host))) = (parts.headers.contains_key(HOST), authority) {
        parts.headers.insert(HOST, host);
    }
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    parts.uri = path.parse().map_err(|error| Failure::unheard(&error))?;
    Ok(Request::from_parts(parts, body))
}

/// The code in an answer that says what was wrong, if it holds one.
async fn told(mut body: Incoming) -> Option<String> {
    let mut text = Vec::new();
    while text.len() < TOLD_BYTES_MAX && !body.is_end_stream() {
        let frame = timeout(CONNECT, body.frame()).await.ok()??.ok()?;
        text.extend_from_slice(frame.data_ref()?);
    }
    code(&String::from_utf8_lossy(&text))
}

fn code(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("<Code>")?;
    let (code, _) = rest.split_once("</Code>")?;
    let plain = code.bytes().all(|byte| byte.is_ascii_alphanumeric());
    (plain && (1..=CODE_CHARS_MAX).contains(&code.len())).then(|| code.to_owned())
}

/// Whoever an authority vouches for: one of a file, or of those that the system trusts.
fn known(ca: Option<&Path>) -> Result<Known, Failure> {
    let system = || SYSTEM.iter().map(Path::new).find(|path| path.is_file());
    let none =
        || Failure::Unheard("the system has no list of authorities, expected ca=FILE".into());
    let path = ca.or_else(system).ok_or_else(none)?;
    Known::by_authorities(path).map_err(|error| Failure::unheard(&error))
}

impl fmt::Debug for Lines {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("Lines")
    }
}

impl HttpConnector for Lines {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

impl HttpService for Lines {
    fn call<'service, 'answer>(
        &'service self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'answer>>
    where
        'service: 'answer,
        Self: 'answer,
    {
        Box::pin(async move { self.send(request).await.map_err(Failure::http) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_one_plain_word_or_none() {
        let answer = "<Error><Code>SlowDown</Code><Message>m</Message></Error>";
        assert_eq!(code(answer).as_deref(), Some("SlowDown"));
        for text in ["", "<Code></Code>", "<Code>a b</Code>", "<Code>a\nb</Code>", "<Code>a"] {
            assert_eq!(code(text), None, "{text}");
        }
        assert_eq!(code(&format!("<Code>{}</Code>", "a".repeat(65))), None);
    }
}

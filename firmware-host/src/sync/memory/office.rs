//! A fleet's server in memory: HTTP over a pipe, and all that a server or the way to it does wrong.

use super::bad::Bad;
use super::desk::{Desk, path};
use super::files::FLEET;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::http::request::Parts;
use hyper::service::service_fn;
use hyper::{Request, Response, header};
use hyper_util::rt::TokioIo;
use sapwood_protocol::fleet::id::Hash;
use sapwood_protocol::fleet::message::{Refusal, Signed};
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};

/// Bytes on their way from one end of a pipe to the other.
const PIPE_BYTES: usize = 64 << 10;

/// The server.
#[derive(Clone, Debug, Default)]
pub struct Office {
    desk: Arc<Mutex<Desk>>,
}

impl Office {
    /// One that knows this.
    pub fn with(desk: Desk) -> Self {
        Self { desk: Arc::new(Mutex::new(desk)) }
    }

    /// What it knows.
    pub fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The link that its operator gives for this address.
    pub fn link(&self, host: &str, pin: Hash) -> String {
        let trust = Hash::of(&self.desk().trust[0].statement.0);
        format!("sapwood+https://{host}/#fleet={FLEET}&token=token&trust={trust}&pin={pin}")
    }

    /// Offers an artifact.
    pub fn offer(&self, signed: Signed, artifact: &[u8]) {
        self.desk().offer(signed, artifact);
    }

    /// One end of a pipe to it; the other is served on this runtime.
    pub fn pipe(&self) -> DuplexStream {
        let (near, far) = tokio::io::duplex(PIPE_BYTES);
        tokio::spawn(self.clone().serve(far));
        near
    }

    /// Answers what comes over a connection.
    pub async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin + 'static) {
        let answer = service_fn(move |request| {
            let own = self.clone();
            async move { own.answer(request).await }
        });
        let http = hyper::server::conn::http1::Builder::new();
        // One that broke off is over.
        let _ = http.serve_connection(TokioIo::new(stream), answer).await;
    }

    async fn answer(&self, request: Request<Incoming>) -> io::Result<Response<Cuttable>> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let bad = {
            let mut desk = self.desk();
            desk.arrives(&parts, &body);
            let at = desk.bad.iter().position(|(prefix, _)| path(&parts).starts_with(prefix));
            at.and_then(|at| desk.bad.remove(at)).map(|(_, bad)| bad)
        };
        let gone = || Err(ErrorKind::ConnectionReset.into());
        let done = match bad {
            Some(Bad::Body(status, headers, bytes)) => {
                let mut response = Response::builder().status(status);
                for (name, value) in headers {
                    response = response.header(name, value);
                }
                Ok(response.body(Cuttable::whole(bytes)).unwrap())
            }
            Some(Bad::Refuse(refusal)) => Ok(refused(&refusal)),
            Some(Bad::Slow(wait)) => {
                tokio::time::sleep(wait).await;
                Ok(self.done(&parts, &body, None))
            }
            Some(Bad::Silent) => {
                drop(self.done(&parts, &body, None));
                std::future::pending().await
            }
            Some(Bad::Cut(at)) => Ok(self.done(&parts, &body, Some(at))),
            Some(Bad::Deaf) => gone(),
            Some(Bad::Lost) => {
                drop(self.done(&parts, &body, None));
                gone()
            }
            Some(Bad::Late) => {
                self.desk().late.push((parts, body));
                return gone();
            }
            Some(Bad::Twice) if path(&parts) != "/v1/checkin" => {
                drop(self.done(&parts, &body, None));
                Ok(self.done(&parts, &body, None))
            }
            Some(Bad::Old) => {
                let last = self.desk().last.clone();
                let now = self.done(&parts, &body, None);
                Ok(last.map_or(now, |last| Response::new(Cuttable::whole(last))))
            }
            Some(Bad::Twice) | None => Ok(self.done(&parts, &body, None)),
        };
        self.desk().catch_up();
        done
    }

    /// Answers as a server does, up to a cut.
    fn done(&self, parts: &Parts, body: &Bytes, cut: Option<usize>) -> Response<Cuttable> {
        let path = path(parts);
        match self.desk().call(parts, body) {
            Ok(bytes) if path.starts_with("/v1/artifacts/") || path.starts_with("/cdn/") => {
                ranged(parts, &bytes, cut)
            }
            Ok(bytes) => Response::new(Cuttable { bytes: bytes.into(), cut }),
            Err(refusal) => refused(&refusal),
        }
    }
}

/// A part of a file, as it was asked for.
fn ranged(parts: &Parts, bytes: &[u8], cut: Option<usize>) -> Response<Cuttable> {
    let from = parts.headers.get(header::RANGE).and_then(|range| {
        range.to_str().ok()?.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok()
    });
    let from = from.unwrap_or(0).min(bytes.len());
    let total = bytes.len();
    let range = format!("bytes {from}-{}/{total}", total.saturating_sub(1));
    Response::builder()
        .status(206)
        .header(header::CONTENT_RANGE, range)
        .body(Cuttable { bytes: Bytes::copy_from_slice(&bytes[from..]), cut })
        .unwrap()
}

fn refused(refusal: &Refusal) -> Response<Cuttable> {
    let bytes = refusal.write().unwrap();
    Response::builder().status(refusal.error.status()).body(Cuttable::whole(bytes)).unwrap()
}

/// A body that may break off.
struct Cuttable {
    bytes: Bytes,
    cut: Option<usize>,
}

impl Cuttable {
    fn whole(bytes: Vec<u8>) -> Self {
        Self { bytes: bytes.into(), cut: None }
    }
}

impl Body for Cuttable {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.cut {
            Some(0) => Poll::Ready(Some(Err(ErrorKind::BrokenPipe.into()))),
            Some(at) if at < self.bytes.len() => {
                let bytes = self.bytes.slice(..at);
                self.cut = Some(0);
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            _ if self.bytes.is_empty() => Poll::Ready(None),
            _ => Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.bytes))))),
        }
    }

    fn size_hint(&self) -> SizeHint {
        Full::new(self.bytes.clone()).size_hint()
    }
}

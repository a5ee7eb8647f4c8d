//! One call to the fleet's server: connect, sign, send, hear. The door to the network.
//!
//! - In: a call and its body. Out: a message that was checked, or why there is none.
//! - Every wait has a bound, and so has every answer; what is too long is not read.
//! - A request that the server finds too old or too new is signed again, once, with the server's time.
//! - Never here: what an answer means, when to call.

use super::error::ExchangeError;
use super::time::ServerTime;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::http::uri::Authority;
use hyper::{Method, Request, Response, header};
use hyper_util::rt::TokioIo;
use sapwood_connections::{Known, TlsStream};
use sapwood_protocol::fleet::code::Code;
use sapwood_protocol::fleet::id::{DeviceId, FleetId, Hash};
use sapwood_protocol::fleet::key::SecretKey;
use sapwood_protocol::fleet::message::{self, Message, Refusal, one_line};
use sapwood_protocol::fleet::request::{Call, HEADERS};
use sapwood_protocol::limits::{FLEET_BODY_BYTES_MAX, FLEET_CHECK_IN_S_MAX};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Port of a server whose link names none.
const PORT: u16 = 443;
/// Bytes of a refusal's text that are told.
const TOLD_BYTES_MAX: usize = 200;
/// What this program calls itself.
pub(super) const AGENT: &str = concat!("firmware-host/", env!("CARGO_PKG_VERSION"));

/// How long everything may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// A connection, and then its greeting.
    pub(super) connect: Duration,
    /// A call whose bodies are small, and the beginning of any answer.
    pub(super) call: Duration,
    /// The next bytes of a long one.
    pub(super) silence: Duration,
    /// A download, before others have their turn.
    pub(super) turn: Duration,
    /// Bytes a second that a long one must have on the whole.
    pub(super) rate: u64,
}

impl Default for Patience {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        let (connect, call, silence, turn) = (seconds(15), seconds(60), seconds(60), seconds(600));
        Self { connect, call, silence, turn, rate: 1024 }
    }
}

impl Patience {
    /// For a call with so many bytes.
    pub(super) fn long(&self, bytes: u64) -> Duration {
        self.call.saturating_add(Duration::from_secs(bytes / self.rate.max(1)))
    }
}

/// Waits no longer than that.
pub(super) async fn within<T>(
    limit: Duration,
    what: &'static str,
    work: impl Future<Output = Result<T, ExchangeError>>,
) -> Result<T, ExchangeError> {
    let slow = |_| ExchangeError::Slow { what, seconds: limit.as_secs() };
    timeout(limit, work).await.map_err(slow)?
}

/// How a server is reached.
#[derive(Clone, Default)]
pub enum Network {
    /// By TCP, and TLS over it.
    #[default]
    System,
    /// By a pipe to a server in memory; no device has it.
    #[cfg(any(test, feature = "faults"))]
    Pipe(Arc<dyn Fn() -> tokio::io::DuplexStream + Send + Sync>),
}

/// The fleet's server, and how to know it and others.
#[derive(Clone)]
pub(super) struct Exchange {
    network: Network,
    host: String,
    fleet: FleetId,
    own: Known,
    /// For hosts that downloads are redirected to.
    others: Option<Known>,
    pub(super) time: Arc<ServerTime>,
    pub(super) patience: Patience,
}

/// Who asks.
#[derive(Clone, Copy)]
pub(super) struct Signer<'a> {
    pub(super) key: &'a SecretKey,
    pub(super) device: DeviceId,
}

/// What is asked.
pub(super) struct Ask<'a> {
    pub(super) method: Method,
    pub(super) path: &'a str,
    pub(super) body: Bytes,
    /// From which byte on the answer is wanted.
    pub(super) from: Option<u64>,
}

impl<'a> Ask<'a> {
    pub(super) fn get(path: &'a str) -> Self {
        Self { method: Method::GET, path, body: Bytes::new(), from: None }
    }
}

impl Exchange {
    /// With a server that is known by its pin, or else by the authorities of a file.
    ///
    /// # Errors
    /// [`ExchangeError::Unknown`], [`ExchangeError::Authorities`], [`ExchangeError::Host`].
    pub(super) fn new(
        (host, fleet): (&str, FleetId),
        pin: Option<Hash>,
        ca_file: Option<&Path>,
        time: Arc<ServerTime>,
        network: Network,
    ) -> Result<Self, ExchangeError> {
        authority(host)?;
        let others = ca_file.map(Known::by_authorities).transpose();
        let clock = time.clone();
        let now = move || Duration::from_millis(clock.now_ms());
        let others = others.map_err(ExchangeError::Authorities)?.map(|them| them.judged_by(now));
        let unknown = || ExchangeError::Unknown { host: host.to_owned() };
        let own = match pin {
            Some(pin) => Known::by_key(pin)
                .map_err(|source| ExchangeError::Tls { host: host.to_owned(), source })?,
            None => others.clone().ok_or_else(unknown)?,
        };
        let (host, patience) = (host.to_owned(), Patience::default());
        Ok(Self { network, host, fleet, own, others, time, patience })
    }

    /// Makes a call whose answer is a message.
    ///
    /// # Errors
    /// [`ExchangeError`].
    pub(super) async fn ask<M: Message>(
        &self,
        signer: Signer<'_>,
        ask: &Ask<'_>,
    ) -> Result<M, ExchangeError> {
        let limit = self.patience.long(ask.body.len() as u64);
        within(limit, "a call to the server", async {
            let answer = self.signed(signer, ask).await?;
            let body = small(answer).await?;
            message::read(&body).map_err(ExchangeError::Answer)
        })
        .await
    }

    /// Sends a signed request to the server; an answer with a status that says yes.
    pub(super) async fn signed(
        &self,
        signer: Signer<'_>,
        ask: &Ask<'_>,
    ) -> Result<Response<Incoming>, ExchangeError> {
        match self.once(signer, ask).await {
            Err(ExchangeError::Refused { code: Code::Clock, time_ms: Some(time_ms), .. }) => {
                self.time.hear(time_ms);
                self.once(signer, ask).await
            }
            done => done,
        }
    }

    async fn once(
        &self,
        signer: Signer<'_>,
        ask: &Ask<'_>,
    ) -> Result<Response<Incoming>, ExchangeError> {
        let (method, path, body_bytes) = (ask.method.as_str(), ask.path, ask.body.len() as u64);
        let call = Call { fleet: self.fleet, method, path, body_bytes };
        let digest = Hash::of(&ask.body);
        let claim = call.sign(signer.key, signer.device, self.time.now_ms(), digest);
        let values = claim.map_err(ExchangeError::Sign)?.values();
        let answer = self.send(&self.host, &self.own, ask, Some(&values)).await?;
        heard(answer, ask.from.is_some()).await
    }

    /// Asks another server for a file; it is not told who asks.
    pub(super) async fn elsewhere(
        &self,
        host: &str,
        ask: &Ask<'_>,
    ) -> Result<Response<Incoming>, ExchangeError> {
        let unknown = || ExchangeError::Unknown { host: host.to_owned() };
        let known = self.others.as_ref().ok_or_else(unknown)?;
        heard(self.send(host, known, ask, None).await?, ask.from.is_some()).await
    }

    async fn send(
        &self,
        host: &str,
        known: &Known,
        ask: &Ask<'_>,
        signature: Option<&[String; 4]>,
    ) -> Result<Response<Incoming>, ExchangeError> {
        match &self.network {
            Network::System => {
                let stream = self.reach(host, known).await?;
                over(stream, host, ask, signature).await
            }
            #[cfg(any(test, feature = "faults"))]
            Network::Pipe(pipe) => over(pipe(), host, ask, signature).await,
        }
    }

    /// A connection to a server that is who it should be.
    async fn reach(
        &self,
        host: &str,
        known: &Known,
    ) -> Result<TlsStream<TcpStream>, ExchangeError> {
        let (name, port) = authority(host)?;
        let connect = within(self.patience.connect, "connecting", async {
            let failed = |error: std::io::Error| ExchangeError::Connect {
                host: host.to_owned(),
                problem: error.to_string(),
            };
            let plain = name.trim_start_matches('[').trim_end_matches(']');
            TcpStream::connect((plain, port)).await.map_err(failed)
        });
        let stream = connect.await?;
        let wrong = |source| ExchangeError::Tls { host: name.clone(), source };
        let greet = async { known.greet(&name, stream).await.map_err(wrong) };
        within(self.patience.connect, "greeting the server", greet).await
    }
}

/// One request over a connection.
async fn over(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    host: &str,
    ask: &Ask<'_>,
    signature: Option<&[String; 4]>,
) -> Result<Response<Incoming>, ExchangeError> {
    let broke = |error: hyper::Error| ExchangeError::Broke { problem: causes(&error) };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broke)?;
    // What fails there fails the request too.
    tokio::spawn(connection);
    let mut request = Request::builder()
        .method(ask.method.clone())
        .uri(ask.path)
        .header(header::HOST, host)
        .header(header::USER_AGENT, AGENT);
    for (name, value) in HEADERS.iter().zip(signature.into_iter().flatten()) {
        request = request.header(*name, value);
    }
    if let Some(from) = ask.from {
        request = request.header(header::RANGE, format!("bytes={from}-"));
    }
    let unfit = |error: hyper::http::Error| ExchangeError::Broke { problem: error.to_string() };
    let request = request.body(Full::new(ask.body.clone())).map_err(unfit)?;
    sender.send_request(request).await.map_err(broke)
}

/// The name and the port of a host as it stands in an address.
pub(super) fn authority(host: &str) -> Result<(String, u16), ExchangeError> {
    let wrong = || ExchangeError::Host { host: one_line(host, TOLD_BYTES_MAX) };
    let parsed: Authority = host.parse().map_err(|_| wrong())?;
    let name = parsed.host();
    let port = if name.len() == host.len() { Some(PORT) } else { parsed.port_u16() };
    let port = port.filter(|_| !name.is_empty() && !host.contains('@'));
    Ok((name.to_owned(), port.ok_or_else(wrong)?))
}

/// An answer that says yes, or moves a download elsewhere; else why not.
async fn heard(
    answer: Response<Incoming>,
    is_download: bool,
) -> Result<Response<Incoming>, ExchangeError> {
    let status = answer.status();
    if status.is_success() || is_download && status.is_redirection() {
        return Ok(answer);
    }
    let after = answer.headers().get(header::RETRY_AFTER);
    let after = after.and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let body = small(answer).await.unwrap_or_default();
    let status = status.as_u16();
    match Refusal::read(&body) {
        // A proxy in between may speak for itself: then the status is all that is believed.
        Ok(refusal) if refusal.error.status() == status => Err(ExchangeError::Refused {
            code: refusal.error,
            message: one_line(&refusal.message, TOLD_BYTES_MAX),
            retry_after_s: refusal.retry_after_s.or(after).map(|s| s.min(FLEET_CHECK_IN_S_MAX)),
            time_ms: refusal.time,
        }),
        _ => {
            let told = one_line(&String::from_utf8_lossy(&body), TOLD_BYTES_MAX);
            Err(ExchangeError::Status {
                status,
                told,
                expected: "2xx, or a refusal of the protocol",
            })
        }
    }
}

/// The whole of an answer that is a message.
async fn small(answer: Response<Incoming>) -> Result<Bytes, ExchangeError> {
    let max = FLEET_BODY_BYTES_MAX as u64;
    if answer.body().size_hint().lower() > max {
        return Err(ExchangeError::Long { max });
    }
    let body = Limited::new(answer.into_body(), FLEET_BODY_BYTES_MAX).collect().await;
    let body = body.map_err(|error| match error.is::<LengthLimitError>() {
        true => ExchangeError::Long { max },
        false => ExchangeError::Broke { problem: causes(&*error) },
    })?;
    Ok(body.to_bytes())
}

/// An error and what is behind it, in one line.
pub(super) fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut problem = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        problem += &format!(": {cause}");
        source = cause.source();
    }
    one_line(&problem, 2 * TOLD_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    #[test]
    fn a_host_has_a_name_and_a_port() {
        for (host, name, port) in [
            ("fleet.example", "fleet.example", 443),
            ("fleet.example:8443", "fleet.example", 8443),
            ("127.0.0.1:1", "127.0.0.1", 1),
            ("[::1]:2", "[::1]", 2),
        ] {
            assert_eq!(authority(host).unwrap(), (name.to_owned(), port));
        }
        for host in ["", ":1", "a:b", "a:99999", "a/b", "ann@host", "[::1", "a:"] {
            assert!(authority(host).is_err(), "{host}");
        }
    }
}

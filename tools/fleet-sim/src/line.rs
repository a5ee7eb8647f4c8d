//! One call to a server: connect, greet, sign, send, hear; as the real device does it, each on a connection of
//! its own. The door to the network.
//!
//! - A device of a server on this machine calls from an address of its own, 127.1.0.0 and on, so that limits
//!   of the server hold for each by itself.
//! - A slow line sends so many bytes a second; a power cut ends a body in the middle, or loses the answer.
//! - Every wait has a bound. What was sent and heard is counted in bytes of the network.

use crate::tally::Took;
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::client::conn::http1;
use hyper::{Request, Response, header};
use hyper_util::rt::TokioIo;
use sapwood_connections::{Known, TlsError};
use sapwood_protocol::fleet::id::FleetId;
use sapwood_protocol::fleet::request::{Claim, HEADERS};
use sapwood_protocol::limits::FLEET_BODY_BYTES_MAX;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Sleep, sleep, timeout};

/// How long a connection may take, and then TLS.
const CONNECT: Duration = Duration::from_secs(15);
/// How long an answer may let wait.
const CALL: Duration = Duration::from_secs(60);
/// The first address of devices on this machine.
const FIRST: u32 = u32::from_be_bytes([127, 1, 0, 0]);

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// No connection.
    #[error("no connection: {0}")]
    Connect(io::Error),
    /// No TLS.
    #[error("no TLS: {0}")]
    Greet(TlsError),
    /// It broke.
    #[error("the call broke: {0}")]
    Broke(#[from] hyper::Error),
    /// It took too long.
    #[error("no answer in time")]
    Slow,
    /// What came is no answer of the protocol.
    #[error("the answer is none of the protocol's: {0}")]
    Foreign(String),
}

impl Lost {
    /// What it is counted as.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Connect(_) => "no connection",
            Self::Greet(_) => "no tls",
            Self::Broke(_) => "broken",
            Self::Slow => "slow",
            Self::Foreign(_) => "foreign",
        }
    }
}

/// A fleet's server, or one of its replicas.
#[derive(Clone)]
pub struct Server {
    /// Its address.
    pub address: SocketAddr,
    /// Its host as it stands in links.
    pub host: String,
}

/// What is asked.
pub struct Ask<'a> {
    /// GET, POST, PUT.
    pub method: hyper::Method,
    /// Path and query.
    pub path: &'a str,
    /// The signature.
    pub claim: &'a Claim,
    /// The first byte that is wanted.
    pub from: Option<u64>,
    /// The body.
    pub body: Sent,
}

/// All lines of all devices.
pub struct Lines {
    known: Known,
    servers: Vec<Server>,
    /// The fleet.
    pub fleet: FleetId,
    bytes: Arc<[AtomicU64; 2]>,
}

impl Lines {
    pub(crate) fn new(known: Known, servers: Vec<Server>, fleet: FleetId) -> Self {
        Self { known, servers, fleet, bytes: Arc::default() }
    }

    /// Bytes that went up and came down.
    pub fn bytes(&self) -> [u64; 2] {
        [0, 1].map(|at| self.bytes[at].load(Ordering::Relaxed))
    }

    /// Makes a call; the beginning of its answer. What it took goes to `took`, also where it failed.
    ///
    /// # Errors
    /// [`Lost`].
    #[expect(clippy::disallowed_methods, reason = "how long a call takes is what is measured")]
    pub async fn call(
        &self,
        device: u32,
        ask: Ask<'_>,
        took: &mut Took,
    ) -> Result<Response<Incoming>, Lost> {
        let begun = Instant::now();
        let server = &self.servers[device as usize % self.servers.len()];
        let stream =
            within(CONNECT, reach(server.address, device)).await?.map_err(Lost::Connect)?;
        took.connect = begun.elapsed().as_micros() as u64;
        let stream = Counted { stream, bytes: self.bytes.clone() };
        let name = server.host.rsplit_once(':').map_or(&*server.host, |(name, _)| name);
        let greeted = within(CONNECT, self.known.greet(name, stream)).await?;
        took.tls = begun.elapsed().as_micros() as u64 - took.connect;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(greeted.map_err(Lost::Greet)?)).await?;
        // What fails there fails the call too.
        tokio::spawn(connection);
        let patience = CALL + ask.body.takes();
        let request = request(&server.host, ask)?;
        Ok(within(patience, sender.send_request(request)).await??)
    }
}

async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Result<T, Lost> {
    timeout(limit, work).await.map_err(|_| Lost::Slow)
}

fn request(host: &str, ask: Ask<'_>) -> Result<Request<Sent>, Lost> {
    let mut request = Request::builder()
        .method(ask.method)
        .uri(ask.path)
        .header(header::HOST, host)
        .header(header::CONTENT_LENGTH, ask.body.bytes.len());
    for (name, value) in HEADERS.iter().zip(ask.claim.values()) {
        request = request.header(*name, value);
    }
    if let Some(from) = ask.from {
        request = request.header(header::RANGE, format!("bytes={from}-"));
    }
    request.body(ask.body).map_err(|error| Lost::Foreign(error.to_string()))
}

async fn reach(address: SocketAddr, device: u32) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if matches!(address.ip(), IpAddr::V4(ip) if ip.is_loopback()) {
        let own = Ipv4Addr::from_bits(FIRST + device % (1 << 23));
        socket.bind((own, 0).into())?;
    }
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The whole of an answer that is a message.
///
/// # Errors
/// [`Lost`].
pub async fn small(answer: Response<Incoming>) -> Result<Bytes, Lost> {
    let body = Limited::new(answer.into_body(), FLEET_BODY_BYTES_MAX).collect();
    let body = within(CALL, body).await?;
    Ok(body.map_err(|error| Lost::Foreign(error.to_string()))?.to_bytes())
}

/// The next bytes of an answer; none at its end.
///
/// # Errors
/// [`Lost`].
pub async fn next(body: &mut Incoming) -> Result<Option<Bytes>, Lost> {
    loop {
        match within(CALL, body.frame()).await? {
            None => return Ok(None),
            Some(frame) => {
                if let Ok(data) = frame?.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

/// A body on its way.
pub struct Sent {
    bytes: Bytes,
    at: usize,
    /// Bytes a second, on a slow line.
    rate: Option<u64>,
    /// Where the power goes.
    ends_at: Option<usize>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Sent {
    /// A body as fast as it goes.
    pub fn new(bytes: Bytes) -> Self {
        Self { bytes, at: 0, rate: None, ends_at: None, pause: None }
    }

    /// The same on a slow line.
    pub fn slowly(mut self, rate: Option<u64>) -> Self {
        self.rate = rate;
        self
    }

    /// The same, cut after so many bytes.
    pub fn cut(mut self, ends_at: Option<usize>) -> Self {
        self.ends_at = ends_at;
        self
    }

    /// How long it takes on its line.
    fn takes(&self) -> Duration {
        let seconds = |rate: u64| self.bytes.len() as f64 / rate.max(1) as f64;
        Duration::from_secs_f64(self.rate.map_or(0.0, seconds))
    }
}

impl Body for Sent {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(context));
            self.pause = None;
        }
        let left = self.bytes.len() - self.at;
        if left == 0 {
            return Poll::Ready(None);
        }
        // Eight pieces a second.
        let piece = self.rate.map_or(left, |rate| left.min((rate / 8).max(1) as usize));
        let until_cut = self.ends_at.map_or(piece, |end| end.saturating_sub(self.at));
        if self.ends_at.is_some() && until_cut == 0 {
            return Poll::Ready(Some(Err(io::ErrorKind::ConnectionAborted.into())));
        }
        let (from, to) = (self.at, self.at + piece.min(until_cut));
        self.at = to;
        if let Some(rate) = self.rate {
            let taken = (to - from) as f64 / rate.max(1) as f64;
            self.pause = Some(Box::pin(sleep(Duration::from_secs_f64(taken))));
        }
        Poll::Ready(Some(Ok(Frame::data(self.bytes.slice(from..to)))))
    }

    fn is_end_stream(&self) -> bool {
        self.at == self.bytes.len() && self.pause.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact((self.bytes.len() - self.at) as u64)
    }
}

/// A connection whose bytes are counted.
struct Counted {
    stream: TcpStream,
    bytes: Arc<[AtomicU64; 2]>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut self.stream).poll_read(context, buffer));
        self.bytes[1].fetch_add((buffer.filled().len() - before) as u64, Ordering::Relaxed);
        Poll::Ready(read)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, bytes));
        if let Ok(count) = &written {
            self.bytes[0].fetch_add(*count as u64, Ordering::Relaxed);
        }
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

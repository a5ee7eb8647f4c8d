//! Sockets, and one connection after the other with its limits.
//!
//! - A handshake must come within [`HANDSHAKE`], headers within [`HEADER`], which also ends connections
//!   that lie idle between calls.
//! - A client that does not read what it asked for is cut off after [`STUCK`].
//! - Where there is no room, the connection that has been idle longest leaves for the next one.

use super::room::{Asking, Guest, Room};
use crate::api::shared::Shared;
use crate::api::{Answer, health, routes};
use hyper::Request;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::TlsAcceptor;

/// Time for a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Time for the headers of a request, and between two requests of a connection.
const HEADER: Duration = Duration::from_secs(15);
/// Time without a byte taken by a client that has bytes to take.
const STUCK: Duration = Duration::from_secs(20);
/// How long a connection that is closed reads on.
const LINGER: Duration = Duration::from_secs(2);
/// Bytes of a request's headers, and of what is read ahead.
const BUFFER_BYTES: usize = 64 << 10;
/// After an accept that failed for want of handles.
const PAUSE: Duration = Duration::from_millis(100);
/// Connections that ask for health.
const HEALTH_MAX: usize = 64;

/// Accepts devices until it is told to stop.
pub(super) async fn devices(
    listener: TcpListener,
    tls: TlsAcceptor,
    shared: Arc<Shared>,
    connections_max: usize,
    stopped: watch::Receiver<bool>,
) {
    let room = Room::new(connections_max);
    let mut until = stopped.clone();
    while let Some((stream, from)) = next(&listener, &mut until).await {
        // Where all are being answered there is no room for another.
        let Some(guest) = room.enter() else { continue };
        let (tls, shared, stopped) = (tls.clone(), shared.clone(), stopped.clone());
        tokio::spawn(async move {
            let shaken = tokio::select! {
                shaken = timeout(HANDSHAKE, tls.accept(stream)) => shaken.ok().and_then(Result::ok),
                () = guest.told_to_leave() => None,
            };
            // What a client does to its own handshake is not the server's trouble.
            if let Some(stream) = shaken {
                let answer = move |request| {
                    let shared = shared.clone();
                    async move { routes::answer(&shared, request, from).await }
                };
                connection(stream, &guest, stopped, answer).await;
            }
        });
    }
}

/// Accepts whoever asks for health.
pub(super) async fn health(
    listener: TcpListener,
    shared: Arc<Shared>,
    stopped: watch::Receiver<bool>,
) {
    let room = Room::new(HEALTH_MAX);
    let mut until = stopped.clone();
    while let Some((stream, _)) = next(&listener, &mut until).await {
        let Some(guest) = room.enter() else { continue };
        let (shared, stopped) = (shared.clone(), stopped.clone());
        tokio::spawn(async move {
            let answer = move |request| {
                let shared = shared.clone();
                async move { health::answer(&shared, &request).await }
            };
            connection(stream, &guest, stopped, answer).await;
        });
    }
}

/// The next connection; none when it is time to stop.
async fn next(
    listener: &TcpListener,
    stopped: &mut watch::Receiver<bool>,
) -> Option<(TcpStream, IpAddr)> {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopped.wait_for(|stopped| *stopped) => return None,
        };
        match accepted {
            Ok((stream, from)) => {
                // An answer is worth a packet of its own; where that cannot be set, it comes a little later.
                let _ = stream.set_nodelay(true);
                return Some((stream, SocketAddr::ip(&from)));
            }
            // A client that is gone already, or too many open files: both pass.
            Err(_) => sleep(PAUSE).await,
        }
    }
}

/// Answers one call after the other: to the end, until the guest must leave, or until the server stops.
async fn connection<F: Future<Output = Answer>>(
    io: impl AsyncRead + AsyncWrite + Unpin,
    guest: &Arc<Guest>,
    mut stopped: watch::Receiver<bool>,
    answer: impl Fn(Request<Incoming>) -> F,
) {
    let service = service_fn(|request| {
        let (asks, answered) = (guest.asks(), answer(request));
        async move {
            let answer = answered.await;
            Ok::<_, Infallible>(answer.map(|body| Busy { body, _asks: asks }))
        }
    });
    let io = TokioIo::new(Paced { io, stuck: None, lingers: None });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER)
        .max_buf_size(BUFFER_BYTES)
        .serve_connection(io, service);
    let mut connection = pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        () = guest.told_to_leave() => return,
        _ = stopped.wait_for(|stopped| *stopped) => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

/// An answer's body; its guest is busy until the last byte is gone.
struct Busy<B> {
    body: B,
    _asks: Asking,
}

impl<B: Body + Unpin> Body for Busy<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    // Without it an answer goes in chunks, and nobody knows how long it is.
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A connection that ends when its client does not take what is written for [`STUCK`], and reads on for
/// [`LINGER`] when it is closed: where bytes lie unread, the system takes back the answer on its way.
struct Paced<Io> {
    io: Io,
    stuck: Option<Pin<Box<Sleep>>>,
    /// From the moment that all is written and said to be.
    lingers: Option<Pin<Box<Sleep>>>,
}

impl<Io: AsyncWrite + Unpin> Paced<Io> {
    fn write_with(
        &mut self,
        context: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut Io>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(written) = write(Pin::new(&mut self.io), context) {
            self.stuck = None;
            return Poll::Ready(written);
        }
        let stuck = self.stuck.get_or_insert_with(|| Box::pin(sleep(STUCK)));
        ready!(stuck.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for Paced<Io> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Paced<Io> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.write_with(context, |io, context| io.poll_write(context, bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { io, lingers, .. } = &mut *self;
        let lingers = match lingers {
            Some(lingers) => lingers,
            None => {
                ready!(Pin::new(&mut *io).poll_shutdown(context))?;
                lingers.insert(Box::pin(sleep(LINGER)))
            }
        };
        let mut bytes = [0; 8 << 10];
        loop {
            let mut unread = ReadBuf::new(&mut bytes);
            match Pin::new(&mut *io).poll_read(context, &mut unread) {
                Poll::Ready(Ok(())) if !unread.filled().is_empty() => {}
                // Its end, or that of the whole connection.
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => return lingers.as_mut().poll(context).map(Ok),
            }
            if lingers.is_elapsed() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

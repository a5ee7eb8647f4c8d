//! Sockets, and one connection after the other with its limits.
//!
//! - A handshake must come within [`HANDSHAKE`], headers within [`HEADER`], which also ends connections
//!   that lie idle between calls.
//! - A client that does not read what it asked for is cut off, one that is refused hears it ([`Paced`]).
//! - Where there is no room, one that is not being answered leaves for the next ([`Room`]).

use crate::api::shared::Shared;
use crate::api::{Answer, health, routes};
use hyper::Request;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use sapwood_connections::{Asking, BUFFER_BYTES, Guest, HEADER, Paced, Room};
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

/// Time for a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
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
    let room = Room::new(connections_max, 0);
    let mut until = stopped.clone();
    while let Some((stream, from)) = next(&listener, &mut until).await {
        // Where all are being answered there is no room for another.
        let Some(guest) = room.try_enter() else { continue };
        let (tls, shared, stopped) = (tls.clone(), shared.clone(), stopped.clone());
        tokio::spawn(async move {
            let shaken = tokio::select! {
                shaken = timeout(HANDSHAKE, tls.accept(stream)) => shaken.ok().and_then(Result::ok),
                () = guest.told_to_leave() => None,
            };
            // What a client does to its own handshake is not the server's trouble.
            if let Some(stream) = shaken {
                let asks = guest.clone();
                let answer = move |request| {
                    let (shared, guest) = (shared.clone(), asks.clone());
                    async move { routes::answer(&shared, request, from, guest).await }
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
    let room = Room::new(HEALTH_MAX, 0);
    let mut until = stopped.clone();
    while let Some((stream, from)) = next(&listener, &mut until).await {
        let Some(guest) = room.try_enter() else { continue };
        let (shared, stopped) = (shared.clone(), stopped.clone());
        tokio::spawn(async move {
            let answer = move |request| {
                let shared = shared.clone();
                async move { health::answer(&shared, &request, from).await }
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
    let service = service_fn(|request: Request<Incoming>| {
        let (asks, answered) = (guest.asks(request.body().is_end_stream()), answer(request));
        async move {
            let answer = answered.await;
            Ok::<_, Infallible>(answer.map(|body| Busy { body, _asks: asks }))
        }
    });
    let io = TokioIo::new(Paced::new(io));
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

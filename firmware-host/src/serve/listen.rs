//! Sockets, and one connection after the other with its limits.
//!
//! - Headers must come within [`HEADER`], which also ends connections that lie idle between requests.
//! - A client that does not read what it asked for is cut off, one that is refused hears it ([`Paced`]).
//! - A client that has ended its half is answered; one that has gone is not (`peer`).
//! - Beyond the most connections one that is not being answered leaves for the next ([`Room`]).

use super::peer::Peer;
use super::refusal::Refusal;
use super::{ServeError, routes};
use crate::config::relations::SOCKET_BYTES_MAX;
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::serve::Listener;
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use sapwood_connections::{BUFFER_BYTES, Guest, HEADER, Paced, Room};
use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::pin::pin;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tower::ServiceExt;

/// Connections beyond the most, for questions about health.
const SPARE: usize = 4;
/// Whether a client that ends its half is told from one that goes: elsewhere than on Linux it is not.
const HALF: bool = cfg!(target_os = "linux");

/// Listens on a TCP address.
///
/// # Errors
/// [`ServeError::Listen`].
pub(super) async fn tcp(listen: SocketAddr) -> Result<(TcpListener, SocketAddr), ServeError> {
    let failed = |source| ServeError::Listen { listen, source };
    let listener = TcpListener::bind(listen).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

/// Listens on a Unix socket that only this user can reach.
///
/// The file of a dead process is replaced. The socket is bound in a folder that nobody else may
/// enter and moved from there, so that at no moment others can reach it.
///
/// # Errors
/// [`ServeError::Taken`] where somebody answers, [`ServeError::NoSocket`], [`ServeError::Socket`].
pub(super) async fn socket(path: &std::path::Path) -> Result<tokio::net::UnixListener, ServeError> {
    use std::fs;
    use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
    use tokio::net::UnixStream;
    let failed = |source| ServeError::Socket { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(ServeError::NoSocket { path: path.to_owned() });
        }
        Ok(_) if UnixStream::connect(path).await.is_ok() => {
            return Err(ServeError::Taken { path: path.to_owned() });
        }
        Ok(_) => fs::remove_file(path).map_err(failed)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let mut folder = path.as_os_str().to_owned();
    folder.push(".new");
    let folder = std::path::PathBuf::from(folder);
    let inside = folder.join("s");
    // What a process left that died right here.
    let _ = fs::remove_file(&inside);
    let _ = fs::remove_dir(&folder);
    fs::DirBuilder::new().mode(0o700).create(&folder).map_err(failed)?;
    let bound = bind(&folder, &inside).and_then(|listener| {
        fs::set_permissions(&inside, fs::Permissions::from_mode(0o600))?;
        fs::rename(&inside, path)?;
        Ok(listener)
    });
    let _ = fs::remove_file(&inside);
    let _ = fs::remove_dir(&folder);
    bound.map_err(failed)
}

/// Binds a socket inside a folder, also where the path to there is longer than a socket's may be.
fn bind(
    folder: &std::path::Path,
    inside: &std::path::Path,
) -> io::Result<tokio::net::UnixListener> {
    use std::os::fd::AsRawFd;
    if !cfg!(target_os = "linux") || inside.as_os_str().len() <= SOCKET_BYTES_MAX {
        return tokio::net::UnixListener::bind(inside);
    }
    let open = std::fs::File::open(folder)?;
    let name = inside.file_name().unwrap_or_default();
    let near = std::path::Path::new("/proc/self/fd").join(open.as_raw_fd().to_string());
    tokio::net::UnixListener::bind(near.join(name))
}

/// Accepts connections until it is told to stop.
pub(super) async fn accept<L: Listener<Io: AsFd>>(
    mut listener: L,
    routes: Router,
    connections_max: usize,
    mut stopped: watch::Receiver<bool>,
) {
    let room = Room::new(connections_max, SPARE);
    loop {
        let next = async {
            let io = listener.accept().await.0;
            (io, room.enter().await)
        };
        let (io, guest) = tokio::select! {
            next = next => next,
            _ = stopped.wait_for(|stopped| *stopped) => return,
        };
        tokio::spawn(connection(io, routes.clone(), stopped.clone(), guest));
    }
}

async fn connection(
    io: impl AsyncRead + AsyncWrite + AsFd + Unpin + Send + 'static,
    routes: Router,
    mut stopped: watch::Receiver<bool>,
    guest: Arc<Guest>,
) {
    let asking = guest.clone();
    let service = service_fn(move |request| answer(request, routes.clone(), asking.clone()));
    let peer = Peer::of(&io);
    let gone = async {
        match &peer {
            Ok(peer) => peer.gone().await,
            // Without a second handle nobody looks: what is written tells.
            Err(_) => pending().await,
        }
    };
    let io = TokioIo::new(Paced::new(io));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER)
        .max_buf_size(BUFFER_BYTES)
        .half_close(HALF)
        .serve_connection(io, service);
    let (mut connection, mut gone) = (pin!(connection), pin!(gone));
    // What a client does to its own connection is not the server's trouble.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = guest.told_to_leave() => return,
        () = gone.as_mut() => return,
        _ = stopped.wait_for(|stopped| *stopped) => connection.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        _ = connection => {}
        () = gone => {}
    }
}

/// Answers a request; its guest is busy until the last byte of the answer is gone.
async fn answer(
    request: hyper::Request<Incoming>,
    routes: Router,
    guest: Arc<Guest>,
) -> Result<Response, Infallible> {
    let asking = guest.asks(request.body().is_end_stream());
    let is_health = routes::at(request.uri().path()).is_some_and(|route| route.is_health);
    if guest.is_spare() && !is_health {
        let mut refused = Refusal::crowded().into_response();
        let close = HeaderValue::from_static("close");
        refused.headers_mut().insert(header::CONNECTION, close);
        return Ok(refused);
    }
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(guest);
    let Ok(response) = routes.oneshot(request).await;
    Ok(response.map(|body| {
        Body::new(body.map_frame(move |frame| {
            let _ = &asking;
            frame
        }))
    }))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    #[tokio::test]
    async fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        drop(socket(&path).await.unwrap());
        assert!(path.exists());
        let _alive = socket(&path).await.unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(matches!(socket(&path).await, Err(ServeError::Taken { .. })));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        let file = folder.path().join("file");
        std::fs::write(&file, "kept").unwrap();
        assert!(matches!(socket(&file).await, Err(ServeError::NoSocket { .. })));
        assert_eq!(std::fs::read(&file).unwrap(), b"kept");
    }

    /// Goal: every path that the system takes. Oracle: the standard library binds it directly.
    #[tokio::test]
    async fn a_socket_may_have_the_longest_path_that_there_is() {
        let folder = tempfile::tempdir().unwrap();
        let room = SOCKET_BYTES_MAX - folder.path().as_os_str().len() - 1;
        for bytes in room - 8..=room {
            let path = folder.path().join("s".repeat(bytes));
            drop(socket(&path).await.unwrap());
            let _again = socket(&path).await.unwrap();
            assert!(tokio::net::UnixStream::connect(&path).await.is_ok(), "{bytes}");
            assert!(matches!(socket(&path).await, Err(ServeError::Taken { .. })), "{bytes}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 9, "and nothing beside them");
        assert!(
            std::os::unix::net::UnixListener::bind(folder.path().join("s".repeat(room + 1)))
                .is_err()
        );
    }
}

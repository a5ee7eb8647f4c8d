//! The server: sockets with TLS and without, threads, a beginning and an end.
//!
//! - In: [`Settings`], with clock and chance. Out: a running [`Server`], which ends when it is dropped.
//! - One server a folder: a lock that a process cannot leave behind.
//! - Never here: what a call means (`api`), what follows from what.

mod files; //  how many may be open
mod listen; // one connection after the other
mod tls; //    certificate and key

use crate::api::places::UPLOADS_MAX;
use crate::api::shared::{BLOCKING_MAX, Shared};
use crate::door::Rate;
use crate::home::{Home, HomeError};
use crate::operator::{self, Invitation, OrderError};
use crate::ports::{Chance, Clock, SystemChance, SystemClock};
use crate::store::Book;
use crate::store::blobs::BlobError;
use crate::work;
use sapwood_protocol::fleet::id::Hash;
use sapwood_protocol::fleet::link::Link;
use std::fs::{File, TryLockError};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// Threads that carry connections; none of them computes.
const WORKERS: usize = 2;
/// How long calls under way may take to end when the server stops.
const STOP: Duration = Duration::from_secs(10);
/// What only one server holds.
const LOCK: &str = "serve.lock";

/// What a server is told.
#[derive(Clone)]
pub struct Settings {
    /// The fleet's folder.
    pub folder: PathBuf,
    /// Where devices come in.
    pub listen: SocketAddr,
    /// Where health and numbers are told; nowhere when none.
    pub health: Option<SocketAddr>,
    /// Connections at the same time; fewer where the system lets the process open fewer files.
    pub connections_max: usize,
    /// How often an address may ask.
    pub rate: Rate,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Where tokens and seeds come from.
    pub chance: Arc<dyn Chance>,
    /// Time between two looks at rounds and releases.
    pub look: Duration,
    /// What opens `/v1/admin/...` on the health address; without one it is open to programs of this machine.
    pub operator_token: Option<String>,
}

impl Settings {
    /// For a folder, on a port of this machine that the system chooses.
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            health: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
            connections_max: 16_384,
            rate: Rate::default(),
            clock: Arc::new(SystemClock::start()),
            chance: Arc::new(SystemChance),
            look: Duration::from_secs(1),
            operator_token: None,
        }
    }
}

/// Why a server does not start; nothing listens then.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The folder.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The blobs.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// Another server has the folder.
    #[error("{path} is served by another process, expected to be the only one", path = path.display())]
    Taken {
        /// The folder.
        path: PathBuf,
    },
    /// The lock cannot be had.
    #[error("{path}: {source}", path = path.display())]
    Lock {
        /// The lock's file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No certificate.
    #[error(
        "no certificate to serve with: {source}; `fleet-server init --tls` makes one, or put tls/cert.pem and tls/key.pem there"
    )]
    NoTls {
        /// What is wrong.
        source: HomeError,
    },
    /// A certificate that is none.
    #[error("tls/: {problem}, expected a certificate and its key in PEM")]
    Tls {
        /// What is wrong.
        problem: String,
    },
    /// An address that cannot be had.
    #[error("cannot listen on {listen}: {source}")]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// No threads.
    #[error("cannot start the threads that serve: {0}")]
    Threads(#[source] io::Error),
}

/// A running server; it stops when it is dropped.
pub struct Server {
    runtime: Option<Runtime>,
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    worker: Option<JoinHandle<()>>,
    /// Where devices come in, with the port that was given where 0 was asked for.
    pub address: SocketAddr,
    /// Where health and numbers are told.
    pub health: Option<SocketAddr>,
    /// Held until the end.
    _lock: File,
}

/// Starts to serve, on threads of its own; not to be called from an async task.
///
/// # Errors
/// [`ServeError`]; nothing listens then.
pub fn start(settings: Settings) -> Result<Server, ServeError> {
    let connections_max = files::connections(settings.connections_max);
    let Settings { folder, listen, health, rate, clock, chance, look, operator_token, .. } =
        settings;
    let home = Home::open(&folder)?;
    let lock = locked(&folder)?;
    home.blobs.clear_drafts()?;
    let tls = tls::acceptor(&home)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING_MAX + UPLOADS_MAX)
        .thread_name("serve")
        .enable_all()
        .build()
        .map_err(ServeError::Threads)?;
    // Only one server has the folder, and it has just begun.
    home.book.write(vec![work::free()]).map_err(HomeError::Book)?;
    let token = operator_token.as_deref().map(|token| Hash::of(token.as_bytes()));
    let shared = Arc::new(Shared::new(home, clock, chance, rate, token));
    let (stop, stopped) = watch::channel(false);
    let (devices, health) = runtime.block_on(async {
        let devices = bound(listen).await?;
        let health = match health {
            Some(listen) => Some(bound(listen).await?),
            None => None,
        };
        Ok::<_, ServeError>((devices, health))
    })?;
    let (listener, address) = devices;
    let calls = shared.clone();
    runtime.spawn(listen::devices(listener, tls, calls, connections_max, stopped.clone()));
    let health = health.map(|(listener, address)| {
        runtime.spawn(listen::health(listener, shared.clone(), stopped));
        address
    });
    let worker = Some(work(shared.clone(), look, stop.subscribe()).map_err(ServeError::Threads)?);
    Ok(Server { runtime: Some(runtime), shared, stop, worker, address, health, _lock: lock })
}

/// The thread that looks after rounds and releases, until it is told to stop.
fn work(
    shared: Arc<Shared>,
    look: Duration,
    stopped: watch::Receiver<bool>,
) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("work".to_owned()).spawn(move || {
        let stops = || *stopped.borrow();
        while !stops() {
            work::turn(&shared.home, || shared.now_ms(), stops);
            std::thread::park_timeout(look);
        }
    })
}

async fn bound(listen: SocketAddr) -> Result<(TcpListener, SocketAddr), ServeError> {
    let failed = |source| ServeError::Listen { listen, source };
    let listener = TcpListener::bind(listen).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

/// The lock of a folder, which ends with the process that holds it.
fn locked(folder: &Path) -> Result<File, ServeError> {
    let path = folder.join(LOCK);
    let failed = |source| ServeError::Lock { path: path.clone(), source };
    let file = File::options().create(true).append(true).open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(ServeError::Taken { path: folder.to_owned() }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

impl Server {
    /// The fleet's folder, open.
    pub fn home(&self) -> &Home {
        &self.shared.home
    }

    /// A link to this server, with a token: as `enroll-link` makes it.
    ///
    /// # Errors
    /// [`OrderError`].
    pub fn link(&self, invitation: &Invitation) -> Result<Link, OrderError> {
        operator::invite(&self.shared.home, invitation, &*self.shared.chance, self.shared.now_ms())
    }

    /// Stops: no new calls; those under way have 10 seconds to end.
    pub fn stop(self) {}
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(runtime) = self.runtime.take() else { return };
        // Nobody left to hear it is as good as having stopped.
        let _ = self.stop.send(true);
        if let Some(worker) = self.worker.take() {
            worker.thread().unpark();
            // One that broke off has nothing more to do either.
            let _ = worker.join();
        }
        let ended =
            runtime.block_on(async { tokio::time::timeout(STOP, self.stop.closed()).await });
        runtime.shutdown_timeout(if ended.is_ok() {
            Duration::ZERO
        } else {
            Duration::from_secs(1)
        });
    }
}

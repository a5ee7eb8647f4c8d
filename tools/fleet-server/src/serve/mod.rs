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
use crate::home::{Home, HomeError, locked};
use crate::judge;
use crate::operator::{self, Invitation, OrderError};
use crate::ports::{Chance, Clock, SystemChance, SystemClock};
use crate::ready;
use crate::store::Book;
use crate::store::blobs::BlobError;
use crate::work;
use sapwood_protocol::fleet::id::Hash;
use sapwood_protocol::fleet::link::Link;
use std::fs::File;
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
    /// Whether devices come in here.
    pub api: bool,
    /// Whether rounds and releases are looked after here.
    pub work: bool,
    /// Whether what is merged is judged here, by a thread of the caller's.
    pub judge: bool,
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
            api: true,
            work: true,
            judge: false,
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
    /// Where devices come in, with the port that was given where 0 was asked for; port 0 where none do.
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
    let Settings {
        folder,
        listen,
        health,
        rate,
        clock,
        chance,
        look,
        api,
        work: works,
        judge: judges,
        operator_token,
        ..
    } = settings;
    let home = Home::open(&folder)?;
    let lock = locked(&folder)?;
    home.blobs.clear_drafts()?;
    home.blobs.probe()?;
    let tls = if api { Some(tls::acceptor(&home)?) } else { None };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING_MAX + UPLOADS_MAX)
        .thread_name("serve")
        .enable_all()
        .build()
        .map_err(ServeError::Threads)?;
    // Only one server has the folder, and it has just begun. A database others have too.
    if !home.book.is_shared() {
        home.book.write(vec![work::free()]).map_err(HomeError::Book)?;
    }
    ready::tell(&home, judges);
    judge::clear(&folder);
    let token = operator_token.as_deref().map(|token| Hash::of(token.as_bytes()));
    let shared = Arc::new(Shared::new(home, clock, chance, rate, token, judges));
    let (stop, stopped) = watch::channel(false);
    let (devices, health) = runtime.block_on(async {
        let devices = if api { Some(bound(listen).await?) } else { None };
        let health = match health {
            Some(listen) => Some(bound(listen).await?),
            None => None,
        };
        Ok::<_, ServeError>((devices, health))
    })?;
    let mut address = SocketAddr::from(([0, 0, 0, 0], 0));
    if let (Some((listener, at)), Some(tls)) = (devices, tls) {
        address = at;
        let calls = shared.clone();
        runtime.spawn(listen::devices(listener, tls, calls, connections_max, stopped.clone()));
    }
    let health = health.map(|(listener, address)| {
        runtime.spawn(listen::health(listener, shared.clone(), stopped));
        address
    });
    let worker = match works {
        true => Some(work(shared.clone(), look, stop.subscribe()).map_err(ServeError::Threads)?),
        false => None,
    };
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

//! HTTP over TCP and a Unix socket: samples in, text and telemetry out.
//!
//! - Every route is a row of the table in `routes`.
//! - In: a [`Device`], the port to the worker; [`Serve`] with every limit. Out: a running [`Server`].
//! - What takes long runs on blocking threads, each with a permit; connections that do not move end.
//! - Never here: what a sample, a job or a generation is.
//! - Invariant: whatever a client sends or leaves out, memory and threads stay within `[serve]`.

mod chance;
mod origins;
mod refusal;
mod turns;
mod peer;
mod stops;
mod calls;
mod writing;
mod metrics;
mod shared;
mod text;
mod door;
mod fleet;
mod adapters;
mod routes;
mod listen;
#[cfg(feature = "engine")]
mod model;
#[cfg(feature = "engine")]
mod scoring;
#[cfg(feature = "engine")]
mod host;
#[cfg(feature = "engine")]
mod fixed;
#[cfg(test)]
mod fixture;
#[cfg(test)]
mod tests;

#[cfg(feature = "engine")]
pub use fixed::{Fixed, FixedError, Named};

use crate::clock::Clock;
use crate::config::Serve;
use crate::paused::OrderError;
use crate::status::Board;
use crate::supervise::Supervisor;
use crate::sync::Fleet;
use crate::wire::{How, Listed, Prompt, Scored};
use axum::serve::ListenerExt;
pub use calls::Manner;
use door::Door;
use sapwood::gate::Tally;
use sapwood::inbox::{Aside, InboxError, Receipt};
use shared::Shared;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{error, io};
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// Threads that carry connections; none of them ever computes.
const WORKERS: usize = 2;
/// Blocking threads beside those that write text: samples on their way to the disk.
const OFFERS_MAX: usize = 4;
/// How long requests under way may take to end when the server stops.
const STOP: Duration = Duration::from_secs(10);

/// What the servers ask of the device: a port, so that all of serving is tested without a learner.
pub trait Device: Send + Sync + 'static {
    /// Where servers report, and what is shown.
    fn board(&self) -> &Board;
    /// Who learns here; none where models are served as they are.
    fn learner(&self) -> Option<&dyn Learner> {
        None
    }
    /// Who follows orders about the fleet; none where the configuration has none.
    fn fleet(&self) -> Option<&Fleet> {
        None
    }
    /// Models that can be asked for, at least one: the first answers where none is named.
    fn models(&self) -> Vec<Listed>;
    /// A model as it is now; a text that was begun with it stays with it. May take long.
    ///
    /// # Errors
    /// [`ModelError::Unknown`] for one that is not there; [`ModelError::Failed`] when it cannot be read.
    fn model(&self, id: &str) -> Result<Arc<dyn Model>, ModelError>;
    /// How well two models know the same texts, those that are held out here when none are given; as long
    /// as `going` goes on, which is asked a few times a second. Takes long.
    ///
    /// # Errors
    /// As [`Device::model`]; [`ModelError::Late`] when it was told to stop, [`ModelError::NoText`].
    fn compare(
        &self,
        ids: [&str; 2],
        texts: Option<&[String]>,
        going: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<[Tally; 2], ModelError>;
}

/// What the servers ask of whoever learns.
pub trait Learner {
    /// Takes in JSON lines, all or none; when it returns they are durable. May take long.
    ///
    /// # Errors
    /// [`InboxError`]: nothing of the batch was taken in.
    fn offer(&self, lines: &str) -> Result<Receipt, InboxError>;
    /// Samples that were set aside, oldest first.
    ///
    /// # Errors
    /// [`InboxError::Storage`].
    fn aside(&self) -> Result<Vec<Aside>, InboxError>;
    /// Has one of them wait again; false when there is none of that number.
    ///
    /// # Errors
    /// [`InboxError`]: it stays where it is.
    fn retry_aside(&self, number: u64) -> Result<bool, InboxError>;
    /// Lets go of one of them; false when there is none of that number.
    ///
    /// # Errors
    /// [`InboxError`].
    fn drop_aside(&self, number: u64) -> Result<bool, InboxError>;
    /// Learn now.
    ///
    /// # Errors
    /// [`OrderError`], as of all orders: nothing has changed.
    fn job_now(&self) -> Result<(), OrderError>;
    /// Stop learning and wait; durable when it returns. May take long.
    ///
    /// # Errors
    /// [`OrderError`].
    fn pause(&self) -> Result<(), OrderError>;
    /// Go on; durable when it returns. May take long.
    ///
    /// # Errors
    /// [`OrderError`].
    fn resume(&self) -> Result<(), OrderError>;
    /// Use an earlier generation again, 0 for the bare base, the one before when none is named; durable when
    /// it returns: the generations before and after, none for the bare base. May take long.
    ///
    /// # Errors
    /// [`OrderError`].
    fn roll_back(&self, to: Option<u64>) -> Result<[Option<u64>; 2], OrderError>;
}

/// A model at one moment.
pub trait Model: Send + Sync {
    /// The generation whose adapter it has; none for the bare base.
    fn generation(&self) -> Option<u64>;
    /// Most tokens of a prompt and its text.
    fn context(&self) -> usize;
    /// Whether its texts can be written as a request says.
    ///
    /// # Errors
    /// [`ModelError::Wish`] names what cannot be, [`ModelError::Form`] says why a form is none.
    fn admits(&self, how: &How) -> Result<(), ModelError>;
    /// Reads a prompt, with what of the answer is given where it must be a call.
    ///
    /// # Errors
    /// [`ModelError::Prompt`] when it cannot be read.
    fn read(&self, prompt: &Prompt, how: &How) -> Result<Given, ModelError>;
    /// Tells of every token of a text how likely it was after those before it, until `each` breaks off.
    ///
    /// # Errors
    /// [`ModelError`] when it fails on the way.
    fn follow(
        &self,
        ids: &[u32],
        likeliest: usize,
        each: &mut dyn FnMut(Scored) -> ControlFlow<()>,
    ) -> Result<(), ModelError>;
    /// Writes on after `ids` until the text ends, has `tokens` tokens, or `each` breaks off. `each` is
    /// called once a token, with the text of the characters that it completes.
    ///
    /// # Errors
    /// [`ModelError`] when it fails on the way.
    fn write(
        &self,
        ids: &[u32],
        tokens: usize,
        draw: Draw<'_>,
        each: &mut dyn FnMut(Token<'_>) -> ControlFlow<()>,
    ) -> Result<Written, ModelError>;
}

/// What is told of a text when it has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// What is left of whole characters.
    pub rest: String,
    /// Tokens of the prompt that were known from earlier texts.
    pub cached: usize,
}

/// A token that was written.
#[derive(Debug, PartialEq)]
pub struct Token<'a> {
    /// The characters that it completes.
    pub text: &'a str,
    /// How likely it was, where that was asked for; its offset is the caller's to say.
    pub scored: Option<Scored>,
}

/// A prompt that was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// Its token ids, at least one.
    pub ids: Vec<u32>,
    /// Its text.
    pub text: String,
    /// How an answer calls a function; none where it may not.
    pub manner: Option<Manner>,
}

/// How the tokens of one text are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draw<'a> {
    /// What the request says of it, but for its seed.
    pub how: &'a How,
    /// Seed of the draws.
    pub seed: u64,
    /// Of how many of the likeliest tokens it is told how likely they were; nothing told when none.
    pub likeliest: Option<usize>,
}

/// Why a model does not write.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The prompt is at fault.
    #[error("the prompt cannot be read: {0}")]
    Prompt(#[source] Box<dyn error::Error + Send + Sync>),
    /// A field that this model cannot follow.
    #[error("{param}: expected {expected}, got {got}")]
    Wish {
        /// The field.
        param: &'static str,
        /// What it may be.
        expected: String,
        /// What it was.
        got: String,
    },
    /// A form that its texts cannot be held to.
    #[error("{param}: {source}")]
    Form {
        /// The field that asked for it.
        param: &'static str,
        /// Why.
        source: Box<dyn error::Error + Send + Sync>,
    },
    /// A model that is not there.
    #[error("the model `{id}` is not here any more")]
    Unknown {
        /// Its name.
        id: String,
    },
    /// No text to score.
    #[error("no text is held out here: expected `texts` to score")]
    NoText,
    /// It was told to stop.
    #[error(
        "scoring took longer than a request may: expected fewer texts, or a longer `seconds-max`"
    )]
    Late,
    /// The model is.
    #[error("the model failed: {0}")]
    Failed(#[source] Box<dyn error::Error + Send + Sync>),
}

/// Why a server does not start; nothing listens then.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// An address that others can reach, without a token.
    #[error(
        "serve.listen: {listen} can be reached from other machines: expected a loopback address, \
         or serve.token-file"
    )]
    Open {
        /// The address.
        listen: SocketAddr,
    },
    /// A token file that cannot be read.
    #[error("serve.token-file: cannot read {path}: {source}")]
    TokenFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A token file that others may read.
    #[error("serve.token-file: others may read {path}: expected mode 600, got {mode:o}")]
    TokenMode {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Not a token.
    #[error(
        "serve.token-file: expected one word of at least {least} visible ASCII characters in {path}"
    )]
    Token {
        /// The file.
        path: PathBuf,
        /// Fewest characters.
        least: usize,
    },
    /// An address that cannot be had.
    #[error("serve.listen: cannot listen on {listen}: {source}")]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A socket on which another process answers.
    #[error("serve.socket: another program answers on {path}: expected to be the only one")]
    Taken {
        /// The socket.
        path: PathBuf,
    },
    /// A path that holds something else.
    #[error("serve.socket: {path} is no socket and is left as it is: expected nothing there")]
    NoSocket {
        /// The path.
        path: PathBuf,
    },
    /// A socket that cannot be had.
    #[error("serve.socket: cannot listen on {path}: {source}")]
    Socket {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No secret for names and nonces.
    #[error("cannot serve: the system has no randomness to give: {0}")]
    Chance(getrandom::Error),
    /// No threads.
    #[error("cannot start the threads that serve: {0}")]
    Threads(#[source] io::Error),
}

impl ServeError {
    /// Whether the configuration is at fault, which trying again does not mend.
    pub fn is_choice(&self) -> bool {
        matches!(self, Self::Open { .. } | Self::TokenMode { .. } | Self::Token { .. })
    }

    /// Whether this account may not look at what is asked about.
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::TokenFile { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
    }
}

/// Where a server can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The TCP address, with the port that was given where 0 was asked for.
    pub tcp: SocketAddr,
    /// The Unix socket.
    pub socket: Option<PathBuf>,
}

/// A running server; it stops when it is dropped.
pub struct Server {
    runtime: Option<Runtime>,
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    addresses: Addresses,
}

/// Whether a server may start with its address and its token.
///
/// # Errors
/// [`ServeError::Open`], and what is wrong with the token's file.
pub fn check(config: &Serve) -> Result<(), ServeError> {
    Door::of(config).map(drop)
}

/// Starts to serve, on threads of its own; not to be called from an async task.
///
/// `config.socket`: no Unix socket when none.
///
/// # Errors
/// [`ServeError`]; nothing listens then.
pub fn start(
    config: &Serve,
    device: impl Device,
    clock: Arc<dyn Clock>,
    supervisor: &Supervisor,
) -> Result<Server, ServeError> {
    let door = Door::of(config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(config.concurrency.saturating_add(OFFERS_MAX))
        .thread_name("serve")
        .enable_all()
        .build()
        .map_err(ServeError::Threads)?;
    let (stop, stopped) = watch::channel(false);
    let shared = Arc::new(Shared::new(config.clone(), Arc::new(device), clock)?);
    let routes = routes::open(&shared);
    let guarded = routes::guarded(&shared, door);
    let (tcp, socket) = runtime.block_on(async {
        let (tcp, address) = listen::tcp(config.listen).await?;
        if let Some(path) = &config.socket {
            let listener = listen::socket(path).await?;
            let accepting =
                listen::accept(listener, routes, config.connections_max, stopped.clone());
            supervisor.task("accept", accepting);
        }
        // A token is worth a packet of its own; where that cannot be set, it comes a little later.
        let tcp = tcp.tap_io(|connection| drop(connection.set_nodelay(true)));
        let accepting = listen::accept(tcp, guarded, config.connections_max, stopped);
        supervisor.task("accept", accepting);
        Ok((address, config.socket.clone().filter(|_| cfg!(unix))))
    })?;
    Ok(Server { runtime: Some(runtime), shared, stop, addresses: Addresses { tcp, socket } })
}

impl Server {
    /// Where it listens.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Stops: no new requests; those under way have 10 seconds to end, texts are then cut off.
    pub fn stop(self) {}
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(runtime) = self.runtime.take() else { return };
        self.shared.turns.close();
        // Nobody left to hear it is as good as having stopped.
        let _ = self.stop.send(true);
        let ended =
            runtime.block_on(async { tokio::time::timeout(STOP, self.stop.closed()).await });
        self.shared.halt();
        // Texts end at their next token; a second is enough for one.
        runtime.shutdown_timeout(if ended.is_ok() {
            Duration::ZERO
        } else {
            Duration::from_secs(1)
        });
        if let Some(path) = &self.addresses.socket {
            remove(path);
        }
    }
}

/// What cannot be removed is found and removed at the next start.
fn remove(path: &Path) {
    let _ = std::fs::remove_file(path);
}

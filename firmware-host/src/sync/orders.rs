//! The thread of the sync, and what an operator may ask of it.
//!
//! - In: orders over a channel, a flag that ends it. Out: what is shown of the fleet.
//! - An order is followed between two acts, and an operator's word needs no pace.
//! - The flag ends it within a tenth of a second, also in the middle of a call: nothing is half done on
//!   the disk, and the server has or has not what was on its way.

use super::book::Book;
use super::error::{ExchangeError, StoreError};
use super::exchange::{Exchange, Network};
use super::store::Store;
use super::time::ServerTime;
use super::trouble::Trouble;
use super::turn::{Turn, shown};
use super::world::World;
use crate::clock::Clock;
use crate::config::Fleet as Config;
use crate::status::{Board, FleetStatus};
use crate::supervise::Supervisor;
use sapwood_connections::Known;
use sapwood_protocol::fleet::id::FleetId;
use sapwood_protocol::fleet::link::{Link, LinkError};
use sapwood_protocol::fleet::name::is_hidden;
use sapwood_protocol::limits::FLEET_NAME_BYTES_MAX;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::mpsc;

/// Orders that may wait.
const ORDERS_MAX: usize = 4;
/// Longest wait without a look at the flag.
const STOP_LATENCY: Duration = Duration::from_millis(100);
/// How long who gives an order waits for its end: less than its own client does.
const PATIENCE: Duration = Duration::from_secs(25);

/// What an operator may ask.
#[derive(Clone, Debug)]
pub enum Order {
    /// Join the fleet of a link, or go on in it by another link.
    Join {
        /// The link.
        link: Link,
        /// What people call the device; the name of its system when nothing is said.
        name: Option<String>,
    },
    /// Forget the fleet.
    Leave,
    /// Check in now.
    Now,
    /// Make another key, and have the server know it.
    RotateKey,
}

/// Why an order is not followed.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// The configuration does not allow it.
    #[error("fleet.enabled is false: expected true; nothing was done")]
    Off,
    /// In no fleet.
    #[error("this device is in no fleet: expected `firmware-host fleet join LINK` before")]
    Alone,
    /// In another fleet.
    #[error(
        "this device is in fleet {own}, the link is of {other}: `firmware-host fleet leave` first"
    )]
    Other {
        /// The own one.
        own: FleetId,
        /// The link's.
        other: FleetId,
    },
    /// A link that is none.
    #[error("{0}; nothing was done")]
    Link(#[from] LinkError),
    /// A name that no server takes.
    #[error(
        "name: expected 1 to {FLEET_NAME_BYTES_MAX} bytes of characters that are seen, got {got:?}; nothing \
         was done"
    )]
    Name {
        /// What was said.
        got: String,
    },
    /// The folder.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No server can be known by what the link and the configuration say.
    #[error("{0}; nothing was done")]
    Server(ExchangeError),
    /// What the server says, or the way to it.
    #[error("{0}")]
    Failed(String),
    /// The first link to a fleet.
    #[error("{0}; the link is kept, and tried again by itself")]
    Joining(String),
    /// Another link to the fleet that the device is in.
    #[error("{0}; the link of before is kept")]
    Unproven(String),
    /// The same, and nobody could try it.
    #[error(
        "this device is in that fleet, and another link is tried before it takes the place of the one \
         of before: expected a program that runs; nothing was done"
    )]
    Asleep,
    /// It has too much to do.
    #[error("the fleet's thread is in the middle of a call: the order may still be followed")]
    Busy,
    /// The program is on its way out.
    #[error("the device program is stopping: nothing was done")]
    Stopping,
}

impl FleetError {
    /// Whether the configuration is wrong, so that starting again does not help.
    pub fn is_choice(&self) -> bool {
        matches!(self, Self::Server(ExchangeError::Authorities { .. }))
    }
}

type Answer = Result<Option<FleetStatus>, FleetError>;

/// Gives orders to the sync; cheap to clone.
#[derive(Clone, Debug)]
pub struct Fleet(mpsc::Sender<(Order, SyncSender<Answer>)>);

impl Fleet {
    /// Gives an order, and waits for what comes of it; may take half a minute.
    ///
    /// # Errors
    /// [`FleetError`].
    pub fn order(&self, order: Order) -> Answer {
        let (reply, answer) = sync_channel(1);
        self.0.try_send((order, reply)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => FleetError::Busy,
            mpsc::error::TrySendError::Closed(_) => FleetError::Stopping,
        })?;
        answer.recv_timeout(PATIENCE).map_err(|_| FleetError::Busy)?
    }
}

/// Whether the fleet's thread can start with that configuration.
///
/// # Errors
/// [`FleetError::Server`]: the file of authorities is none.
pub fn check(config: &Config) -> Result<(), FleetError> {
    let Some(file) = config.ca_file.as_deref().filter(|_| config.enabled) else { return Ok(()) };
    let known = Known::by_authorities(file).map_err(ExchangeError::Authorities);
    known.map(drop).map_err(FleetError::Server)
}

/// What a link and a name make of a folder.
enum Listed {
    /// No server knows the device by what is there.
    New(Book),
    /// One does: this link is to be proven before it takes that one's place.
    Again(Book),
}

fn listed(
    store: &Store,
    link: &Link,
    name: Option<&str>,
    ca_file: Option<&Path>,
    clock: &Arc<dyn Clock>,
) -> Result<Listed, FleetError> {
    let host = (link.host.as_str(), link.fleet);
    let time = Arc::new(ServerTime::new(clock.clone()));
    Exchange::new(host, link.pin, ca_file, time, Network::System).map_err(FleetError::Server)?;
    let old = store.book()?;
    let named = |book: &Book| book.name.clone();
    let name = match name {
        Some(name) => name.to_owned(),
        None => old.as_ref().map_or_else(own_name, named),
    };
    let fits = (1..=FLEET_NAME_BYTES_MAX).contains(&name.len());
    if !fits || name.contains(is_hidden) {
        return Err(FleetError::Name { got: name.chars().take(80).collect() });
    }
    Ok(match old {
        Some(old) if old.fleet != link.fleet => {
            return Err(FleetError::Other { own: old.fleet, other: link.fleet });
        }
        Some(old) => match (old.is_member(), old.again(link, name)) {
            (true, book) => Listed::Again(book),
            (false, book) => Listed::New(book),
        },
        None => {
            // A key that a leave left behind has numbers that the new book would begin anew.
            store.forget()?;
            Listed::New(Book::new(link, name, store.key_or_new()?.public().device()))
        }
    })
}

/// Notes that the device is of the fleet of a link; its server hears of it at the next check-in.
///
/// # Errors
/// [`FleetError`]: nothing was noted.
pub fn enlist(
    store: &Store,
    link: &Link,
    name: Option<&str>,
    ca_file: Option<&Path>,
    clock: &Arc<dyn Clock>,
) -> Result<FleetStatus, FleetError> {
    match listed(store, link, name, ca_file, clock)? {
        Listed::New(book) => {
            store.keep(&book)?;
            Ok(shown(&book))
        }
        Listed::Again(_) => Err(FleetError::Asleep),
    }
}

/// Forgets the fleet; whether there was one.
///
/// # Errors
/// [`FleetError::Store`]: what is left goes with the next try.
pub fn leave(store: &Store) -> Result<bool, FleetError> {
    // A book that cannot be believed is forgotten too.
    let was = store.book().map_or(true, |book| book.is_some());
    store.forget()?;
    Ok(was)
}

/// What a folder says while no program has it.
///
/// # Errors
/// [`FleetError::Store`].
pub fn look(folder: &Path) -> Result<Option<FleetStatus>, FleetError> {
    let book = Store::look(folder)?.map(|store| store.book()).transpose()?.flatten();
    Ok(book.map(|book| shown(&book)))
}

/// What this system is called.
fn own_name() -> String {
    let name = rustix::system::uname();
    let name: String = name.nodename().to_string_lossy().chars().take(32).collect();
    let name = name.trim().replace(is_hidden, "");
    if name.is_empty() { "device".into() } else { name }
}

/// Starts the sync on a thread of its own.
///
/// # Errors
/// The system gives no thread, or no runtime.
pub fn start(
    (store, config): (Store, Config),
    world: World,
    board: Arc<Board>,
    stop: Arc<AtomicBool>,
    supervisor: &Supervisor,
) -> io::Result<(Fleet, JoinHandle<Option<()>>)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (sender, orders) = mpsc::channel(ORDERS_MAX);
    let live = move || {
        let life = Life::new(store, config, world);
        runtime.block_on(life.live(orders, &board, &stop));
        // A name that is still being looked up keeps nobody waiting.
        runtime.shutdown_background();
    };
    Ok((Fleet(sender), supervisor.start("fleet", live)?))
}

/// The sync without its thread: what it does now, and what it is asked to do.
pub struct Life {
    pub(super) turn: Turn,
    pub(super) config: Config,
    pub(super) world: World,
}

/// Comes back when the flag is set.
async fn stopped(stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(STOP_LATENCY).await;
    }
}

impl Life {
    /// One that has read nothing yet.
    pub fn new(store: Store, config: Config, world: World) -> Self {
        Self { turn: Turn::new(store, config.clone(), world.clone()), config, world }
    }

    /// Does what is to be done now; how long nothing more is.
    pub async fn step(&mut self) -> Duration {
        self.turn.step().await
    }

    /// What is shown; none while the device is in no fleet.
    pub fn status(&self) -> Option<FleetStatus> {
        self.turn.status()
    }

    async fn live(
        mut self,
        mut orders: mpsc::Receiver<(Order, SyncSender<Answer>)>,
        board: &Board,
        stop: &AtomicBool,
    ) {
        loop {
            let wait = tokio::select! {
                biased;
                () = stopped(stop) => return,
                wait = self.step() => wait,
            };
            let status = self.status();
            board.update(|shown| shown.fleet = status);
            tokio::select! {
                biased;
                () = stopped(stop) => return,
                Some((order, reply)) = orders.recv() => {
                    let answer = tokio::select! {
                        biased;
                        () = stopped(stop) => Err(FleetError::Stopping),
                        answer = self.follow(order) => answer,
                    };
                    // Who asked may have stopped waiting.
                    let _ = reply.try_send(answer);
                }
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Follows an order.
    ///
    /// # Errors
    /// [`FleetError`].
    pub async fn follow(&mut self, order: Order) -> Result<Option<FleetStatus>, FleetError> {
        match order {
            Order::Join { link, name } => self.join(&link, name.as_deref()).await,
            Order::Leave => {
                let left = leave(&self.turn.store);
                self.world.learner.withdraw();
                // What is in memory would be written back.
                self.anew();
                left?;
                Ok(None)
            }
            Order::Now => self.now().await,
            Order::RotateKey => {
                let member = self.turn.member.as_mut().ok_or(FleetError::Alone)?;
                member.rotate().await?;
                Ok(self.turn.status())
            }
        }
    }

    async fn join(&mut self, link: &Link, name: Option<&str>) -> Answer {
        let (store, ca_file) = (&self.turn.store, self.config.ca_file.as_deref());
        match listed(store, link, name, ca_file, &self.world.clock)? {
            // Where the way of before cannot even be tried it is worth nothing.
            Listed::Again(book) if self.turn.open().is_ok() => {
                let proven = self.turn.prove(book).await;
                let proven = proven.map_err(|error| match error.into() {
                    FleetError::Failed(why) => FleetError::Unproven(why),
                    error => error,
                });
                // A disk that failed may have taken it all the same.
                if matches!(proven, Ok(()) | Err(FleetError::Store(_))) {
                    self.anew();
                }
                proven?;
                self.now().await
            }
            Listed::New(book) | Listed::Again(book) => {
                let kept = self.turn.store.keep(&book);
                self.anew();
                kept?;
                self.now().await.map_err(|error| match error {
                    FleetError::Failed(why) => FleetError::Joining(why),
                    error => error,
                })
            }
        }
    }

    /// Forgets what was in memory: the folder says what holds.
    fn anew(&mut self) {
        let store = self.turn.store.clone();
        self.turn = Turn::new(store, self.config.clone(), self.world.clone());
    }

    async fn now(&mut self) -> Answer {
        self.turn.open()?;
        if self.turn.member.is_none() {
            return Err(FleetError::Alone);
        }
        self.turn.now().await?;
        Ok(self.turn.status())
    }
}

impl From<Trouble> for FleetError {
    fn from(error: Trouble) -> Self {
        match error {
            Trouble::Store(error) => Self::Store(error),
            Trouble::Exchange(ExchangeError::Disk(error)) => Self::Store(StoreError::Disk(error)),
            error => Self::Failed(error.to_string()),
        }
    }
}

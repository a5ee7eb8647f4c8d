//! The device: samples come in, jobs run when they may, the result is served.
//!
//! ```text
//! Handle::offer -> inbox --+
//! Handle::order -> orders -+-> Worker::tick: look -> plan -> prepare -> run -> settle -> Served
//!                                              \-> install -> on trial -> second look ----/
//! ```
//! - One [`Worker`] owns the state folder; everybody else holds a [`Handle`]. What reaches the worker from
//!   outside is a sample, or one more [`Order`].
//! - Time, power, heat and disk come in through [`World`], so that a day can be simulated.
//! - Never here: sockets, signals, the service manager.
//! - Invariant: the samples of a job leave the inbox with the commit or the rejection that ends it,
//!   never before and never twice.

mod shelf;
mod served;
pub mod kept;
mod fleet;
mod plan;
mod prepare;
mod threads;
mod tools;
mod store;
mod sight;
mod told;
mod watch;
mod run;
mod settle;
mod install;
mod rollback;
mod worker;

pub use rollback::Sent;
use rollback::Wish;
pub use served::{Bounds, Current, Served};
pub use worker::{Pace, Worker};

use crate::clock::Clock;
use crate::config::ConfigError;
use crate::history;
use crate::paused::{OrderError, Paused};
use crate::probe::Probes;
use crate::status::{Board, InboxStatus, Status};
use crate::sync::{Fleet, Offered, View};
use sapwood::base::BaseError;
use sapwood::inbox::{Aside, Inbox, InboxError, Receipt};
use sapwood::intake::{Example, IntakeError, Sample};
use sapwood::learner::LearnError;
use sapwood::ports::{Storage, StorageError};
use sapwood::state::StateError;
use sapwood::tokenise::TokeniseError;
use sapwood_protocol::fleet::id::Hash;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::time::Duration;

/// Why the device cannot go on; what was committed and acknowledged is on disk.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// Loading the base, or a job that the state folder did not survive.
    #[error(transparent)]
    Learn(LearnError),
    /// Settings that this base or this state rules out.
    #[error(transparent)]
    Config(ConfigError),
    /// The state folder.
    #[error(transparent)]
    State(#[from] StateError),
    /// Runs that were committed, and no manifest.
    #[error(
        "{} says that generation {generation} was in use, and the state folder has no manifest; nothing \
         was changed (`firmware-host recover --from-adapters` looks for whole generations; to begin \
         anew, name another --state)",
        history::FILE
    )]
    ManifestLost {
        /// The highest that is remembered.
        generation: u64,
    },
    /// The inbox.
    #[error(transparent)]
    Inbox(#[from] InboxError),
    /// The disk.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The tokenizer.
    #[error(transparent)]
    Tokenise(#[from] TokeniseError),
    /// The general text of the gate.
    #[error("job.general: {0}; nothing was started")]
    General(#[from] IntakeError),
    /// No model folder was named.
    #[error("model is missing: expected the folder of a model, in the configuration or as --model")]
    NoModel,
    /// The threads that learn.
    #[error("cannot start {threads} threads to learn with: {why}; nothing was started")]
    Threads {
        /// How many.
        threads: usize,
        /// Why not.
        why: String,
    },
}

impl From<LearnError> for DeviceError {
    fn from(error: LearnError) -> Self {
        match error {
            LearnError::Settings(error) => Self::Config(error.into()),
            LearnError::Base(BaseError::Length { length, limit, why }) => {
                let expected = format!("at most {limit} ({why})");
                Self::Config(ConfigError::range("learn.max-seq-length", expected, length))
            }
            error => Self::Learn(error),
        }
    }
}

impl DeviceError {
    /// Whether the configuration is wrong, so that starting again does not help.
    pub fn is_choice(&self) -> bool {
        matches!(self, Self::Config(_) | Self::NoModel)
    }

    /// Whether the state folder must be opened again to know what the disk holds.
    pub fn is_final(&self) -> bool {
        matches!(
            self,
            Self::State(StateError::Sync(_) | StateError::Broken)
                | Self::Learn(LearnError::State(StateError::Sync(_) | StateError::Broken))
                | Self::Inbox(InboxError::Sync(_) | InboxError::Broken)
        )
    }
}

/// What the device stands on; tests bring their own.
pub struct World {
    /// The state folder.
    pub storage: Arc<dyn Storage>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Heat, power, memory.
    pub probes: Box<dyn Probes>,
}

/// What the device can be ordered to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Learn now, whatever the number of samples and the constraints that are a matter of taste.
    JobNow,
    /// Stop at the next optimiser step and wait.
    Pause,
    /// Go on.
    Resume,
    /// Stop at the next optimiser step and end.
    Stop,
    /// Install a global adapter after the job under way, with constraints as for [`Order::JobNow`]. It does
    /// not outlive the program: whoever gives it gives it again until [`View::installs`] says how it
    /// ended; what was taken before changes nothing.
    Install(Arc<Offered>),
    /// Use an earlier generation again, after the next optimiser step of a job under way; somebody waits for
    /// it.
    Rollback(Arc<Sent>),
    /// Install nothing that was ordered and has not begun: its fleet was left, or offers another.
    Withdraw,
    /// Where this global adapter is on trial, end the trial: the generation before it returns, whatever
    /// the constraints say. It does not outlive the program either.
    Recall(Hash),
}

/// A generation that came into use again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rolled {
    /// What was in use; none for the bare base.
    pub before: Option<u64>,
    /// What is in use now; none for the bare base.
    pub generation: Option<u64>,
}

/// Longest wait for a job to come to a place where it can stop.
const ROLLBACK: Duration = Duration::from_secs(30);

/// What the servers ask of the device; cheap to clone.
#[derive(Clone)]
pub struct Handle {
    disk: Arc<dyn Storage>,
    inbox: Arc<Mutex<Inbox>>,
    orders: mpsc::Sender<Order>,
    paused: Arc<Paused>,
    board: Arc<Board>,
    served: Arc<Served>,
    fleet: Arc<Mutex<View>>,
    /// Who follows orders about the fleet, once it is started.
    sync: Arc<OnceLock<Fleet>>,
    /// Bytes of the disk that a job and its commit take.
    job_disk_bytes: Arc<AtomicU64>,
    /// Whether samples were refused for want of room on the disk the last time; told when it changes.
    disk_is_low: Arc<AtomicBool>,
}

impl Handle {
    /// Takes in samples, all or none; when it returns they are durable.
    ///
    /// # Errors
    /// [`InboxError`]: nothing of the batch was taken in.
    pub fn offer(&self, samples: &[&Sample]) -> Result<Receipt, InboxError> {
        self.check_disk()?;
        self.check(samples)?;
        let receipt = self.mend(|inbox| inbox.offer_samples(samples))?;
        self.board.update(|status| {
            status.inbox.accepted += receipt.accepted;
            status.inbox.duplicates += receipt.duplicates;
        });
        Ok(receipt)
    }

    /// Refuses to fill the disk so far that no job could drain the inbox again.
    fn check_disk(&self) -> Result<(), InboxError> {
        let needed = self.job_disk_bytes.load(Ordering::Relaxed);
        let free = self.board.look(|status| status.readings.storage_bytes);
        let low = free.filter(|free| *free < needed);
        if self.disk_is_low.swap(low.is_some(), Ordering::Relaxed) != low.is_some() {
            match low {
                Some(free) => tracing::warn!(free, needed, "samples are refused: the disk is low"),
                None => tracing::info!("samples are taken again: the disk has room"),
            }
        }
        low.map_or(Ok(()), |free| Err(InboxError::Low { free, needed }))
    }

    /// Refuses what no job could tokenise: it would stand in the way of all that came with it.
    fn check(&self, samples: &[&Sample]) -> Result<(), InboxError> {
        for (index, sample) in samples.iter().enumerate() {
            if let Example::Messages(talk) = sample.example() {
                let checked = self.served.tokeniser.check_talk(talk);
                checked.map_err(|source| InboxError::Sample {
                    number: index + 1,
                    source: Box::new(source),
                })?;
            }
        }
        Ok(())
    }

    /// Samples that were set aside, oldest first.
    ///
    /// # Errors
    /// [`InboxError::Storage`].
    pub fn aside(&self) -> Result<Vec<Aside>, InboxError> {
        let inbox = self.inbox();
        inbox.aside().filter_map(|number| inbox.look_aside(number).transpose()).collect()
    }

    /// Changes the inbox, and shows what it holds then.
    ///
    /// # Errors
    /// As `work`.
    pub fn mend<T>(
        &self,
        work: impl FnOnce(&mut Inbox) -> Result<T, InboxError>,
    ) -> Result<T, InboxError> {
        let (done, held) = {
            let mut inbox = self.inbox();
            (work(&mut inbox)?, InboxStatus::held(&inbox))
        };
        self.board.inbox(held);
        Ok(done)
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        lock(&self.inbox)
    }

    /// Gives an order; what it says of the next starts is durable when this returns. May take long.
    ///
    /// # Errors
    /// [`OrderError`]: nothing has changed.
    pub fn order(&self, order: Order) -> Result<(), OrderError> {
        let pauses = matches!(order, Order::Pause | Order::Resume);
        if pauses && self.paused.set(order == Order::Pause)? {
            let done = if order == Order::Pause { "paused" } else { "resumed" };
            tracing::info!("{done} by an operator");
        }
        if order == Order::JobNow {
            self.paused.try_disk()?;
        }
        match self.orders.send(order) {
            // The next start finds what is on the disk.
            Err(_) if !pauses => Err(OrderError::Stopping),
            _ => Ok(()),
        }
    }

    /// Uses an earlier generation again, 0 for the bare base, the one before the one in use when none is
    /// named; durable and served when this returns. May take long.
    ///
    /// # Errors
    /// [`OrderError`]: the generation in use stays.
    pub fn roll_back(&self, to: Option<u64>) -> Result<Rolled, OrderError> {
        let wish = Wish::new(to);
        let sent = self.orders.send(Order::Rollback(Sent::new(wish.clone())));
        sent.map_err(|_| OrderError::Stopping)?;
        wish.end(ROLLBACK)
    }

    /// The state folder, to look into.
    pub fn disk(&self) -> Arc<dyn Storage> {
        self.disk.clone()
    }

    /// What the device says of itself.
    pub fn status(&self) -> Status {
        self.board.snapshot()
    }

    /// The model that is served.
    pub fn served(&self) -> &Arc<Served> {
        &self.served
    }

    /// Hands orders about the fleet on to its sync from now on.
    pub fn follow(&self, sync: Fleet) {
        // There is one sync a program; a second would find its folder taken.
        let _ = self.sync.set(sync);
    }

    /// Who follows orders about the fleet; none where the configuration has none.
    pub fn sync(&self) -> Option<&Fleet> {
        self.sync.get()
    }

    /// Where servers report.
    pub fn board(&self) -> &Arc<Board> {
        &self.board
    }
}

/// The inbox marks itself broken where a panic of its holder could have hurt it: on disk.
fn lock(inbox: &Mutex<Inbox>) -> MutexGuard<'_, Inbox> {
    inbox.lock().unwrap_or_else(PoisonError::into_inner)
}

//! An earlier generation comes into use again, because somebody says so and waits for it.
//!
//! - In: a wish, a state between two jobs. Out: the generation that is in use then, durable and served.
//! - A job under way stops first; its samples wait and are learned on top of what is in use then.
//! - Invariant: the worker does what is wished, or who waits takes it back; never both.
//! - A wish that nobody can follow any more, because the worker went, is refused at that moment.

use super::store::Store;
use super::tools::Tools;
use super::{DeviceError, Rolled};
use crate::paused::OrderError;
use crate::status::Board;
use sapwood::state::StateError;
use std::fmt;
use std::mem::replace;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What has become of a wish.
enum Place {
    Waits,
    TakenBack,
    Done(Result<Rolled, OrderError>),
}

/// A wish for an earlier generation.
pub(super) struct Wish {
    to: Option<u64>,
    place: Mutex<Place>,
    moved: Condvar,
}

impl fmt::Debug for Wish {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_tuple("Wish").field(&self.to).finish()
    }
}

/// No two wishes are the same one: each has somebody who waits for it.
impl PartialEq for Wish {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Wish {}

/// A wish on its way to the worker, and in its hands: refused where it is let go of.
#[derive(Debug, PartialEq, Eq)]
pub struct Sent(Arc<Wish>);

impl Sent {
    pub(super) fn new(wish: Arc<Wish>) -> Arc<Self> {
        Arc::new(Self(wish))
    }

    pub(super) fn wish(&self) -> &Wish {
        &self.0
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        self.0.follow(|_| Err(OrderError::Stopping));
    }
}

impl Wish {
    /// For a generation that is kept, 0 for the bare base; for the one before the one in use when none.
    pub(super) fn new(to: Option<u64>) -> Arc<Self> {
        Arc::new(Self { to, place: Mutex::new(Place::Waits), moved: Condvar::new() })
    }

    /// Waits until it is done, or takes it back.
    ///
    /// # Errors
    /// [`OrderError::Late`]: nothing was done; otherwise what the worker says.
    pub(super) fn end(&self, patience: Duration) -> Result<Rolled, OrderError> {
        let waits = |place: &mut Place| matches!(place, Place::Waits);
        let waited = self.moved.wait_timeout_while(self.lock(), patience, waits);
        let (mut place, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match replace(&mut *place, Place::TakenBack) {
            Place::Done(done) => done,
            Place::Waits | Place::TakenBack => Err(OrderError::Late),
        }
    }

    /// Does it, unless it was taken back.
    pub(super) fn follow(&self, work: impl FnOnce(Option<u64>) -> Result<Rolled, OrderError>) {
        let mut place = self.lock();
        if matches!(*place, Place::Waits) {
            *place = Place::Done(work(self.to));
            self.moved.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Does what is wished.
///
/// # Errors
/// [`DeviceError`] after which the state folder must be opened again; who waits hears of all others.
pub(super) fn roll_back(
    tools: &Tools,
    store: &mut Store,
    board: &Board,
    wish: &Wish,
) -> Result<(), DeviceError> {
    let mut broken = Ok(());
    wish.follow(|to| {
        let rolled = put(tools, store, board, to);
        rolled.map_err(|error| {
            let told = OrderError::from(&error);
            if error.is_final() {
                broken = Err(error);
            }
            told
        })
    });
    broken
}

fn put(
    tools: &Tools,
    store: &mut Store,
    board: &Board,
    to: Option<u64>,
) -> Result<Rolled, DeviceError> {
    let before = store.state.current().map(|generation| generation.number);
    let number = store.state.rollback(to)?;
    if let Err(error) = tools.serve(&store.state, board) {
        // What this base and these settings cannot serve is not what is in use.
        store.state.rollback(Some(before.unwrap_or(0)))?;
        return Err(error);
    }
    tracing::warn!(before, generation = number, "rolled back by an operator");
    Ok(Rolled { before, generation: Some(number).filter(|number| *number > 0) })
}

impl From<&DeviceError> for OrderError {
    fn from(error: &DeviceError) -> Self {
        let (is_missing, is_disk, why) = match error {
            DeviceError::State(StateError::NothingBefore) => {
                let why = "no generation before the one in use is kept: expected `to` with the number of \
                           one, 0 for the bare base";
                (true, false, why.to_owned())
            }
            // It says itself what the next start finds.
            DeviceError::State(StateError::Sync(_)) => (false, true, error.to_string()),
            DeviceError::State(state) => {
                let is_missing = matches!(state, StateError::Unknown { .. });
                let is_disk = matches!(state, StateError::Storage(_));
                (is_missing, is_disk, format!("{state}; the generation in use stays"))
            }
            error => (false, false, format!("{error}; the generation in use stays")),
        };
        Self::Refused { why, is_missing, is_disk }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    #[test]
    fn a_wish_is_done_or_taken_back_and_never_both() {
        let rolled = Rolled { before: Some(2), generation: Some(1) };
        let wish = Wish::new(Some(1));
        wish.follow(|to| Ok(Rolled { generation: to, ..rolled }));
        assert_eq!(wish.end(Duration::ZERO).unwrap(), rolled);
        let late = Wish::new(None);
        assert!(matches!(late.end(Duration::ZERO), Err(OrderError::Late)));
        late.follow(|_| unreachable!("it was taken back"));
        let waiting = Wish::new(None);
        let hears = waiting.clone();
        let heard = std::thread::spawn(move || hears.end(Duration::from_secs(60)));
        waiting.follow(|_| Err(OrderError::Stopping));
        assert!(matches!(heard.join().unwrap(), Err(OrderError::Stopping)));
    }

    #[test]
    fn a_wish_that_nobody_will_follow_is_refused_when_its_last_hand_lets_go() {
        let wish = Wish::new(None);
        let (send, orders) = std::sync::mpsc::channel();
        let sent = Sent::new(wish.clone());
        send.send(sent.clone()).unwrap();
        drop(sent);
        assert!(matches!(*wish.lock(), Place::Waits), "the worker may still come to it");
        drop(orders);
        assert!(matches!(wish.end(Duration::ZERO), Err(OrderError::Stopping)));
        let done = Wish::new(None);
        let sent = Sent::new(done.clone());
        sent.wish().follow(|_| Ok(Rolled { before: None, generation: None }));
        drop(sent);
        assert!(done.end(Duration::ZERO).is_ok(), "what was done stays done");
    }
}

//! Room for connections: who has some, who leaves for another.
//!
//! - A connection is busy from a request's headers until the last byte of its answer is taken.
//! - Where there is no room, the connection that has been idle longest leaves for the next one: who opens
//!   connections and says nothing keeps nobody out. Where all are busy, nobody comes in.
//! - Never here: sockets, HTTP.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// All connections of a listener.
#[derive(Debug)]
pub(super) struct Room {
    most: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Counts changes: what is older has the smaller number.
    time: u64,
    guests: BTreeMap<u64, Place>,
}

#[derive(Debug)]
struct Place {
    busy: bool,
    since: u64,
    leave: Arc<Notify>,
}

/// A connection's place; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Guest {
    room: Arc<Room>,
    id: u64,
    leave: Arc<Notify>,
}

/// A call of a guest; it is idle again when this is dropped.
#[derive(Debug)]
pub(super) struct Asking(Arc<Guest>);

impl Room {
    /// For so many connections.
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, inner: Mutex::default() })
    }

    /// A place, if there is one or somebody idle gives his.
    pub(super) fn enter(self: &Arc<Self>) -> Option<Arc<Guest>> {
        let mut inner = self.lock();
        if inner.guests.len() >= self.most {
            let idle = inner.guests.iter().filter(|(_, place)| !place.busy);
            let first = idle.min_by_key(|(_, place)| place.since).map(|(id, _)| *id)?;
            inner.guests.remove(&first)?.leave.notify_one();
        }
        inner.time += 1;
        let (id, leave) = (inner.time, Arc::new(Notify::new()));
        inner.guests.insert(id, Place { busy: false, since: id, leave: leave.clone() });
        Some(Arc::new(Guest { room: self.clone(), id, leave }))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guest {
    /// Comes back when the connection must leave for another.
    pub(super) async fn told_to_leave(&self) {
        self.leave.notified().await;
    }

    /// A call begins.
    pub(super) fn asks(self: &Arc<Self>) -> Asking {
        self.does(true);
        Asking(self.clone())
    }

    fn does(&self, busy: bool) {
        let mut inner = self.room.lock();
        inner.time += 1;
        let since = inner.time;
        if let Some(place) = inner.guests.get_mut(&self.id) {
            (place.busy, place.since) = (busy, since);
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.room.lock().guests.remove(&self.id);
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.does(false);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    #[tokio::test]
    async fn who_says_nothing_leaves_first_and_who_is_answered_never() {
        let room = Room::new(3);
        let [silent, other, busy] = [(); 3].map(|()| room.enter().unwrap());
        let asks = busy.asks();
        drop(silent.asks());
        let next = room.enter().unwrap();
        other.told_to_leave().await;
        let last = room.enter().unwrap();
        silent.told_to_leave().await;
        let _all = [next.asks(), last.asks()];
        assert!(room.enter().is_none(), "all are busy");
        drop(asks);
        let _one = room.enter().unwrap();
        busy.told_to_leave().await;
        drop((silent, other, busy));
        assert_eq!(room.lock().guests.len(), 3, "whose place was taken takes nobody's");
    }
}

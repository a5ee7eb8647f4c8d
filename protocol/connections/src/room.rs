//! Room for connections: who has some, who leaves for another.
//!
//! - A connection is idle until a request begins, receives until the request has come whole, and is busy
//!   until the last byte of its answer is taken.
//! - Where there is no room, the connection that has been idle longest leaves for the next one, then the
//!   one that has received longest without getting on: who opens connections and says nothing, or little
//!   at a time, keeps nobody out.
//! - Where all are busy, a few more come in where a server has places for questions about health alone.
//! - Never here: sockets, HTTP.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// What a connection does, in the order in which they leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Doing {
    Idle,
    Receives,
    Busy,
}

/// All connections of a listener.
#[derive(Debug)]
pub struct Room {
    most: usize,
    /// Places beyond the most, for questions about health.
    spare: usize,
    inner: Mutex<Inner>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    /// Counts changes: what is older has the smaller number.
    time: u64,
    guests: BTreeMap<u64, Place>,
}

#[derive(Debug)]
struct Place {
    doing: Doing,
    since: u64,
    /// Whether it may ask about health alone.
    spare: bool,
    leave: Arc<Notify>,
}

/// A connection's place; given back when it is dropped.
#[derive(Debug)]
pub struct Guest {
    room: Arc<Room>,
    id: u64,
    leave: Arc<Notify>,
    spare: bool,
}

/// A request of a guest; it is idle again when this is dropped.
#[derive(Debug)]
pub struct Asking(Arc<Guest>);

impl Room {
    /// For so many connections, and so many beyond them that ask about health alone.
    pub fn new(most: usize, spare: usize) -> Arc<Self> {
        Arc::new(Self { most, spare, inner: Mutex::default(), freed: Notify::new() })
    }

    /// A place, as soon as there is one.
    pub async fn enter(self: &Arc<Self>) -> Arc<Guest> {
        loop {
            let freed = self.freed.notified();
            if let Some(guest) = self.try_enter() {
                return guest;
            }
            freed.await;
        }
    }

    /// A place, if there is one or somebody gives his.
    pub fn try_enter(self: &Arc<Self>) -> Option<Arc<Guest>> {
        let mut inner = self.lock();
        let spare = [false, true].into_iter().find(|spare| {
            let most = if *spare { self.spare } else { self.most };
            inner.count(*spare) < most || inner.make_room(*spare)
        })?;
        let (id, leave) = (inner.tick(), Arc::new(Notify::new()));
        let place = Place { doing: Doing::Idle, since: id, spare, leave: leave.clone() };
        inner.guests.insert(id, place);
        Some(Arc::new(Guest { room: self.clone(), id, leave, spare }))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn tick(&mut self) -> u64 {
        self.time += 1;
        self.time
    }

    fn count(&self, spare: bool) -> usize {
        self.guests.values().filter(|place| place.spare == spare).count()
    }

    /// Has the first leave that is not being answered; false when all of them are.
    fn make_room(&mut self, spare: bool) -> bool {
        let leaves =
            |(_, place): &(&u64, &Place)| place.spare == spare && place.doing < Doing::Busy;
        let all = self.guests.iter().filter(leaves);
        let first = all.min_by_key(|(_, place)| (place.doing, place.since)).map(|(id, _)| *id);
        let gone = first.and_then(|id| self.guests.remove(&id));
        gone.inspect(|place| place.leave.notify_one()).is_some()
    }
}

impl Guest {
    /// Comes back when the connection must leave for another.
    pub async fn told_to_leave(&self) {
        self.leave.notified().await;
    }

    /// Whether it may ask about health alone.
    pub fn is_spare(&self) -> bool {
        self.spare
    }

    /// A request begins; `whole` when it has no body to come.
    pub fn asks(self: &Arc<Self>, whole: bool) -> Asking {
        self.does(if whole { Doing::Busy } else { Doing::Receives });
        Asking(self.clone())
    }

    /// More of its request has come.
    pub fn gets_on(&self) {
        self.does(Doing::Receives);
    }

    /// The body of its request has come.
    pub fn has_asked(&self) {
        self.does(Doing::Busy);
    }

    fn does(&self, doing: Doing) {
        let mut inner = self.room.lock();
        let since = inner.tick();
        if let Some(place) = inner.guests.get_mut(&self.id) {
            (place.doing, place.since) = (doing, since);
        }
        drop(inner);
        if doing != Doing::Busy {
            self.room.freed.notify_one();
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.room.lock().guests.remove(&self.id);
        self.room.freed.notify_one();
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.does(Doing::Idle);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    const SPARE: usize = 4;

    fn left(guest: &Guest) -> bool {
        !guest.room.lock().guests.contains_key(&guest.id)
    }

    #[test]
    fn who_says_nothing_leaves_first_and_who_is_answered_never() {
        let room = Room::new(3, SPARE);
        let [silent, slow, busy] = [(); 3].map(|()| room.try_enter().unwrap());
        let (_sends, _asks) = (slow.asks(false), busy.asks(true));
        let next = room.try_enter().unwrap();
        assert!(left(&silent) && !left(&slow) && !left(&busy) && !next.is_spare());
        let _asks = next.asks(true);
        let last = room.try_enter().unwrap();
        assert!(left(&slow) && !left(&busy) && !left(&next) && !last.is_spare());
        let again = last.asks(false);
        last.has_asked();
        let spare = room.try_enter().unwrap();
        assert!(spare.is_spare() && !left(&last));
        drop(again);
        assert!(!left(&last), "idle again, and nobody comes");
    }

    #[test]
    fn a_few_may_ask_for_health_where_all_are_busy_and_then_nobody() {
        let room = Room::new(1, SPARE);
        let busy = room.try_enter().unwrap();
        let _asks = busy.asks(true);
        let spare: Vec<_> = (0..SPARE).map(|_| room.try_enter().unwrap()).collect();
        assert!(spare.iter().all(|guest| guest.is_spare()));
        assert!(room.try_enter().unwrap().is_spare() && left(&spare[0]), "one that says nothing");
        let _all: Vec<_> = spare[1..].iter().map(|guest| guest.asks(true)).collect();
        let last = room.try_enter().unwrap();
        let _asks = last.asks(true);
        assert!(room.try_enter().is_none());
    }

    #[test]
    fn of_those_who_send_the_one_that_does_not_get_on_leaves_first() {
        let room = Room::new(2, 0);
        let [slow, drips] = [(); 2].map(|()| room.try_enter().unwrap());
        let asks = [slow.asks(false), drips.asks(false)];
        slow.gets_on();
        let next = room.try_enter().unwrap();
        assert!(left(&drips) && !left(&slow));
        drips.gets_on();
        assert!(left(&drips), "it does not come back by sending on");
        let _all = [slow.asks(true), next.asks(true)];
        assert!(room.try_enter().is_none(), "no place beyond, and all are being answered");
        drop(asks);
    }

    #[tokio::test]
    async fn who_waits_comes_in_when_another_has_been_answered() {
        let room = Room::new(1, SPARE);
        let busy = room.try_enter().unwrap();
        let asks = busy.asks(true);
        let spare: Vec<_> = (0..SPARE).map(|_| room.try_enter().unwrap()).collect();
        let _all: Vec<_> = spare.iter().map(|guest| guest.asks(true)).collect();
        let waits = tokio::spawn({
            let room = room.clone();
            async move { room.enter().await }
        });
        tokio::task::yield_now().await;
        drop(asks);
        let _in = waits.await.unwrap();
        assert!(left(&busy));
        busy.told_to_leave().await;
    }
}

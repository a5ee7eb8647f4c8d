//! Places for uploads that come in at the same time: one a device, and none for ever.
//!
//! - A device that comes again takes its own place: its first connection may be dead for long.
//! - Where there is no place, the slowest upload gives its own, if it had [`GRACE`] and came at less than
//!   [`PACE`]: whoever drips keeps nobody out, and a slow line goes on where nobody waits.
//! - In: devices, bytes, times. Never here: clocks, bodies.

use crate::door::Refused;
use sapwood_protocol::fleet::code::Code;
use sapwood_protocol::fleet::id::DeviceId;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// Uploads that come in at the same time.
pub(crate) const UPLOADS_MAX: usize = 16;
/// Time that an upload has whatever its pace.
const GRACE: Duration = Duration::from_secs(30);
/// Bytes a second with which a place is kept.
const PACE: u64 = 4 << 10;

/// All places.
#[derive(Debug, Default)]
pub(crate) struct Places(Mutex<BTreeMap<DeviceId, Under>>);

/// An upload under way.
#[derive(Debug)]
struct Under {
    since: Duration,
    bytes: u64,
    leave: Arc<Notify>,
}

impl Under {
    /// Bytes a second up to now; none while nobody counts.
    fn pace(&self, now: Duration) -> Option<u64> {
        let passed = now.saturating_sub(self.since);
        (passed > GRACE).then(|| self.bytes / passed.as_secs().max(1))
    }
}

/// A device's place; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    device: DeviceId,
    leave: Arc<Notify>,
}

impl Places {
    /// A place for a device's upload.
    ///
    /// # Errors
    /// [`Refused`] with `unavailable` where all are taken by uploads that get on.
    pub(crate) fn enter(
        self: &Arc<Self>,
        device: DeviceId,
        now: Duration,
    ) -> Result<Place, Refused> {
        let mut all = self.lock();
        if all.len() >= UPLOADS_MAX && !all.contains_key(&device) {
            let paces = all.iter().filter_map(|(id, under)| Some((under.pace(now)?, *id)));
            let slowest = paces.filter(|(pace, _)| *pace < PACE).min();
            let (_, gives) = slowest.ok_or_else(|| {
                let message = format!(
                    "{UPLOADS_MAX} uploads are coming in, expected one of them to end first"
                );
                Refused::new(Code::Unavailable, message)
            })?;
            all.remove(&gives).inspect(|under| under.leave.notify_one());
        }
        let leave = Arc::new(Notify::new());
        let under = Under { since: now, bytes: 0, leave: leave.clone() };
        all.insert(device, under).inspect(|before| before.leave.notify_one());
        drop(all);
        Ok(Place { places: self.clone(), device, leave })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<DeviceId, Under>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// More has come.
    pub(crate) fn gets_on(&self, bytes: u64) {
        if let Some(under) = self.places.lock().get_mut(&self.device).filter(|one| self.has(one)) {
            under.bytes += bytes;
        }
    }

    /// Comes back, with what is said, when the place is another's.
    pub(crate) async fn given_away(&self) -> Refused {
        self.leave.notified().await;
        let message = "another upload has the place of this one, which was too slow or was sent \
            again; nothing was kept";
        Refused::new(Code::Unavailable, message)
    }

    fn has(&self, under: &Under) -> bool {
        Arc::ptr_eq(&under.leave, &self.leave)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self.places.lock();
        if all.get(&self.device).is_some_and(|under| self.has(under)) {
            all.remove(&self.device);
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    const NONE: Duration = Duration::ZERO;

    fn device(number: u8) -> DeviceId {
        DeviceId([number; 16])
    }

    #[tokio::test]
    async fn the_slowest_gives_its_place_and_who_gets_on_keeps_it() {
        let places = Arc::new(Places::default());
        let all: Vec<_> =
            (0..UPLOADS_MAX as u8).map(|n| places.enter(device(n), NONE).unwrap()).collect();
        let late = GRACE + Duration::from_secs(10);
        all.iter().for_each(|place| place.gets_on(40 * PACE));
        assert_eq!(places.enter(device(99), late).unwrap_err().code(), Code::Unavailable);
        let before = all[7].places.lock().remove(&device(7)).unwrap();
        places.lock().insert(device(7), Under { bytes: 40 * PACE - 40, ..before });
        assert!(places.enter(device(99), GRACE).is_err(), "nobody counts yet");
        let next = places.enter(device(99), late).unwrap();
        assert_eq!(all[7].given_away().await.code(), Code::Unavailable);
        drop(all);
        assert_eq!(places.lock().len(), 1, "whose place was given away takes nobody's");
        drop(next);
        assert!(places.lock().is_empty());
    }

    #[tokio::test]
    async fn a_device_that_comes_again_has_one_place() {
        let places = Arc::new(Places::default());
        let dead = places.enter(device(1), NONE).unwrap();
        let again = places.enter(device(1), NONE).unwrap();
        dead.given_away().await;
        dead.gets_on(1000);
        again.gets_on(1);
        drop(dead);
        assert_eq!(places.lock()[&device(1)].bytes, 1);
    }
}

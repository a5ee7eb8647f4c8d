//! What was counted: answers by call and kind, how long they took, bytes, what became of devices.
//!
//! - A histogram has 32 places for each doubling: what it says of a share is at most 3.2 % too much.
//! - Never here: clocks, files.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bits of a place within a doubling.
const FINE: u32 = 5;

/// How often each duration was seen, in microseconds.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    places: BTreeMap<u32, u64>,
    count: u64,
    max: u64,
}

impl Histogram {
    /// One more.
    pub fn add(&mut self, us: u64) {
        *self.places.entry(place(us)).or_default() += 1;
        self.count += 1;
        self.max = self.max.max(us);
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The longest.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// What so large a share took at most.
    pub fn quantile(&self, share: f64) -> u64 {
        let wanted = (share * self.count as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (place, count) in &self.places {
            seen += count;
            if seen >= wanted {
                return end(*place).min(self.max);
            }
        }
        0
    }
}

fn place(us: u64) -> u32 {
    let bits = u64::BITS - us.leading_zeros();
    let shift = bits.saturating_sub(FINE + 1);
    (shift << FINE) + (us >> shift) as u32
}

/// The longest duration of a place.
fn end(place: u32) -> u64 {
    let shift = (place >> FINE).saturating_sub(1);
    let fine = u64::from(place) - (u64::from(shift) << FINE);
    (fine << shift) + ((1 << shift) - 1)
}

/// A call of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `POST /v1/enroll`
    Enrol,
    /// `POST /v1/checkin`
    CheckIn,
    /// `PUT /v1/rounds/N/upload`
    Upload,
    /// `GET /v1/artifacts/HASH`
    Artifact,
}

impl Kind {
    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Enrol => "enrol",
            Self::CheckIn => "check-in",
            Self::Upload => "upload",
            Self::Artifact => "artifact",
        }
    }
}

/// How long the parts of a call took, microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Took {
    /// Until the connection was there.
    pub connect: u64,
    /// Until TLS was.
    pub tls: u64,
    /// All of it.
    pub whole: u64,
}

/// What calls came to.
#[derive(Clone, Debug, Default)]
pub struct Calls {
    /// By call and what was answered; `ok`, a code, or why there was no answer.
    pub ends: BTreeMap<(Kind, String), u64>,
    /// Check-ins that were answered: all of a call.
    pub whole: Histogram,
    /// The same without connection and TLS.
    pub answer: Histogram,
    /// Connecting and TLS of any call.
    pub shake: Histogram,
}

impl Calls {
    /// How many calls ended so.
    pub fn ended(&self, kind: Kind, how: &str) -> u64 {
        self.ends.get(&(kind, how.to_owned())).copied().unwrap_or(0)
    }

    /// Calls that were not answered as they should be; a clock that was told and a power cut are no errors.
    pub fn errors(&self) -> u64 {
        let fine = ["ok", "clock", "power cut"];
        let wrong = self.ends.iter().filter(|((_, how), _)| !fine.contains(&how.as_str()));
        wrong.map(|(_, count)| count).sum()
    }

    fn add(&mut self, kind: Kind, how: &str, took: Took) {
        *self.ends.entry((kind, how.to_owned())).or_default() += 1;
        if took.tls > 0 {
            self.shake.add(took.connect + took.tls);
        }
        if kind == Kind::CheckIn && how == "ok" {
            self.whole.add(took.whole);
            self.answer.add(took.whole - (took.connect + took.tls).min(took.whole));
        }
    }
}

/// Numbers that grow, or hold what is now.
#[derive(Debug, Default)]
pub struct Tally {
    minute: Mutex<Calls>,
    all: Mutex<Calls>,
    /// Bytes that went to the server, TLS included.
    pub up: AtomicU64,
    /// Bytes that came.
    pub down: AtomicU64,
    /// Devices that take part.
    pub enrolled: AtomicU64,
    /// Devices that were told that they are suspended.
    pub suspended: AtomicU64,
    /// Devices on whose own clock 1970 was corrected.
    pub corrected: AtomicU64,
    /// Power cuts.
    pub cuts: AtomicU64,
    /// Downloads that went on where they had been cut.
    pub resumed: AtomicU64,
    /// Installs by how they ended: confirmed, reverted, declined.
    pub installs: [AtomicU64; 3],
    /// Devices that ever ran the bad release.
    pub ran_bad: AtomicU64,
    /// Devices that run it now.
    pub run_bad: AtomicU64,
    /// Wake-ups that began later than a second after they were due.
    pub late: AtomicU64,
}

impl Tally {
    /// A call came to its end.
    pub fn ended(&self, kind: Kind, how: &str, took: Took) {
        lock(&self.minute).add(kind, how, took);
        lock(&self.all).add(kind, how, took);
    }

    /// What was counted since this was asked last.
    pub fn minute(&self) -> Calls {
        std::mem::take(&mut *lock(&self.minute))
    }

    /// What was counted from the start, or since it was begun anew.
    pub fn all(&self) -> Calls {
        lock(&self.all).clone()
    }

    /// Begins to count anew, but for the minute: what was before is no part of the whole.
    pub fn anew(&self) {
        *lock(&self.all) = Calls::default();
    }
}

fn lock(calls: &Mutex<Calls>) -> MutexGuard<'_, Calls> {
    calls.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a number is now.
pub fn now(number: &AtomicU64) -> u64 {
    number.load(Ordering::Relaxed)
}

/// One more.
pub fn one(number: &AtomicU64) {
    number.fetch_add(1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::luck::Luck;

    /// Oracle: the sorted list itself; 1 part in 32 is what a place is wide.
    #[test]
    fn a_quantile_is_at_most_a_place_above_the_sorted_list_s() {
        let mut luck = Luck::of(3, 0);
        let mut all: Vec<u64> = (0..10_000).map(|_| luck.draw() >> (luck.draw() % 60)).collect();
        let mut histogram = Histogram::default();
        all.iter().for_each(|us| histogram.add(*us));
        all.sort_unstable();
        for share in [0.0001, 0.01, 0.5, 0.9, 0.99, 1.0] {
            let exact = all[((share * 10_000.0_f64).ceil() as usize).max(1) - 1];
            let got = histogram.quantile(share);
            assert!(
                got >= exact && got as f64 <= exact as f64 * 1.032 + 1.0,
                "{share}: {got} {exact}"
            );
        }
        assert_eq!((histogram.max(), histogram.count()), (all[9999], 10_000));
        assert_eq!(Histogram::default().quantile(0.5), 0);
    }

    #[test]
    fn every_duration_lies_in_its_place() {
        for us in (0..5000).chain([u64::MAX, 1 << 40, (1 << 40) - 1]) {
            let place = place(us);
            assert!(end(place) >= us && (place == 0 || end(place - 1) < us), "{us}");
        }
    }

    #[test]
    fn a_refusal_is_an_error_and_a_told_clock_is_none() {
        let tally = Tally::default();
        tally.ended(Kind::CheckIn, "ok", Took { connect: 100, tls: 900, whole: 3000 });
        tally.ended(Kind::CheckIn, "clock", Took::default());
        tally.ended(Kind::Upload, "round-closed", Took::default());
        let minute = tally.minute();
        assert_eq!((minute.errors(), minute.whole.max(), minute.answer.max()), (1, 3000, 2000));
        assert_eq!(minute.ended(Kind::CheckIn, "ok"), 1);
        assert_eq!((tally.minute().whole.count(), tally.all().whole.count()), (0, 1));
        tally.anew();
        assert_eq!(tally.all().whole.count(), 0);
    }
}

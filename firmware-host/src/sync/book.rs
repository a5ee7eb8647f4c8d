//! The book: all that a device knows of its fleet, in one record that is replaced whole.
//!
//! - In: what a person said, what the server answered. Out: JSON, read as a stranger.
//! - Bounded: lists of fixed length, the oldest goes first.
//! - Invariant: the counter, the sequence that was taken and what was sent stand here before anything
//!   follows from them, so none of them runs back, whatever a power cut takes.

use super::error::StoreError;
use super::sealed::Kind;
use sapwood_protocol::fleet::id::{CohortId, DeviceId, FleetId, Hash};
use sapwood_protocol::fleet::link::Link;
use sapwood_protocol::fleet::message::{DeviceState, Report, Signed};
use sapwood_protocol::limits::{
    FLEET_INTEGER_MAX, FLEET_NAME_BYTES_MAX, FLEET_PATH_BYTES_MAX, FLEET_REPORTS_MAX,
};
use serde::{Deserialize, Serialize};

pub(super) const BOOK: Kind = Kind { name: "book", version: 1, bytes_max: 128 << 10 };

/// Check-ins that are numbered with one write to the disk.
const COUNTER_STEP: u64 = 16;
/// Files that came whole and were not the artifact, before it is given up.
pub(super) const SPOILED_MAX: u32 = 3;
/// Cohorts that a device was of and remembers: another base is another cohort.
const COHORTS_MAX: usize = 8;
/// Artifacts that are remembered as contributed to.
const GIVEN_MAX: usize = 32;
/// Sequences that are remembered as heard of: all that a learner still tells, and its failures.
const ACKED_MAX: usize = 2 * FLEET_REPORTS_MAX;

/// All that a device knows of its fleet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Book {
    /// The fleet.
    pub fleet: FleetId,
    /// Host and port of its server.
    pub host: String,
    /// BLAKE3 of the server's key, where no authority speaks for it.
    pub pin: Option<Hash>,
    /// BLAKE3 of the first trust statement.
    pub first_trust: Hash,
    /// What lets the device in; gone once it is.
    pub token: Option<String>,
    /// What people call the device.
    pub name: String,
    /// The device.
    pub device: DeviceId,
    /// What the server thinks of it; none before it has answered.
    pub state: Option<DeviceState>,
    /// The operator's label, with which it knows its cohort.
    pub label: Option<String>,
    /// The newest trust statement.
    pub trust: Option<Signed>,
    /// No check-in with this number or a higher one went out.
    pub counter: u64,
    /// The cohort, once it is known.
    pub cohort: Option<CohortId>,
    /// The highest sequence that was ever taken in each cohort that the device was of, the newest last.
    pub taken: Vec<(CohortId, u64)>,
    /// The statement under way.
    pub pending: Option<Pending>,
    /// Ends of installs that the server has acknowledged, the newest last.
    pub acked: Vec<u64>,
    /// Ends of statements that never came to the learner, until they are acknowledged.
    pub failures: Vec<Report>,
    /// The contribution to the artifact that it goes on from.
    pub sent: Option<Sent>,
    /// Artifacts before that which have one, the newest last: a device may return to them.
    pub given: Vec<Hash>,
    /// An update that the server would not have.
    pub refused: Option<Refused>,
    /// What went over the network on one day.
    pub day: Day,
    /// Whether installs that name no fleet are of this one: they are where the device was in it before its
    /// state named any.
    #[serde(default = "is_earlier")]
    pub takes_unnamed: bool,
}

/// A book without the field is of before.
fn is_earlier() -> bool {
    true
}

/// A statement that was taken, until its end is known.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pending {
    /// The statement and its signatures.
    pub signed: Signed,
    /// Where its artifact lies.
    pub url: String,
    /// What was wrong with files that came whole.
    pub spoiled: u32,
    /// Whether the artifact is here, and was checked.
    pub fetched: bool,
}

/// What was sent, or is about to be: the same bytes for one artifact for ever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// What they go on from, zeros before the first.
    pub artifact: Hash,
    /// BLAKE3 of the file.
    pub hash: Hash,
    /// Its bytes.
    pub bytes: u64,
    /// Rank of the update.
    pub rank: u32,
    /// The device's commit.
    pub generation: u64,
    /// The round that has it; none before a receipt.
    pub round: Option<u64>,
}

/// An update that the server would not have; the next commit may make another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// What it went on from.
    pub artifact: Hash,
    /// The commit.
    pub generation: u64,
}

/// What went over the network on one day, by the server's time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Day {
    /// Days since 1970.
    pub number: u64,
    /// Bytes of updates that were sent.
    pub up: u64,
    /// Bytes of artifacts that came.
    pub down: u64,
}

impl Day {
    /// What is spent of the day on which it is so late.
    pub(super) fn at(self, time_ms: u64) -> Self {
        let number = time_ms / 86_400_000;
        if number == self.number { self } else { Self { number, up: 0, down: 0 } }
    }
}

impl Book {
    /// The first page: a person gave a link, and nothing is known beyond it.
    pub(super) fn new(link: &Link, name: String, device: DeviceId) -> Self {
        Self {
            fleet: link.fleet,
            host: link.host.clone(),
            pin: link.pin,
            first_trust: link.trust,
            token: link.token.clone(),
            name,
            device,
            state: None,
            label: None,
            trust: None,
            counter: 0,
            cohort: None,
            taken: Vec::new(),
            pending: None,
            acked: Vec::new(),
            failures: Vec::new(),
            sent: None,
            given: Vec::new(),
            refused: None,
            day: Day::default(),
            takes_unnamed: false,
        }
    }

    /// The same fleet by another link: what was taken and sent stays.
    pub(super) fn again(&self, link: &Link, name: String) -> Self {
        let new = Self::new(link, name, self.device);
        let Self { host, pin, token, name, .. } = new;
        Self { host, pin, token, name, state: None, ..self.clone() }
    }

    /// Whether the server has said that it knows the device, and has not let go of it.
    pub(super) fn is_member(&self) -> bool {
        use DeviceState::{Accepted, Pending, Suspended};
        matches!(self.state, Some(Accepted | Pending | Suspended))
    }

    /// Reads one.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, StoreError> {
        let body = BOOK.open(bytes)?;
        let damaged = |problem| StoreError::Damaged { file: BOOK.name, problem };
        let book: Self =
            serde_json::from_slice(body).map_err(|_| damaged("its fields are others"))?;
        match book.is_bounded() {
            true => Ok(book),
            false => Err(damaged("a list, a text or a number is beyond any that is written")),
        }
    }

    /// Its bytes.
    pub(super) fn write(&self) -> Result<Vec<u8>, StoreError> {
        let damaged = |problem| StoreError::Damaged { file: BOOK.name, problem };
        let body = serde_json::to_vec(self).map_err(|_| damaged("it cannot be written"))?;
        match body.len() <= BOOK.bytes_max && self.is_bounded() {
            true => Ok(BOOK.seal(&body)),
            false => Err(damaged("it would be longer than may be")),
        }
    }

    fn is_bounded(&self) -> bool {
        self.counter <= FLEET_INTEGER_MAX
            && self.pending.as_ref().is_none_or(|one| one.spoiled <= SPOILED_MAX)
            && self.host.len() <= FLEET_PATH_BYTES_MAX
            && (1..=FLEET_NAME_BYTES_MAX).contains(&self.name.len())
            && self.label.as_ref().is_none_or(|label| label.len() <= FLEET_NAME_BYTES_MAX)
            && self.pending.as_ref().is_none_or(|one| one.url.len() <= FLEET_PATH_BYTES_MAX)
            && self.taken.len() <= COHORTS_MAX
            && self.given.len() <= GIVEN_MAX
            && self.acked.len() <= ACKED_MAX
            && self.failures.len() <= FLEET_REPORTS_MAX
    }

    /// Numbers for the check-ins to come, from the counter as it was on.
    pub(super) fn reserve(&mut self) {
        self.counter = self.counter.saturating_add(COUNTER_STEP);
    }

    /// The device is of this cohort from now on. What was under way in another ends.
    pub(super) fn belong(&mut self, cohort: CohortId) {
        if self.cohort == Some(cohort) {
            return;
        }
        self.takes_unnamed &= self.cohort.is_none();
        self.cohort = Some(cohort);
        (self.pending, self.sent, self.refused) = (None, None, None);
        self.given.clear();
        self.acked.clear();
        self.failures.clear();
    }

    /// The highest sequence that was ever taken in its cohort, 0 before the first.
    pub fn taken(&self) -> u64 {
        let own = self.taken.iter().find(|(cohort, _)| Some(*cohort) == self.cohort);
        own.map_or(0, |(_, sequence)| *sequence)
    }

    /// Takes a statement.
    pub(super) fn take(&mut self, cohort: CohortId, sequence: u64, pending: Pending) {
        self.taken.retain(|(other, _)| *other != cohort);
        self.taken.push((cohort, sequence));
        self.taken.drain(..self.taken.len().saturating_sub(COHORTS_MAX));
        self.pending = Some(pending);
    }

    /// Notes what goes out from now on for its artifact.
    pub(super) fn contribute(&mut self, sent: Sent) {
        let artifact = sent.artifact;
        let before = self.sent.replace(sent);
        self.given.extend(before.map(|before| before.artifact));
        self.given.retain(|given| *given != artifact);
        self.given.drain(..self.given.len().saturating_sub(GIVEN_MAX));
    }

    /// Notes that the server keeps these reports.
    pub(super) fn acknowledge(&mut self, sequences: &[u64]) {
        self.failures.retain(|report| !sequences.contains(&report.sequence));
        self.acked.retain(|known| !sequences.contains(known));
        self.acked.extend(sequences);
        self.acked.drain(..self.acked.len().saturating_sub(ACKED_MAX));
    }

    /// Notes that a statement never comes to the learner.
    pub(super) fn fail(&mut self, report: Report) {
        self.pending = None;
        self.failures.retain(|other| other.sequence != report.sequence);
        self.failures.push(report);
        self.failures.drain(..self.failures.len().saturating_sub(FLEET_REPORTS_MAX));
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;
    use sapwood_protocol::fleet::id::Bytes;
    use sapwood_protocol::fleet::message::Outcome;

    fn book() -> Book {
        let link =
            "sapwood+https://fleet.example/#fleet=000102030405060708090a0b0c0d0e0f&token=t&trust=";
        let link: Link = format!("{link}{}", "0".repeat(64)).parse().unwrap();
        Book::new(&link, "kiosk".into(), DeviceId([7; 16]))
    }

    #[test]
    fn a_book_is_read_as_it_was_written_and_damage_is_named() {
        let book = book();
        let bytes = book.write().unwrap();
        assert_eq!(Book::read(&bytes).unwrap(), book);
        let fields = BOOK.seal(b"{\"fleet\":7}");
        let said = Book::read(&fields).unwrap_err().to_string();
        assert!(said.contains("book") && said.contains("fleet leave"), "{said}");
        let pending = |spoiled| {
            let signed = Signed { statement: Bytes(Vec::new()), signatures: Bytes(Vec::new()) };
            Some(Pending { signed, url: String::new(), spoiled, fetched: false })
        };
        for large in [
            Book { acked: vec![1; ACKED_MAX + 1], ..book.clone() },
            Book { counter: u64::MAX, ..book.clone() },
            Book { pending: pending(u32::MAX), ..book },
        ] {
            assert!(Book::read(&BOOK.seal(&serde_json::to_vec(&large).unwrap())).is_err());
            assert!(large.write().is_err());
        }
    }

    #[test]
    fn lists_are_bounded_and_the_oldest_goes_first() {
        let mut book = book();
        let report = |sequence| Report {
            sequence,
            outcome: Outcome::Failed,
            reason: "x".into(),
            before: None,
            after: None,
        };
        (1..=40).for_each(|sequence| book.fail(report(sequence)));
        assert_eq!((book.failures.len(), book.failures[0].sequence), (16, 25));
        (1..=40).for_each(|sequence| book.acknowledge(&[sequence]));
        assert_eq!((book.acked.len(), book.acked[0], book.failures.len()), (32, 9, 0));
        book.acknowledge(&[40, 9]);
        assert_eq!(book.acked.len(), 32);
        assert!(book.write().is_ok());
    }

    #[test]
    fn a_day_ends_at_the_server_s_midnight() {
        let day = Day { number: 10, up: 3, down: 4 };
        assert_eq!(day.at(10 * 86_400_000 + 5), day);
        assert_eq!(day.at(11 * 86_400_000), Day { number: 11, up: 0, down: 0 });
    }

    #[test]
    fn joining_again_keeps_what_was_taken_and_sent() {
        let mut old = book();
        old.belong(CohortId([3; 32]));
        old.taken = vec![(CohortId([2; 32]), 12), (CohortId([3; 32]), 9)];
        (old.counter, old.token) = (32, None);
        let link = "sapwood+https://new.example/#fleet=000102030405060708090a0b0c0d0e0f&trust=";
        let link: Link = format!("{link}{}", "0".repeat(64)).parse().unwrap();
        let new = old.again(&link, "other".into());
        assert_eq!((new.taken(), new.counter, new.device), (9, 32, old.device));
        assert_eq!((new.host.as_str(), new.name.as_str()), ("new.example", "other"));
    }
}

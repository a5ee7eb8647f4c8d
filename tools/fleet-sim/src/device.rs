//! A simulated device: what it remembers, what it says, what follows from what it hears.
//!
//! - It keeps a few hundred bytes: updates are made again when they are wanted, downloads are hashed as they
//!   come. What a power cut takes is what the real device has in memory alone.
//! - In: answers, times, luck. Out: messages, and when it wakes up next.
//! - Never here: sockets, clocks.

use crate::luck::Luck;
use crate::weather::Traits;
use sapwood_protocol::fleet::id::{DeviceId, Hash};
use sapwood_protocol::fleet::key::SecretKey;
use sapwood_protocol::fleet::message::{
    CheckIn, DeviceState, Enroll, Facts, Installed, Invite, Outcome, Ready, Report,
};
use sapwood_protocol::fleet::statement::Statement;

/// Numbers of check-ins that are made durable at once: after a power cut the next one follows them.
const RESERVED: u64 = 64;
/// What its program calls itself.
const AGENT: &str = concat!("fleet-sim/", env!("CARGO_PKG_VERSION"));
/// What a clock that has lost the time shows, ms since 1970.
const LOST_MS: u64 = 60_000;

/// An artifact on its way.
#[derive(Clone, Debug)]
pub struct Fetch {
    /// What was taken.
    pub statement: Statement,
    /// Where it lies.
    pub url: String,
    /// Bytes that lie on the disk.
    pub have: u64,
    /// Their hash.
    pub hasher: blake3::Hasher,
}

/// What runs on trial.
#[derive(Clone, Copy, Debug)]
struct Trial {
    ends_ms: u64,
    outcome: Outcome,
    before: Installed,
}

/// A device.
#[derive(Clone, Debug)]
pub struct Device {
    /// Its place among all.
    pub number: u32,
    /// Where in the network it is: a copy shares all but this with the one it was copied from.
    pub address: u32,
    /// Its key.
    pub key: SecretKey,
    /// Its name.
    pub id: DeviceId,
    /// What it meets.
    pub traits: Traits,
    /// Whether it takes candidates.
    pub lab: bool,
    /// What it draws from.
    pub luck: Luck,
    /// What the server thinks of it; nothing before it enrolled.
    pub state: Option<DeviceState>,
    /// What is on its way.
    pub fetch: Option<Box<Fetch>>,
    /// The update that it was asked for.
    pub invite: Option<Invite>,
    /// Calls that came to nothing in a row.
    pub failures: u32,
    /// Whether its clock was told the time since it started.
    told: bool,
    counter: u64,
    reserved: u64,
    installed: Installed,
    taken: u64,
    trial: Option<Trial>,
    reports: Vec<Report>,
    generation: u64,
}

/// What is installed before anything is.
const NOTHING: Installed = Installed { sequence: 0, artifact: Hash([0; 32]) };

impl Device {
    /// One that has not called yet.
    pub fn new(seed: u64, number: u32, traits: Traits, lab: bool) -> Self {
        let bytes = [&b"fleet-sim"[..], &seed.to_le_bytes(), &number.to_le_bytes()].concat();
        let key = SecretKey::from_seed(&Hash::of(&bytes).0);
        Self {
            number,
            address: number,
            id: key.public().device(),
            key,
            traits,
            lab,
            luck: Luck::of(seed, 6 << 40 | u64::from(number)),
            state: None,
            fetch: None,
            invite: None,
            failures: 0,
            told: false,
            counter: 1,
            reserved: 1,
            installed: NOTHING,
            taken: 0,
            trial: None,
            reports: Vec::new(),
            generation: 1,
        }
    }

    /// The time that it signs with.
    pub fn time_ms(&self, now_ms: u64) -> u64 {
        if self.traits.old_clock && !self.told { LOST_MS } else { now_ms }
    }

    /// The server says what time it is; whether that is news.
    pub fn hears_time(&mut self) -> bool {
        !std::mem::replace(&mut self.told, true)
    }

    /// The power goes, and comes back: what was in memory alone is lost.
    pub fn restarts(&mut self) {
        self.told = false;
        self.counter = self.reserved;
        self.invite = None;
    }

    /// How it asks to take part.
    pub fn enrols(&self, token: Option<&str>, facts: Facts) -> Enroll {
        Enroll {
            public_key: self.key.public(),
            token: token.map(Into::into),
            name: format!("sim-{}", self.number),
            facts,
        }
    }

    /// What it says next.
    pub fn checks_in(&mut self, facts: Facts) -> CheckIn {
        if self.counter >= self.reserved {
            self.reserved = self.counter + RESERVED;
        }
        let counter = self.counter;
        self.counter += 1;
        let tokens = 1000 + u64::from(self.number) % 1000;
        CheckIn {
            counter,
            agent: AGENT.into(),
            facts,
            installed: (self.installed.sequence > 0).then_some(self.installed),
            trial: self.trial.is_some(),
            candidates: Some(self.lab),
            generation: self.generation,
            ready: self.trial.is_none().then_some(Ready { steps: 40, tokens }),
            reports: self.reports.clone(),
        }
    }

    /// What the server keeps need not be said again.
    pub fn forgets(&mut self, acked: &[u64]) {
        self.reports.retain(|report| !acked.contains(&report.sequence));
    }

    /// The highest sequence that it took.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// The artifact that it runs, zeros for none.
    pub fn runs(&self) -> Hash {
        self.installed.artifact
    }

    /// Takes a statement, whose artifact is to be fetched; what is on trial then was taken back.
    pub fn takes(&mut self, statement: Statement, url: String) {
        self.taken = statement.sequence;
        if let Some(trial) = &mut self.trial {
            (trial.ends_ms, trial.outcome) = (0, Outcome::Reverted);
        }
        let hasher = blake3::Hasher::new();
        self.fetch = Some(Box::new(Fetch { statement, url, have: 0, hasher }));
    }

    /// The file is not the one that was signed.
    pub fn spoiled(&mut self, statement: &Statement) {
        self.fetch = None;
        self.ends(statement.sequence, Outcome::Failed, "another file came than was signed");
    }

    /// Its gate keeps what was there.
    pub fn declines(&mut self, statement: &Statement) {
        self.fetch = None;
        self.ends(statement.sequence, Outcome::Declined, "own text would be worse");
    }

    /// Installs what was fetched, on trial; `outcome` is what will come of it.
    pub fn installs(&mut self, statement: &Statement, outcome: Outcome, ends_ms: u64) {
        self.fetch = None;
        self.generation += 1;
        self.trial = Some(Trial { ends_ms, outcome, before: self.installed });
        self.installed = Installed { sequence: statement.sequence, artifact: statement.artifact };
    }

    /// When its trial ends.
    pub fn trial_ends_ms(&self) -> Option<u64> {
        self.trial.map(|trial| trial.ends_ms)
    }

    /// Ends a trial whose time has come: how.
    pub fn settles(&mut self, now_ms: u64) -> Option<Outcome> {
        let trial = self.trial.take_if(|trial| now_ms >= trial.ends_ms)?;
        let sequence = self.installed.sequence;
        let reason = match trial.outcome {
            Outcome::Reverted => {
                self.installed = trial.before;
                self.generation += 1;
                "worse on a second look"
            }
            _ => "as good on a second look",
        };
        self.ends(sequence, trial.outcome, reason);
        Some(trial.outcome)
    }

    fn ends(&mut self, sequence: u64, outcome: Outcome, reason: &str) {
        let (before, after) =
            (Some(2.0), Some(if outcome == Outcome::Confirmed { 1.9 } else { 2.1 }));
        self.reports.push(Report { sequence, outcome, reason: reason.into(), before, after });
    }

    /// The same folder on another machine, as it lies on the disk.
    pub fn copied(&self, address: u32) -> Self {
        let mut copy = Self { address, ..self.clone() };
        copy.luck = Luck::of(self.luck.clone().draw(), u64::from(address));
        copy.restarts();
        copy
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;
    use crate::shape::Shape;
    use crate::weather::Weather;
    use sapwood_protocol::fleet::id::{CohortId, FleetId};
    use sapwood_protocol::fleet::statement::Role;

    fn device() -> (Device, Facts) {
        let weather = Weather { old_clocks: 1.0, ..Weather::default() };
        let facts = Shape::from_name("tiny").unwrap().facts();
        (Device::new(1, 7, weather.traits(1, 7), false), facts)
    }

    fn statement(sequence: u64) -> Statement {
        Statement {
            role: Role::Release,
            fleet: FleetId([1; 16]),
            cohort: CohortId([2; 32]),
            sequence,
            issued_s: 1,
            expires_s: 2,
            artifact_bytes: 10,
            artifact: Hash([sequence as u8; 32]),
        }
    }

    #[test]
    fn a_power_cut_repeats_no_number_and_forgets_the_time() {
        let (mut device, facts) = device();
        let before: Vec<u64> = (0..200).map(|_| device.checks_in(facts).counter).collect();
        assert!(device.hears_time() && device.time_ms(5_000_000) == 5_000_000);
        device.restarts();
        assert_eq!(device.time_ms(5_000_000), LOST_MS);
        assert!(device.checks_in(facts).counter > *before.last().unwrap());
    }

    #[test]
    fn a_copy_counts_ahead_of_the_one_that_goes_on() {
        let (mut device, facts) = device();
        device.checks_in(facts);
        let mut copy = device.copied(99);
        assert!(copy.checks_in(facts).counter > device.checks_in(facts).counter);
        assert_eq!(copy.id, device.id);
    }

    #[test]
    fn what_is_reverted_is_what_was_there_before_and_is_told_until_it_is_kept() {
        let (mut device, facts) = device();
        device.takes(statement(3), "/x".into());
        device.installs(&statement(3), Outcome::Confirmed, 100);
        assert!(device.settles(99).is_none() && device.checks_in(facts).trial);
        assert_eq!(device.settles(100), Some(Outcome::Confirmed));
        device.installs(&statement(4), Outcome::Reverted, 200);
        assert_eq!((device.runs().0[0], device.settles(200)), (4, Some(Outcome::Reverted)));
        let said = device.checks_in(facts);
        assert_eq!((said.installed.unwrap().sequence, said.reports.len()), (3, 2));
        device.forgets(&[3]);
        assert_eq!(device.checks_in(facts).reports[0].sequence, 4);
        device.installs(&statement(5), Outcome::Confirmed, 300);
        device.takes(statement(6), "/x".into());
        assert_eq!((device.settles(201), device.runs().0[0]), (Some(Outcome::Reverted), 3));
    }
}

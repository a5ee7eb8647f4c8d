//! The operator of the simulated fleet: opens rounds, promotes what comes of them, takes a bad release back.
//!
//! - Works on the fleet's folder beside the server, as the commands of `fleet-server` do.
//! - In: orders. Out: what happened, with simulated times.

use crate::time::Time;
use crate::world::World;
use anyhow::{Context, Result, bail};
use fleet_server::cohorts::Cohort;
use fleet_server::home::{self, Home};
use fleet_server::operator::releases::{self, Word};
use fleet_server::operator::rounds::{self as orders, Verdict};
use fleet_server::ports::{Clock, SystemChance};
use fleet_server::rollout::{self, Release, STAGES};
use fleet_server::rounds::{Round, State};
use sapwood_protocol::fleet::id::Hash;
use sapwood_protocol::fleet::key::SecretKey;
use serde_json::json;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Real time between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// A round, with simulated ms since the start; 0 for what did not come about.
#[derive(Clone, Copy, Debug, Default)]
pub struct RoundRow {
    /// Its number.
    pub id: u64,
    /// When it was opened.
    pub opened_ms: u64,
    /// When it was closed, or later by a look.
    pub closed_ms: u64,
    /// When it was merged.
    pub merged_ms: u64,
    /// When its release was published.
    pub released_ms: u64,
    /// When that was offered to all.
    pub whole_ms: u64,
    /// Devices that were asked.
    pub asked: u64,
    /// Uploads that came.
    pub came: u64,
}

/// What happened so far.
#[derive(Clone, Debug, Default)]
pub struct Story {
    /// Rounds, the oldest first.
    pub rounds: Vec<RoundRow>,
    /// Simulated ms since the start, and what happened.
    pub events: Vec<(u64, String)>,
}

/// The operator.
pub struct Operator {
    home: Home,
    world: Arc<World>,
    release: SecretKey,
    story: Arc<Mutex<Story>>,
    stop: Arc<AtomicBool>,
}

impl Operator {
    /// Of the fleet in a folder.
    ///
    /// # Errors
    /// What the server's library says.
    pub fn new(
        folder: &Path,
        world: Arc<World>,
        story: Arc<Mutex<Story>>,
        stop: Arc<AtomicBool>,
    ) -> Result<Self> {
        let home = Home::open(folder)?;
        let release = home::key(&folder.join("keys/release.key"))?;
        Ok(Self { home, world, release, story, stop })
    }

    fn time(&self) -> &Time {
        &self.world.time
    }

    fn tell(&self, what: String) {
        let at_ms = self.time().passed_ms();
        self.story.lock().unwrap_or_else(PoisonError::into_inner).events.push((at_ms, what));
    }

    fn cohort(&self) -> Result<Cohort> {
        Ok(orders::cohort(&self.home.book, None)?)
    }

    /// Changes the policy of the only cohort.
    ///
    /// # Errors
    /// What the server's library says.
    pub fn policy(&self, change: &str) -> Result<()> {
        orders::policy(&self.home.book, &self.cohort()?, change, self.time().now_ms())?;
        Ok(())
    }

    /// The newest release, if there is one.
    ///
    /// # Errors
    /// What the server's library says.
    pub fn newest(&self) -> Result<Option<Release>> {
        let all = rollout::all(&self.home.book, self.cohort()?.id)?;
        Ok(all.into_iter().next())
    }

    /// Looks until there is something; none when it is over.
    fn until<T>(&self, mut look: impl FnMut() -> Result<Option<T>>) -> Result<Option<T>> {
        while !self.stop.load(Ordering::Relaxed) {
            if let Some(found) = look()? {
                return Ok(Some(found));
            }
            std::thread::park_timeout(LOOK);
        }
        Ok(None)
    }

    /// Opens a round and waits for its merge; none where it failed, or when it is over.
    fn merged(&self, row: &mut RoundRow) -> Result<Option<Round>> {
        let (chance, now_ms) = (&SystemChance, self.time().now_ms());
        row.opened_ms = self.time().passed_ms();
        row.id = orders::open(&self.home, &self.cohort()?, chance, now_ms)?;
        let ended = self.until(|| {
            let round = orders::round(&self.home.book, row.id)?;
            if round.state != State::Open && row.closed_ms == 0 {
                row.closed_ms = self.time().passed_ms();
            }
            Ok(matches!(round.state, State::Merged | State::Failed).then_some(round))
        })?;
        let Some(round) = ended else { return Ok(None) };
        (row.asked, row.came) = (round.invited, round.stored);
        row.merged_ms = self.time().passed_ms();
        if round.state == State::Failed {
            self.tell(format!("round {} failed: {}", row.id, round.report.unwrap_or_default()));
            return Ok(None);
        }
        Ok(Some(round))
    }

    /// Plays a round to its release, which begins its stages; the sequence, if it came so far.
    fn round(&self, is_bad: bool, row: &mut RoundRow) -> Result<Option<u64>> {
        let Some(round) = self.merged(row)? else { return Ok(None) };
        let (artifact, bytes) = round.result.context("a merged round has a result")?;
        if is_bad {
            self.world.spoil(artifact);
        }
        let verdict =
            Verdict { who: "operator", artifact, bytes, report: json!({"by": "fleet-sim"}) };
        let now_ms = || self.time().now_ms();
        let candidate = orders::approve(&self.home, row.id, &verdict, now_ms())?;
        let (cohort, keys) = (self.cohort()?, [self.release.clone()]);
        let sequence = releases::promote(&self.home, &cohort, candidate, &keys, now_ms())?;
        row.released_ms = self.time().passed_ms();
        Ok(Some(sequence))
    }

    /// Plays rounds one after the other.
    ///
    /// - `hasty`: every release is offered to all at once; else the stages of the policy are waited for.
    /// # Errors
    /// What the server's library says.
    pub fn rounds(&self, count: u64, hasty: bool) -> Result<()> {
        for _ in 0..count {
            let mut row = RoundRow::default();
            let done = self.round(false, &mut row).and_then(|sequence| match sequence {
                Some(sequence) => self.whole(sequence, hasty, &mut row),
                None => Ok(()),
            });
            self.story.lock().unwrap_or_else(PoisonError::into_inner).rounds.push(row);
            done?;
            if self.stop.load(Ordering::Relaxed) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Waits until a release is offered to all.
    fn whole(&self, sequence: u64, hasty: bool, row: &mut RoundRow) -> Result<()> {
        let last = STAGES.len() as u64 - 1;
        let (book, cohort) = (&self.home.book, self.cohort()?.id);
        self.until(|| {
            let release = releases::release(book, cohort, sequence)?;
            match release.state {
                rollout::State::Active if release.stage < last && hasty => {
                    // The server may advance it at the same moment.
                    let _ =
                        releases::say(book, cohort, sequence, Word::Advance, self.time().now_ms());
                }
                rollout::State::Active if release.stage < last || !hasty => {}
                rollout::State::Active | rollout::State::Complete => {
                    row.whole_ms = self.time().passed_ms();
                    return Ok(Some(()));
                }
                state => {
                    let reason = release.reason.unwrap_or_default();
                    bail!("sequence {sequence} is {}: {reason}", state.name());
                }
            }
            Ok(None)
        })?;
        Ok(())
    }

    /// The drill: a good release to all at once; then a bad one by the stages, until they pause it; then back.
    ///
    /// - `react_ms`: simulated time that the operator takes to see it.
    /// # Errors
    /// What the server's library says.
    pub fn drill(&self, react_ms: u64) -> Result<()> {
        self.rounds(1, true)?;
        self.tell("a good release is offered to all".into());
        let mut row = RoundRow::default();
        let Some(sequence) = self.round(true, &mut row)? else { return Ok(()) };
        self.story.lock().unwrap_or_else(PoisonError::into_inner).rounds.push(row);
        self.tell(format!("a bad release, sequence {sequence}, begins at 1 %"));
        let Some(paused) = self.paused(sequence)? else { return Ok(()) };
        let reason = paused.reason.clone().unwrap_or_default();
        let percent = STAGES.get(paused.stage as usize).copied().unwrap_or(100);
        self.tell(format!(
            "it is {} at {percent} %: {reason}; {}",
            paused.state.name(),
            self.bad()
        ));
        let seen_ms = self.time().passed_ms() + react_ms;
        self.until(|| Ok((self.time().passed_ms() >= seen_ms).then_some(())))?;
        let (cohort, keys) = (self.cohort()?, [self.release.clone()]);
        let now_ms = self.time().now_ms();
        let (back, artifact) = releases::rollback(&self.home, &cohort, None, &keys, now_ms)?;
        self.tell(format!("an operator takes it back by sequence {back}; {}", self.bad()));
        self.gone(artifact)
    }

    fn paused(&self, sequence: u64) -> Result<Option<Release>> {
        let (book, cohort, mut stage) = (&self.home.book, self.cohort()?.id, 0);
        self.until(|| {
            let release = releases::release(book, cohort, sequence)?;
            if release.stage != stage {
                stage = release.stage;
                self.tell(format!("stage {stage}; {}", self.bad()));
            }
            Ok((release.state != rollout::State::Active).then_some(release))
        })
    }

    fn bad(&self) -> String {
        let [ran, run] =
            [&self.world.tally.ran_bad, &self.world.tally.run_bad].map(crate::tally::now);
        format!("{ran} devices ever ran it, {run} run it now")
    }

    /// Waits until nobody runs the bad release any more.
    fn gone(&self, back: Hash) -> Result<()> {
        let gone = || (crate::tally::now(&self.world.tally.run_bad) == 0).then_some(());
        if self.until(|| Ok(gone()))?.is_some() {
            self.tell(format!("nobody runs it any more, but artifact {back}; {}", self.bad()));
        }
        Ok(())
    }
}

//! A global adapter that is installed: on trial first, then confirmed, or its parent returns.
//!
//! ```text
//! install -> on trial -> confirm                        each arrow is one manifest
//!                    |-> revert, rollback: the parent, or the newest whole one before it
//! decline: nothing but the reason
//! ```
//! - Whoever starts takes a try before it loads anything; when none is left the parent returns.
//! - The manifest remembers the last installs with their outcome, each moved by the write that makes it
//!   true: whoever reports them reports none twice and loses none to a cut.
//! - While a generation is on trial nothing is committed on top of it.
//! - A sequence says nothing without its series: another fleet counts its releases from 1 too.
//! - An install takes a start before it begins: one that brings every start down is given up.
//! - Invariant: the parent of a generation on trial is kept.

use super::manifest::{Manifest, limit};
use super::{Commit, State, StateError, recover};
use rkyv::{Archive, Deserialize, Serialize};
use sapwood_protocol::limits::{
    COUNT_MAX, FLEET_REASON_BYTES_MAX, INSTALL_STARTS_MAX, INSTALLS_MAX, RANK_MAX, TRIES_MAX,
};

/// Whose releases are counted together: sequences of another fleet or cohort are others.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Series {
    /// The fleet.
    pub fleet: [u8; 16],
    /// The cohort; two fleets may have one of the same name.
    pub cohort: [u8; 32],
}

/// The global adapter that a generation stands on: the first ranks of every layer.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Global {
    /// Its rank R.
    pub ranks: u32,
    /// BLAKE3 of its file.
    pub artifact: [u8; 32],
    /// Of the statement that offered it.
    pub sequence: u64,
    /// What that counts in; none by hand, or where an earlier version did not keep it.
    pub series: Option<Series>,
}

impl Global {
    pub(super) fn check(&self) -> Result<(), StateError> {
        if self.ranks == 0 {
            let what = "a global adapter of rank";
            return Err(StateError::Manifest { what, got: u64::from(self.ranks) });
        }
        limit("ranks of a global adapter", RANK_MAX as u64, u64::from(self.ranks))?;
        limit("sequence of a global adapter", COUNT_MAX, self.sequence)
    }
}

/// What was learned since the global adapter was installed; before any, since the first step.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Since {
    /// Optimiser steps.
    pub steps: u64,
    /// Tokens of the text that was learned in them; 0 where an earlier version did not count.
    pub tokens: u64,
}

impl Since {
    /// All steps of a life in which nothing was installed.
    pub(super) fn all(steps: u64) -> Self {
        Self { steps, tokens: 0 }
    }
}

/// A generation in use that nothing has confirmed yet.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trial {
    /// Its number.
    pub generation: u64,
    /// The generation that returns if it is not confirmed, 0 for the bare base.
    pub parent: u64,
    /// Starts that it may still have.
    pub tries_left: u32,
}

/// What became of an install.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstallOutcome {
    /// It is on trial.
    Trialled,
    /// It was as good at the second look, and stays.
    Confirmed,
    /// It ran, and the generation before it returned.
    Reverted,
    /// What was there stayed.
    Declined,
    /// It could not be read, or its install failed again and again; what was there stayed.
    Failed,
}

/// An install of a global adapter, as it is remembered.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Install {
    /// Of the statement that offered it.
    pub sequence: u64,
    /// What that counts in; none by hand, or where an earlier version did not keep it.
    pub series: Option<Series>,
    /// BLAKE3 of its file.
    pub artifact: [u8; 32],
    /// What became of it.
    pub outcome: InstallOutcome,
    /// Why, in one line.
    pub reason: String,
    /// Bits per byte of held-out text with what was there before, where it was measured.
    pub before: Option<f64>,
    /// The same with it.
    pub after: Option<f64>,
}

impl Install {
    pub(super) fn check(&self) -> Result<(), StateError> {
        limit("sequence of an install", COUNT_MAX, self.sequence)?;
        let (most, got) = (FLEET_REASON_BYTES_MAX as u64, self.reason.len() as u64);
        limit("bytes of an install's reason", most, got)
    }
}

/// An install that was begun and has not ended.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// What its sequence counts in.
    pub series: Option<Series>,
    /// Of the statement that offers it.
    pub sequence: u64,
    /// Starts that it has taken, those that were given back left out.
    pub starts: u32,
}

impl Attempt {
    pub(super) fn check(&self) -> Result<(), StateError> {
        limit("sequence of an install", COUNT_MAX, self.sequence)?;
        limit("starts of an install", u64::from(INSTALL_STARTS_MAX), u64::from(self.starts))
    }
}

/// A reason as long as a report may have it.
fn short(reason: &str) -> String {
    reason[..reason.floor_char_boundary(FLEET_REASON_BYTES_MAX)].to_owned()
}

impl Manifest {
    fn remember(&mut self, mut install: Install) {
        if self.installs.len() >= INSTALLS_MAX {
            self.installs.remove(0);
        }
        install.reason = short(&install.reason);
        let ended = (install.series, install.sequence);
        self.attempt.take_if(|attempt| (attempt.series, attempt.sequence) == ended);
        self.installs.push(install);
    }

    /// Ends the trial where another generation is in use than the one on trial.
    pub(super) fn leave_trial(&mut self, reason: &str) {
        if self.trial.is_some_and(|trial| trial.generation != self.current) {
            self.end_trial(InstallOutcome::Reverted, reason, None);
        }
    }

    fn end_trial(&mut self, outcome: InstallOutcome, reason: &str, after: Option<f64>) {
        self.trial = None;
        let on_trial = |install: &&mut Install| install.outcome == InstallOutcome::Trialled;
        if let Some(install) = self.installs.iter_mut().rfind(on_trial) {
            install.outcome = outcome;
            install.reason = short(reason);
            install.after = after.or(install.after);
        }
    }

    /// The highest sequence of a series that was taken, 0 before any.
    fn taken(&self, series: Option<Series>) -> u64 {
        let installs = self.installs.iter().map(|install| (install.series, install.sequence));
        let globals = self.generations.iter().filter_map(|kept| kept.global);
        let all = installs.chain(globals.map(|global| (global.series, global.sequence)));
        all.filter(|(of, _)| *of == series).map(|(_, sequence)| sequence).max().unwrap_or(0)
    }
}

impl State {
    /// The generation on trial.
    pub fn trial(&self) -> Option<Trial> {
        self.manifest.trial
    }

    /// The global adapter that the generation in use stands on.
    pub fn global(&self) -> Option<Global> {
        self.current().and_then(|generation| generation.global)
    }

    /// Its rank, 0 without one: so many first ranks never move.
    pub fn ranks(&self) -> usize {
        self.global().map_or(0, |global| global.ranks as usize)
    }

    /// The last installs of a global adapter, oldest first.
    pub fn installs(&self) -> &[Install] {
        &self.manifest.installs
    }

    /// The install that was begun and has not ended.
    pub fn attempt(&self) -> Option<Attempt> {
        self.manifest.attempt
    }

    /// The highest sequence of a series that was taken, 0 before any.
    pub fn taken(&self, series: Option<Series>) -> u64 {
        self.manifest.taken(series)
    }

    /// Whether an offer of that sequence of its series can be taken now.
    ///
    /// # Errors
    /// [`StateError::OnTrial`], [`StateError::Taken`].
    pub fn may_install(&self, series: Option<Series>, sequence: u64) -> Result<(), StateError> {
        self.may_commit()?;
        let taken = self.taken(series);
        if sequence > taken { Ok(()) } else { Err(StateError::Taken { taken, got: sequence }) }
    }

    /// Whether a job can be committed now.
    ///
    /// # Errors
    /// [`StateError::OnTrial`].
    pub fn may_commit(&self) -> Result<(), StateError> {
        match self.manifest.trial {
            Some(Trial { generation, .. }) => Err(StateError::OnTrial { generation }),
            None => Ok(()),
        }
    }

    /// Takes one of the starts that an install has, before it begins: how many it has taken then; none, and
    /// nothing is changed, where it had them all and never came to its end.
    ///
    /// # Errors
    /// [`StateError::OnTrial`], [`StateError::Taken`], [`StateError::Storage`], [`StateError::Sync`].
    pub fn begin_install(
        &mut self,
        series: Option<Series>,
        sequence: u64,
    ) -> Result<Option<u32>, StateError> {
        self.usable()?;
        self.may_install(series, sequence)?;
        let is_this = |known: &Attempt| (known.series, known.sequence) == (series, sequence);
        let starts = 1 + self.manifest.attempt.filter(is_this).map_or(0, |known| known.starts);
        if starts > INSTALL_STARTS_MAX {
            return Ok(None);
        }
        self.attempted(Some(Attempt { series, sequence, starts }))?;
        Ok(Some(starts))
    }

    /// Gives a start back: what ended it was told to.
    ///
    /// # Errors
    /// [`StateError::Storage`], [`StateError::Sync`]: it counts.
    pub fn excuse_install(&mut self) -> Result<(), StateError> {
        self.usable()?;
        let Some(attempt) = self.manifest.attempt else { return Ok(()) };
        let starts = attempt.starts.saturating_sub(1);
        self.attempted(Some(Attempt { starts, ..attempt }).filter(|left| left.starts > 0))
    }

    fn attempted(&mut self, attempt: Option<Attempt>) -> Result<(), StateError> {
        let next = Manifest { attempt, ..self.manifest.clone() };
        let result = self.flip(next);
        self.note(result)
    }

    /// Makes an install current, on trial: no sample of the inbox is taken with it. Returns the new
    /// generation's number.
    ///
    /// # Errors
    /// [`StateError::OnTrial`], [`StateError::Taken`], and as [`State::commit`].
    pub fn install(&mut self, commit: Commit<'_>, install: Install) -> Result<u64, StateError> {
        self.usable()?;
        self.may_install(install.series, install.sequence)?;
        let parent = self.manifest.current;
        let result = self.try_commit(commit, |next| {
            let generation = next.current;
            next.trial = Some(Trial { generation, parent, tries_left: TRIES_MAX });
            next.remember(Install { outcome: InstallOutcome::Trialled, ..install });
        });
        self.note(result)
    }

    /// Remembers an install that changed nothing: declined, or of what is in use already.
    ///
    /// # Errors
    /// [`StateError::OnTrial`], [`StateError::Taken`], [`StateError::Limit`], [`StateError::Storage`],
    /// [`StateError::Sync`].
    pub fn decline(&mut self, install: Install) -> Result<(), StateError> {
        self.usable()?;
        self.may_install(install.series, install.sequence)?;
        let mut next = self.manifest.clone();
        next.remember(install);
        let result = self.flip(next);
        self.note(result)
    }

    /// Takes one of the starts that a generation on trial has; where none is left the parent returns. What
    /// is on trial afterwards.
    ///
    /// # Errors
    /// [`StateError::Storage`]; [`StateError::Sync`], after which the next start finds one try less or not.
    pub fn take_try(&mut self) -> Result<Option<Trial>, StateError> {
        let Some(trial) = self.manifest.trial else { return Ok(None) };
        let Some(tries_left) = trial.tries_left.checked_sub(1) else {
            self.revert(&format!("it was started {TRIES_MAX} times and never confirmed"))?;
            return Ok(None);
        };
        self.usable()?;
        let trial = Trial { tries_left, ..trial };
        let next = Manifest { trial: Some(trial), ..self.manifest.clone() };
        let result = self.flip(next);
        self.note(result)?;
        Ok(Some(trial))
    }

    /// The generation on trial stays.
    ///
    /// - `after`: bits per byte of held-out text at the second look, where there was one.
    ///
    /// # Errors
    /// [`StateError::NoTrial`], [`StateError::Storage`], [`StateError::Sync`].
    pub fn confirm(&mut self, reason: &str, after: Option<f64>) -> Result<(), StateError> {
        self.usable()?;
        self.manifest.trial.ok_or(StateError::NoTrial)?;
        let mut next = self.manifest.clone();
        next.end_trial(InstallOutcome::Confirmed, reason, after);
        let result = self.flip(next);
        self.note(result)
    }

    /// The parent of the generation on trial returns, with its learner; where it is not whole, the newest
    /// kept one before it. Returns its number, 0 for the bare base.
    ///
    /// # Errors
    /// [`StateError::NoTrial`], [`StateError::Storage`], [`StateError::Sync`].
    pub fn revert(&mut self, reason: &str) -> Result<u64, StateError> {
        self.usable()?;
        let Trial { generation, parent, .. } = self.manifest.trial.ok_or(StateError::NoTrial)?;
        let number = self.whole_before(generation, parent)?;
        let mut next = Manifest { current: number, ..self.manifest.clone() };
        next.leave_trial(reason);
        let result = self.flip(next);
        self.note(result)?;
        Ok(number)
    }

    /// The parent, or the newest kept generation before `generation` whose files are as committed.
    fn whole_before(&self, generation: u64, parent: u64) -> Result<u64, StateError> {
        let kept = self.manifest.generations.iter().rev().map(|kept| kept.number);
        let before = kept.filter(|number| *number < generation && *number != parent);
        for number in [parent].into_iter().chain(before) {
            match recover::sound(&*self.storage, &self.manifest, number) {
                Err(StateError::Unknown { .. }) => {}
                Err(error) if error.is_damage() => {}
                sound => return sound.map(|()| number),
            }
        }
        Ok(0)
    }
}

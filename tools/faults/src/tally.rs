//! What was tried and what was found, and the table that says so.

use crate::place::Place;
use std::collections::{BTreeMap, HashSet};
use std::fmt;

/// Violations after which a campaign ends: the rest would be more of the same.
const VIOLATIONS_MAX: usize = 8;

/// Counts of a campaign.
#[derive(Debug, Default)]
pub struct Tally {
    /// Lives lived.
    pub lives: u64,
    /// Moments at which power was cut.
    pub cuts: u64,
    /// Disks that a cut left, second cuts among them.
    pub states: u64,
    /// Digests of those that differ.
    pub distinct: HashSet<u128>,
    /// Of the states, those that recovery changed.
    pub recovered: u64,
    /// Of the states, those of a cut in recovery.
    pub again: u64,
    /// Lives that went on from a state to the end.
    pub went_on: u64,
    /// Runs with a failing disk, by kind.
    pub failures: BTreeMap<&'static str, u64>,
    /// Damaged folders, by kind and outcome.
    pub damages: BTreeMap<(&'static str, &'static str), u64>,
    /// States that broke a promise.
    pub violations: Vec<(Place, String)>,
}

impl Tally {
    /// Counts a state.
    pub fn state(&mut self, digest: u128) {
        self.states += 1;
        self.distinct.insert(digest);
    }

    /// Notes a broken promise.
    pub fn violation(&mut self, place: Place, what: String) {
        self.violations.push((place, what));
    }

    /// Whether so much is wrong that more says nothing new.
    pub fn is_full(&self) -> bool {
        self.violations.len() >= VIOLATIONS_MAX
    }

    /// Distinct states.
    pub fn distinct(&self) -> u64 {
        self.distinct.len() as u64
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut row = |what: &str, count: u64| writeln!(to, "{what:<48}{count:>12}");
        row("lives", self.lives)?;
        row("power cuts", self.cuts)?;
        row("disks that they left", self.states)?;
        row("  distinct", self.distinct())?;
        row("  of a second cut, in recovery", self.again)?;
        row("  changed by recovery", self.recovered)?;
        row("lives that went on from one to the end", self.went_on)?;
        for (kind, count) in &self.failures {
            row(&format!("runs with {kind}"), *count)?;
        }
        for ((kind, outcome), count) in &self.damages {
            row(&format!("{kind}: {outcome}"), *count)?;
        }
        row("violations", self.violations.len() as u64)?;
        for (place, what) in &self.violations {
            writeln!(to, "--only {place}\n    {what}")?;
        }
        Ok(())
    }
}

//! What was played, as lines of JSON in a file that only grows.
//!
//! - In: events of one fleet. Out: the same, in memory and in `fleet.jsonl`, whose first line says of what
//!   fleet they are.
//! - Invariant: a rule of a seed counts when all of its rounds are there; a part of it is played again.

use super::play::{Event, Recall, Round};
use super::rule::Rule;
use super::way::Way;
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// What of a fleet decides its numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Setup {
    /// The start of the base's hash.
    pub(crate) base: String,
    pub(crate) domains: Vec<String>,
    pub(crate) devices: usize,
    /// The last of them are hostile where an attack is played.
    #[serde(default)]
    pub(crate) hostile: usize,
    pub(crate) rounds: usize,
    pub(crate) iters: u64,
    /// Of them after what is sent.
    #[serde(default)]
    pub(crate) late: u64,
    /// Of an own part, and of the merged adapter.
    pub(crate) ranks: [usize; 2],
    pub(crate) eta: f64,
    /// Whether a judge chose it, as the server does.
    #[serde(default)]
    pub(crate) judged: bool,
    pub(crate) eval_blocks: usize,
}

/// All events of a fleet.
pub(crate) struct Record {
    folder: PathBuf,
    file: File,
    pub(crate) setup: Setup,
    pub(crate) rounds: Vec<Round>,
    pub(crate) recalls: Vec<Recall>,
}

impl Record {
    /// The record in a folder, which is made if it is not there.
    ///
    /// # Errors
    /// When the lines that are there are of another fleet, or none of ours.
    pub(crate) fn open(folder: &Path, setup: Setup) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let path = folder.join("fleet.jsonl");
        let text = if path.exists() { fs::read_to_string(&path)? } else { String::new() };
        let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
        if !text.is_empty() && !text.ends_with('\n') {
            writeln!(file)?;
        }
        let mut lines = text.lines();
        match lines.next() {
            None => writeln!(file, "{}", serde_json::to_string(&setup)?)?,
            Some(line) => {
                let found: Setup = serde_json::from_str(line)
                    .with_context(|| format!("{}: the first line", path.display()))?;
                ensure!(
                    found == setup,
                    "{} is of another fleet, expected {setup:?}, got {found:?}; it is unchanged",
                    path.display()
                );
            }
        }
        let (rounds, recalls) = (Vec::new(), Vec::new());
        let mut record = Self { folder: folder.to_owned(), file, setup, rounds, recalls };
        for line in lines {
            // A line that was cut off is played again with the rest of its rule.
            if let Ok(event) = serde_json::from_str(line) {
                record.take(event);
            }
        }
        Ok(record)
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Round(round) => {
                let key = |it: &Round| (it.seed, it.rule.clone(), it.round);
                self.rounds.retain(|it| key(it) != key(&round));
                self.rounds.push(round);
            }
            Event::Recall(recall) => {
                let key = |it: &Recall| (it.seed, it.of.clone(), it.eta.to_bits());
                self.recalls.retain(|it| key(it) != key(&recall));
                self.recalls.push(recall);
            }
        }
    }

    /// Keeps an event, and prints it if that is wanted.
    pub(crate) fn add(&mut self, event: Event, print: bool) -> Result<()> {
        let line = serde_json::to_string(&event)?;
        writeln!(self.file, "{line}")?;
        if print {
            writeln!(std::io::stdout(), "{line}")?;
        } else if let Event::Round(Round { seed, rule, round, .. }) = &event {
            eprintln!("seed {seed}: {rule}, round {round}");
        }
        self.take(event);
        Ok(())
    }

    /// Whether all rounds of a rule are there.
    pub(crate) fn has(&self, seed: u64, rule: &str) -> bool {
        let own = self.rounds.iter().filter(|it| it.seed == seed && it.rule == rule);
        own.count() == self.setup.rounds
    }

    /// Writes a file beside the lines.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.folder.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// The rules of installs, in the order of [`Rule::order`]: what was played with the mean and without
    /// hostile devices.
    pub(crate) fn rules(&self) -> Vec<String> {
        self.ways().into_iter().filter(|title| Way::parts(title).0 == title).collect()
    }

    /// All ways, those of a rule in the order in which they were played.
    pub(crate) fn ways(&self) -> Vec<String> {
        let mut rules: Vec<String> = Vec::new();
        for round in &self.rounds {
            if !rules.contains(&round.rule) {
                rules.push(round.rule.clone());
            }
        }
        let key = |title: &String| Rule::order(Way::parts(title).0);
        rules.sort_by(|one, two| {
            let ((at, ridge), (other, other_ridge)) = (key(one), key(two));
            at.cmp(&other).then(ridge.total_cmp(&other_ridge))
        });
        rules
    }

    /// A figure of each seed: of the round of that number under a rule, by seed.
    pub(crate) fn figures(
        &self,
        rule: &str,
        round: usize,
        figure: impl Fn(&Round) -> f64,
    ) -> Vec<(u64, f64)> {
        let own = self.rounds.iter().filter(|it| it.rule == rule && it.round == round);
        let mut figures: Vec<(u64, f64)> = own.map(|it| (it.seed, figure(it))).collect();
        figures.sort_by_key(|figure| figure.0);
        figures
    }
}

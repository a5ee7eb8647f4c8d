//! `judge`: whether a merged round is offered, by the operator's texts.

use super::ended;
use super::shown::{Place, now_ms};
use anyhow::{Context, Result};
use fleet_server::home::Home;
use fleet_server::judge::{self, Program, Scratch};
use fleet_server::rounds::{self, State};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Between two looks of a server's judge.
const LOOK: Duration = Duration::from_secs(5);
/// After how long a round is looked at again that could not be judged.
const AGAIN_MS: u64 = 600_000;

/// Scores a merged round on the operator's texts, and makes a candidate of it or refuses it.
///
/// The cohort's text must be better, general text at most 1 % worse. One, two and four times the mean are
/// looked at and the best is taken; where none holds, a half and a quarter.
#[derive(clap::Args)]
pub(super) struct Judge {
    #[command(flatten)]
    place: Place,
    /// The round's number.
    #[arg(long)]
    round: u64,
    #[command(flatten)]
    texts: Texts,
}

/// What a judge reads, and with what.
#[derive(clap::Args)]
pub(super) struct Texts {
    /// The learner's program.
    #[arg(long, value_name = "FILE", default_value = "sapwood")]
    sapwood: PathBuf,
    /// The base's model folder.
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// General text, held out.
    #[arg(long, value_name = "FILE")]
    general: Option<PathBuf>,
    /// Text of the cohort, held out.
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// How many minutes the program may take for a text under an adapter.
    #[arg(long, default_value = "60", value_parser = clap::value_parser!(u64).range(1..=10_080))]
    minutes: u64,
}

impl Texts {
    /// The learner's program with these texts, and a folder of its own.
    fn program(&self, scratch: &Scratch) -> Result<Program> {
        let said = |path: &Option<PathBuf>, name| {
            path.clone().with_context(|| format!("--{name} is not said, expected it of a judge"))
        };
        Ok(Program {
            sapwood: self.sapwood.clone(),
            model: said(&self.model, "model")?,
            general: said(&self.general, "general")?,
            cohort: said(&self.text, "text")?,
            scratch: scratch.adapter(),
            start: ended::beneath,
            is_told: ended::is_told,
            limit: Duration::from_secs(60 * self.minutes),
        })
    }

    /// A judge of every round of a fleet.
    pub(super) fn judge(&self, folder: &Path) -> Result<Judging> {
        let (home, scratch) = (Home::open(folder)?, Scratch::new(folder)?);
        Ok(Judging {
            home,
            program: self.program(&scratch)?,
            left: BTreeMap::new(),
            _scratch: scratch,
        })
    }
}

/// A server's judge.
pub(super) struct Judging {
    home: Home,
    program: Program,
    /// Rounds that could not be judged, and when that was.
    left: BTreeMap<u64, u64>,
    /// Gone with it.
    _scratch: Scratch,
}

impl Judging {
    /// Judges what is merged, until this program is told to end.
    pub(super) fn go_on(mut self) {
        while !ended::is_told() {
            let merged = rounds::of_state(&self.home.book, State::Merged);
            let merged =
                merged.map_err(|error| tracing::error!(%error, "judge")).unwrap_or_default();
            for round in merged {
                let is_left =
                    self.left.get(&round.id).is_some_and(|at_ms| now_ms() < at_ms + AGAIN_MS);
                if is_left {
                    continue;
                }
                match judge::judge(&self.home, round.id, &mut self.program, now_ms) {
                    Ok(found) => {
                        tracing::info!(round = round.id, sequence = found.sequence, "judged");
                    }
                    Err(error) => {
                        tracing::error!(round = round.id, %error, "judge");
                        self.left.insert(round.id, now_ms());
                    }
                }
            }
            std::thread::park_timeout(LOOK);
        }
    }
}

impl Judge {
    pub(super) fn run(&self) -> Result<()> {
        let home = self.place.open()?;
        ended::heed()?;
        let scratch = Scratch::new(&home.folder)?;
        let mut program = self.texts.program(&scratch)?;
        let found = judge::judge(&home, self.round, &mut program, now_ms)?;
        let text = match found.sequence {
            Some(sequence) => {
                format!("round {}: candidate, sequence {sequence}, offered to the lab", self.round)
            }
            None => format!("round {}: refused, its updates may come again", self.round),
        };
        self.place.show(
            &json!({"round": self.round, "sequence": found.sequence, "report": found.report}),
            &format!("{text}\n{}", found.report),
        )
    }
}

//! `judge`: whether a merged round is offered, by the operator's texts.

use super::shown::{Place, now_ms};
use anyhow::Result;
use fleet_server::judge::{self, Program};
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;

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
    /// The learner's program.
    #[arg(long, value_name = "FILE", default_value = "sapwood")]
    sapwood: PathBuf,
    /// The base's model folder.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// General text, held out.
    #[arg(long, value_name = "FILE")]
    general: PathBuf,
    /// Text of the cohort, held out.
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// How many minutes the program may take for a text under an adapter.
    #[arg(long, default_value = "60", value_parser = clap::value_parser!(u64).range(1..=10_080))]
    minutes: u64,
}

impl Judge {
    pub(super) fn run(&self) -> Result<()> {
        let home = self.place.open()?;
        let scratch = home.folder.join(format!("judge-{}", std::process::id()));
        let mut program = Program {
            sapwood: self.sapwood.clone(),
            model: self.model.clone(),
            general: self.general.clone(),
            cohort: self.text.clone(),
            scratch,
            limit: Duration::from_secs(60 * self.minutes),
        };
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

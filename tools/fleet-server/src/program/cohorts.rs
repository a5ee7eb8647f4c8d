//! `cohorts`: devices whose adapters add up, and what the operator wants of them.

use super::shown::{Place, now_ms};
use anyhow::Result;
use fleet_server::cohorts::{self, Cohort};
use fleet_server::operator::rounds as orders;
use fleet_server::rounds::{self, Round};
use sapwood_protocol::fleet::id::CohortId;
use serde_json::json;

/// Shows cohorts, and says what is wanted of one.
#[derive(clap::Subcommand)]
pub(super) enum Cohorts {
    /// Every cohort with its policy.
    List {
        #[command(flatten)]
        place: Place,
    },
    /// Changes a cohort's policy: fields of JSON, such as '{"quota": 200}'.
    Policy {
        #[command(flatten)]
        place: Place,
        /// The cohort; the only one when left out.
        #[arg(long)]
        cohort: Option<CohortId>,
        /// What changes.
        change: String,
    },
}

impl Cohorts {
    pub(super) fn run(&self) -> Result<()> {
        match self {
            Self::List { place } => {
                let all = cohorts::all(&place.open()?.book)?;
                let line = |cohort: &Cohort| {
                    format!("{}  {:?}  {}", cohort.id, cohort.label, cohort.policy.write())
                };
                let text = match all.is_empty() {
                    true => "no cohorts: one comes to be with its first device".to_owned(),
                    false => all.iter().map(line).collect::<Vec<_>>().join("\n"),
                };
                let row = |cohort: &Cohort| {
                    json!({"cohort": cohort.id, "label": cohort.label, "base": cohort.base,
                        "sequence": cohort.sequence, "policy": cohort.policy})
                };
                place.show(&json!({"cohorts": all.iter().map(row).collect::<Vec<_>>()}), &text)
            }
            Self::Policy { place, cohort, change } => {
                let home = place.open()?;
                let cohort = orders::cohort(&home.book, *cohort)?;
                let policy = orders::policy(&home.book, &cohort, change, now_ms())?;
                let open = rounds::open_one(&home.book, cohort.id)?;
                let mut text = policy.write();
                if let Some(Round { id, quota, deadline_ms, .. }) = &open {
                    let left_h = deadline_ms.saturating_sub(now_ms()).div_ceil(3_600_000);
                    text += &format!(
                        "\nround {id} is open: it keeps its quota of {quota} and its deadline in {left_h} h"
                    );
                }
                let json = json!({"cohort": cohort.id, "policy": policy,
                    "open_round": open.map(|round| round.id)});
                place.show(&json, &text)
            }
        }
    }
}

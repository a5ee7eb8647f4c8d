//! `rounds`: collections of updates, and an operator's word about one.

use super::shown::{Place, ago, now_ms};
use anyhow::Result;
use fleet_server::operator::rounds::{self as orders, Redone, Verdict};
use fleet_server::overview::{of_round, report};
use fleet_server::ports::SystemChance;
use fleet_server::rounds::{self, Round, UploadState};
use sapwood_protocol::fleet::id::{CohortId, DeviceId};
use serde_json::{Value, json};

/// Devices of the least weight that are shown first.
const LOWEST: usize = 5;

/// Shows rounds, opens and closes them, and says what becomes of a merge.
#[derive(clap::Subcommand)]
pub(super) enum Rounds {
    /// Rounds, the newest first.
    List {
        #[command(flatten)]
        place: Place,
    },
    /// One round with its uploads.
    Show {
        #[command(flatten)]
        one: One,
    },
    /// Opens a round of a cohort.
    Open {
        #[command(flatten)]
        place: Place,
        /// The cohort; the only one when left out.
        #[arg(long)]
        cohort: Option<CohortId>,
    },
    /// Closes a round with who came.
    Close {
        #[command(flatten)]
        one: One,
    },
    /// Makes a merged round a candidate, offered to devices of the lab, where no judge does.
    Approve {
        #[command(flatten)]
        one: One,
    },
    /// Has a round be merged again from what is kept of it, without some devices; one that failed or waits too.
    ///
    /// Its candidate is withdrawn. What was released from it stays until `releases rollback`.
    Redo {
        #[command(flatten)]
        one: One,
        /// A device whose update is left out; may be said several times.
        #[arg(long, value_name = "DEVICE")]
        without: Vec<DeviceId>,
    },
}

/// One round of a fleet.
#[derive(clap::Args)]
pub(super) struct One {
    #[command(flatten)]
    place: Place,
    /// The round's number.
    round: u64,
}

impl Rounds {
    pub(super) fn run(&self) -> Result<()> {
        match self {
            Self::List { place } => list(place),
            Self::Show { one } => one.show(),
            Self::Open { place, cohort } => open(place, *cohort),
            Self::Close { one } => {
                orders::close(&one.place.open()?.book, one.round, now_ms())?;
                one.told("closed")
            }
            Self::Approve { one } => one.approve(),
            Self::Redo { one, without } => {
                let redone = orders::redo(&one.place.open()?, one.round, without, now_ms())?;
                one.redone(&redone)
            }
        }
    }
}

fn line(round: &Round) -> String {
    format!(
        "{}  {:9}  {} of {} came, {} asked, opened {}",
        round.id,
        round.state.name(),
        round.stored,
        round.quota,
        round.invited,
        ago(round.opened_ms, now_ms())
    )
}

fn list(place: &Place) -> Result<()> {
    let home = place.open()?;
    let all = rounds::all(&home.book)?;
    let lines: Vec<String> = all.iter().map(line).collect();
    let text = if all.is_empty() { "no rounds".to_owned() } else { lines.join("\n") };
    let shown: Vec<Value> =
        all.iter().map(|round| of_round(&home.book, round)).collect::<Result<_, _>>()?;
    place.show(&json!({"rounds": shown}), &text)
}

/// The devices that weighed least, where they do not all weigh the same.
fn lowest(weights: &Value) -> String {
    let all = weights.as_object().into_iter().flatten();
    let mut all: Vec<(&String, f64)> =
        all.filter_map(|(device, weight)| Some((device, weight.as_f64()?))).collect();
    all.sort_by(|one, other| one.1.total_cmp(&other.1).then_with(|| one.0.cmp(other.0)));
    if all.first().map(|one| one.1) == all.last().map(|one| one.1) {
        return String::new();
    }
    let shown = all.iter().take(LOWEST).map(|(device, weight)| format!("{device} {weight:.2}"));
    format!("\nleast weight, in parts of an equal one: {}", shown.collect::<Vec<_>>().join(", "))
}

fn open(place: &Place, cohort: Option<CohortId>) -> Result<()> {
    let home = place.open()?;
    let cohort = orders::cohort(&home.book, cohort)?;
    let round = orders::open(&home, &cohort, &SystemChance, now_ms())?;
    let policy = &cohort.policy;
    let text = format!(
        "round {round}: open until {} updates came, at most {} h",
        policy.quota, policy.deadline_h
    );
    place.show(&json!({"round": round, "cohort": cohort.id}), &text)
}

impl One {
    fn told(&self, state: &str) -> Result<()> {
        let round = self.round;
        self.place
            .show(&json!({"round": round, "state": state}), &format!("round {round}: {state}"))
    }

    fn show(&self) -> Result<()> {
        let home = self.place.open()?;
        let round = orders::round(&home.book, self.round)?;
        let uploads = rounds::uploads(&home.book, self.round)?;
        let state = |state| match state {
            UploadState::Invited => "invited",
            UploadState::Stored => "stored",
            UploadState::Counted => "counted",
            UploadState::Dropped => "dropped",
        };
        let mut json = of_round(&home.book, &round)?;
        let weights = report(&round).map(|report| report["weights"].clone()).unwrap_or_default();
        let weight = |device: DeviceId| weights[device.to_string().as_str()].as_f64();
        let mut text = line(&round);
        if let Some(why) = json["waits"]["why"].as_str() {
            let again_ms = json["waits"]["again"].as_u64().unwrap_or(0).saturating_sub(now_ms());
            text +=
                &format!("\nthe merge waits {} s, then it is tried again: {why}", again_ms / 1000);
        }
        if !json["report"].is_null() {
            text = format!("{text}\n{}", json["report"]);
        }
        text += &lowest(&weights);
        let mut rows: Vec<Value> = Vec::new();
        for upload in &uploads {
            let (state, why) = (state(upload.state), upload.why.as_deref());
            let file = upload.file.as_ref();
            let part = weight(upload.device);
            let told = part.map(|part| format!("weight {part:.2}")).unwrap_or_default();
            let why_told = why.unwrap_or_default();
            text.push_str(&format!("\n{}  {state}  {told}{why_told}", upload.device));
            rows.push(json!({"device": upload.device, "state": state, "why": why,
                "artifact": upload.artifact, "hash": file.map(|file| file.hash),
                "tokens": file.map(|file| file.tokens), "norm": file.map(|file| file.norm),
                "weight": part}));
        }
        json["uploads"] = rows.into();
        self.place.show(&json, &text)
    }

    /// Says what came of merging again.
    fn redone(&self, redone: &Redone) -> Result<()> {
        let Redone { withdrawn, released, elsewhere } = redone;
        let mut text = format!("round {}: closed, to be merged again", self.round);
        for sequence in withdrawn {
            text += &format!("\nsequence {sequence}: its candidate, withdrawn");
        }
        for sequence in released {
            text += &format!(
                "\nsequence {sequence}: a release of what it made, which stands; `releases rollback` takes it back"
            );
        }
        for device in elsewhere {
            text += &format!("\n{device}: its update counts in another round since, and not here");
        }
        let json = json!({"round": self.round, "state": "closed", "withdrawn": withdrawn,
            "released": released, "elsewhere": elsewhere});
        self.place.show(&json, &text)
    }

    fn approve(&self) -> Result<()> {
        let home = self.place.open()?;
        let round = orders::round(&home.book, self.round)?;
        // A round that is not merged has no result, and is refused by its state.
        let (artifact, bytes) = round.result.unwrap_or((rounds::NONE, 0));
        let report = json!({"by": "operator"});
        let verdict = Verdict { who: "operator", artifact, bytes, report };
        let sequence = orders::approve(&home, self.round, &verdict, now_ms())?;
        let text =
            format!("round {}: candidate, sequence {sequence}, offered to the lab", self.round);
        self.place.show(&json!({"round": self.round, "sequence": sequence}), &text)
    }
}

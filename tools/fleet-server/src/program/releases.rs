//! `releases`, `rollout`, `audit`: what devices are offered, and what became of it.

use super::shown::{Place, ago, now_ms};
use anyhow::Result;
use fleet_server::cohorts::{self, Cohort};
use fleet_server::home::{self, Home};
use fleet_server::operator::releases::{self as orders, Word};
use fleet_server::operator::rounds::cohort;
use fleet_server::overview::of_release;
use fleet_server::rollout::{self, Release, STAGES, Step};
use fleet_server::store::{Book, Columns};
use sapwood_protocol::fleet::id::CohortId;
use sapwood_protocol::fleet::key::SecretKey;
use sapwood_protocol::fleet::statement::Role;
use serde_json::{Value, json};
use std::path::PathBuf;

/// A cohort of a fleet.
#[derive(clap::Args)]
pub(super) struct Of {
    #[command(flatten)]
    place: Place,
    /// The cohort; the only one when left out.
    #[arg(long)]
    cohort: Option<CohortId>,
}

impl Of {
    fn open(&self) -> Result<(Home, Cohort)> {
        let home = self.place.open()?;
        let cohort = cohort(&home.book, self.cohort)?;
        Ok((home, cohort))
    }
}

/// Shows releases, promotes a candidate, takes a release back.
#[derive(clap::Subcommand)]
pub(super) enum Releases {
    /// Candidates and releases of a cohort, the newest first.
    List {
        #[command(flatten)]
        of: Of,
    },
    /// Makes a candidate a release; it begins at 1 % of the devices.
    Promote {
        #[command(flatten)]
        of: Of,
        /// The candidate's sequence.
        sequence: u64,
        /// A file with a release key; may be said several times.
        #[arg(long, value_name = "FILE", required = true)]
        release_key: Vec<PathBuf>,
    },
    /// Takes the newest release back: what stood before it is offered to all at once.
    Rollback {
        #[command(flatten)]
        of: Of,
        /// The sequence whose artifact is offered; the last that came as far as all devices when left out.
        #[arg(long)]
        to: Option<u64>,
        /// A file with a release key; may be said several times.
        #[arg(long, value_name = "FILE", required = true)]
        release_key: Vec<PathBuf>,
    },
}

/// Shows how far a release is, has it go on or stop.
#[derive(clap::Subcommand)]
pub(super) enum Rollout {
    /// A release with what became of it, and why it is where it is.
    Show {
        #[command(flatten)]
        of: Of,
        /// Its sequence.
        sequence: u64,
    },
    /// Has a release go to its next stage now.
    Advance {
        #[command(flatten)]
        of: Of,
        /// Its sequence.
        sequence: u64,
    },
    /// Offers a release no further.
    Pause {
        #[command(flatten)]
        of: Of,
        /// Its sequence.
        sequence: u64,
    },
    /// Has a paused release go on.
    Resume {
        #[command(flatten)]
        of: Of,
        /// Its sequence.
        sequence: u64,
    },
}

/// Shows who did what, the newest first.
#[derive(clap::Args)]
pub(super) struct Audit {
    #[command(flatten)]
    place: Place,
    /// How many lines.
    #[arg(long, default_value = "50", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    last: u64,
}

fn keys(paths: &[PathBuf]) -> Result<Vec<SecretKey>> {
    Ok(paths.iter().map(|path| home::key(path)).collect::<Result<_, _>>()?)
}

fn line(release: &Release) -> String {
    let role = if release.role == Role::Candidate { "candidate" } else { "release" };
    let stage = match STAGES.get(release.stage as usize) {
        Some(0) | None => "lab".to_owned(),
        Some(percent) => format!("{percent} %"),
    };
    format!(
        "{}  {role}  {}  {stage}  since {}  {}  {}",
        release.sequence,
        release.state.name(),
        ago(release.since_ms, now_ms()),
        release.artifact,
        release.reason.as_deref().unwrap_or_default()
    )
}

impl Releases {
    pub(super) fn run(&self) -> Result<()> {
        match self {
            Self::List { of } => {
                let home = of.place.open()?;
                if of.cohort.is_none() && cohorts::all(&home.book)?.is_empty() {
                    return of.place.show(&json!({"cohort": null, "releases": []}), "no releases");
                }
                let cohort = cohort(&home.book, of.cohort)?;
                let all = rollout::all(&home.book, cohort.id)?;
                let rows: Vec<Value> =
                    all.iter().map(|one| of_release(&home.book, one)).collect::<Result<_, _>>()?;
                let lines: Vec<String> = all.iter().map(line).collect();
                let text = if all.is_empty() { "no releases".to_owned() } else { lines.join("\n") };
                of.place.show(&json!({"cohort": cohort.id, "releases": rows}), &text)
            }
            Self::Promote { of, sequence, release_key } => {
                let (home, cohort) = of.open()?;
                let keys = keys(release_key)?;
                let untried = orders::untried(&home.book, cohort.id, *sequence)?;
                let next = orders::promote(&home, &cohort, *sequence, &keys, now_ms())?;
                if let Some(untried) = &untried {
                    eprintln!("warning: {untried}");
                }
                let text = format!("sequence {next}: released to {} % of the devices", STAGES[1]);
                of.place.show(&json!({"sequence": next, "warning": untried}), &text)
            }
            Self::Rollback { of, to, release_key } => {
                let (home, cohort) = of.open()?;
                let keys = keys(release_key)?;
                let (next, artifact) = orders::rollback(&home, &cohort, *to, &keys, now_ms())?;
                let text = format!("sequence {next}: artifact {artifact}, offered to all at once");
                of.place.show(&json!({"sequence": next, "artifact": artifact}), &text)
            }
        }
    }
}

impl Rollout {
    pub(super) fn run(&self) -> Result<()> {
        let (of, sequence, word) = match self {
            Self::Show { of, sequence } => return show(of, *sequence),
            Self::Advance { of, sequence } => (of, *sequence, Word::Advance),
            Self::Pause { of, sequence } => (of, *sequence, Word::Pause),
            Self::Resume { of, sequence } => (of, *sequence, Word::Resume),
        };
        let (home, cohort) = of.open()?;
        let release = orders::say(&home.book, cohort.id, sequence, word, now_ms())?;
        of.place.show(&of_release(&home.book, &release)?, &line(&release))
    }
}

fn show(of: &Of, sequence: u64) -> Result<()> {
    let (home, cohort) = of.open()?;
    let release = orders::release(&home.book, cohort.id, sequence)?;
    let tally = rollout::tally(&home.book, &release, &cohort.policy, now_ms())?;
    let next = match release.state {
        rollout::State::Active => match rollout::step(&release, &tally, &cohort.policy, now_ms()) {
            _ if release.role == Role::Candidate => "waits for `releases promote`".to_owned(),
            Step::Stay(why) => format!("stays: {why}"),
            Step::Advance => "goes to its next stage".to_owned(),
            Step::Complete => "is complete".to_owned(),
            Step::Pause(why) => format!("pauses: {why}"),
        },
        other => other.name().to_owned(),
    };
    let mut json = of_release(&home.book, &release)?;
    json["next"] = next.as_str().into();
    json["stage"] = json!({"confirmed": tally.confirmed, "reverted": tally.reverted,
        "declined": tally.declined, "failed": tally.failed, "silent": tally.silent});
    let text = format!(
        "{}\n{next}\nin this stage: {} confirmed, {} reverted, {} declined, {} failed, {} silent",
        line(&release),
        tally.confirmed,
        tally.reverted,
        tally.declined,
        tally.failed,
        tally.silent
    );
    of.place.show(&json, &text)
}

impl Audit {
    pub(super) fn run(&self) -> Result<()> {
        let home = self.place.open()?;
        let sql = "select id, at, who, what, detail from audit order by id desc limit $1";
        let (mut rows, mut lines) = (Vec::new(), Vec::new());
        for row in home.book.read(sql, &[self.last.into()])? {
            let mut columns = Columns::of(row);
            let (id, at) = (columns.number()?, columns.number()?);
            let [who, what, detail] = [columns.text()?, columns.text()?, columns.text()?];
            lines.push(format!("{id}  {}  {who}  {what}  {detail}", ago(at, now_ms())));
            rows.push(json!({"id": id, "at": at, "who": who, "what": what, "detail": detail}));
        }
        self.place.show(&json!({"audit": rows}), &lines.join("\n"))
    }
}

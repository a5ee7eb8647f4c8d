//! The device program: takes in samples from a folder and learns them in one job at a time.
//!
//! - `job now`: what lies in the inbox folder becomes one job of the learner; the files of a job
//!   that ended, kept or not, move to `learned/` beside it, so that nothing is learned twice.
//! - `status`: the generation in use, the last verdicts and what the reservoir holds, as JSON.
//! - A job that was cut off goes on at the next call, from its last checkpoint.
//! - Not here yet: intake over sockets, the scheduler, serving, power and heat.

use anyhow::Context;
use clap::{Parser, Subcommand};
use sapwood::intake;
use sapwood::learner::{self, Engines, Event, Material, Outcome};
use sapwood::ports::Disk;
use sapwood::settings::Settings;
use sapwood::state::State;
use sapwood::tokenise::Tokeniser;
use serde_json::json;
use std::fs;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// Runs the Sapwood learner on a device.
#[derive(Debug, Parser)]
#[command(version)]
struct Command {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Learning jobs.
    #[command(subcommand)]
    Job(Job),
    /// What the state folder holds.
    Status {
        /// State folder.
        #[arg(long)]
        state: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
enum Job {
    /// Learn what lies in the inbox, now.
    Now(Now),
}

#[derive(Debug, clap::Args)]
struct Now {
    /// Model folder.
    #[arg(long)]
    model: PathBuf,
    /// State folder.
    #[arg(long)]
    state: PathBuf,
    /// Folder of samples: JSON lines or text.
    #[arg(long)]
    inbox: PathBuf,
    /// Settings of learning, TOML.
    #[arg(short, long)]
    config: Option<PathBuf>,
    /// Fewest examples that are worth a job.
    #[arg(long, default_value_t = 8)]
    samples_min: usize,
}

fn main() -> ExitCode {
    let done = match Command::parse().action {
        Action::Job(Job::Now(args)) => now(&args),
        Action::Status { state } => status(&state),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A closed standard error leaves nobody to tell.
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn tell(value: &serde_json::Value) -> std::io::Result<()> {
    writeln!(std::io::stdout(), "{value}")
}

fn now(args: &Now) -> anyhow::Result<()> {
    let settings = match &args.config {
        Some(path) => {
            let text = fs::read_to_string(path)
                .with_context(|| format!("cannot read configuration {}", path.display()))?;
            Settings::from_toml(&text)?
        }
        None => Settings::default(),
    };
    settings.check()?;
    let dataset = intake::open(&args.inbox)?;
    let examples = dataset.train.len() + dataset.valid.len();
    if examples < args.samples_min {
        let why = format!("{examples} examples, a job wants {}", args.samples_min);
        return Ok(tell(&json!({ "event": "skipped", "reason": why }))?);
    }
    let mut state = State::open(Arc::new(Disk::exclusive(&args.state)?))?;
    let resume =
        state.take_checkpoint()?.is_some_and(|cut| cut.learner.cursor.dataset == dataset.hash);
    let settings = Settings { resume, ..settings };
    let engines = Engines::load(&args.model, &settings)?;
    let tokeniser = Tokeniser::open(&args.model, engines.base.config().vocab)?;
    let blocks = |examples: &[intake::Example]| {
        tokeniser.blocks(examples, settings.max_seq_length, settings.mask_prompt, 0)
    };
    let material = Material {
        name: "inbox".into(),
        hash: dataset.hash,
        train: blocks(&dataset.train)?.blocks,
        valid: blocks(&dataset.valid)?.blocks,
        general: Vec::new(),
    };
    let mut listen = |event: &Event| match serde_json::to_value(event).map(|value| tell(&value)) {
        Ok(Ok(())) => ControlFlow::Continue(()),
        _ => ControlFlow::Break(()),
    };
    let outcome = learner::adapt(&engines, &mut state, &material, &settings, &mut listen)?;
    if let Outcome::Judged { .. } = outcome {
        put_away(&args.inbox)?;
    }
    Ok(())
}

/// Moves the files of a finished job out of the inbox.
fn put_away(inbox: &Path) -> anyhow::Result<()> {
    let learned = inbox.with_file_name("learned");
    fs::create_dir_all(&learned).with_context(|| format!("cannot make {}", learned.display()))?;
    for entry in fs::read_dir(inbox)? {
        let entry = entry?;
        let target = learned.join(entry.file_name());
        fs::rename(entry.path(), &target).with_context(|| {
            format!("cannot move {} to {}", entry.path().display(), target.display())
        })?;
    }
    Ok(())
}

fn status(folder: &Path) -> anyhow::Result<()> {
    let state = State::look(Arc::new(Disk::look(folder)?))?;
    let generations: Vec<_> = state
        .generations()
        .iter()
        .map(|kept| json!({ "number": kept.number, "steps": kept.step, "verdict": kept.verdict }))
        .collect();
    let rejected: Vec<_> =
        state.rejections().iter().map(|rejection| rejection.reason.clone()).collect();
    let reservoir = state.committed_reservoir()?.map(|reservoir| reservoir.stats());
    let reservoir = reservoir
        .map(|stats| json!({ "held": stats.held, "capacity": stats.capacity, "seen": stats.seen }));
    Ok(tell(&json!({
        "event": "status",
        "generation": state.current().map(|current| current.number),
        "generations": generations,
        "rejected": rejected,
        "reservoir": reservoir,
    }))?)
}

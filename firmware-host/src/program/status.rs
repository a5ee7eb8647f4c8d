//! `status`: what the program is doing, or what its state folder holds.
//!
//! - The program that runs is asked; where none runs, or none answers, the state folder is read, nothing
//!   is changed there, and the answer says so. Both have the same keys where they mean the same.

use super::cli;
use super::found::Program;
use super::show;
use anyhow::Context;
use firmware_host::client::Client;
use firmware_host::config::Config;
use firmware_host::history::History;
use firmware_host::paused::is_paused;
use firmware_host::status::{GlobalStatus, TrialStatus};
use sapwood::inbox::{Bounds, Inbox};
use sapwood::ports::{Disk, Storage};
use sapwood::state::State;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;

/// What the program is doing, or what its state folder holds.
pub(crate) fn run(config: &Config, json: bool) -> anyhow::Result<()> {
    let value = match Client::new(&cli::socket(config)?).status() {
        Ok(mut value) => {
            if let Some(keys) = value.as_object_mut() {
                keys.insert("running".into(), true.into());
            }
            value
        }
        Err(error) if error.is_nobody() => {
            let mut value = folder(config)?;
            let program = Program::find(config)?;
            value["running"] = program.is_some().into();
            value["reason"] = match program {
                Some(program) => program.told(error).to_string().into(),
                None => error.to_string().into(),
            };
            value
        }
        Err(error) => return Err(error.into()),
    };
    show::result(json, &value, &show::table(&value))
}

/// What the state folder holds.
fn folder(config: &Config) -> anyhow::Result<Value> {
    let path = cli::state(config)?;
    let disk = Arc::new(Disk::look(path)?);
    let state = State::look(disk.clone())?;
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
    let jobs = History::read(&*disk).jobs;
    let inbox = inbox_of(config, disk, state.learned());
    let fleet = super::fleet::look(config).unwrap_or_default();
    let paused = is_paused(path).with_context(|| format!("cannot look into {}", path.display()))?;
    Ok(json!({
        "running": false,
        "paused": paused,
        "model": config.model.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy()),
        "damage": state.recovery().fell_back,
        "serving": { "generation": state.current().map(|current| current.number) },
        "global": GlobalStatus::of(&state),
        "trial": TrialStatus::of(&state),
        "generations": generations,
        "rejected": rejected,
        "reservoir": reservoir,
        "inbox": inbox,
        "jobs": jobs,
        "fleet": fleet,
    }))
}

/// What the inbox holds; none when that cannot be told without changing something.
fn inbox_of(config: &Config, disk: Arc<Disk>, learned: u64) -> Option<Value> {
    let bytes_max = config.intake.inbox_bytes_max;
    if !disk.list("").ok()?.iter().any(|name| name == "inbox") {
        return Some(json!({ "samples": 0, "bytes": 0, "bytes_max": bytes_max }));
    }
    let bounds = Bounds { bytes: bytes_max, samples: config.intake.inbox_samples_max };
    let inbox = Inbox::open(disk, bounds, learned).ok()?;
    let (waiting, found) = (inbox.waiting(), inbox.found());
    Some(json!({
        "samples": waiting.samples,
        "bytes": waiting.bytes,
        "bytes_max": bytes_max,
        "aside": inbox.aside().count(),
        "damaged_bytes": found.passed_over_bytes,
        "lost_samples": found.lost_samples,
    }))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;
    use firmware_host::status::JobReport;

    #[test]
    fn a_folder_that_no_program_has_is_read() {
        let report = JobReport { number: 7, ..JobReport::default() };
        let folder_path = tempfile::tempdir().unwrap();
        let state = folder_path.path().join("state");
        History::default().end(&Disk::exclusive(&state).unwrap(), report);
        std::fs::write(state.join("paused"), "").unwrap();
        let config = Config { state: Some(state), ..Config::default() };
        let value = folder(&config).unwrap();
        assert_eq!((&value["running"], &value["paused"]), (&false.into(), &true.into()));
        assert_eq!(value["jobs"][0]["number"], 7);
        assert!(show::table(&value).contains("paused until `resume`"));
    }

    #[test]
    fn samples_that_wait_are_counted_without_a_change() {
        let root = tempfile::tempdir().unwrap();
        let state = root.path().join("state");
        let bounds = Bounds { bytes: 1 << 20, samples: 100 };
        let mut inbox = Inbox::open(Arc::new(Disk::exclusive(&state).unwrap()), bounds, 0).unwrap();
        inbox.offer("{\"text\":\"one\"}\n{\"text\":\"two\"}\n").unwrap();
        drop(inbox);
        let config = Config { state: Some(state), ..Config::default() };
        assert_eq!(folder(&config).unwrap()["inbox"]["samples"], 2);
    }
}

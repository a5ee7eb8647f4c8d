//! `sapwood quickstart`: the main job on what is shipped, in two or three minutes.
//!
//! Two jobs, as a device would meet them: the commands it is given, then its own log. The second
//! shows the point: the log is learned, the commands are not forgotten, general text is kept.
#![expect(
    clippy::disallowed_methods,
    reason = "a state folder that is thrown away may lie anywhere"
)]

use super::adapt::{job, material, open};
use super::args::Quickstart;
use super::chosen;
use super::console::Console;
use super::host;
use anyhow::Context;
use sapwood::learner::{Engines, Outcome};
use sapwood::settings::{Schedule, Settings, TARGET_MODULES};
use std::env;
use std::path::{Path, PathBuf};

/// Domains in the order they are met.
const DOMAINS: [&str; 2] = ["command_phrases", "device_logs"];

/// Runs both jobs on a state folder that is thrown away unless the user names one.
pub(crate) fn run(args: &Quickstart, console: &mut Console) -> anyhow::Result<()> {
    let models = models(args.models.as_deref())?;
    let settings = Settings {
        iters: args.iters,
        seed: args.seed,
        threads: args.threads,
        // A small base moves only under a high rate and with every linear layer free to change.
        learning_rate: 5e-3,
        lr_schedule: Schedule::Cosine,
        target_modules: TARGET_MODULES.map(str::to_owned).to_vec(),
        max_seq_length: 128,
        retain: 0.95,
        steps_per_eval: 0,
        // The shipped base has seen little text, so that any new domain costs it some of it.
        gate_general: 0.25,
        gate_old: 0.10,
        ..Settings::default()
    };
    settings.check()?;
    let model = models.join("base");
    let throwaway = env::temp_dir().join(format!("sapwood-quickstart-{}", std::process::id()));
    let folder = args.state.clone().unwrap_or_else(|| throwaway.clone());
    let result = learn(&models, &model, &folder, &settings, console);
    if args.state.is_none() {
        // What is left in the system's temporary folder is the system's to sweep.
        let _ = std::fs::remove_dir_all(&throwaway);
    }
    result?;
    if let Some(folder) = &args.state {
        let (model, folder) = (model.display(), folder.display());
        console.line(&format!(
            "try it: sapwood generate --model {model} --state {folder} --prompt 'user: turn on'"
        ))?;
    }
    Ok(())
}

fn learn(
    models: &Path,
    model: &Path,
    folder: &Path,
    settings: &Settings,
    console: &mut Console,
) -> anyhow::Result<()> {
    let mut state = open(folder, console)?;
    let engines = Engines::load_within(model, settings, host::available_bytes())?;
    let tokeniser = chosen::tokeniser(model, &engines)?;
    let general = models.join("samples/general/test.jsonl");
    for (number, domain) in DOMAINS.iter().enumerate() {
        console.line(&format!("\njob {} of {}: {domain}", number + 1, DOMAINS.len()))?;
        let data = chosen::data(&models.join("samples").join(domain))?;
        let name = (*domain).to_owned();
        let material = material(&tokeniser, &data, name, Some(&general), settings, console)?;
        let outcome = job(&engines, &mut state, &material, settings, console)?;
        if let Outcome::Judged { verdict, .. } = outcome {
            anyhow::ensure!(verdict.keeps(), "the adapter of {domain} was dropped: {verdict}");
        }
    }
    Ok(())
}

/// The folder with the shipped base: named, here, or beside the program.
fn models(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    let beside = || {
        let program = env::current_exe().ok()?;
        program
            .ancestors()
            .map(|above| above.join("models"))
            .find(|path| path.join("base").is_dir())
    };
    let here = PathBuf::from("models");
    match given {
        Some(path) => Ok(path.to_path_buf()),
        None if here.join("base").is_dir() => Ok(here),
        None => {
            beside().context("no models folder here or beside the program; name it with --models")
        }
    }
}

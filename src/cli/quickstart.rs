//! `sapwood quickstart`: the main job on what is shipped, in two or three minutes.
//!
//! Two jobs, as a device would meet them: the commands it is given, then its own log. The second
//! shows the point: the log is learned, the commands are not forgotten, general text is kept.
#![expect(
    clippy::disallowed_methods,
    reason = "a state folder that is thrown away may lie anywhere"
)]

use super::adapt::{job, material, planned, within};
use super::args::Quickstart;
use super::chosen;
use super::console::Console;
use super::host;
use anyhow::Context;
use sapwood::base::Base;
use sapwood::learner::{Engines, Outcome, Plan};
use sapwood::settings::Overrides;
use sapwood::state::State;
use sapwood::tokenise::Tokeniser;
use std::env;
use std::path::{Path, PathBuf};

/// Domains in the order they are met.
const DOMAINS: [&str; 2] = ["command_phrases", "device_logs"];

/// Runs both jobs on a state folder that is thrown away unless the user names one.
pub(crate) fn run(args: &Quickstart, console: &mut Console) -> anyhow::Result<()> {
    let models = models(args.models.as_deref())?;
    host::bind_threads(args.threads, console)?;
    let wishes = Overrides {
        iters: Some(args.iters),
        seed: Some(args.seed),
        threads: Some(args.threads),
        max_seq_length: Some(128),
        steps_per_eval: Some(0),
        // The shipped base has seen little text, so that any new domain costs it some of it.
        gate_general: Some(0.10),
        ..Overrides::default()
    };
    let model = models.join("base");
    let throwaway = env::temp_dir().join(format!("sapwood-quickstart-{}", std::process::id()));
    let folder = args.state.clone().unwrap_or_else(|| throwaway.clone());
    let result =
        within(&folder, console, |state, console| learn(&models, &model, state, &wishes, console));
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
    state: &mut State,
    wishes: &Overrides,
    console: &mut Console,
) -> anyhow::Result<()> {
    let base = Base::open(model)?;
    let config = base.config();
    let tokeniser = Tokeniser::open(model, config.vocab)?;
    let mut engines = None;
    let general = models.join("samples/general/test.jsonl");
    for (number, domain) in DOMAINS.iter().enumerate() {
        console.line(&format!("\njob {} of {}: {domain}", number + 1, DOMAINS.len()))?;
        let data = chosen::data(&models.join("samples").join(domain))?;
        let name = ((*domain).to_owned(), (*domain).to_owned());
        let plan = Plan::new(config, state, wishes.clone(), false)?;
        let held = plan.settings();
        let material = material(&tokeniser, &data, name, Some(&general), held, console)?;
        let settings = planned(plan, &base, &material, console)?;
        let engines = match &mut engines {
            Some(engines) => engines,
            none => none.insert(Engines::load_within(
                model,
                &settings,
                state.ranks(),
                host::available_bytes(),
            )?),
        };
        let outcome = job(engines, state, &material, &settings, console, &mut |_| {})?;
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

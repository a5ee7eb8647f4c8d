//! `sapwood adapter install|confirm|revert`: a global adapter for people without the device program.
//!
//! - An install is judged as a job is, and on trial until a word of the user's.

use super::adapt::{self, open, within};
use super::args::Install;
use super::chosen::{self, look};
use super::console::Console;
use super::host;
use anyhow::Context;
use sapwood::adapter::{Target, wire};
use sapwood::base::Base;
use sapwood::block::Block;
use sapwood::learner::{self, Engines, Event, Memory, Offered, Outcome, Plan, Tokens, spec};
use sapwood::settings::{Overrides, Reader, Settings};
use sapwood::state::State;
use sapwood::tokenise::Tokeniser;
use serde_json::json;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

/// Installs, and says what the gate made of it.
pub(crate) fn run(args: &Install, console: &mut Console) -> anyhow::Result<()> {
    host::bind_threads(args.threads, console)?;
    let named = args.global.display();
    let bytes = fs::read(&args.global).with_context(|| format!("cannot read {named}"))?;
    wire::header(&bytes).with_context(|| named.to_string())?;
    within(&args.state, console, |state, console| install(args, &bytes, state, console))
}

/// Judges the adapter in `bytes` over a state, and puts it on trial.
fn install(
    args: &Install,
    bytes: &[u8],
    state: &mut State,
    console: &mut Console,
) -> anyhow::Result<()> {
    let named = args.global.display();
    let header = wire::header(bytes).with_context(|| named.to_string())?;
    let base = Base::open(chosen::model(Some(&args.model))?)?;
    let sequence = args.sequence.unwrap_or(state.taken(None) + 1);
    let offered =
        Offered::read(bytes, base.hash(), (None, sequence)).with_context(|| named.to_string())?;
    let wishes = match state.current() {
        Some(_) => said(args)?,
        None => said(args)?.or(shape(&header.shape, base.config().layers)),
    };
    let plan = Plan::new(base.config(), state, wishes, false)?;
    let settings = plan.settings().clone();
    let tokeniser = Tokeniser::open(&args.model, base.config().vocab)?;
    let (general, start) = (general(args, &tokeniser, &settings, console)?, tokeniser.opening());
    let own = spec(base.config(), &settings)?;
    let ranks = offered.global.spec.modules.first().map_or(0, |module| module.rank);
    let specs = [state.ranks(), ranks].map(|ranks| own.over(ranks));
    let tokens = Tokens::default().with_old();
    let memory = Memory::of_install(&base, specs.each_ref(), &settings, tokens);
    let engines = Engines::of(base, &args.model, &settings, (memory, host::available_bytes()))?;
    let mut failed = None;
    let mut tell = |event: &Event| match console.event(event) {
        Ok(()) => ControlFlow::Continue(()),
        // Nobody reads any more: nothing is changed then.
        Err(error) => {
            failed = Some(error);
            ControlFlow::Break(())
        }
    };
    let outcome =
        learner::install(&engines, state, &offered, &settings, &general, &start, &mut tell)?;
    match (outcome, failed) {
        (Outcome::Judged { verdict, .. }, _) if verdict.keeps() => tell_trial(state, console),
        (Outcome::Judged { .. }, _) => Ok(()),
        (_, Some(error)) => Err(error).context("cannot report progress; nothing was changed"),
        (_, None) => anyhow::bail!("the install was stopped; nothing was changed"),
    }
}

/// What the configuration file and the flags say.
fn said(args: &Install) -> anyhow::Result<Overrides> {
    let flags = Overrides {
        device: Some(args.device),
        threads: Some(args.threads),
        ..Overrides::default()
    };
    let Some(path) = &args.config else { return Ok(flags) };
    let text = fs::read_to_string(path)
        .with_context(|| format!("cannot read configuration {}", path.display()))?;
    let file = Overrides::from_toml(&text).and_then(|file| file.read_by(Reader::Adapt));
    Ok(flags.or(file.with_context(|| path.display().to_string())?))
}

/// The layers and linear layers of a global adapter: what a state that has learned nothing begins with.
fn shape(shape: &sapwood_protocol::fleet::update::Shape, layers: usize) -> Overrides {
    let num_layers = layers.saturating_sub(usize::from(shape.first_layer));
    let names = Target::ALL.into_iter().enumerate();
    let names = names.filter(|(at, _)| shape.targets >> at & 1 == 1);
    Overrides {
        num_layers: i64::try_from(num_layers).ok(),
        target_modules: Some(names.map(|(_, target)| target.name().to_owned()).collect()),
        ..Overrides::default()
    }
}

fn general(
    args: &Install,
    tokeniser: &Tokeniser,
    settings: &Settings,
    console: &Console,
) -> anyhow::Result<Vec<Block>> {
    let Some(path) = adapt::general(args.general.as_deref(), &args.model) else {
        return Ok(Vec::new());
    };
    let data = chosen::data(&path)?;
    let examples = [data.train, data.valid, data.test].concat();
    chosen::blocks(tokeniser, &examples, settings, 0, |text| console.warn(text))
}

fn tell_trial(state: &State, console: &Console) -> anyhow::Result<()> {
    let Some(trial) = state.trial() else { return Ok(()) };
    let line = format!(
        "generation {} is on trial: `sapwood adapter confirm` keeps it, `sapwood adapter revert` goes back \
         to {}",
        trial.generation, trial.parent
    );
    Ok(console.line(&line)?)
}

/// Keeps the generation on trial.
pub(crate) fn confirm(folder: &Path, console: &Console) -> anyhow::Result<()> {
    let mut state = existing(folder, console)?;
    state.confirm("confirmed by hand", None)?;
    let number = state.current().map(|generation| generation.number);
    let value = json!({ "event": "confirm", "generation": number });
    let number = number.map_or("none".to_owned(), |number| number.to_string());
    Ok(console.result(&value, &format!("generation in use: {number}, confirmed"))?)
}

/// Gives the generation before the one on trial back.
pub(crate) fn revert(folder: &Path, console: &Console) -> anyhow::Result<()> {
    let mut state = existing(folder, console)?;
    let before = state.trial().map(|trial| trial.generation);
    let number = state.revert("reverted by hand")?;
    let value = json!({ "event": "revert", "before": before, "generation": number });
    let before = before.map_or("none".to_owned(), |number| number.to_string());
    Ok(console.result(&value, &format!("generation in use: {number} (before: {before})"))?)
}

/// A state folder that is there, for this process alone: a mistyped one is not made.
fn existing(folder: &Path, console: &Console) -> anyhow::Result<State> {
    look(folder, console)?;
    open(folder, console)
}

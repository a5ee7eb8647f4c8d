//! The command: one file a subcommand, arguments in `args`, the terminal in `console`.
//!
//! - Never here: learning. A subcommand reads what the user named, calls the library and tells.

pub(crate) mod args;
pub(crate) mod console;

mod adapt;
mod adapter;
mod chosen;
mod convert;
mod data;
mod doctor;
mod eval;
mod export;
mod flags;
mod fuse;
mod generate;
mod host;
mod html;
mod install;
mod names;
mod picture;
mod plot;
mod quickstart;
mod report;
mod serve;
mod source;
mod state;
mod stream;
mod study;

use anyhow::Context;
use args::{Action, Command};
use console::Console;
use flags::{Flags, Readers};
use sapwood::base::read_config;
use sapwood::learner::for_base;
use sapwood::settings::{Overrides, Reader, Settings};
use std::fs;

/// Runs one command to its end.
pub(crate) fn run(command: Command) -> anyhow::Result<()> {
    let mut console = Console::new(command.json);
    match command.action {
        Action::Quickstart(args) => quickstart::run(&args, &mut console),
        Action::Adapt(args) => adapt::run(&args, &mut console),
        Action::Eval(args) => eval::run(&args, &console),
        Action::Generate(args) => generate::run(&args, &console),
        Action::Serve(args) => serve::run(&args, command.json),
        Action::Stream(args) => stream::run(&args, &console),
        Action::Study(study) => study::run(&study, &console),
        Action::Export(args) => export::run(&args, &mut console),
        Action::Convert(args) => convert::run(&args, &console),
        Action::Data(action) => data::run(&action, &console),
        Action::Fuse(args) => fuse::run(&args, &console),
        Action::Replay(action) => state::replay(&action, &console),
        Action::Adapter(action) => adapter::run(&action, &mut console),
        Action::Rollback(args) => state::rollback(&args, &console),
        Action::Doctor(args) => doctor::run(&args, &console),
    }
}

/// The settings of a command that learns without a state: what fits the base that is named, then the
/// configuration file, then the flags.
pub(crate) fn settings(wishes: Overrides) -> anyhow::Result<Settings> {
    let settings = Settings::default().merge(wishes.clone());
    settings.check()?;
    match &settings.model {
        Some(model) => Ok(for_base(&read_config(chosen::model(Some(model))?)?, wishes)?),
        None => Ok(settings),
    }
}

/// What the user said of the settings: flags, then the configuration file, for `reader`.
pub(crate) fn wishes<R: Readers>(flags: &Flags<R>, reader: Reader) -> anyhow::Result<Overrides> {
    let said = flags.said.clone();
    let Some(path) = &flags.config else { return Ok(said) };
    let text = fs::read_to_string(path)
        .with_context(|| format!("cannot read configuration {}", path.display()))?;
    let file = Overrides::from_toml(&text).and_then(|file| file.read_by(reader));
    Ok(said.or(file.with_context(|| path.display().to_string())?))
}

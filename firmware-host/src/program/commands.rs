//! The commands around the program: orders to it, and its service file.
//!
//! - An order goes to the program that has the state folder, which the folder's lock tells; where none
//!   has it, `pause` and `resume` leave it there, `job now` and `rollback` do it themselves.
//! - Invariant: where a program has the folder and does not answer, nothing is changed.

use super::cli::{self, Choices, Frames, Install, Uninstall};
use super::found::Program;
use super::own;
use super::show;
use anyhow::Context;
use firmware_host::client::Client;
use firmware_host::clock::{Clock, SystemClock};
use firmware_host::config::{Config, plain};
use firmware_host::intake::frames::encode_lines;
use firmware_host::paused::{self, Paused};
use firmware_host::probe::{SystemProbes, machine_bytes};
use firmware_host::serve;
use firmware_host::service::{self, Manager, Options, Place, Service};
use firmware_host::sync;
use sapwood::state::State;
use serde_json::json;
use std::path::Path;
use std::sync::Arc;

/// Has the program learn now, or does it here.
pub(crate) fn job(config: &Config, json: bool) -> anyhow::Result<()> {
    match Program::find(config)? {
        Some(program) => {
            let answer = program.ask(Client::job)?;
            let told = match paused::is_paused(super::cli::state(config)?) {
                Ok(true) => {
                    "the program was told to learn now; it is paused, and will after `resume`"
                }
                _ => "the program was told to learn now",
            };
            show::result(json, &answer, told)
        }
        None => foreground(config, json),
    }
}

#[cfg(feature = "engine")]
fn foreground(config: &Config, json: bool) -> anyhow::Result<()> {
    show::run(&super::run::job_in_foreground(config)?, json)
}

#[cfg(not(feature = "engine"))]
fn foreground(_: &Config, _: bool) -> anyhow::Result<()> {
    anyhow::bail!("no program runs, and this one was built without the learner")
}

/// Has learning wait, or go on.
pub(crate) fn pause(config: &Config, paused: bool, json: bool) -> anyhow::Result<()> {
    let program = Program::find(config)?;
    let answer = match &program {
        Some(program) if paused => program.ask(Client::pause)?,
        Some(program) => program.ask(Client::resume)?,
        None => {
            leave(config, paused)?;
            json!({ "running": false, "paused": paused })
        }
    };
    let text = match (paused, program.is_some()) {
        (true, true) => "learning stops at the next optimiser step and waits for `resume`",
        (true, false) => "no program runs; the next one will not learn until `resume`",
        (false, true) => "learning goes on",
        (false, false) => "no program runs; the next one may learn",
    };
    show::result(json, &answer, text)
}

/// Uses an earlier generation again: by the program, or in the folder that nobody has.
pub(crate) fn rollback(config: &Config, to: Option<u64>, json: bool) -> anyhow::Result<()> {
    let answer = match Program::find(config)? {
        Some(program) => program.ask(|client| client.rollback(to))?,
        None => {
            let folder = cli::state(config)?;
            anyhow::ensure!(folder.is_dir(), "there is no state folder {}", folder.display());
            let mut state = State::open(Arc::new(own::disk(config)?))?;
            let before = state.current().map(|generation| generation.number);
            let generation = Some(state.rollback(to)?).filter(|number| *number > 0);
            json!({ "ordered": "rollback", "before": before, "generation": generation })
        }
    };
    let told = |key: &str| match answer[key].as_u64() {
        Some(number) => format!("generation {number}"),
        None => "the bare base".to_owned(),
    };
    let text = format!("in use: {} (before: {})", told("generation"), told("before"));
    show::result(json, &answer, &text)
}

/// Leaves the order for the program that runs next.
fn leave(config: &Config, paused: bool) -> anyhow::Result<()> {
    let state = cli::state(config)?;
    anyhow::ensure!(state.is_dir(), "there is no state folder {}", state.display());
    // Whoever starts in the meantime is refused the folder, or has it: then nothing is changed here.
    let disk = Arc::new(own::disk(config)?);
    Paused::read(disk)?.set(paused)?;
    Ok(())
}

/// What can be read of the device, and where it comes from.
pub(crate) fn probes(config: &Config, json: bool) -> anyhow::Result<()> {
    // Without a state folder the disk of the working directory is as good as any.
    let state = config.state.clone().unwrap_or_else(|| Path::new(".").into());
    let findings = SystemProbes::new(config.probes.clone(), state).describe();
    let mut text = String::new();
    for finding in &findings {
        text += &format!("{:<28}{:<14}{}\n", finding.name, finding.value, finding.source);
    }
    show::result(json, &serde_json::to_value(&findings)?, &text)
}

/// Makes frames of the lines of standard input.
pub(crate) fn frames(frames: &Frames) -> anyhow::Result<()> {
    // Seconds since 1970 differ from start to start, which is all that is asked of the number.
    let now = || SystemClock::start().now().as_second() as u32;
    let session = frames.session.unwrap_or_else(now);
    let (input, mut output) = (std::io::stdin().lock(), std::io::stdout().lock());
    encode_lines(input, &mut output, session, frames.frame_bytes)?;
    Ok(())
}

/// Writes the service file.
pub(crate) fn install(choices: &Choices, install: &Install) -> anyhow::Result<()> {
    let config = choices.to_start()?;
    // On another root the token may come later; here it is root's, and a person may only look.
    match serve::check(&config.serve) {
        Err(error) if install.place.root.is_none() && !error.is_denied() => {
            return Err(error.into());
        }
        _ => {}
    }
    if install.place.root.is_none() {
        sync::check(&config.fleet)?;
    }
    let options = Options {
        program: std::env::current_exe().context("cannot find this program's own file")?,
        arguments: choices.arguments()?,
        config: choices.config.as_deref().map(plain).transpose()?,
        user: install.place.user,
        account: install.account.clone(),
        memory_high: install.memory_high.clone(),
        memory_max: install.memory_max.clone(),
        watchdog_seconds: install.watchdog_seconds,
    };
    let of_this_machine = install.place.root.is_none();
    let memory_bytes = machine_bytes(&config.probes.proc).filter(|_| of_this_machine);
    options.check_together(memory_bytes)?;
    let manager = install.place.manager();
    let text = Service::new(&config, options)?.file(manager)?;
    if install.print {
        return show::say(&text);
    }
    let done = service::install(&place(&install.place, manager), &text, install.place.force)?;
    show::say(&done.join("\n"))
}

/// Removes it.
pub(crate) fn uninstall(uninstall: &Uninstall) -> anyhow::Result<()> {
    let chosen = &uninstall.place;
    let done = service::uninstall(&place(chosen, chosen.manager()), chosen.force)?;
    show::say(&done.join("\n"))
}

fn place(chosen: &cli::Where, manager: Manager) -> Place {
    Place { manager, user: chosen.user, root: chosen.root.clone() }
}

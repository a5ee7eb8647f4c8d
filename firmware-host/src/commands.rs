//! The commands around the program: orders to it, and its service file.
//!
//! - An order goes to the program that runs; where none runs, `pause` and `resume` leave it in the
//!   state folder and `job now` does the job itself.

use crate::cli::{self, Choices, Frames, Install, Uninstall};
use crate::show;
use anyhow::Context;
use firmware_host::client::{Client, ClientError};
use firmware_host::clock::{Clock, SystemClock};
use firmware_host::config::Config;
use firmware_host::intake::frames::encode_lines;
use firmware_host::paused::set_paused;
use firmware_host::probe::SystemProbes;
use firmware_host::service::{self, Manager, Options, Place, Service, plain};
use serde_json::{Value, json};
use std::path::Path;

/// Has the program learn now, or does it here.
pub(crate) fn job(config: &Config, json: bool) -> anyhow::Result<()> {
    match Client::new(&cli::socket(config)?).job() {
        Ok(answer) => show::result(json, &answer, "the program was told to learn now"),
        Err(error) if error.is_nobody() => foreground(config),
        Err(error) => Err(error.into()),
    }
}

#[cfg(feature = "engine")]
fn foreground(config: &Config) -> anyhow::Result<()> {
    crate::run::job_in_foreground(config)
}

#[cfg(not(feature = "engine"))]
fn foreground(_: &Config) -> anyhow::Result<()> {
    anyhow::bail!("no program runs, and this one was built without the learner")
}

/// Has learning wait, or go on.
pub(crate) fn pause(config: &Config, paused: bool, json: bool) -> anyhow::Result<()> {
    let client = Client::new(&cli::socket(config)?);
    let answer = if paused { client.pause() } else { client.resume() };
    let (answer, running) = match answer {
        Ok(answer) => (answer, true),
        Err(error) if error.is_nobody() => (leave(config, paused, &error)?, false),
        Err(error) => return Err(error.into()),
    };
    let text = match (paused, running) {
        (true, true) => "learning stops at the next optimiser step and waits for `resume`",
        (true, false) => "no program runs; the next one will not learn until `resume`",
        (false, true) => "learning goes on",
        (false, false) => "no program runs; the next one may learn",
    };
    show::result(json, &answer, text)
}

/// Leaves the order for the program that runs next.
fn leave(config: &Config, paused: bool, error: &ClientError) -> anyhow::Result<Value> {
    let state = cli::state(config)?;
    set_paused(state, paused)
        .with_context(|| format!("{error}; cannot leave the order in {}", state.display()))?;
    Ok(json!({ "running": false, "paused": paused }))
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
    let config = choices.config()?;
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

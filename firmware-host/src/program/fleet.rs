//! `fleet join|status|leave|sync|rotate-key`: the device in a fleet.
//!
//! - The program that has the state folder is told; where none has it, `join` and `leave` change the
//!   fleet's folder themselves, and the next program goes on from there.
//! - Never here: calls to the server, which the program makes.

use super::cli::Fleet as Command;
use super::found::Program;
use super::owner::{Owner, hand_over};
use super::show;
use anyhow::Context;
use firmware_host::clock::{Clock, SystemClock};
use firmware_host::config::Config;
use firmware_host::sync::{self, FleetError, Store};
use sapwood_protocol::fleet::link::Link;
use sapwood_protocol::limits::FLEET_PATH_BYTES_MAX;
use serde_json::{Value, json};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) fn run(config: &Config, command: &Command, json: bool) -> anyhow::Result<()> {
    if matches!(command, Command::Status) {
        return status(config, json);
    }
    let is_leave = matches!(command, Command::Leave);
    if !config.fleet.enabled && !is_leave {
        return Err(FleetError::Off.into());
    }
    // One that has no fleet leaves the folder to whoever comes.
    let program = Program::find(config)?.filter(|_| config.fleet.enabled);
    match (command, program) {
        (Command::Join { link, name }, program) => {
            let link: Link = said(link)?.parse().map_err(FleetError::Link)?;
            join(config, program, &link, name.as_deref(), json)
        }
        (Command::Leave, Some(program)) => {
            let answer = program.ask(|client| client.fleet("leave", None))?;
            show::result(json, &answer, &left(true))
        }
        (Command::Leave, None) => show::result(json, &Value::Null, &left(leave(&folder(config)?)?)),
        (Command::Sync, Some(program)) => told(&program, "sync", json),
        (Command::RotateKey, Some(program)) => told(&program, "rotate-key", json),
        (Command::Sync | Command::RotateKey | Command::Status, None) => {
            anyhow::bail!("no program runs that could talk to the fleet's server")
        }
        (Command::Status, Some(_)) => Ok(()),
    }
}

/// The link of the command line, or of standard input.
fn said(link: &str) -> anyhow::Result<String> {
    if link != "-" {
        return Ok(link.to_owned());
    }
    let mut line = String::new();
    // A byte more than a link may have is enough to know that it is none.
    let input = io::stdin().take(FLEET_PATH_BYTES_MAX as u64 + 2);
    BufReader::new(input).read_line(&mut line).context("cannot read the link")?;
    Ok(line.trim().to_owned())
}

/// Forgets the fleet of a folder; whether there was one. The lock stays: who waits for it has it open.
fn leave(folder: &Path) -> anyhow::Result<bool> {
    match Store::look(folder)? {
        Some(_) => Ok(sync::leave(&Store::exclusive(folder)?)?),
        None => Ok(false),
    }
}

fn folder(config: &Config) -> anyhow::Result<PathBuf> {
    config.fleet_folder().context("expected --state, or fleet.folder in the file of --config")
}

fn told(program: &Program, order: &str, json: bool) -> anyhow::Result<()> {
    let answer = program.ask(|client| client.fleet(order, None))?;
    show::result(json, &answer, &show::fleet(&answer))
}

fn join(
    config: &Config,
    program: Option<Program>,
    link: &Link,
    name: Option<&str>,
    json: bool,
) -> anyhow::Result<()> {
    if let Some(program) = program {
        let body = json!({ "link": link.to_string(), "name": name });
        let answer = program.ask(|client| client.fleet("join", Some(&body)))?;
        return show::result(json, &answer, &show::fleet(&answer));
    }
    let folder = folder(config)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
    let ca_file = config.fleet.ca_file.as_deref();
    let status = sync::enlist(&Store::exclusive(&folder)?, link, name, ca_file, &clock)?;
    // What root makes beside another account's state folder is that account's.
    if let Some(owner) = config.state.as_deref().and_then(Owner::of) {
        hand_over(&folder, owner, |_| true)
            .with_context(|| format!("cannot give its owner what {} has", folder.display()))?;
    }
    let value = serde_json::to_value(&status)?;
    let text = "no program runs; the next one joins the fleet";
    show::result(json, &value, text)
}

fn left(was: bool) -> String {
    match was {
        true => "this device is in no fleet any more; its operator may retire it there".into(),
        false => "this device was in no fleet".into(),
    }
}

/// How the device is in its fleet, as the program says, or as its folder does.
fn status(config: &Config, json: bool) -> anyhow::Result<()> {
    let value = match Program::find(config)? {
        Some(program) => program.ask(|client| client.status())?["fleet"].clone(),
        None => look(config)?,
    };
    show::result(json, &value, &show::fleet(&value))
}

/// What the folder says; null where the device is in no fleet.
pub(crate) fn look(config: &Config) -> anyhow::Result<Value> {
    let found = config.fleet_folder().map(|folder| sync::look(&folder)).transpose()?.flatten();
    Ok(serde_json::to_value(found)?)
}

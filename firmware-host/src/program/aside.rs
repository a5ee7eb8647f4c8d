//! `aside list|retry|drop`: samples that no job could take in.
//!
//! - The program that has the state folder is asked; where none has it, it is opened for this process
//!   alone.

use super::cli::{self, Aside, Numbers};
use super::found::Program;
use super::own;
use super::show;
use anyhow::Context;
use firmware_host::client::{Client, ClientError};
use firmware_host::config::Config;
use sapwood::inbox::{Bounds, Inbox, InboxError};
use sapwood::state::State;
use serde_json::{Value, json};
use std::sync::Arc;

/// Who can tell of the samples and change what becomes of them.
enum Keeper {
    Program(Client),
    Folder(Box<Inbox>),
}

pub(crate) fn run(config: &Config, aside: &Aside, json: bool) -> anyhow::Result<()> {
    let mut keeper = Keeper::find(config)?;
    let rows = keeper.list()?;
    let (numbers, retried) = match aside {
        Aside::List => return show::result(json, &json!({ "aside": &rows }), &table(&rows)),
        Aside::Retry(numbers) => (chosen(numbers, &rows), true),
        Aside::Drop(numbers) => (chosen(numbers, &rows), false),
    };
    let mut done = Vec::new();
    for number in numbers {
        let found = if retried { keeper.retry(number) } else { keeper.drop(number) };
        let so_far = || format!("sample {number}, after {} others were done", done.len());
        anyhow::ensure!(
            found.with_context(so_far)?,
            "no sample of number {number} was set aside: expected one that `aside list` shows"
        );
        done.push(number);
    }
    let word = if retried { "wait for a job again" } else { "are gone for good" };
    let key = if retried { "retried" } else { "dropped" };
    show::result(json, &json!({ key: &done }), &format!("{} samples {word}", done.len()))
}

fn chosen(numbers: &Numbers, rows: &[Value]) -> Vec<u64> {
    let all = || rows.iter().filter_map(|row| row["number"].as_u64()).collect();
    if numbers.all { all() } else { numbers.numbers.clone() }
}

fn table(rows: &[Value]) -> String {
    if rows.is_empty() {
        return "no sample was set aside".into();
    }
    let word = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().replace('\n', " ");
    let line = |row: &Value| {
        let (number, sample) = (&row["number"], word(row, "sample"));
        let short: String = sample.chars().take(60).collect();
        format!("{:<10} {}\n{:<10} {short}\n", number.to_string(), word(row, "reason"), "")
    };
    rows.iter().map(line).collect()
}

impl Keeper {
    fn find(config: &Config) -> anyhow::Result<Self> {
        if let Some(program) = Program::find(config)? {
            program.ask(Client::aside)?;
            return Ok(Self::Program(program.client));
        }
        let path = cli::state(config)?;
        anyhow::ensure!(path.is_dir(), "there is no state folder {}", path.display());
        let disk = Arc::new(own::disk(config)?);
        let state = State::open(disk.clone())?;
        let intake = &config.intake;
        let bounds = Bounds { bytes: intake.inbox_bytes_max, samples: intake.inbox_samples_max };
        Ok(Self::Folder(Box::new(Inbox::open(disk, bounds, state.learned())?)))
    }

    fn list(&self) -> anyhow::Result<Vec<Value>> {
        match self {
            Self::Program(client) => {
                Ok(client.aside()?["aside"].as_array().cloned().unwrap_or_default())
            }
            Self::Folder(inbox) => {
                let all = inbox.aside().filter_map(|number| inbox.look_aside(number).transpose());
                let row = |found: Result<sapwood::inbox::Aside, InboxError>| {
                    let found = found?;
                    let (bytes, sample) = (found.line.len(), found.line);
                    let (number, reason) = (found.number, found.reason);
                    Ok(
                        json!({ "number": number, "reason": reason, "bytes": bytes, "sample": sample }),
                    )
                };
                all.map(row).collect()
            }
        }
    }

    fn retry(&mut self, number: u64) -> anyhow::Result<bool> {
        match self {
            Self::Program(client) => there(client.retry_aside(number)),
            Self::Folder(inbox) => Ok(inbox.retry_aside(number)?),
        }
    }

    fn drop(&mut self, number: u64) -> anyhow::Result<bool> {
        match self {
            Self::Program(client) => there(client.drop_aside(number)),
            Self::Folder(inbox) => Ok(inbox.drop_aside(number)?),
        }
    }
}

/// Whether the program found the sample.
fn there(answer: Result<Value, ClientError>) -> anyhow::Result<bool> {
    match answer {
        Ok(_) => Ok(true),
        Err(ClientError::Refused { status: 404, .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

//! `sapwood serve`: `firmware-host serve` under another name, so that one command serves a model.
//!
//! - That program stands beside this one, or in PATH. It takes this process's place where the system can.
//! - Never here: what its arguments mean; they go on as they came.

use anyhow::Context;
use clap::Args;
use std::env::consts::EXE_SUFFIX;
use std::ffi::OsString;
use std::io::{Error, ErrorKind};
use std::path::PathBuf;
use std::process::Command;

/// `sapwood serve`
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// What `firmware-host serve` takes: --model, --adapter-path, --state, --host, --port (`--help` tells).
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
    pub rest: Vec<OsString>,
}

/// Starts the program that serves.
pub(crate) fn run(args: &Serve, json: bool) -> anyhow::Result<()> {
    let name = format!("firmware-host{EXE_SUFFIX}");
    let mut command = Command::new(beside(&name).unwrap_or_else(|| PathBuf::from(&name)));
    command.arg("serve").args(&args.rest).args(json.then_some("--json"));
    let error = become_it(command)?;
    if error.kind() == ErrorKind::NotFound {
        anyhow::bail!(
            "{name} is neither beside this program nor in PATH, and it is what serves: expected both to be \
             installed"
        );
    }
    Err(error).with_context(|| format!("cannot start {name}"))
}

/// The program that stands beside this one.
fn beside(name: &str) -> Option<PathBuf> {
    let path = std::env::current_exe().ok()?.parent()?.join(name);
    path.is_file().then_some(path)
}

/// Puts the program in the place of this one; why it could not.
#[cfg(unix)]
fn become_it(mut command: Command) -> anyhow::Result<Error> {
    use std::os::unix::process::CommandExt;
    Ok(command.exec())
}

/// Runs the program, and ends as it does; why it could not.
#[cfg(not(unix))]
fn become_it(mut command: Command) -> anyhow::Result<Error> {
    match command.status() {
        Ok(status) => std::process::exit(status.code().unwrap_or(1)),
        Err(error) => Ok(error),
    }
}

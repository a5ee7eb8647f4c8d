//! The device program: takes samples in, learns when the device can afford it, serves the result.
//!
//! - `run` is the program; the other commands talk to it over its Unix socket, or look into its state
//!   folder where it does not run.
//! - Results go to standard output, logs and errors to standard error.

mod aside;
mod cli;
mod commands;
mod recover;
#[cfg(feature = "engine")]
mod run;
mod show;
#[cfg(feature = "engine")]
mod stop;

use clap::Parser;
use cli::{Action, ChoiceError, Command, Job};
use firmware_host::config::ConfigError;
use firmware_host::serve::ServeError;
use firmware_host::service::ServiceError;
use firmware_host::supervise::{Broken, EXIT_BROKEN};
use std::io::Write;
use std::process::ExitCode;

/// The configuration is wrong, in the words of sysexits.h: starting again does not help.
const EXIT_CONFIG: u8 = 78;

fn main() -> ExitCode {
    let command = Command::parse();
    match act(&command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error, &command.action);
            let is_choice = |cause: &&(dyn std::error::Error + 'static)| {
                cause.is::<ChoiceError>()
                    || cause.is::<ConfigError>()
                    || cause.downcast_ref::<ServeError>().is_some_and(ServeError::is_choice)
                    || cause.downcast_ref::<ServiceError>().is_some_and(ServiceError::is_choice)
            };
            if error.chain().any(|cause| is_choice(&cause)) {
                ExitCode::from(EXIT_CONFIG)
            } else if error.chain().any(|cause| cause.is::<Broken>()) {
                ExitCode::from(EXIT_BROKEN)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

fn act(command: &Command) -> anyhow::Result<()> {
    let json = command.json;
    let config = || command.choices.config();
    match &command.action {
        #[cfg(feature = "engine")]
        Action::Run => {
            start_log(command)?;
            run::run(&command.choices.to_start()?)
        }
        Action::Status => show::status(&config()?, json),
        Action::Job(Job::Now) => {
            start_log(command)?;
            commands::job(&config()?, json)
        }
        Action::Aside(aside) => aside::run(&config()?, aside, json),
        Action::Recover(_) => recover::run(&config()?, json),
        Action::Pause => commands::pause(&config()?, true, json),
        Action::Resume => commands::pause(&config()?, false, json),
        Action::Probes => commands::probes(&config()?, json),
        Action::Frames(frames) => commands::frames(frames),
        Action::Install(install) => commands::install(&command.choices, install),
        Action::Uninstall(uninstall) => commands::uninstall(uninstall),
    }
}

fn start_log(command: &Command) -> anyhow::Result<()> {
    let (format, level) = command.choices.log();
    Ok(firmware_host::log::start(format, level)?)
}

/// One line on standard error, or an event of the log where there is one.
fn complain(error: &anyhow::Error, action: &Action) {
    #[cfg(feature = "engine")]
    if matches!(action, Action::Run) {
        tracing::error!(reason = show::told(error), "ended");
        return;
    }
    let _ = action;
    // A closed standard error leaves nobody to tell.
    let _ = writeln!(std::io::stderr(), "error: {}", show::told(error));
}

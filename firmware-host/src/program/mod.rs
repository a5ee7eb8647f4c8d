//! What the commands do: one file a command or a few, the command line in `cli`, the terminal in `show`.
//!
//! - Results go to standard output, logs and errors to standard error.
//! - Never here: the device. A command reads what the user named, asks the library and tells.

pub(crate) mod cli;
mod show;
mod owner;
mod own;
mod found;
mod fleet;
mod status;
#[cfg(feature = "engine")]
mod stop;
#[cfg(feature = "engine")]
mod run;
#[cfg(feature = "engine")]
mod serve;
mod commands;
mod aside;
mod recover;

use cli::{Action, Command, Job};
use sapwood_protocol::fleet::message::told;
use std::io::Write;

/// Does what the command line says.
///
/// # Errors
/// Why it could not; what was acknowledged before is done.
pub(crate) fn act(command: &Command) -> anyhow::Result<()> {
    let json = command.json;
    let config = || command.choices.config();
    match &command.action {
        #[cfg(feature = "engine")]
        Action::Run => {
            start_log(command)?;
            run::run(&command.choices.to_start()?)
        }
        #[cfg(feature = "engine")]
        Action::Serve(args) => {
            start_log(command)?;
            serve::run(&command.choices, args, json)
        }
        Action::Status => status::run(&config()?, json),
        Action::Job(Job::Now) => {
            start_log(command)?;
            own::for_owner(&config()?, |config| commands::job(config, json))
        }
        Action::Aside(aside) => {
            own::for_owner(&config()?, |config| aside::run(config, aside, json))
        }
        Action::Fleet(fleet) => fleet::run(&config()?, fleet, json),
        Action::Recover(_) => own::for_owner(&config()?, |config| recover::run(config, json)),
        Action::Rollback(rollback) => {
            own::for_owner(&config()?, |config| commands::rollback(config, rollback.to, json))
        }
        Action::Pause => own::for_owner(&config()?, |config| commands::pause(config, true, json)),
        Action::Resume => own::for_owner(&config()?, |config| commands::pause(config, false, json)),
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
pub(crate) fn complain(error: &anyhow::Error, action: &Action) {
    #[cfg(feature = "engine")]
    if matches!(action, Action::Run) {
        tracing::error!(reason = told(error.chain()), "ended");
        return;
    }
    let _ = action;
    // A closed standard error leaves nobody to tell.
    let _ = writeln!(std::io::stderr(), "error: {}", told(error.chain()));
}

//! The device program: takes samples in, learns when the device can afford it, serves the result.
//!
//! - `run` is the program; the other commands talk to it over its Unix socket, or look into its state
//!   folder where it does not run.
//! - Here is what its exit status says.

mod program;

use clap::Parser;
use firmware_host::config::ConfigError;
use firmware_host::serve::ServeError;
use firmware_host::service::ServiceError;
use firmware_host::supervise::{Broken, EXIT_BROKEN};
use firmware_host::sync::FleetError;
use program::cli::{ChoiceError, Command};
use std::process::ExitCode;

/// The configuration is wrong, in the words of sysexits.h: starting again does not help.
const EXIT_CONFIG: u8 = 78;

fn main() -> ExitCode {
    let command = Command::parse();
    match program::act(&command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            program::complain(&error, &command.action);
            ExitCode::from(status(&error))
        }
    }
}

/// Whether the model or the state rules out what the configuration asks for.
fn is_ruled_out(cause: &(dyn std::error::Error + 'static)) -> bool {
    #[cfg(feature = "engine")]
    return cause
        .downcast_ref::<firmware_host::device::DeviceError>()
        .is_some_and(firmware_host::device::DeviceError::is_choice);
    #[cfg(not(feature = "engine"))]
    {
        let _ = cause;
        false
    }
}

/// What a service manager is told of an error.
fn status(error: &anyhow::Error) -> u8 {
    let is_choice = |cause: &(dyn std::error::Error + 'static)| {
        cause.is::<ChoiceError>()
            || cause.is::<ConfigError>()
            || is_ruled_out(cause)
            || cause.downcast_ref::<ServeError>().is_some_and(ServeError::is_choice)
            || cause.downcast_ref::<ServiceError>().is_some_and(ServiceError::is_choice)
            || cause.downcast_ref::<FleetError>().is_some_and(FleetError::is_choice)
    };
    if error.chain().any(is_choice) {
        EXIT_CONFIG
    } else if error.chain().any(|cause| cause.is::<Broken>()) {
        EXIT_BROKEN
    } else {
        1
    }
}

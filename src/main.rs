//! The `sapwood` command: adapts a base, evaluates, generates, and looks after its state folder.

mod cli;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::run(cli::args::Command::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            cli::console::complain(&error);
            ExitCode::FAILURE
        }
    }
}

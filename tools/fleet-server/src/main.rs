//! The fleet server's program: a server, and the orders of its operator.
//!
//! - Every command but `merge` works on a fleet's folder, beside a server that runs or without one.
//! - In: arguments. Out: lines, or JSON with `--json`; one line on the error stream when it refuses.
//! - Never here: an engine, a base, anybody's data.

mod program;

use sapwood_protocol::fleet::message::told;
use std::process::ExitCode;

fn main() -> ExitCode {
    match program::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", told(error.chain()));
            ExitCode::FAILURE
        }
    }
}

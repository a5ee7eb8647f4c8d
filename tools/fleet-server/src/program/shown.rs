//! Where a fleet lies, and how an answer is shown.

use anyhow::Result;
use fleet_server::home::Home;
use fleet_server::ports::{Clock, SystemClock};
use serde_json::Value;
use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use tokio::signal::unix::{SignalKind, signal};

/// SIGXFSZ, on Linux and macOS.
const XFSZ: i32 = 25;

/// Of every command that works on a fleet.
#[derive(clap::Args)]
pub(super) struct Place {
    /// The fleet's folder, which `fleet-server init` makes.
    #[arg(long, value_name = "DIR")]
    folder: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Place {
    pub(super) fn open(&self) -> Result<Home> {
        Ok(Home::open(&self.folder)?)
    }

    pub(super) fn show(&self, json: &Value, text: &str) -> Result<()> {
        show(self.json, json, text)
    }
}

/// Prints an answer.
pub(super) fn show(as_json: bool, json: &Value, text: &str) -> Result<()> {
    line(&if as_json { json.to_string() } else { text.trim_end().to_owned() })
}

/// Prints what was done. A reader that has gone has heard enough: it is done all the same.
pub(super) fn line(text: &str) -> Result<()> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

/// Has a file that grows beyond the shell's limit be an error of its write, as a full disk is; else the
/// system ends the program in the middle.
pub(super) fn outlive_large_files() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let _entered = runtime.enter();
    // Heard from now on, whoever listens: it stays with the process.
    drop(signal(SignalKind::from_raw(XFSZ))?);
    Ok(())
}

/// Milliseconds since 1970.
pub(super) fn now_ms() -> u64 {
    SystemClock::start().now_ms()
}

/// How long ago a moment was, in the largest unit that fits.
pub(super) fn ago(then_ms: u64, now_ms: u64) -> String {
    let seconds = now_ms.saturating_sub(then_ms) / 1000;
    match seconds {
        _ if then_ms == 0 => "never".to_owned(),
        0..60 => format!("{seconds} s ago"),
        60..3600 => format!("{} min ago", seconds / 60),
        3600..86_400 => format!("{} h ago", seconds / 3600),
        _ => format!("{} d ago", seconds / 86_400),
    }
}

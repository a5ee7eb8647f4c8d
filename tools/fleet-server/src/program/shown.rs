//! Where a fleet lies, and how an answer is shown.

use anyhow::Result;
use fleet_server::home::Home;
use fleet_server::ports::{Clock, SystemClock};
use serde_json::Value;
use std::io::Write;
use std::path::PathBuf;

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
    let line = if as_json { json.to_string() } else { text.trim_end().to_owned() };
    Ok(writeln!(std::io::stdout(), "{line}")?)
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

//! `upgrade`: a book of an older version becomes one of this.

use super::shown::show;
use anyhow::Result;
use fleet_server::home;
use fleet_server::store::schema;
use serde_json::json;
use std::path::PathBuf;

/// Brings the book of a fleet to the version of this program; its servers must be stopped.
///
/// There is no way back but a copy: make one first.
#[derive(clap::Args)]
pub(super) struct Upgrade {
    /// The fleet's folder, which `fleet-server init` makes.
    #[arg(long, value_name = "DIR")]
    folder: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Upgrade {
    pub(super) fn run(&self) -> Result<()> {
        let before = home::upgrade(&self.folder)?;
        let now = schema::VERSION;
        let text = match before == now {
            true => format!("{}: book version {now} already", self.folder.display()),
            false => format!("{}: book version {before} -> {now}", self.folder.display()),
        };
        show(self.json, &json!({"folder": self.folder, "before": before, "version": now}), &text)
    }
}

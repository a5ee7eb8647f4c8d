//! `move`: a fleet's book goes into a database, or back into its folder.

use super::init::plain;
use super::shown::show;
use anyhow::Result;
use fleet_server::home::{self, Moved};
use serde_json::json;
use std::path::PathBuf;

/// Moves the book of a fleet into a database, or back; its servers must be stopped.
///
/// Every row is copied and checked, then stores.toml names the new place. The old book stays as
/// fleet.db.moved, or in its database with the table meta_moved. Cut at any moment it can be said again.
#[derive(clap::Args)]
pub(super) struct Move {
    /// The fleet's folder, which `fleet-server init` makes.
    #[arg(long, value_name = "DIR")]
    folder: PathBuf,
    /// An empty database, postgres://USER@HOST/NAME, whose password is PGPASSWORD; or `folder`.
    #[arg(long, value_name = "URL")]
    database: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Move {
    pub(super) fn run(&self) -> Result<()> {
        let database = plain((self.database != "folder").then_some(&self.database))?;
        let Moved { sums, old } = home::relocate(&self.folder, database.as_deref())?;
        let rows: u64 = sums.iter().map(|sum| sum.rows).sum();
        let old = if old.is_empty() {
            "it was there already".into()
        } else {
            format!("the old book: {old}")
        };
        let text = format!("{}: {rows} rows, each as it was; {old}", self.folder.display());
        let tables: serde_json::Map<_, _> =
            sums.iter().map(|sum| (sum.table.to_owned(), sum.rows.into())).collect();
        show(self.json, &json!({"folder": self.folder, "rows": tables, "old": old}), &text)
    }
}

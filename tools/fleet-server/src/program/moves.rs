//! `move`: a fleet's book goes into a database, its blobs into a bucket, or back into its folder.

use super::init::plain;
use super::shown::show;
use anyhow::{Context, Result};
use fleet_server::home::{self, Moved};
use fleet_server::store::blobs::Copied;
use serde_json::{Value, json};
use std::path::PathBuf;

/// Moves the book of a fleet into a database, its blobs into a bucket, or back; its servers must be stopped.
///
/// Every row and every blob is copied and checked, then stores.toml names the new place. The old book stays
/// as fleet.db.moved, or in its database with the table meta_moved; the old blobs stay. Cut at any moment it
/// can be said again.
#[derive(clap::Args)]
pub(super) struct Move {
    /// The fleet's folder, which `fleet-server init` makes.
    #[arg(long, value_name = "DIR")]
    folder: PathBuf,
    /// An empty database, postgres://USER@HOST/NAME, whose password is PGPASSWORD; or `folder`.
    #[arg(long, value_name = "URL", required_unless_present = "blobs")]
    database: Option<String>,
    /// A bucket, s3://BUCKET/PREFIX; or `folder`.
    #[arg(long, value_name = "URL")]
    blobs: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Move {
    pub(super) fn run(&self) -> Result<()> {
        let mut told = json!({"folder": self.folder});
        let mut text = Vec::new();
        if let Some(place) = &self.blobs {
            text.push(self.carry(place, &mut told)?);
        }
        if let Some(place) = &self.database {
            let relocated = self.relocate(place, &mut told);
            text.push(match &self.blobs {
                Some(_) => relocated.context("the blobs have moved, the book has not")?,
                None => relocated?,
            });
        }
        show(self.json, &told, &text.join("\n"))
    }

    fn relocate(&self, place: &str, told: &mut Value) -> Result<String> {
        let database = plain((place != "folder").then_some(place))?;
        let Moved { sums, old } = home::relocate(&self.folder, database.as_deref())?;
        let rows: u64 = sums.iter().map(|sum| sum.rows).sum();
        let tables: serde_json::Map<_, _> =
            sums.iter().map(|sum| (sum.table.to_owned(), sum.rows.into())).collect();
        told["rows"] = tables.into();
        told["old"] = old.as_str().into();
        let old = if old.is_empty() {
            "it was there already".into()
        } else {
            format!("the old book: {old}")
        };
        Ok(format!("{}: {rows} rows, each as it was; {old}", self.folder.display()))
    }

    fn carry(&self, place: &str, told: &mut Value) -> Result<String> {
        let bucket = plain((place != "folder").then_some(place))?;
        let Copied { blobs, bytes, before, damaged } =
            home::carry(&self.folder, bucket.as_deref(), |_| {})?;
        told["blobs"] =
            json!({"blobs": blobs, "bytes": bytes, "before": before, "damaged": damaged});
        let folder = self.folder.display();
        let mut text = match blobs {
            0 => format!("{folder}: no blob to move, or all were there already"),
            _ => format!("{folder}: {blobs} blobs, each as it was"),
        };
        for hash in damaged {
            text.push_str(&format!("\n{hash} was damaged, and is not there"));
        }
        Ok(text)
    }
}

//! `init`: a new fleet's folder.

use super::shown::{now_ms, show};
use anyhow::{Result, ensure};
use fleet_server::home::{self, Stores, Wish};
use fleet_server::ports::SystemChance;
use fleet_server::store;
use serde_json::json;
use std::path::PathBuf;

/// Makes a new fleet: keys, the first trust statement, an empty book.
///
/// keys/root.key names the fleet's keys and keys/release.key releases adapters: move both away from the
/// server, it needs neither. keys/online.key stays.
#[derive(clap::Args)]
pub(super) struct Init {
    /// The folder to make; must not exist yet.
    #[arg(long, value_name = "DIR")]
    folder: PathBuf,
    /// What people call the fleet.
    #[arg(long, default_value = "fleet")]
    name: String,
    /// Make a certificate too, for these names and addresses: devices will know it by its key.
    #[arg(long, value_name = "NAMES", value_delimiter = ',', num_args = 0..,
          default_missing_value = "localhost,127.0.0.1,::1")]
    tls: Option<Vec<String>>,
    /// Keep the book in a database of Postgres, postgres://USER@HOST/NAME; its password is PGPASSWORD, or is
    /// written into stores.toml by hand.
    #[arg(long, value_name = "URL")]
    database: Option<String>,
    /// Keep the blobs in a bucket, s3://BUCKET/PREFIX.
    #[arg(long, value_name = "URL")]
    blobs: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Init {
    pub(super) fn run(&self) -> Result<()> {
        let wish = Wish {
            folder: &self.folder,
            name: &self.name,
            tls: self.tls.as_deref(),
            now_ms: now_ms(),
        };
        let fleet = home::init_with(&wish, &self.stores()?, &SystemChance)?;
        let folder = self.folder.display();
        let text = format!(
            "{folder}: fleet {fleet}\nmove away from the server: keys/root.key, keys/release.key"
        );
        show(self.json, &json!({"folder": self.folder, "fleet": fleet, "name": self.name}), &text)
    }

    /// Where book and blobs are to be.
    fn stores(&self) -> Result<Stores> {
        let [database, blobs] =
            [&self.database, &self.blobs].map(|address| plain(address.as_deref()));
        Ok(Stores { database: database?, blobs: blobs? }.checked()?)
    }
}

/// An address in an argument, which everybody on the machine sees.
pub(super) fn plain(address: Option<&str>) -> Result<Option<String>> {
    let is_seen = address.is_some_and(store::has_password);
    let expected = match address.is_some_and(|address| address.starts_with("s3:")) {
        true => "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        false => "PGPASSWORD",
    };
    ensure!(!is_seen, "a password in an argument is seen by all, expected {expected}");
    Ok(address.map(str::to_owned))
}

//! `init`: a new fleet's folder.

use super::shown::{now_ms, show};
use anyhow::Result;
use fleet_server::home::{self, Wish};
use fleet_server::ports::SystemChance;
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
        let fleet = home::init(&wish, &SystemChance)?;
        let folder = self.folder.display();
        let text = format!(
            "{folder}: fleet {fleet}\nmove away from the server: keys/root.key, keys/release.key"
        );
        show(self.json, &json!({"folder": self.folder, "fleet": fleet, "name": self.name}), &text)
    }
}

//! `enroll-link`: a token, and the line that tells devices of the fleet.

use super::shown::{Place, now_ms};
use anyhow::Result;
use fleet_server::operator::{self, Invitation};
use fleet_server::ports::SystemChance;
use serde_json::json;

/// Prints a link with which devices enrol.
#[derive(clap::Args)]
pub(super) struct EnrollLink {
    #[command(flatten)]
    place: Place,
    /// Where devices reach the server, as HOST or HOST:PORT; without a port they use 443, while `serve`
    /// listens on 8443.
    #[arg(long, value_name = "HOST")]
    address: String,
    /// The label that the devices get: only devices of one label are merged with each other.
    #[arg(long, default_value = "")]
    label: String,
    /// How many devices may enrol with it.
    #[arg(long, default_value = "1", value_parser = clap::value_parser!(u64).range(1..))]
    uses: u64,
    /// For how many hours.
    #[arg(long, default_value = "24", value_parser = clap::value_parser!(u64).range(1..=24 * 3650))]
    hours: u64,
    /// Accept them at once; else each waits for `devices accept`.
    #[arg(long)]
    auto_accept: bool,
    /// They are of the lab: they take candidates too.
    #[arg(long)]
    lab: bool,
    /// An authority speaks for the certificate: devices need not know it by its key.
    #[arg(long)]
    no_pin: bool,
}

impl EnrollLink {
    pub(super) fn run(&self) -> Result<()> {
        let home = self.place.open()?;
        let invitation = Invitation {
            host: self.address.clone(),
            label: self.label.clone(),
            uses: self.uses,
            expires_ms: now_ms() + self.hours * 3_600_000,
            auto: self.auto_accept,
            lab: self.lab,
            pinned: !self.no_pin,
        };
        let link = operator::invite(&home, &invitation, &SystemChance, now_ms())?.to_string();
        self.place.show(&json!({"link": link, "expires": invitation.expires_ms}), &link)
    }
}

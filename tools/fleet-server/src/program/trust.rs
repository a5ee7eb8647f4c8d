//! `trust`: which keys speak for the fleet, and which do from now on.

use super::shown::{Place, now_ms, show};
use anyhow::Result;
use fleet_server::home;
use fleet_server::operator::trust::{Change, Rotated, rotate};
use fleet_server::ports::SystemChance;
use sapwood_protocol::fleet::id::PublicKey;
use sapwood_protocol::fleet::key::SecretKey;
use sapwood_protocol::fleet::trust::Trust as Keys;
use serde_json::{Value, json};
use std::path::PathBuf;

const DAY_S: u64 = 24 * 3600;

/// Shows which keys speak for the fleet, makes keys, changes them.
#[derive(clap::Subcommand)]
pub(super) enum Trust {
    /// The newest epoch, its keys, and how long it is believed.
    Show {
        #[command(flatten)]
        place: Place,
    },
    /// Makes a key in a new file that nobody else may read.
    Key {
        /// The file to make.
        file: PathBuf,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Makes a new epoch, which devices follow at their next check-in; keys that it no longer names are
    /// believed by none of them.
    ///
    /// What is not said stays: with nothing but root keys the same keys are believed for longer. What is
    /// offered is signed again by the new keys, and listed: take back first what should not be.
    Rotate(Rotate),
}

#[derive(clap::Args)]
pub(super) struct Rotate {
    #[command(flatten)]
    place: Place,
    /// A file with a root key that stands; may be said several times.
    #[arg(long, value_name = "FILE", required = true)]
    root_key: Vec<PathBuf>,
    /// Give the server another key, in a new file of the fleet's folder.
    #[arg(long)]
    online: bool,
    /// A file with a key that signs releases from now on; all of them, each once.
    #[arg(long, value_name = "FILE")]
    new_release_key: Vec<PathBuf>,
    /// How many of the release keys must sign.
    #[arg(long, value_name = "N")]
    release_threshold: Option<u8>,
    /// A file with a key that names the next keys from now on; all of them, each once.
    #[arg(long, value_name = "FILE")]
    new_root_key: Vec<PathBuf>,
    /// How many of the root keys must sign.
    #[arg(long, value_name = "N")]
    root_threshold: Option<u8>,
    /// For how many days it is believed.
    #[arg(long, default_value = "1825", value_parser = clap::value_parser!(u64).range(1..=36_500))]
    days: u64,
}

fn keys(paths: &[PathBuf]) -> Result<Vec<SecretKey>> {
    Ok(paths.iter().map(|path| home::key(path)).collect::<Result<_, _>>()?)
}

fn told(trust: &Keys) -> Value {
    json!({
        "epoch": trust.epoch,
        "expires": trust.expires_s.saturating_mul(1000),
        "online": trust.online,
        "root": {"keys": trust.root, "threshold": trust.root_threshold},
        "release": {"keys": trust.release, "threshold": trust.release_threshold},
    })
}

fn lines(trust: &Keys) -> String {
    let days = |seconds: u64| seconds / DAY_S;
    let now_s = now_ms() / 1000;
    let believed = match trust.expires_s.checked_sub(now_s) {
        Some(left) if left > 0 => format!("believed for {} days", days(left)),
        _ => format!("expired {} days ago: devices take nothing", days(now_s - trust.expires_s)),
    };
    let mut text = format!(
        "fleet {}, epoch {}, {believed}\nonline  {}",
        trust.fleet, trust.epoch, trust.online
    );
    for (role, keys, threshold) in [
        ("root", &trust.root, trust.root_threshold),
        ("release", &trust.release, trust.release_threshold),
    ] {
        let list: Vec<String> = keys.iter().map(PublicKey::to_string).collect();
        text += &format!("\n{role}  {threshold} of {}: {}", keys.len(), list.join(" "));
    }
    text
}

impl Trust {
    pub(super) fn run(&self) -> Result<()> {
        match self {
            Self::Show { place } => {
                let trust = place.open()?.trust()?;
                place.show(&told(&trust), &lines(&trust))
            }
            Self::Key { file, json } => {
                let public = home::new_key(file, &SystemChance)?.public();
                let text = format!("{}: the secret of {public}", file.display());
                show(*json, &json!({"file": file, "key": public}), &text)
            }
            Self::Rotate(rotate) => rotate.run(),
        }
    }
}

impl Rotate {
    fn run(&self) -> Result<()> {
        let home = self.place.open()?;
        let change = Change {
            online: self.online,
            release: keys(&self.new_release_key)?,
            release_threshold: self.release_threshold,
            root: keys(&self.new_root_key)?,
            root_threshold: self.root_threshold,
            seconds: self.days * DAY_S,
        };
        let roots = keys(&self.root_key)?;
        let Rotated { trust, signed } = rotate(&home, &roots, &change, &SystemChance, now_ms())?;
        let (mut json, mut text) = (told(&trust), lines(&trust));
        for release in &signed {
            let (cohort, sequence, artifact) = (release.cohort, release.sequence, release.artifact);
            text += &format!("\nsigned again: cohort {cohort}, sequence {sequence}, {artifact}");
        }
        let row = |release: &fleet_server::rollout::Release| json!({"cohort": release.cohort, "sequence": release.sequence, "artifact": release.artifact});
        json["signed_again"] = signed.iter().map(row).collect();
        self.place.show(&json, &text)
    }
}

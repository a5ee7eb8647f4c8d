//! `devices`: who takes part, and an operator's word about one.

use super::shown::{Place, ago, now_ms};
use anyhow::Result;
use fleet_server::devices::{self, Device};
use fleet_server::operator::{self, Word};
use sapwood_protocol::fleet::id::DeviceId;
use sapwood_protocol::fleet::message::DeviceState;
use serde_json::{Value, json};

/// Shows devices, and says who takes part.
#[derive(clap::Subcommand)]
pub(super) enum Devices {
    /// Devices in the order of their enrolment.
    List {
        #[command(flatten)]
        place: Place,
        /// Only those of this state.
        #[arg(long, value_parser = ["pending", "accepted", "suspended", "rejected", "retired"])]
        state: Option<String>,
    },
    /// Lets a device that waits take part.
    Accept {
        #[command(flatten)]
        one: One,
        /// Its label, if no token gave it one.
        #[arg(long)]
        label: Option<String>,
        /// It is of the lab: it takes candidates too.
        #[arg(long)]
        lab: bool,
    },
    /// Refuses a device that waits.
    Reject {
        #[command(flatten)]
        one: One,
    },
    /// Stops a device for now.
    Suspend {
        #[command(flatten)]
        one: One,
    },
    /// Has a stopped device go on; its counter may begin again.
    Resume {
        #[command(flatten)]
        one: One,
    },
    /// Takes a device out for good.
    Retire {
        #[command(flatten)]
        one: One,
    },
}

/// One device of a fleet.
#[derive(clap::Args)]
pub(super) struct One {
    #[command(flatten)]
    place: Place,
    /// The device's name, 32 hexadecimal digits.
    device: DeviceId,
}

impl Devices {
    pub(super) fn run(&self) -> Result<()> {
        match self {
            Self::List { place, state } => list(place, state.as_deref()),
            Self::Accept { one, label, lab } => {
                one.say(&Word::Accept { label: label.clone(), lab: *lab })
            }
            Self::Reject { one } => one.say(&Word::Reject),
            Self::Suspend { one } => one.say(&Word::Suspend),
            Self::Resume { one } => one.say(&Word::Resume),
            Self::Retire { one } => one.say(&Word::Retire),
        }
    }
}

impl One {
    fn say(&self, word: &Word) -> Result<()> {
        let home = self.place.open()?;
        let state = operator::say(&home.book, self.device, word, now_ms())?;
        let (device, state) = (self.device, json!(state));
        let text = format!("{device}: {}", state.as_str().unwrap_or_default());
        self.place.show(&json!({"device": device, "state": state}), &text)
    }
}

fn list(place: &Place, state: Option<&str>) -> Result<()> {
    let only: Option<DeviceState> =
        state.map(|state| serde_json::from_value(json!(state))).transpose()?;
    let all = devices::all(&place.open()?.book, only)?;
    let rows: Vec<Value> = all.iter().map(row).collect();
    let now_ms = now_ms();
    let line = |device: &Device| {
        let state = json!(device.state);
        format!(
            "{}  {:9}  {}  {}{}  seen {}\n",
            device.id,
            state.as_str().unwrap_or_default(),
            device.name,
            device.label.as_deref().unwrap_or("-"),
            match (device.lab, device.candidates) {
                (false, _) => "",
                (true, true) => "  lab",
                (true, false) => "  lab, takes no candidates",
            },
            ago(device.seen_ms, now_ms),
        )
    };
    let text: String = all.iter().map(line).collect();
    place.show(&json!({"devices": rows}), if all.is_empty() { "no devices" } else { &text })
}

fn row(device: &Device) -> Value {
    json!({
        "device": device.id,
        "state": device.state,
        "name": device.name,
        "agent": device.agent,
        "label": device.label,
        "lab": device.lab,
        "candidates": device.lab && device.candidates,
        "cohort": device.cohort,
        "enrolled": device.enrolled_ms,
        "seen": device.seen_ms,
        "sequence": device.installed.sequence,
        "artifact": device.installed.artifact,
        "trial": device.trial,
        "generation": device.generation,
    })
}

//! `[fleet]`: whether the device lends others what it learned, and how much of a network that may take.

use super::Config;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The fleet. Off, the program opens no connection to anybody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Fleet {
    /// Whether the device may join a fleet and talk to its server.
    pub enabled: bool,
    /// Folder of its key and of what is on its way; `STATE-fleet` when nothing is said.
    pub folder: Option<PathBuf>,
    /// Authorities, PEM, that vouch for a server where its link has no pin, and for others that it sends
    /// downloads to.
    pub ca_file: Option<PathBuf>,
    /// Whether it takes candidates, which nobody has released yet: a device of the lab.
    pub lab: bool,
    /// Most megabytes of uploads a day.
    pub up_mb_a_day: u64,
    /// Most megabytes of downloads a day.
    pub down_mb_a_day: u64,
}

impl Default for Fleet {
    fn default() -> Self {
        Self {
            enabled: false,
            folder: None,
            ca_file: None,
            lab: false,
            up_mb_a_day: 100,
            down_mb_a_day: 300,
        }
    }
}

impl Config {
    /// The fleet's folder: the one that is named, else the one beside the state folder; none without
    /// either.
    pub fn fleet_folder(&self) -> Option<PathBuf> {
        let beside = || {
            let state = self.state.as_deref()?;
            let mut name = state.file_name()?.to_owned();
            name.push("-fleet");
            Some(state.with_file_name(name))
        };
        self.fleet.folder.clone().or_else(beside)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_lies_beside_the_state_unless_another_is_named() {
        let mut config = Config { state: Some("/srv/state/".into()), ..Config::default() };
        assert_eq!(config.fleet_folder(), Some("/srv/state-fleet".into()));
        config.fleet.folder = Some("/srv/other".into());
        assert_eq!(config.fleet_folder(), Some("/srv/other".into()));
        assert_eq!(Config::default().fleet_folder(), None);
    }
}

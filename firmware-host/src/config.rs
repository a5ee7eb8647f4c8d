//! What an operator may choose: one TOML file, every key with a default, every size with a limit.
//!
//! - In: TOML text. Out: a [`Config`] whose values are in range.
//! - `[learn]` holds the settings of `sapwood adapt` under the names of its flags.
//! - Never here: files, the environment, probing.

mod path;
mod names;
mod aliases;
pub mod relations;
mod window;
mod fleet;
mod origin;
mod check;
#[cfg(test)]
mod tests;

pub use fleet::Fleet;
pub use names::{BASE, IN_USE, MODEL_BYTES_MAX, generation_of, kept};
pub use path::plain;
pub use window::{Window, WindowError};

use sapwood::settings::{Overrides, Reader, Settings, SettingsError};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// Most starts of a job in 24 hours that can be counted: about one in three minutes.
pub const JOBS_PER_DAY_MAX: u32 = 500;

/// Everything an operator may choose.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Model folder.
    pub model: Option<PathBuf>,
    /// State folder; one program at a time.
    pub state: Option<PathBuf>,
    /// Settings of learning.
    #[serde(skip)]
    pub learn: Settings,
    /// What the file says of them: what it leaves open is chosen by base and state. None where nobody
    /// read a file, and nothing is open.
    #[serde(rename = "learn")]
    pub wishes: Option<Overrides>,
    /// How much a job takes and when it is worth one.
    pub job: Job,
    /// The ways in.
    pub intake: Intake,
    /// What is served, to whom.
    pub serve: Serve,
    /// What must hold for a job to run.
    pub constraints: Constraints,
    /// What a job may spend.
    pub budget: Budget,
    /// Where the readings come from.
    pub probes: Probes,
    /// What is shared with others.
    pub fleet: Fleet,
}

/// How much a job takes and when it is worth one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Job {
    /// Fewest samples that are worth a job.
    pub samples_min: u64,
    /// Most samples of one job.
    pub samples_max: u64,
    /// Passes over the samples of a job.
    pub epochs: f64,
    /// Fewest optimiser steps of a job.
    pub iters_min: u64,
    /// Most optimiser steps of a job.
    pub iters_max: u64,
    /// Text that no job learns, in the formats of `--data`: the gate judges by it too.
    pub general: Option<PathBuf>,
    /// Seconds between two looks at the constraints.
    pub poll_seconds: f64,
}

impl Default for Job {
    fn default() -> Self {
        Self {
            samples_min: 64,
            samples_max: 4_096,
            epochs: 3.0,
            iters_min: 20,
            iters_max: 1_000,
            general: None,
            poll_seconds: 2.0,
        }
    }
}

/// The ways in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Intake {
    /// Most bytes that wait in the inbox; beyond, samples are refused until a job has learned some.
    pub inbox_bytes_max: u64,
    /// Most samples that wait in the inbox.
    pub inbox_samples_max: u64,
    /// A folder to watch for files of samples.
    pub watch: Option<PathBuf>,
    /// Seconds between two looks at it.
    pub watch_seconds: f64,
    /// Seconds that a file there must not have changed to be done with.
    pub watch_quiet_seconds: f64,
    /// Files that stay in each of its `taken` and `refused`; all when nothing is said.
    pub watch_files_kept: Option<usize>,
    /// Serial lines, pipes or files with frames of microcontrollers.
    pub serial: Vec<Serial>,
}

impl Default for Intake {
    fn default() -> Self {
        Self {
            inbox_bytes_max: 64 << 20,
            inbox_samples_max: 65_536,
            watch: None,
            watch_seconds: 2.0,
            watch_quiet_seconds: 10.0,
            watch_files_kept: None,
            serial: Vec::new(),
        }
    }
}

/// One serial line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Serial {
    /// A device such as `/dev/ttyUSB0`, or a named pipe.
    pub path: PathBuf,
    /// Bits per second, for a device.
    pub baud: Option<u32>,
}

/// What is served, to whom.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Serve {
    /// Address of the HTTP interface; one that is not loopback needs a token.
    pub listen: SocketAddr,
    /// Unix socket; `STATE/socket` when nothing is said.
    pub socket: Option<PathBuf>,
    /// File that holds the token which TCP clients must send.
    pub token_file: Option<PathBuf>,
    /// Origins of web pages that may ask, beside this server's own; none is the rule.
    pub origins: Vec<String>,
    /// Most bytes of a request's body.
    pub body_bytes_max: usize,
    /// Most tokens of a prompt and its completion together.
    pub tokens_max: usize,
    /// Generations at the same time.
    pub concurrency: usize,
    /// Generations that may wait for their turn; more are refused.
    pub queue: usize,
    /// Connections at the same time.
    pub connections_max: usize,
    /// Seconds that one request may take.
    pub seconds_max: f64,
    /// Most bytes of what the layers keep of earlier texts.
    pub prompt_cache_bytes: u64,
    /// Adapters of other generations that are held for texts, beside the one in use.
    pub adapters_max: usize,
    /// Other names of models, for clients that know no others.
    pub aliases: BTreeMap<String, String>,
}

impl Serve {
    /// Whether this machine alone can reach the address.
    pub fn is_local(&self) -> bool {
        is_loopback(self.listen.ip())
    }

    /// Whether others can reach the address and need no token: no server starts with it.
    pub fn is_open(&self) -> bool {
        !self.is_local() && self.token_file.is_none()
    }
}

/// Whether an address is this machine's own, also one of the old kind inside the new.
pub fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

impl Default for Serve {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8321)),
            socket: None,
            token_file: None,
            origins: Vec::new(),
            body_bytes_max: 4 << 20,
            tokens_max: 512,
            concurrency: 2,
            queue: 16,
            connections_max: 64,
            seconds_max: 120.0,
            prompt_cache_bytes: 64 << 20,
            adapters_max: 2,
            aliases: BTreeMap::new(),
        }
    }
}

/// What must hold for a job to run; the words are those of Android's JobScheduler.
///
/// What is lost stays lost for half a minute after the last reading that said so, and comes back only
/// at a value somewhat better than the one at which it was lost (`constraints`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Constraints {
    /// The device is on power. One that cannot tell never learns while this is asked for.
    pub charging: bool,
    /// Nobody else needs the processor, and no text is being generated. A device that cannot tell its
    /// load never learns while this is asked for.
    pub idle: bool,
    /// Where there is a battery, it is not low.
    pub battery_not_low: bool,
    /// Below this percentage a battery is low, until it holds 5 more.
    pub battery_low_percent: f32,
    /// The disk of the state folder is not nearly full.
    pub storage_not_low: bool,
    /// Below this many free bytes it is, until there is an eighth more.
    pub storage_low_bytes: u64,
    /// Learning stops when the device is hotter, in degrees Celsius.
    pub hot_celsius: f32,
    /// It starts again when the device is no hotter than this.
    pub cool_celsius: f32,
    /// Times of day, `22:00-06:00`, local; none is always.
    pub windows: Vec<Window>,
    /// Free memory below which a job stops, in bytes, until there is a quarter more.
    pub memory_low_bytes: u64,
    /// Part of the last 10 s that tasks waited for memory, in percent, above which a job stops, until
    /// it is half of that.
    pub memory_stall_percent: f32,
    /// Above this load a core the device is not idle; a job that runs bears 0.25 more, its own load
    /// not counted.
    pub idle_load: f32,
}

impl Default for Constraints {
    fn default() -> Self {
        Self {
            charging: false,
            idle: false,
            battery_not_low: true,
            battery_low_percent: 20.0,
            storage_not_low: true,
            storage_low_bytes: 256 << 20,
            hot_celsius: 85.0,
            cool_celsius: 75.0,
            windows: Vec::new(),
            memory_low_bytes: 64 << 20,
            memory_stall_percent: 20.0,
            idle_load: 0.5,
        }
    }
}

/// What a job may spend; nothing is no bound. A job that has spent it stops, and goes on later.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Budget {
    /// Seconds at a time.
    pub seconds: Option<f64>,
    /// Joules at a time, where the device can measure them.
    pub joules: Option<f64>,
    /// Bytes written at a time.
    pub bytes_written: Option<u64>,
    /// Starts of a job in 24 hours, those that go on with a stopped one included.
    pub jobs_per_day: Option<u32>,
}

/// Where the readings come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Probes {
    /// Root of sysfs.
    pub sys: PathBuf,
    /// Root of procfs.
    pub proc: PathBuf,
    /// Types of thermal zones or names of hwmon chips that count, by how they begin; none is all
    /// zones and the processor's chips.
    pub thermal_types: Vec<String>,
    /// Label of the rail that all of the device hangs on; nothing is `VDD_IN` where there is one,
    /// otherwise all rails together.
    pub rail: Option<String>,
}

impl Default for Probes {
    fn default() -> Self {
        Self {
            sys: PathBuf::from("/sys"),
            proc: PathBuf::from("/proc"),
            thermal_types: Vec::new(),
            rail: None,
        }
    }
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not TOML, an unknown key, or a value of the wrong type.
    #[error("configuration, line {line}: {problem}; nothing was started")]
    File {
        /// Line of the file, from 1.
        line: usize,
        /// What is wrong there.
        problem: String,
    },
    /// A value out of its range.
    #[error("{key}: expected {expected}, got {got}; nothing was started")]
    Range {
        /// The key with its section.
        key: &'static str,
        /// What it may be.
        expected: String,
        /// What it was.
        got: String,
    },
    /// A key that has no default.
    #[error(
        "{key} is missing: expected --{key}, or `{key}` in the configuration; nothing was started"
    )]
    Missing {
        /// The key.
        key: &'static str,
    },
    /// The settings of learning.
    #[error("{}", of_file(.0))]
    Learn(SettingsError),
}

impl From<SettingsError> for ConfigError {
    fn from(error: SettingsError) -> Self {
        Self::Learn(error)
    }
}

/// What is said of a flag, of the key in `[learn]` that has its name.
fn of_file(error: &SettingsError) -> String {
    let text = error.to_string();
    match text.strip_prefix("--") {
        Some(key) => format!("learn.{key}"),
        None => format!("[learn] {text}"),
    }
}

fn parse<T: DeserializeOwned>(text: &str) -> Result<T, ConfigError> {
    toml::from_str(text).map_err(|error| {
        let (line, problem) = sapwood::settings::problem(text, &error);
        let problem = match problem.split_once(", expected one of") {
            // There are some forty settings, and a file may not name all of them.
            Some((unknown, names)) if names.contains("`replay-batch-size`") => {
                format!("{unknown} in [learn]; CONFIG.md has every key")
            }
            _ => problem,
        };
        ConfigError::File { line, problem }
    })
}

impl ConfigError {
    /// A value out of its range.
    pub(crate) fn range(key: &'static str, expected: impl Into<String>, got: impl Display) -> Self {
        Self::Range { key, expected: expected.into(), got: got.to_string() }
    }
}

impl Config {
    /// Reads a configuration file; a key that is left out has its default.
    ///
    /// # Errors
    /// [`ConfigError`] names the line or the key.
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        let mut config: Self = parse(text)?;
        let wishes = config.wishes.take().unwrap_or_default().read_by(Reader::Device)?;
        config.learn = Settings::default().merge(wishes.clone().together()?);
        config.wishes = Some(wishes);
        config.check()?;
        Ok(config)
    }

    /// Refuses what is out of range, by name.
    ///
    /// # Errors
    /// [`ConfigError::Range`] for the first value that is.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.learn.check()?;
        self.check_ranges()?;
        relations::check_numbers(self)
    }

    /// The Unix socket: the one that is named, else that of the state folder; none without either.
    pub fn socket(&self) -> Option<PathBuf> {
        let own = || Some(self.state.as_deref()?.join("socket"));
        self.serve.socket.clone().or_else(own)
    }
}

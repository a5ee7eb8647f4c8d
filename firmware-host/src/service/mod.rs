//! Service files: the program as systemd or launchd runs it, and what it tells them.
//!
//! - In: the configuration and a few choices. Out: the text of a unit or a property list, a file in
//!   its place, messages to the manager (`notify`).
//! - A service may touch what its configuration names and next to nothing else; the device's own work
//!   goes first.
//! - Never here: what the program does.
//! - Source: systemd.exec(5), systemd.service(5), systemd.resource-control(5), launchd.plist(5).

mod size;
mod options;
mod unit;
mod plist;
mod install;
mod notify;

pub use install::{Place, install, uninstall};
pub use notify::Notifier;
pub use options::{Options, WATCHDOG_SECONDS_MIN};

use crate::config::{Config, plain};
use std::path::{Path, PathBuf};

/// What the service is called under systemd.
const UNIT: &str = "sapwood.service";
/// What it is called under launchd.
const LABEL: &str = "org.sapwood.firmware-host";
/// Seconds that the program may take to stop: one optimiser step and its checkpoint.
const STOP_SECONDS: u32 = 180;

/// The first port that everybody may have.
const PORTS_FROM: u16 = 1_024;

/// Why there is no service.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The configuration lacks what a service cannot guess.
    #[error(
        "a service needs `{0}`: give it in the configuration or as a flag; nothing was written"
    )]
    Missing(&'static str),
    /// A path that the file's format cannot hold, or that means something else there.
    #[error("path {path:?}: expected {expected}; nothing was written")]
    Path {
        /// The path.
        path: PathBuf,
        /// What it may be.
        expected: &'static str,
    },
    /// A choice out of range.
    #[error("{name}: expected {expected}, got {got:?}; nothing was written")]
    Choice {
        /// The flag.
        name: &'static str,
        /// What it may be.
        expected: &'static str,
        /// What it was.
        got: String,
    },
    /// A file that somebody else wrote, or changed since.
    #[error(
        "{} was {by}: expected a file that `install` wrote; --force replaces or removes it",
        path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Whose work it is.
        by: &'static str,
    },
    /// The disk refused.
    #[error("cannot {doing} {}: {source}{}", path.display(), hint(source))]
    Disk {
        /// What was tried.
        doing: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The manager's own command failed; the file stays as the command found it.
    #[error("`{command}` {problem}; the service file itself is in order")]
    Command {
        /// The command.
        command: String,
        /// What came of it.
        problem: String,
    },
}

impl ServiceError {
    /// Whether the configuration or a flag is at fault, which trying again does not mend.
    pub fn is_choice(&self) -> bool {
        matches!(self, Self::Missing(_) | Self::Path { .. } | Self::Choice { .. })
    }
}

fn hint(source: &std::io::Error) -> &'static str {
    let denied = source.kind() == std::io::ErrorKind::PermissionDenied;
    if denied { " (a service of the whole machine needs root; --user needs none)" } else { "" }
}

/// Who runs services here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manager {
    /// Linux.
    Systemd,
    /// macOS.
    Launchd,
}

impl Manager {
    /// The one of this system.
    pub fn of_this_system() -> Self {
        if cfg!(target_os = "macos") { Self::Launchd } else { Self::Systemd }
    }
}

/// What a service file says; every path absolute and fit for its format.
#[derive(Clone, Debug)]
pub struct Service {
    options: Options,
    state: PathBuf,
    /// The fleet's folder, where it may join one.
    fleet: Option<PathBuf>,
    /// Files and folders that are only read.
    reads: Vec<PathBuf>,
    /// Folders that are written to, beside the state folder.
    writes: Vec<PathBuf>,
    /// Serial lines.
    devices: Vec<PathBuf>,
    token: Option<PathBuf>,
    /// Only this machine can reach it, and it reaches no other.
    local: bool,
    /// Its port is one that not everybody may have.
    low_port: Option<u16>,
    gpu: bool,
}

impl Service {
    /// The service for a configuration whose relative paths mean those below the working directory.
    ///
    /// # Errors
    /// [`ServiceError::Missing`], [`ServiceError::Path`], [`ServiceError::Choice`].
    pub fn new(config: &Config, options: Options) -> Result<Self, ServiceError> {
        options.check()?;
        let state = config.state.as_deref().ok_or(ServiceError::Missing("state"))?;
        let model = config.model.as_deref().ok_or(ServiceError::Missing("model"))?;
        let mut reads = vec![options.program.clone(), absolute(model)?];
        for path in [options.config.as_deref(), config.job.general.as_deref()] {
            reads.extend(path.map(absolute).transpose()?);
        }
        let mut writes: Vec<PathBuf> =
            config.intake.watch.as_deref().map(absolute).transpose()?.into_iter().collect();
        if let Some(folder) = config
            .serve
            .socket
            .as_deref()
            .map(absolute)
            .transpose()?
            .as_deref()
            .and_then(Path::parent)
        {
            writes.push(folder.to_path_buf());
        }
        let fleet = config.fleet.enabled.then(|| config.fleet_folder()).flatten();
        let fleet = fleet.as_deref().map(absolute).transpose()?;
        if let Some(path) = config.fleet.ca_file.as_deref().filter(|_| config.fleet.enabled) {
            reads.push(absolute(path)?);
        }
        let (mut devices, mut pipes) = (Vec::new(), Vec::new());
        for line in &config.intake.serial {
            let path = absolute(&line.path)?;
            if path.starts_with("/dev") { devices.push(path) } else { pipes.push(path) }
        }
        reads.extend(pipes);
        let token = config.serve.token_file.as_deref().map(absolute).transpose()?;
        let state = absolute(state)?;
        writes.retain(|path| !path.starts_with(&state));
        let device = config.learn.device;
        let gpu = cfg!(feature = "cuda") && device != sapwood::settings::Device::Cpu;
        Ok(Self {
            options,
            state,
            fleet,
            reads,
            writes,
            devices,
            token,
            local: config.serve.is_local() && !config.fleet.enabled,
            low_port: Some(config.serve.listen.port())
                .filter(|port| (1..PORTS_FROM).contains(port)),
            gpu,
        })
    }

    /// The file for a manager.
    ///
    /// # Errors
    /// [`ServiceError`] for what that manager cannot do.
    pub fn file(&self, manager: Manager) -> Result<String, ServiceError> {
        match manager {
            Manager::Systemd => unit::write(self),
            Manager::Launchd => plist::write(self),
        }
    }
}

/// An absolute path without what neither format can hold.
fn absolute(path: &Path) -> Result<PathBuf, ServiceError> {
    let refuse = |expected| ServiceError::Path { path: path.to_path_buf(), expected };
    let path = plain(path).map_err(|_| refuse("a path that is not empty"))?;
    match path.to_str() {
        Some(text) if !text.contains(char::is_control) => Ok(path),
        _ => Err(refuse("UTF-8 without control characters")),
    }
}

#[cfg(test)]
mod tests;

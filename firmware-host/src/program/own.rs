//! The state folder of a configuration, taken for this process: only one that is a state's or is new.
//!
//! - What the configuration names may lie in it before the first start: a watched folder, a token.
//! - Invariant: a folder of other things is refused before anything of it is changed.

use super::cli::{self, ChoiceError};
use anyhow::Context;
use firmware_host::config::Config;
use firmware_host::intake::folder::OFFSETS_FILE;
use firmware_host::{history, paused};
use sapwood::ports::Disk;
use sapwood::state::foreign;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// The socket's name where none is said.
const SOCKET: &str = "socket";

/// Takes the folder, which is made where it is missing.
///
/// # Errors
/// [`ChoiceError::Foreign`]; what the disk says, or that another process has it.
pub(crate) fn disk(config: &Config) -> anyhow::Result<Disk> {
    let folder = cli::state(config)?;
    let looking = || format!("cannot look into the state folder {}", folder.display());
    let names = names(folder).with_context(looking)?;
    let named = named(config, folder);
    let beside: Vec<&str> = [paused::FILE, history::FILE, OFFSETS_FILE, SOCKET]
        .into_iter()
        .chain(named.iter().map(String::as_str))
        .collect();
    match foreign(&names, &beside) {
        Some(name) => {
            let (path, name) = (folder.to_owned(), name.to_owned());
            Err(ChoiceError::Foreign { path, name }.into())
        }
        None => Ok(Disk::exclusive(folder)?),
    }
}

/// The names in a folder; none where there is no folder.
fn names(folder: &Path) -> io::Result<Vec<String>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|e| Ok(e?.file_name().to_string_lossy().into_owned())).collect(),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// The names in the folder that the configuration's other paths lead through.
fn named(config: &Config, folder: &Path) -> Vec<String> {
    let (intake, serve) = (&config.intake, &config.serve);
    let paths = [
        &config.model,
        &intake.watch,
        &serve.socket,
        &serve.token_file,
        &config.job.general,
        &config.fleet.ca_file,
    ];
    let below = |path: &PathBuf| {
        let first = path.strip_prefix(folder).ok()?.components().next()?;
        Some(first.as_os_str().to_string_lossy().into_owned())
    };
    paths.into_iter().flatten().filter_map(below).collect()
}

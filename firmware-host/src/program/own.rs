//! The state folder of a configuration, taken for this process: only one that is a state's or is new.
//!
//! - What the configuration names may lie in it before the first start: a watched folder, a token.
//! - Invariants: a folder of other things is refused before anything of it is changed; what root leaves
//!   in a folder of another account's is that account's, whose program could not go on otherwise.

use super::cli::{self, ChoiceError};
use super::owner::{self, Owner};
use anyhow::Context;
use firmware_host::config::Config;
use firmware_host::intake::folder::OFFSETS_FILE;
use firmware_host::{history, hold, paused};
use sapwood::ports::Disk;
use sapwood::state::{foreign, is_part};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// The socket's name where none is said.
const SOCKET: &str = "socket";
/// What the program keeps beside a state.
const BESIDE: [&str; 3] = [paused::FILE, history::FILE, OFFSETS_FILE];

/// Takes the folder, which is made where it is missing.
///
/// # Errors
/// [`ChoiceError::Foreign`]; what the disk says, or that another process has it.
pub(crate) fn disk(config: &Config) -> anyhow::Result<Disk> {
    let folder = cli::state(config)?;
    let looking = || format!("cannot look into the state folder {}", folder.display());
    let names = names(folder).with_context(looking)?;
    let named = named(config, folder);
    let beside: Vec<&str> =
        BESIDE.into_iter().chain([SOCKET]).chain(named.iter().map(String::as_str)).collect();
    match foreign(&names, &beside) {
        Some(name) => {
            let (path, name) = (folder.to_owned(), name.to_owned());
            Err(ChoiceError::Foreign { path, name }.into())
        }
        None => Ok(Disk::exclusive(folder)?),
    }
}

/// Does `work`, after which a folder that no program has is its owner's again, however the work ended.
///
/// # Errors
/// Those of the work; else that what root left could not be given away.
pub(crate) fn for_owner(
    config: &Config,
    work: impl FnOnce(&Config) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let done = work(config);
    done.and(config.state.as_deref().map_or(Ok(()), give_back))
}

fn give_back(state: &Path) -> anyhow::Result<()> {
    let Some(owner) = Owner::of(state).filter(|_| matches!(hold::is_held(state), Ok(false))) else {
        return Ok(());
    };
    let is_ours = |name: &str| is_part(name) || BESIDE.contains(&name.trim_end_matches(".new"));
    // The configuration may name the folder by a link.
    let given = fs::canonicalize(state).and_then(|state| owner::hand_over(&state, owner, is_ours));
    given.with_context(|| format!("cannot give its owner what {} has", state.display()))
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

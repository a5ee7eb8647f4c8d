//! Where a model folder came from, where that was another place than the user's disk: a file beside its weights.
//!
//! - In: what fetched the model. Out: a record for people, and the name by which other programs know the base.
//! - Nothing depends on it: a folder without one, or with one that is damaged, is a base like any.

use super::place::is_hub_name;
use serde_json::Value;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Its name in a model folder.
pub const FILE: &str = "origin.json";
/// The key of a repository of the hub.
pub const REPO: &str = "repo";
/// Most bytes that are read of it.
const BYTES_MAX: u64 = 1 << 16;

/// The repository of the hub that a model folder was made from.
pub fn repo(model_dir: &Path) -> Option<String> {
    let mut text = Vec::new();
    File::open(model_dir.join(FILE)).ok()?.take(BYTES_MAX).read_to_end(&mut text).ok()?;
    let origin: Value = serde_json::from_slice(&text).ok()?;
    let repo = origin.get(REPO)?.as_str()?;
    is_hub_name(repo).then(|| repo.to_owned())
}

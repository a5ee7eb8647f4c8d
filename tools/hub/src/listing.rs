//! What a repository holds, as the hub tells it, and which shards an index of safetensors names.
//!
//! - In: bytes from a stranger, of bounded length. Out: [`Listing`]; names that lead out of a folder are left
//!   out of it, since nobody here asks for them.

use crate::error::{HubError, shown};
use crate::hash::{Hash, is_hex};
use crate::name::is_path;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// Most bytes of a listing: some hundred a file.
pub const LISTING_BYTES_MAX: u64 = 32 << 20;
/// Most bytes of an index: some hundred a tensor.
pub const INDEX_BYTES_MAX: u64 = 32 << 20;

/// A file of a repository.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Its length in bytes, where it is told.
    pub size: Option<u64>,
    /// Its hash, where it is told.
    pub hash: Option<Hash>,
}

/// The files of a repository at one commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The commit.
    pub commit: String,
    /// The files by their paths.
    pub files: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Answer {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Large>,
}

#[derive(Deserialize)]
struct Large {
    sha256: Option<String>,
    size: Option<u64>,
}

impl Listing {
    /// Reads the hub's answer about a revision.
    /// # Errors
    /// What is wrong with it, in a few words.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let Answer { sha, siblings } =
            serde_json::from_slice(bytes).map_err(|error| shown(&error.to_string()))?;
        if !is_commit(&sha) {
            return Err(format!("its commit is {:?}, expected 40 hexadecimal digits", shown(&sha)));
        }
        let mut files = BTreeMap::new();
        for sibling in siblings.into_iter().filter(|sibling| is_path(&sibling.rfilename)) {
            let entry = match sibling.lfs {
                Some(large) => Entry {
                    size: large.size.or(sibling.size),
                    hash: large.sha256.as_deref().and_then(Hash::sha256),
                },
                None => Entry {
                    size: sibling.size,
                    hash: sibling.blob_id.as_deref().and_then(Hash::git),
                },
            };
            if files.insert(sibling.rfilename.clone(), entry).is_some() {
                return Err(format!("it names {:?} twice", shown(&sibling.rfilename)));
            }
        }
        Ok(Self { commit: sha, files })
    }
}

/// Whether a text is a commit of git.
pub fn is_commit(text: &str) -> bool {
    is_hex(text, &[40])
}

/// The shards that an index names, each a file beside it.
/// # Errors
/// [`HubError::Answer`]; `of` says whose index it is.
pub fn shards(bytes: &[u8], of: &str, file: &str) -> Result<BTreeSet<String>, HubError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let wrong =
        |problem: String| HubError::Answer { of: of.to_owned(), what: file.into(), problem };
    let Index { weight_map } =
        serde_json::from_slice(bytes).map_err(|error| wrong(shown(&error.to_string())))?;
    let shards: BTreeSet<String> = weight_map.into_values().collect();
    let is_shard =
        |name: &&String| is_path(name) && !name.contains('/') && name.ends_with(".safetensors");
    match shards.iter().find(|name| !is_shard(name)) {
        Some(name) => Err(wrong(format!("shard {:?} is no .safetensors beside it", shown(name)))),
        None if shards.is_empty() => Err(wrong("it names no shard".to_owned())),
        None => Ok(shards),
    }
}

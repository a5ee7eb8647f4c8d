//! What the hub answers, and names of its models.
//!
//! - In: the bytes of an answer, or of a name. Promises: a listing has a commit of 40 digits, and what is
//!   chosen of it is in it; no name of a file, of a shard or of a revision leads out of a folder; a hash is
//!   one by its length.

use crate::Seed;
use sapwood_hub::Name;
use sapwood_hub::choice::Choice;
use sapwood_hub::listing::{Listing, is_commit, shards};
use std::path::{Component, Path};

/// Reads the bytes as each of them.
pub fn check(bytes: &[u8]) {
    if let Ok(listing) = Listing::parse(bytes) {
        assert!(is_commit(&listing.commit) && listing.commit.len() == 40);
        for (name, entry) in &listing.files {
            stays(name);
            let is_hash = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
            assert!(entry.hash.as_ref().is_none_or(|hash| is_hash(hash.text())));
        }
        for name in ["a/b", "a/b/x.gguf"] {
            match Choice::of(&Name::parse(name).unwrap(), &listing) {
                Ok(Choice::Gguf(file)) => assert!(listing.files.contains_key(&file)),
                Ok(Choice::Safetensors { small, .. }) => {
                    assert!(small.iter().all(|file| listing.files.contains_key(file)));
                }
                Err(error) => one_line(&error.to_string()),
            }
        }
    }
    match shards(bytes, "the hub", "an index") {
        Ok(shards) => shards.iter().for_each(|shard| {
            stays(shard);
            assert_eq!(Path::new(shard).components().count(), 1, "{shard:?}");
        }),
        Err(error) => one_line(&error.to_string()),
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match Name::parse(text) {
        Ok(name) => {
            assert!(name.repo.split('/').count() <= 2);
            stays(&name.repo);
            stays(&name.revision);
            name.file.iter().for_each(|file| stays(file));
            assert_eq!(Name::parse(&name.to_string()["hf:".len()..]).unwrap(), name);
        }
        Err(error) => one_line(&error.to_string()),
    }
}

/// Asserts that a path leads to a place below where it begins.
fn stays(path: &str) {
    let inside = |part: Component<'_>| matches!(part, Component::Normal(_));
    assert!(!path.is_empty() && Path::new(path).components().all(inside), "{path:?}");
    assert!(!path.contains('\\') && !path.chars().any(char::is_control), "{path:?}");
}

fn one_line(error: &str) {
    assert!(!error.chars().any(char::is_control) && error.len() < 16_384, "{error:?}");
}

/// A listing, an index, a name.
pub fn seeds() -> Vec<Seed> {
    let file = |name: &str, more: &str| format!(r#"{{"rfilename":"{name}","size":7,{more}}}"#);
    let git = format!(r#""blobId":"{}""#, "1".repeat(40));
    let large =
        format!(r#"{git},"lfs":{{"sha256":"{}","size":9,"pointerSize":135}}"#, "2".repeat(64));
    let files = [
        file("config.json", &git),
        file("tokenizer.json", &git),
        file("model.safetensors", &large),
        file("in/x.gguf", &large),
        file("x.gguf", &large),
    ];
    let listing =
        format!(r#"{{"id":"a/b","sha":"{}","siblings":[{}]}}"#, "3".repeat(40), files.join(","));
    let index = r#"{"metadata":{"total_size":9},"weight_map":{"a":"model-1.safetensors","b":"model-2.safetensors"}}"#;
    vec![
        ("listing", listing.into_bytes()),
        ("index", index.as_bytes().to_vec()),
        ("name", b"org/model-1.5B/in/q4_0.gguf@refs/pr/3".to_vec()),
    ]
}

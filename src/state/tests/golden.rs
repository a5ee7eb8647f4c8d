//! The bytes of version 1, which every later version must open.

use super::*;
use crate::ports::Disk;
use std::path::{Path, PathBuf};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/state_v1")
}

/// Copies the committed folder, which a test must not change, into a disk in memory.
fn golden_disk() -> Arc<CutDisk> {
    let disk = CutDisk::new();
    for folder in ["", "adapters", "adapters/2", "adapters/3", "adapters/4", "learner"] {
        if !folder.is_empty() {
            disk.create_dir_all(folder).unwrap();
        }
        for entry in std::fs::read_dir(golden().join(folder)).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_file() {
                let name = entry.file_name().into_string().unwrap();
                let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
                disk.write(&path, &std::fs::read(entry.path()).unwrap()).unwrap();
            }
        }
    }
    Arc::new(disk.copy())
}

/// Goal: a state written by version 1 opens in every later version.
/// Oracle: `cargo test -p sapwood --lib write_the_golden_state -- --ignored`, run once by version 1.
#[test]
fn the_state_that_version_1_wrote_still_opens() {
    let seen = look(golden_disk()).unwrap();
    assert_eq!((seen.current, seen.kept, seen.rejected), (Some(4), vec![2, 3, 4], 1));
    assert_eq!((seen.held, seen.offered), (vec![8, 10, 12], 16));
    let (learner, (interrupted, staged)) = (seen.learner.unwrap(), seen.checkpoint.unwrap());
    assert_eq!((learner.step, interrupted.step), (12, 13));
    assert_eq!((learner.base, &learner.settings), (BASE, &fresh().settings));
    let bits: Vec<u32> = learner.slow.iter().map(|value| value.to_bits()).collect();
    assert_eq!(
        (bits, staged),
        (vec![1113836333, 1114335774, 1114835214, 1115334655, 1115759480], vec![8, 10, 12])
    );
}

/// A change of the bytes is a change of the format: it needs a new version and an upgrade path.
#[test]
fn this_version_writes_the_bytes_of_version_1() {
    let (golden, (_, _, written)) = (golden_disk(), reference());
    assert_eq!(golden.paths(), written.paths());
    for path in golden.paths() {
        assert!(golden.read(&path).unwrap() == written.read(&path).unwrap(), "{path}");
    }
}

#[test]
#[ignore = "writes tests/golden/state_v1, which only a new format version may do"]
fn write_the_golden_state() {
    let root = golden();
    life(Arc::new(Disk::exclusive(&root).unwrap()), || {}).unwrap();
    std::fs::remove_file(root.join("lock")).unwrap();
}

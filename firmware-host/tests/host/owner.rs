//! What root leaves in a state folder of another account's, from outside.

use super::commands::{commit, folder, run, said};
use sapwood::ports::Disk;
use sapwood::state::State;
use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;
use std::sync::Arc;

/// The program's account could not take a lock that root made, nor write where root wrote.
#[test]
fn what_root_leaves_in_a_folder_of_anothers_is_theirs() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let folder = folder();
    let state = folder.path().join("state");
    let is_theirs = |path: &Path| {
        let found = fs::symlink_metadata(path).unwrap();
        (found.uid(), found.gid()) == (12_345, 12_346)
    };
    let all = || {
        let (mut folders, mut all) = (vec![state.clone()], Vec::new());
        while let Some(folder) = folders.pop() {
            let paths = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
            for path in paths {
                folders.extend(path.is_dir().then(|| path.clone()));
                all.push(path);
            }
        }
        all
    };
    let give = |path: &Path| chown(path, Some(12_345), Some(12_346)).unwrap();
    give(&state);
    {
        let mut state = State::open(Arc::new(Disk::exclusive(&state).unwrap())).unwrap();
        commit(&mut state, [1.0, 2.0, 3.0, 4.0]);
        commit(&mut state, [5.0, 6.0, 7.0, 8.0]);
    }
    all().iter().for_each(|path| give(path));
    let words = [
        &["pause"][..],
        &["resume"],
        &["rollback"],
        &["aside", "list"],
        &["recover", "--from-adapters"],
    ];
    for words in words {
        if words[0] == "recover" {
            fs::remove_file(state.join("manifest.a")).unwrap();
            fs::write(state.join("manifest.b"), "torn").unwrap();
            give(&state.join("manifest.b"));
        }
        let done = run(folder.path(), words);
        assert!(done.status.success(), "{words:?}: {}", said(&done));
        let others: Vec<_> = all().into_iter().filter(|path| !is_theirs(path)).collect();
        assert!(others.is_empty(), "{words:?} left {others:?}");
    }
    // An order that fails leaves a lock too.
    fs::remove_file(state.join("lock")).unwrap();
    assert!(!run(folder.path(), &["rollback", "--to", "77"]).status.success());
    assert!(is_theirs(&state.join("lock")));
    // What is none of the program's, or has a name elsewhere, is nobody else's for that.
    let outside = folder.path().join("outside");
    fs::write(&outside, "").unwrap();
    fs::create_dir(state.join("lost+found")).unwrap();
    fs::write(state.join("mine"), "").unwrap();
    fs::hard_link(&outside, state.join("inbox/hard")).unwrap();
    std::os::unix::fs::symlink(&outside, state.join("inbox/soft")).unwrap();
    assert!(run(folder.path(), &["pause"]).status.success());
    for path in ["lost+found", "mine", "inbox/hard", "inbox/soft", "../outside"] {
        assert!(!is_theirs(&state.join(path)), "{path}");
    }
    assert!(is_theirs(&state.join("paused")));
}

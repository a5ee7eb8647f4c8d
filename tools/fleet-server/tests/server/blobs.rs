//! The laws of blobs, over a folder and over a real S3 store; and their moving from one to the other.
//!
//! Goal: whatever keeps them, what was acknowledged is there, whole, and under its own hash.
//! Oracle: SeaweedFS 4.48, which refuses a second creation; BLAKE3 says what a blob is.

use crate::common::proxy::{Fault, Proxy};
use crate::common::s3::{self, bytes, weed};
use crate::common::{self, fleet, given};
use fleet_server::store::blobs::{BlobError, Blobs, Copied, copy_all};
use sapwood_protocol::fleet::id::Hash;
use std::cell::{Cell, RefCell};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// Runs a law over both; S3 only where there is one.
fn over_both(test: &str, law: impl Fn(&Path, &Blobs)) {
    let folder = tempfile::tempdir().unwrap();
    law(folder.path(), &Blobs::open(folder.path()).unwrap());
    if let Some(weed) = weed(test) {
        let folder = tempfile::tempdir().unwrap();
        law(folder.path(), &weed.blobs(folder.path()));
    }
}

fn drafts(folder: &Path) -> usize {
    std::fs::read_dir(folder.join("tmp")).unwrap().count()
}

#[test]
fn what_is_kept_twice_is_there_once_and_whole() {
    over_both("what_is_kept_twice", |folder, blobs| {
        blobs.probe().unwrap();
        let hash = blobs.put(b"an adapter").unwrap();
        assert_eq!(blobs.put(b"an adapter").unwrap(), hash);
        assert_eq!(
            (blobs.read(hash).unwrap(), blobs.has(hash).unwrap()),
            (b"an adapter".to_vec(), true)
        );
        assert_eq!(blobs.check(hash).unwrap(), Some(10));
        let (mut content, count) = blobs.open_blob(hash).unwrap().unwrap();
        let mut rest = String::new();
        content.seek(SeekFrom::Start(3)).unwrap();
        content.read_to_string(&mut rest).unwrap();
        assert_eq!((count, rest.as_str()), (10, "adapter"));
        let empty = blobs.put(b"").unwrap();
        assert!(blobs.read(empty).unwrap().is_empty());
        assert_eq!(drafts(folder), 0);
        for _ in 0..2 {
            blobs.remove(hash).unwrap();
            assert!(!blobs.has(hash).unwrap() && blobs.check(hash).unwrap().is_none());
        }
    });
}

#[test]
fn what_was_never_there_is_not_there() {
    over_both("what_was_never_there", |_, blobs| {
        let hash = Hash::of(b"nothing");
        assert!(!blobs.has(hash).unwrap() && blobs.open_blob(hash).unwrap().is_none());
        assert!(matches!(blobs.read(hash), Err(BlobError::Gone { .. })));
        assert!(blobs.older(hash.0[0], u64::MAX).unwrap().is_empty());
        blobs.sweep(hash, || Ok::<_, BlobError>(false)).unwrap();
    });
}

#[test]
fn a_list_has_what_begins_with_a_byte_and_is_old_enough() {
    over_both("a_list_has", |_, blobs| {
        let mut all: Vec<Hash> = (0..600).map(|n| blobs.put(&bytes(n, 5)).unwrap()).collect();
        let mut listed = Vec::new();
        (0..=u8::MAX).for_each(|first| {
            let found = blobs.older(first, u64::MAX).unwrap();
            assert!(found.iter().all(|hash| hash.0[0] == first));
            assert!(blobs.older(first, 1_764_000_000_000).unwrap().is_empty());
            listed.extend(found);
        });
        all.sort_unstable();
        listed.sort_unstable();
        assert_eq!(listed, all);
    });
}

#[test]
fn eight_at_once_keep_one() {
    over_both("eight_at_once", |_, blobs| {
        for turn in 0..4 {
            let own = bytes(turn, 100_000);
            std::thread::scope(|scope| {
                (0..8).for_each(|_| drop(scope.spawn(|| blobs.put(&own).unwrap())));
            });
            assert_eq!(blobs.read(Hash::of(&own)).unwrap(), own);
        }
    });
    let Some(weed) = weed("eight_at_once") else { return };
    let (folder, proxy) = (tempfile::tempdir().unwrap(), Proxy::before(weed.address));
    let blobs = proxy.blobs(folder.path(), &weed.bucket());
    blobs.probe().unwrap();
    for turn in 0..4 {
        proxy.plan(|_, _| Fault::None);
        let own = bytes(turn, 1000);
        std::thread::scope(|scope| {
            (0..8).for_each(|_| drop(scope.spawn(|| blobs.put(&own).unwrap())));
        });
        let created = proxy.said("PUT").iter().filter(|status| **status == 200).count();
        assert_eq!(created, 1, "{:?}", proxy.said("PUT"));
    }
}

#[test]
fn the_largest_adapter_goes_in_and_out() {
    over_both("the_largest_adapter", |folder, blobs| {
        let whole = bytes(1, 64 << 20);
        let mut draft = blobs.draft().unwrap();
        whole.chunks(1 << 20).for_each(|piece| draft.write(piece).unwrap());
        let hash = Hash::of(&whole);
        blobs.keep(&draft, hash).unwrap();
        drop(draft);
        // Not from what was kept on the way.
        let _ = std::fs::remove_dir_all(folder.join("cache"));
        let (mut content, count) = blobs.open_blob(hash).unwrap().unwrap();
        let mut got = Vec::new();
        content.seek(SeekFrom::Start(1 << 20)).unwrap();
        content.read_to_end(&mut got).unwrap();
        assert!(count == 64 << 20 && got == whole[1 << 20..] && blobs.read(hash).unwrap() == whole);
        assert_eq!(drafts(folder), 0);
    });
}

#[test]
fn what_nobody_names_goes_and_what_somebody_names_stays() {
    over_both("what_nobody_names", |folder, blobs| {
        let hash = blobs.put(b"an adapter").unwrap();
        blobs.sweep(hash, || Ok::<_, BlobError>(true)).unwrap();
        let failed = blobs.sweep(hash, || Err::<bool, _>(BlobError::Gone { name: hash }));
        assert!(failed.is_err() && blobs.check(hash).unwrap() == Some(10));
        blobs.sweep(hash, || Ok::<_, BlobError>(false)).unwrap();
        assert!(!blobs.has(hash).unwrap());
        assert_eq!(drafts(folder), 0);
    });
}

/// An upload keeps the file (A), writes its row (B), looks once more (C), while a sweep, which saw no row,
/// takes the file away (D) and looks once more (E): in each order that keeps A, B, C and D, E.
#[test]
fn an_upload_beside_a_sweep_is_never_lost() {
    over_both("an_upload_beside_a_sweep", |_, blobs| {
        for (before, between) in (0..4).flat_map(|before| (0..4 - before).map(move |n| (before, n)))
        {
            let own = bytes((before * 4 + between) as u64, 100);
            let hash = blobs.put(&own).unwrap();
            let (is_named, done) = (Cell::new(false), Cell::new(0));
            let upload = |steps: usize| {
                for _ in 0..steps {
                    match done.replace(done.get() + 1) {
                        0 => drop(blobs.put(&own).unwrap()),
                        1 => is_named.set(true),
                        _ => blobs.see_to(hash, &own).unwrap(),
                    }
                }
            };
            upload(before);
            let looks = || {
                upload(between);
                Ok::<_, BlobError>(is_named.get())
            };
            blobs.sweep(hash, looks).unwrap();
            upload(3 - before - between);
            assert_eq!(blobs.check(hash).unwrap(), Some(100), "{before} {between}");
        }
    });
}

#[test]
fn blobs_move_from_one_place_to_another_and_go_on_where_they_were_cut_off() {
    let Some(weed) = weed("blobs_move") else { return };
    let folders = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let from = Blobs::open(folders[0].path()).unwrap();
    let all: Vec<Hash> = (0..20).map(|n| from.put(&bytes(n, 1000)).unwrap()).collect();
    let name = all[3].to_string();
    let damaged = folders[0].path().join(&name[..2]).join(&name);
    std::fs::write(damaged, "another").unwrap();
    let (proxy, bucket) = (Proxy::before(weed.address), weed.bucket());
    let to = proxy.blobs(folders[1].path(), &bucket);
    to.probe().unwrap();
    proxy.plan(|heard, count| match heard.method == "PUT" && count >= 7 {
        true => Fault::Says(403, "AccessDenied"),
        false => Fault::None,
    });
    let cut = copy_all(&from, &to, |_| {}).unwrap_err().to_string();
    assert!(cut.contains("403 AccessDenied"), "{cut}");
    proxy.plan(|_, _| Fault::None);
    let told = RefCell::new(Vec::new());
    let copied = copy_all(&from, &to, |copied| told.borrow_mut().push(copied.blobs)).unwrap();
    let expected = Copied { blobs: 19, bytes: 19_000, before: 7, damaged: vec![all[3]] };
    assert_eq!((copied, told.borrow().len()), (expected, 20));
    let back = Blobs::open(folders[2].path()).unwrap();
    let copied = copy_all(&to, &back, |_| {}).unwrap();
    assert_eq!((copied.blobs, copied.before, copied.damaged.len()), (19, 0, 0));
    for (n, hash) in all.iter().enumerate().filter(|(n, _)| *n != 3) {
        assert_eq!(back.read(*hash).unwrap(), bytes(n as u64, 1000));
    }
}

/// Nothing is served, and no folder made, without somebody to sign for; the first that is missing is named.
#[test]
fn a_fleet_without_credentials_is_not_made() {
    let folder = tempfile::tempdir().unwrap();
    let init = |given: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_fleet-server"));
        command.args(["init", "--blobs", "s3://bucket/fleets?endpoint=http://127.0.0.1:1"]);
        command.arg("--folder").arg(folder.path().join("fleet"));
        for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"] {
            command.env_remove(name);
        }
        command.envs(given.iter().map(|name| (name, "a secret of mine")));
        let line = common::refused(&command.output().unwrap());
        assert!(!line.contains("of mine"), "{line}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "{line}");
        line
    };
    assert!(init(&[]).contains("AWS_ACCESS_KEY_ID is not in the environment"));
    let line = init(&["AWS_ACCESS_KEY_ID"]);
    assert!(line.contains("AWS_SECRET_ACCESS_KEY is not in the environment"), "{line}");
    let line = init(&["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]);
    assert!(line.contains("s3://bucket/fleets at http://127.0.0.1:1: PUT fleets/probe/"), "{line}");
}

/// The store failed when an upload was looked for once more, and a sweep had passed: the device comes again.
#[test]
fn a_receipt_for_a_file_that_is_gone_takes_it_again() {
    let (fleet, mut devices) = fleet(3);
    let (round, files) = given(&fleet, &mut devices[..2], 0);
    let (blobs, hash) = (fleet.home().blobs, Hash::of(&files[0]));
    assert_eq!(devices[0].upload(round, &files[0]).status, 200);
    blobs.remove(hash).unwrap();
    assert_eq!(devices[0].upload(round, &files[0]).status, 200);
    assert!(blobs.has(hash).unwrap());
}

/// By the real program, there and back; not while somebody serves.
#[test]
fn a_fleets_blobs_move_into_a_bucket_and_back() {
    let Some(weed) = weed("a_fleets_blobs_move") else { return };
    let (mut fleet, mut devices) = fleet(2);
    let (_, files) = given(&fleet, &mut devices, 0);
    let place = weed.place(&weed.bucket());
    let folder = fleet.folder();
    let moves = |to: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_fleet-server"));
        command.args(["move", "--json", "--blobs", to, "--folder"]).arg(&folder);
        command.env("AWS_ACCESS_KEY_ID", s3::KEY_ID).env("AWS_SECRET_ACCESS_KEY", s3::SECRET);
        command.output().unwrap()
    };
    assert!(common::refused(&moves(&place)).contains("is served by another process"));
    fleet.server = None;
    let told = common::json(&moves(&place));
    assert!(told["blobs"]["blobs"].as_u64() >= Some(2) && told["rows"].is_null(), "{told}");
    let stores = std::fs::read_to_string(folder.join("stores.toml")).unwrap();
    assert!(stores.contains(&place), "{stores}");
    let elsewhere = tempfile::tempdir().unwrap();
    let bucket = s3::blobs(elsewhere.path(), &place);
    for file in &files {
        assert_eq!(bucket.check(Hash::of(file)).unwrap(), Some(file.len() as u64));
    }
    std::fs::read_dir(folder.join("blobs")).unwrap().for_each(|entry| {
        let path = entry.unwrap().path();
        if !path.ends_with("tmp") {
            std::fs::remove_dir_all(path).unwrap();
        }
    });
    let told = common::json(&moves("folder"));
    assert_eq!(told["blobs"]["before"].as_u64(), Some(0), "{told}");
    assert!(!folder.join("stores.toml").exists());
    for file in &files {
        assert!(fleet.home().blobs.read(Hash::of(file)).unwrap() == *file);
    }
    // Both at once: what has moved when the other cannot is said.
    let nowhere = "postgres://fleet@127.0.0.1:1/fleet?sslmode=disable";
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_fleet-server"));
    command.args(["move", "--blobs", &place, "--database", nowhere, "--folder"]).arg(&folder);
    command.env("AWS_ACCESS_KEY_ID", s3::KEY_ID).env("AWS_SECRET_ACCESS_KEY", s3::SECRET);
    let half = common::refused(&command.output().unwrap());
    assert!(half.contains("the blobs have moved, the book has not: "), "{half}");
    let again = common::said(&moves(&place));
    assert!(again.contains("\"blobs\":0"), "{again}");
}

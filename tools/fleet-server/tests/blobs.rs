//! The laws of blobs, over a folder and over a real S3 store; and what S3 alone can do wrong.
//!
//! Goal: whatever keeps them, what was acknowledged is there, whole, and under its own hash.
//! Oracle: SeaweedFS 4.48, which refuses a second creation; BLAKE3 says what a blob is.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod common;

use common::proxy::{Fault, Proxy};
use common::s3::{self, weed};
use common::{candidate, fleet, given};
use fleet_server::rounds::NONE;
use fleet_server::store::blobs::{BlobError, Blobs, Copied, copy_all};
use sapwood_protocol::fleet::id::Hash;
use std::cell::{Cell, RefCell};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

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

/// Bytes that no two seeds share.
fn bytes(seed: u64, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
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

#[test]
fn a_store_that_lets_a_second_creation_pass_is_refused_by_its_name() {
    let (folder, proxy) = (tempfile::tempdir().unwrap(), Proxy::in_memory(false));
    let blobs = proxy.blobs(folder.path(), "lax");
    for refused in [blobs.probe().unwrap_err(), blobs.put(b"an adapter").unwrap_err()] {
        let error = refused.to_string();
        assert!(matches!(refused, BlobError::Lax { .. }), "{error}");
        assert!(error.starts_with(&format!("s3://lax/fleets/valves at http://{}:", proxy.address)));
    }
    let strict = Proxy::in_memory(true);
    strict.blobs(folder.path(), "strict").probe().unwrap();
    strict.plan(|_, _| Fault::Says(501, "NotImplemented"));
    let error = strict.blobs(folder.path(), "strict").probe().unwrap_err().to_string();
    assert!(error.contains("501 NotImplemented") && strict.said("PUT") == [501], "{error}");
}

/// What passes is tried again: no answer, an answer that was lost, a store that is slow or confused.
#[test]
fn what_passes_is_tried_again() {
    let Some(weed) = weed("what_passes") else { return };
    let proxy = Proxy::before(weed.address);
    let faults = [
        Fault::Deaf,
        Fault::Says(503, "SlowDown"),
        Fault::Says(500, "InternalError"),
        Fault::Says(429, "TooManyRequests"),
        Fault::Says(409, "ConditionalRequestConflict"),
    ];
    let bucket = weed.bucket();
    for (n, fault) in faults.into_iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = proxy.blobs(folder.path(), &bucket);
        blobs.probe().unwrap();
        let first = fault.clone();
        proxy.plan(move |_, count| if count < 2 { first.clone() } else { Fault::None });
        let own = bytes(100 + n as u64, 1000);
        let hash = blobs.put(&own).unwrap();
        // What was written before its answer was lost is met again, and is success.
        let last = if fault == Fault::Deaf { 412 } else { 200 };
        assert_eq!(proxy.said("PUT").last(), Some(&last), "{fault:?}: {:?}", proxy.said("PUT"));
        let _ = std::fs::remove_dir_all(folder.path().join("cache"));
        assert_eq!(blobs.read(hash).unwrap(), own, "{fault:?}");
        assert!(blobs.has(hash).unwrap());
        assert_eq!(blobs.older(hash.0[0], u64::MAX).unwrap(), [hash]);
        blobs.remove(hash).unwrap();
        assert!(!blobs.has(hash).unwrap(), "{fault:?}");
    }
}

#[test]
fn what_does_not_pass_is_told_in_one_line_without_a_secret() {
    let Some(weed) = weed("what_does_not_pass") else { return };
    let folder = tempfile::tempdir().unwrap();
    let proxy = Proxy::before(weed.address);
    let bucket = weed.bucket();
    let told = |blobs: &Blobs, tries: usize, expected: &str| {
        proxy.plan(|_, _| Fault::None);
        let error = blobs.probe().unwrap_err().to_string();
        assert!(error.contains(expected) && error.lines().count() == 1, "{error}");
        assert!(
            error.starts_with("s3://") && error.contains(&proxy.address.to_string()),
            "{error}"
        );
        assert!(!error.contains("secret") && !error.contains("Signature="), "{error}");
        assert_eq!(proxy.said("PUT").len(), tries, "{error}");
    };
    let place = s3::place(proxy.address, &bucket);
    let other = s3::signed(folder.path(), &place, s3::KEY_ID, "another secret");
    told(&other, 1, "403 SignatureDoesNotMatch");
    let nobody = s3::signed(folder.path(), &place, "nobody", "secret");
    told(&nobody, 1, "403 InvalidAccessKeyId");
    told(&proxy.blobs(folder.path(), "no-such-bucket"), 1, "404 NoSuchBucket");
    let absent = proxy.blobs(folder.path(), "no-such-bucket").open_blob(Hash::of(b"a"));
    assert!(absent.unwrap_err().to_string().contains("NoSuchBucket"));

    let blobs = proxy.blobs(folder.path(), &bucket);
    proxy.plan(|_, _| Fault::Says(503, "SlowDown"));
    #[expect(clippy::disallowed_methods, reason = "how long somebody waits is what is tested")]
    let began = Instant::now();
    let error = blobs.probe().unwrap_err().to_string();
    assert!(error.contains("503 SlowDown") && proxy.said("PUT").len() == 6, "{error}");
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    let nowhere = s3::blobs(folder.path(), "s3://bucket?endpoint=http://127.0.0.1:1");
    let error = nowhere.probe().unwrap_err().to_string();
    assert!(error.contains("onnection refused") && error.lines().count() == 1, "{error}");
}

#[test]
fn what_is_cut_or_changed_on_its_way_is_fetched_again_and_never_given() {
    let Some(weed) = weed("what_is_cut") else { return };
    let (folder, proxy) = (tempfile::tempdir().unwrap(), Proxy::before(weed.address));
    let blobs = proxy.blobs(folder.path(), &weed.bucket());
    let own = bytes(7, 300_000);
    let hash = blobs.put(&own).unwrap();
    let forget = || std::fs::remove_dir_all(folder.path().join("cache")).unwrap();
    for cut in [0, 1, 1000, 299_999] {
        forget();
        proxy.plan(move |_, count| if count < 2 { Fault::Cut(cut) } else { Fault::None });
        assert_eq!(blobs.read(hash).unwrap(), own, "{cut}");
        assert_eq!(proxy.said("GET").len(), 3);
    }
    forget();
    proxy.plan(|_, count| if count == 0 { Fault::Wrong } else { Fault::None });
    assert_eq!(blobs.read(hash).unwrap(), own);
    forget();
    proxy.plan(|_, _| Fault::Wrong);
    assert!(matches!(blobs.open_blob(hash), Err(BlobError::Damaged { .. })));
    assert!(matches!(blobs.check(hash), Err(BlobError::Damaged { .. })));
    proxy.plan(|_, _| Fault::Cut(1000));
    let error = blobs.open_blob(hash).unwrap_err().to_string();
    assert!(error.contains("fleets/valves/") && error.lines().count() == 1, "{error}");
    assert_eq!(drafts(folder.path()), 0);
}

#[test]
fn two_who_ask_for_the_same_wait_for_one_download() {
    let Some(weed) = weed("two_who_ask") else { return };
    let (folder, proxy) = (tempfile::tempdir().unwrap(), Proxy::before(weed.address));
    let blobs = proxy.blobs(folder.path(), &weed.bucket());
    let own = bytes(8, 1 << 20);
    let hash = blobs.put(&own).unwrap();
    std::fs::remove_dir_all(folder.path().join("cache")).unwrap();
    proxy.plan(|_, _| {
        std::thread::park_timeout(Duration::from_millis(200));
        Fault::None
    });
    std::thread::scope(|scope| {
        (0..8).for_each(|_| drop(scope.spawn(|| assert!(blobs.read(hash).unwrap() == own))));
    });
    assert_eq!(proxy.said("GET"), [200]);
    // Another program on the same folder finds it there.
    let other = proxy.blobs(folder.path(), "no-such-bucket");
    assert!(other.read(hash).unwrap() == own);
}

#[test]
fn the_cache_is_bounded_and_what_was_used_last_stays() {
    let Some(weed) = weed("the_cache") else { return };
    let (folder, proxy) = (tempfile::tempdir().unwrap(), Proxy::before(weed.address));
    let place = s3::place(proxy.address, &weed.bucket()) + "&cache_mib=1";
    let blobs = s3::blobs(folder.path(), &place);
    let all: Vec<Hash> = (0..8).map(|n| blobs.put(&bytes(n, 300_000)).unwrap()).collect();
    let kept = || {
        let files = std::fs::read_dir(folder.path().join("cache")).unwrap();
        files.map(|file| file.unwrap().metadata().unwrap().len()).sum::<u64>()
    };
    let fetched = Arc::new(AtomicU64::new(0));
    let (counted, name) = (fetched.clone(), all[0].to_string());
    proxy.plan(move |heard, _| {
        counted.fetch_add(heard.path.ends_with(&name).into(), Ordering::Relaxed);
        Fault::None
    });
    for hash in &all {
        drop(blobs.open_blob(*hash).unwrap());
        // So that the next is younger on a disk that counts coarsely.
        std::thread::park_timeout(Duration::from_millis(20));
        drop(blobs.open_blob(all[0]).unwrap());
        assert!(kept() <= 1 << 20, "{}", kept());
    }
    assert_eq!(fetched.load(Ordering::Relaxed), 1, "what is asked for all the time is here");
    let place = place.replace("cache_mib=1", "cache_mib=0");
    let none = s3::blobs(folder.path(), &place);
    assert!(none.read(all[0]).unwrap() == bytes(0, 300_000));
    assert!(none.read(all[1]).unwrap() == bytes(1, 300_000) && kept() == 0);
}

#[test]
fn a_damaged_file_of_the_cache_is_fetched_again() {
    let Some(weed) = weed("a_damaged_file") else { return };
    let folder = tempfile::tempdir().unwrap();
    let blobs = weed.blobs(folder.path());
    let own = bytes(9, 100_000);
    let hash = blobs.put(&own).unwrap();
    let file = folder.path().join("cache").join(hash.to_string());
    let mut flipped = own.clone();
    flipped[50_000] ^= 1;
    for damage in [flipped, own[..99_999].to_vec(), Vec::new()] {
        drop(blobs.open_blob(hash).unwrap());
        std::fs::write(&file, damage).unwrap();
        let (mut content, _) = blobs.open_blob(hash).unwrap().unwrap();
        let mut got = Vec::new();
        content.read_to_end(&mut got).unwrap();
        assert!(got == own);
        assert!(std::fs::read(&file).unwrap() == own);
    }
}

/// The disk takes nothing: what is fetched is served from memory, and what comes in is refused.
#[test]
fn a_full_disk_still_serves() {
    let Some(weed) = weed("a_full_disk") else { return };
    let folder = tempfile::tempdir().unwrap();
    let small = folder.path().join("small");
    std::fs::create_dir(&small).unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=256k", "tmpfs"])
        .arg(&small)
        .status();
    let is_small = mounted.is_ok_and(|status| status.success());
    let bucket = weed.bucket();
    let own = bytes(10, 1 << 20);
    let hash = s3::blobs(folder.path(), &weed.place(&bucket)).put(&own).unwrap();
    let blobs = s3::blobs(&small, &weed.place(&bucket));
    if !is_small {
        // Where nothing may be mounted: a folder that is none refuses as well.
        std::fs::remove_dir_all(small.join("tmp")).unwrap();
    }
    let served = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        for _ in 0..3 {
            assert!(blobs.read(hash).unwrap() == own);
        }
        let refused = blobs.put(&bytes(11, 1 << 20)).unwrap_err();
        assert!(matches!(refused, BlobError::Disk { .. }) && refused.is_full() == is_small);
    }));
    if is_small {
        std::process::Command::new("umount").arg(&small).status().unwrap();
    }
    served.unwrap();
}

/// The answer to a deletion is lost, and the deletion is done when all have looked: what a row names by
/// then comes back from what lies aside.
#[test]
fn a_deletion_that_is_done_late_takes_nothing_that_is_named() {
    let Some(weed) = weed("a_deletion") else { return };
    let (folder, proxy) = (tempfile::tempdir().unwrap(), Proxy::before(weed.address));
    let bucket = weed.bucket();
    let blobs = proxy.blobs(folder.path(), &bucket);
    let own = bytes(12, 1000);
    let hash = blobs.put(&own).unwrap();
    proxy.plan(|heard, _| if heard.method == "DELETE" { Fault::Later } else { Fault::None });
    let error = blobs.sweep(hash, || Ok::<_, BlobError>(false)).unwrap_err().to_string();
    assert!(error.contains("DELETE "), "{error}");
    assert_eq!(proxy.said("DELETE").len(), 1, "not sent twice");
    // An upload of the same comes and goes, and sees that all is well.
    blobs.put(&own).unwrap();
    blobs.see_to(hash, &own).unwrap();
    proxy.do_it_now();
    assert!(!blobs.has(hash).unwrap());
    // The server is killed and begins again.
    let blobs = proxy.blobs(folder.path(), &bucket);
    blobs.clear_drafts().unwrap();
    blobs.settle(0, |_| Ok::<_, BlobError>(true)).unwrap();
    assert_eq!(blobs.check(hash).unwrap(), Some(1000));
    blobs.settle(u64::MAX, |_| Ok::<_, BlobError>(true)).unwrap();
    assert_eq!(drafts(folder.path()), 0);
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

#[test]
fn over_tls_the_store_is_who_an_authority_says() {
    let Some(weed) = weed("over_tls") else { return };
    let folder = tempfile::tempdir().unwrap();
    let port = weed.tls.port();
    let place = format!("s3://{}?endpoint=https://localhost:{port}", weed.bucket());
    let known = format!("{place}&ca={}", weed.certificate.display());
    let blobs = s3::blobs(folder.path(), &known);
    let own = bytes(20, 1 << 20);
    let hash = blobs.put(&own).unwrap();
    std::fs::remove_dir_all(folder.path().join("cache")).unwrap();
    assert!(blobs.read(hash).unwrap() == own);
    let other = tempfile::tempdir().unwrap();
    let file = other.path().join("other.pem");
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(&file, made.cert.pem()).unwrap();
    let unknown = s3::blobs(other.path(), &format!("{place}&ca={}", file.display()));
    let error = unknown.has(hash).unwrap_err().to_string();
    assert!(error.contains("invalid peer certificate") && error.lines().count() == 1, "{error}");
    let none = s3::blobs(other.path(), &format!("{place}&ca=/nowhere/ca.pem"));
    let error = none.has(hash).unwrap_err().to_string();
    assert!(error.contains("authorities in /nowhere/ca.pem"), "{error}");
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
}

/// A store that says nothing to whoever fetches holds up no check-in.
#[test]
fn a_store_that_hangs_holds_up_no_others() {
    let Some(weed) = weed("a_store_that_hangs") else { return };
    let proxy = Proxy::before(weed.address);
    proxy.plan(|heard, _| {
        if heard.method == "GET" && !heard.path.contains('?') {
            std::thread::park_timeout(Duration::from_secs(30));
        }
        Fault::None
    });
    let names = ["check_ins_beside_a_store_that_hangs"];
    s3::again_at(weed, proxy.address, "a_store_that_hangs", &names, &[]);
}

#[test]
#[ignore = "run by a_store_that_hangs_holds_up_no_others, with a store that does"]
fn check_ins_beside_a_store_that_hangs() {
    let (fleet, mut devices) = fleet(2);
    let (_, artifact) = candidate(&fleet, &mut devices, NONE, 0);
    let cache = fleet.folder().join("blobs/cache");
    assert!(std::fs::read_dir(&cache).unwrap().count() > 0, "it was not over a bucket");
    std::fs::remove_dir_all(cache).unwrap();
    let (path, asks) = (format!("/v1/artifacts/{artifact}"), &devices[0]);
    let head = asks.head("GET", &path, b"", asks.time_ms);
    let lines: Vec<_> = (0..300)
        .map(|_| {
            let mut stream = asks.stream().unwrap();
            let mut text = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n");
            head.iter().for_each(|(name, value)| text.push_str(&format!("{name}: {value}\r\n")));
            stream.write_all((text + "\r\n").as_bytes()).unwrap();
            stream
        })
        .collect();
    std::thread::park_timeout(Duration::from_secs(1));
    #[expect(clippy::disallowed_methods, reason = "how long somebody waits is what is tested")]
    let began = Instant::now();
    devices[1].check_in().unwrap();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    drop(lines);
}

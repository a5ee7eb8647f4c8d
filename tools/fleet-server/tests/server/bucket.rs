//! What a bucket of S3 alone can do wrong, and what is kept of it here.
//!
//! Goal: no wrong byte is given, nothing is lost, nobody waits for ever, nothing secret is told.
//! Oracle: SeaweedFS 4.48 behind a proxy that loses, cuts, changes and puts off; BLAKE3.

use crate::common::proxy::{Fault, Proxy};
use crate::common::s3::{self, bytes, weed};
use crate::common::{candidate, fleet};
use fleet_server::home::{Home, Wish, init};
use fleet_server::ports::{Clock, SystemChance, SystemClock};
use fleet_server::ready::faults;
use fleet_server::rounds::NONE;
use fleet_server::store::blobs::{BlobError, Blobs};
use sapwood_protocol::fleet::id::Hash;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

fn drafts(folder: &Path) -> usize {
    std::fs::read_dir(folder.join("tmp")).unwrap().count()
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

/// Its key may create, and not read, list or delete: told at the start, and not when the first merge fails.
#[test]
fn a_key_that_may_not_all_is_refused_before_anything_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    for (method, is_list) in [("GET", false), ("GET", true), ("DELETE", false)] {
        let proxy = Proxy::in_memory(true);
        proxy.plan(move |heard, _| {
            let is_it = heard.method == method && heard.path.contains("list-type=") == is_list;
            if is_it { Fault::Says(403, "AccessDenied") } else { Fault::None }
        });
        let error = proxy.blobs(folder.path(), "half").probe().unwrap_err().to_string();
        let what = if is_list { "LIST" } else { method };
        assert!(
            error.contains(&format!("{what} ")) && error.contains("403 AccessDenied"),
            "{error}"
        );
    }
}

/// One look at the bucket, for whoever asks whether the server can do its work.
#[test]
fn a_bucket_that_is_away_is_told_by_one_look() {
    let (folder, proxy) = (tempfile::tempdir().unwrap(), Proxy::in_memory(true));
    let path = folder.path().join("fleet");
    let wish = Wish { folder: &path, name: "valves", tls: None, now_ms: 1 };
    init(&wish, &SystemChance).unwrap();
    let mut home = Home::open(&path).unwrap();
    home.blobs = proxy.blobs(&path.join("blobs"), "away");
    assert!(faults(&home, false).is_ready());
    for (status, code) in [(503, "SlowDown"), (403, "AccessDenied"), (404, "NoSuchBucket")] {
        proxy.plan(move |_, _| Fault::Says(status, code));
        let told = faults(&home, false).grave;
        let line = format!("{status} {code}");
        assert!(told.len() == 1 && told[0].starts_with("no file is kept: s3://away"), "{told:?}");
        assert!(told[0].contains(&line) && proxy.said("GET").len() == 1, "{told:?}");
    }
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

/// Root runs what is the service's account's: what is fetched, and where it lies, is that account's.
/// Says something where the tests run as root.
#[test]
fn what_root_fetches_is_the_folders_owners() {
    use std::os::unix::fs::{MetadataExt, chown};
    const OWNER: u32 = 1001;
    let Some(weed) = weed("what_root_fetches") else { return };
    let folder = tempfile::tempdir().unwrap();
    if std::fs::metadata(folder.path()).unwrap().uid() != 0 {
        return;
    }
    chown(folder.path(), Some(OWNER), Some(OWNER)).unwrap();
    let blobs = weed.blobs(folder.path());
    let hash = blobs.put(b"an adapter").unwrap();
    for way in ["kept", "fetched"] {
        let cache = folder.path().join("cache");
        for path in [folder.path().join("tmp"), cache.join(hash.to_string()), cache.clone()] {
            let found = std::fs::metadata(&path).unwrap();
            assert_eq!((found.uid(), found.gid()), (OWNER, OWNER), "{way}: {}", path.display());
        }
        std::fs::remove_dir_all(cache).unwrap();
        blobs.read(hash).unwrap();
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
    // A request is taken for 15 minutes after it was signed: so long it is not known that all is well.
    let now_ms = SystemClock::start().now_ms();
    blobs.settle(now_ms + 15 * 60_000, |_| Ok::<_, BlobError>(true)).unwrap();
    proxy.do_it_now();
    assert!(!blobs.has(hash).unwrap());
    // The server is killed and begins again, which tries the key for a deletion too.
    proxy.plan(|_, _| Fault::None);
    let blobs = proxy.blobs(folder.path(), &bucket);
    blobs.clear_drafts().unwrap();
    blobs.settle(0, |_| Ok::<_, BlobError>(true)).unwrap();
    assert_eq!(blobs.check(hash).unwrap(), Some(1000));
    blobs.settle(now_ms + 30 * 60_000, |_| Ok::<_, BlobError>(true)).unwrap();
    assert_eq!(drafts(folder.path()), 0);
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
    assert!(error.contains("/nowhere/ca.pem"), "{error}");
}

/// A store that says nothing to whoever fetches holds up no check-in.
#[test]
fn a_store_that_hangs_holds_up_no_others() {
    let Some(weed) = weed("a_store_that_hangs") else { return };
    let proxy = Proxy::before(weed.address);
    proxy.plan(|heard, _| {
        let asks = ["?", "/probe/"].iter().any(|part| heard.path.contains(part));
        if heard.method == "GET" && !asks {
            std::thread::park_timeout(Duration::from_secs(30));
        }
        Fault::None
    });
    let names = ["bucket::check_ins_beside_a_store_that_hangs"];
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

#[test]
fn the_bucket_may_be_in_the_hosts_name() {
    let Some(weed) = weed("the_bucket_may_be") else { return };
    let [folder, other] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let place = format!("s3://{}", weed.bucket());
    let port = weed.address.port();
    let by_name = format!("{place}?endpoint=http://localhost:{port}&style=virtual");
    let by_name = s3::blobs(folder.path(), &by_name);
    by_name.probe().unwrap();
    let own = bytes(21, 1000);
    let hash = by_name.put(&own).unwrap();
    assert_eq!(by_name.older(hash.0[0], u64::MAX).unwrap(), [hash]);
    let by_path = s3::blobs(other.path(), &format!("{place}?endpoint=http://{}", weed.address));
    assert!(by_path.read(hash).unwrap() == own);
    by_path.remove(hash).unwrap();
    assert!(!by_name.has(hash).unwrap());
}

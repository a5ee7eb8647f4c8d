//! Several servers of one fleet: each has a copy of the folder, all have one database.

use crate::common::book::count;
use crate::common::postgres::Postgres as Service;
use crate::common::{
    self, DAY_ONE_MS, Fleet, Served, cohort, fleet_with, given, open, patient, promote, until,
};
use fleet_server::home::Home;
use fleet_server::operator::rounds::{self as orders, Verdict};
use fleet_server::ports::{Clock, SystemClock};
use fleet_server::rounds::{self, NONE, State, UploadState};
use fleet_server::serve::Settings;
use fleet_server::store::Book;
use fleet_server::work;
use sapwood_protocol::fleet::id::Hash;
use sapwood_protocol::fleet::message::Installed;
use serde_json::json;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

fn ran(program: &str, arguments: &[&Path]) {
    assert!(Command::new(program).args(arguments).status().unwrap().success(), "{program}");
}

/// A fleet in a database whose clock is the machine's: its replicas have no other.
fn fleet_of(service: Service, devices: u8, work: bool) -> (Fleet, Vec<common::Device>) {
    let fleet = Fleet::over(service, |settings: &mut Settings| {
        patient(settings);
        settings.work = work;
    });
    fleet.wind(Duration::from_millis(SystemClock::start().now_ms() - DAY_ONE_MS));
    fleet_with(devices, fleet)
}

/// A copy of a fleet's folder, with blobs of its own or with the same.
fn replica(fleet: &Fleet, name: &str, is_shared: bool) -> PathBuf {
    let (folder, copy) = (fleet.folder(), fleet.place.path().join(name));
    ran("cp", &["-r".as_ref(), &folder, &copy]);
    std::fs::remove_file(copy.join("serve.lock")).unwrap();
    if is_shared {
        std::fs::remove_dir_all(copy.join("blobs")).unwrap();
        std::os::unix::fs::symlink(folder.join("blobs"), copy.join("blobs")).unwrap();
    }
    copy
}

/// Waits until a query of one number has this answer.
fn comes_to(book: &dyn Book, sql: &'static str, expected: i64) {
    for _ in 0..2000 {
        if book.read(sql, &[]).unwrap().first().is_some_and(|row| row[0] == expected_of(expected)) {
            return;
        }
        thread::park_timeout(Duration::from_millis(10));
    }
    panic!("{sql}: {:?}", book.read(sql, &[]));
}

fn expected_of(number: i64) -> fleet_server::store::Value {
    fleet_server::store::Value::Integer(number)
}

/// Goal: who merges in a dead one's place makes the same. Oracle: the merge in this process, before.
#[test]
fn a_replica_that_is_killed_while_it_merges_leaves_it_to_another_with_the_same_bytes() {
    let name = "a_replica_that_is_killed_while_it_merges_leaves_it_to_another_with_the_same_bytes";
    let Some(service) = Service::start(name) else { return };
    let (mut fleet, mut devices) = fleet_of(service, 3, false);
    let (id, files) = given(&fleet, &mut devices, 40);
    let home = fleet.home();
    let round = until(&fleet, id, State::Closed);
    let expected = work::merged(&home, &round, &cohort(&home), 1.0, || Ok(())).unwrap().file;
    fleet.server = None;
    let [first, second] = ["first", "second"].map(|name| replica(&fleet, name, false));
    // The first one comes as far as this file, and waits for who writes it.
    let hash = Hash::of(&files[0]).to_string();
    let blob = first.join("blobs").join(&hash[..2]).join(&hash);
    std::fs::remove_file(&blob).unwrap();
    ran("mkfifo", &[&blob]);
    let mut merging = Served::of_roles(&first, "work", &[]);
    comes_to(&home.book, "select state from task", 2);
    let other = Served::of_roles(&second, "work", &[]);
    // Several looks of the other: it leaves alone what is held.
    thread::park_timeout(Duration::from_millis(3500));
    assert_eq!(count(&home.book, "select fence from task"), 1);
    merging.child.kill().unwrap();
    merging.child.wait().unwrap();
    // A minute passes, by the clock that counts.
    let service = fleet.service.as_ref().unwrap();
    service.psql("fleet", "update task set lease = lease - 60001").unwrap();
    let merged = until(&fleet, id, State::Merged);
    drop(other);
    assert_eq!(count(&home.book, "select fence from task"), 2);
    let (hash, _) = merged.result.unwrap();
    assert!(Home::open(&second).unwrap().blobs.read(hash).unwrap() == expected, "other bytes");
    assert_eq!(count(&home.book, "select count(*) from audit where what = 'round merged'"), 1);
}

/// Goal: what many devices say to two servers at the same time is what they would have said to one.
#[test]
fn devices_that_call_two_servers_are_in_one_fleet() {
    let name = "devices_that_call_two_servers_are_in_one_fleet";
    let Some(service) = Service::start(name) else { return };
    let (fleet, mut devices) = fleet_of(service, 8, true);
    let copy = replica(&fleet, "copy", true);
    let second = Served::of_roles(&copy, "api", &[]);
    for (at, device) in devices.iter_mut().enumerate() {
        if at % 2 == 1 {
            device.address = second.address.unwrap();
        }
    }
    let home = fleet.home();
    let mut from = NONE;
    for turn in 1..=3_u64 {
        let id = open(&fleet);
        thread::scope(|scope| {
            for (n, device) in devices.iter_mut().enumerate() {
                scope.spawn(move || {
                    let invite = (0..50).find_map(|_| device.check_in().unwrap().invite).unwrap();
                    assert_eq!((invite.round, invite.artifact), (id, from));
                    let file = device.update(from, 100 * turn + n as u64);
                    assert_eq!(device.upload(id, &file).status, 201);
                    assert_eq!(device.upload(id, &file).status, 200, "and once is enough");
                });
            }
        });
        let merged = until(&fleet, id, State::Merged);
        assert_eq!((merged.stored, merged.invited), (8, 8));
        let uploads = rounds::uploads(&home.book, id).unwrap();
        assert!(uploads.iter().all(|upload| upload.state == UploadState::Counted), "{uploads:?}");
        let (artifact, bytes) = merged.result.unwrap();
        let verdict = Verdict { who: "operator", artifact, bytes, report: json!({}) };
        let sequence = orders::approve(&home, id, &verdict, fleet.now_ms()).unwrap();
        assert_eq!(promote(&fleet, sequence, "release.key").unwrap(), turn * 2);
        from = artifact;
        for device in &mut devices {
            device.installed = Some(Installed { sequence: turn * 2, artifact });
        }
    }
    // Nobody had the same line of the log as another, and none is missing.
    let [lines, last] = ["select count(*) from audit", "select max(id) from audit"];
    assert!(count(&home.book, lines) > 8 && count(&home.book, last) >= count(&home.book, lines));
}

/// How much longer a task is held, or waits, by the clock that all servers have in common.
const LEFT: &str =
    "select lease - cast(floor(extract(epoch from clock_timestamp()) * 1000) as bigint) from task";
const HOUR_MS: i64 = 3_600_000;

/// A turn of a server whose clock says so, and that does this before it reads a file.
fn turn(home: &Home, now_ms: impl Fn() -> i64, reads: impl Fn()) {
    let stops = || {
        reads();
        false
    };
    work::turn(home, || now_ms() as u64, stops);
}

/// Goal: a lease ends by the clock that all have in common, neither sooner nor later, whatever the clock of
/// the server says that has it, or of the one that asks for it. Oracle: the database's clock.
#[test]
fn a_lease_ends_by_the_databases_time_whatever_the_servers_clocks_say() {
    let name = "a_lease_ends_by_the_databases_time_whatever_the_servers_clocks_say";
    let Some(service) = Service::start(name) else { return };
    let (fleet, mut devices) = fleet_of(service, 3, false);
    let (id, files) = given(&fleet, &mut devices, 40);
    until(&fleet, id, State::Closed);
    let (home, other) = (fleet.home(), fleet.home());
    let service = fleet.service.as_ref().unwrap();
    let passes = |ms: i64| {
        let sql = format!("update task set lease = lease - {ms}");
        service.psql("fleet", &sql).unwrap();
    };
    let left = || count(&home.book, LEFT);
    let held = || count(&home.book, "select coalesce(max(fence), 0) from task");
    let idle = |now_ms: i64| turn(&other, || now_ms, || panic!("it is another's, or it waits"));
    let true_ms = || SystemClock::start().now_ms() as i64;
    for (off_ms, others_ms) in [(-6, 0), (6, 0), (0, 6), (0, -6), (-6, 6), (6, -6)] {
        let [off_ms, others_ms] = [off_ms, others_ms].map(|hours: i64| hours * HOUR_MS);
        let (fence, looks, own_ms) = (held(), Cell::new(0), Cell::new(true_ms() + off_ms));
        // It takes the task, renews it as time passes, and dies.
        let reads = || {
            looks.set(looks.get() + 1);
            let left_ms = left();
            assert!((50_000..=60_000).contains(&left_ms), "{off_ms}: held for {left_ms} ms");
            idle(true_ms() + others_ms);
            if looks.get() == 2 {
                std::panic::panic_any("killed");
            }
            passes(50_000);
            own_ms.set(own_ms.get() + 50_000);
        };
        let life = AssertUnwindSafe(|| turn(&home, || own_ms.get(), reads));
        let end = catch_unwind(life).unwrap_err();
        assert_eq!(end.downcast_ref(), Some(&"killed"), "{off_ms} {others_ms}");
        assert_eq!(held(), fence + 1, "{off_ms}");
        passes(left() - 5_000);
        idle(true_ms() + others_ms);
        passes(5_001);
        // The other has it now, cannot read a file, and puts it off for an hour.
        let hash = Hash::of(&files[0]);
        home.blobs.remove(hash).unwrap();
        turn(&other, || true_ms() + others_ms, || ());
        assert_eq!(held(), fence + 2, "{off_ms} {others_ms}: it was over");
        let left_ms = left();
        assert!((HOUR_MS - 10_000..=HOUR_MS).contains(&left_ms), "{others_ms}: {left_ms} ms");
        home.blobs.put(&files[0]).unwrap();
        idle(true_ms() + off_ms);
        service.psql("fleet", "update task set state = 1, tries = 0, lease = 0").unwrap();
    }
    turn(&other, || true_ms() + 6 * HOUR_MS, || ());
    assert_eq!(rounds::find(&home.book, id).unwrap().unwrap().state, State::Merged);
}

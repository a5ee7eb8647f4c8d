//! What was seen to fail in other fleets, each as a test of its own; the table stands in README.md.

use crate::common::{
    self, Device, Fleet, Stream, candidate, cohort, fleet, given, open, promote, so_far, until,
};
use fleet_server::devices;
use fleet_server::door::Rate;
use fleet_server::operator::releases::{self as orders, Word};
use fleet_server::ports::{Clock, SystemClock};
use fleet_server::rollout::State as Stage;
use fleet_server::rounds::{self, NONE, State};
use fleet_server::serve::{self, Settings};
use sapwood_protocol::fleet::id::Hash;
use sapwood_protocol::fleet::message::{self, Installed, Receipt};
use sapwood_protocol::fleet::statement::Statement;
use std::collections::BTreeSet;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::park_timeout;
use std::time::Duration;

/// Longest that a check-in may take beside others, on a machine that does other things too.
const SOON: Duration = Duration::from_secs(5);

/// A call whose headers are sent.
fn begun(device: &Device, method: &str, path: &str, body: &[u8]) -> Option<Stream> {
    let mut stream = device.stream()?;
    let mut text = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n");
    for (name, value) in device.head(method, path, body, device.time_ms) {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(&[text.as_bytes(), b"\r\n"].concat()).ok()?;
    Some(stream)
}

/// flwrlabs/flower 4844: a node that was restarted never got work again.
#[test]
fn a_device_and_a_server_that_restart_mid_round_go_on_with_it() {
    let (mut fleet, mut devices) = fleet(2);
    let round = open(&fleet);
    let invite = devices[0].check_in().unwrap().invite;
    drop(fleet.server.take());
    let mut settings = Settings::new(&fleet.folder());
    settings.clock = fleet.clock.clone();
    settings.look = Duration::from_millis(10);
    let server = serve::start(settings).unwrap();
    devices.iter_mut().for_each(|device| device.address = server.address);
    // What the device knew of the round went with its memory.
    devices[0].counter += 100;
    assert_eq!(devices[0].check_in().unwrap().invite, invite, "asked again");
    devices[1].check_in().unwrap();
    for device in &devices {
        assert_eq!(device.upload(round, &device.update(NONE, 1)).status, 201);
    }
    fleet.server = Some(server);
    assert_eq!(until(&fleet, round, State::Merged).stored, 2);
}

/// flwrlabs/flower 6185, londonaicentre/FLIP 992: who never comes is waited for without end.
#[test]
fn a_deadline_closes_a_round_with_who_came() {
    let (fleet, mut devices) = fleet(3);
    let round = open(&fleet);
    for device in &mut devices {
        assert!(device.check_in().unwrap().invite.is_some());
    }
    for device in &devices[..2] {
        assert_eq!(device.upload(round, &device.update(NONE, 1)).status, 201);
    }
    park_timeout(Duration::from_millis(100));
    let waits = rounds::find(&fleet.home().book, round).unwrap().unwrap();
    assert_eq!((waits.state, waits.stored), (State::Open, 2));
    fleet.wind(Duration::from_secs(24 * 3600));
    assert_eq!(until(&fleet, round, State::Merged).stored, 2);
}

/// londonaicentre/FLIP 684: one slow line held up all. In the time of the machine.
#[test]
fn sixteen_uploads_at_8_kb_a_second_end_and_hold_nobody_up() {
    let (fleet, mut devices) = fleet(17);
    let round = open(&fleet);
    devices.iter_mut().for_each(|device| drop(device.check_in().unwrap()));
    let path = format!("/v1/rounds/{round}/upload");
    let mut files: Vec<Vec<u8>> = devices[..16].iter().map(|d| d.update(NONE, 1)).collect();
    let begin = |(device, file): (&Device, &Vec<u8>)| begun(device, "PUT", &path, file).unwrap();
    let mut lines: Vec<Stream> = devices.iter().zip(&files).map(begin).collect();
    let mut slowest = Duration::ZERO;
    // A sixteenth of a second each way: 500 bytes.
    while files.iter().any(|file| !file.is_empty()) {
        for (line, file) in lines.iter_mut().zip(&mut files) {
            let piece: Vec<u8> = file.drain(..file.len().min(500)).collect();
            line.write_all(&piece).and_then(|()| line.flush()).unwrap();
        }
        let clock = SystemClock::start();
        devices[16].check_in().unwrap();
        slowest = slowest.max(clock.elapsed());
        park_timeout(Duration::from_millis(62));
    }
    for line in lines {
        let reply = common::read(line).unwrap();
        assert_eq!(reply.status, 201, "{}", reply.text());
    }
    assert!(slowest < SOON, "{slowest:?}");
}

/// eclipse-hawkbit/hawkbit 693, 1770: a rollout was "proceeding" for ever.
#[test]
fn a_release_to_which_nobody_says_anything_does_not_go_on_for_ever() {
    let (fleet, mut devices) = fleet(4);
    let (first, _) = candidate(&fleet, &mut devices, NONE, 0);
    let sequence = promote(&fleet, first, "release.key").unwrap();
    let home = fleet.home();
    for _ in 2..=5 {
        orders::say(&home.book, cohort(&home).id, sequence, Word::Advance, fleet.now_ms()).unwrap();
    }
    for device in &mut devices {
        assert!(device.check_in().unwrap().release.is_some());
    }
    fleet.wind(Duration::from_secs(6 * 24 * 3600));
    park_timeout(Duration::from_millis(100));
    assert_eq!(common::release(&fleet, sequence).state, Stage::Active, "a week is not over");
    fleet.wind(Duration::from_secs(2 * 24 * 3600));
    let paused = so_far(&fleet, sequence, |release| release.state == Stage::Paused);
    assert!(paused.reason.unwrap().contains("4 of 4 devices are silent"));
}

/// rauc/rauc-hawkbit-updater 203: a device that was away was given its old orders first.
#[test]
fn a_device_that_was_away_for_three_releases_is_offered_the_newest_alone() {
    let (fleet, mut devices) = fleet(4);
    let mut away = fleet.enrolled(50);
    away.ready = None;
    let (mut from, mut newest) = (NONE, 0);
    for seed in [0, 10, 20] {
        let (sequence, artifact) = candidate(&fleet, &mut devices, from, seed);
        newest = promote(&fleet, sequence, "release.key").unwrap();
        let home = fleet.home();
        for _ in 2..=5 {
            let (cohort, now_ms) = (cohort(&home).id, fleet.now_ms());
            orders::say(&home.book, cohort, newest, Word::Advance, now_ms).unwrap();
        }
        from = artifact;
        for device in &mut devices {
            device.installed = Some(Installed { sequence: newest, artifact });
        }
    }
    let offer = away.check_in().unwrap().release.unwrap();
    let statement = Statement::decode(&offer.statement.0).unwrap();
    assert_eq!((statement.sequence, statement.artifact), (newest, from));
    away.installed = Some(Installed { sequence: newest, artifact: from });
    assert!(away.check_in().unwrap().release.is_none(), "nothing older after it");
}

/// thingsboard/thingsboard-client-sdk 140: all devices came at the same moment.
#[test]
fn devices_that_were_switched_on_together_do_not_stay_together() {
    let fleet = Fleet::new();
    let mut device = fleet.enrolled(1);
    let paces: Vec<u64> = (0..60).map(|_| device.check_in().unwrap().check_in_s).collect();
    assert!(paces.iter().all(|pace| (810..=990).contains(pace)), "{paces:?}");
    let several: BTreeSet<u64> = paces.into_iter().collect();
    assert!(several.len() > 20, "{several:?}");
}

/// apache/arrow-rs-object-store 852, aws/aws-sdk-java-v2 6580: who tried again met himself, and took it for
/// another.
#[test]
fn an_answer_that_was_lost_after_the_write_is_given_again() {
    let (fleet, mut devices) = fleet(2);
    let round = open(&fleet);
    devices[0].check_in().unwrap();
    let (device, path) = (&devices[0], format!("/v1/rounds/{round}/upload"));
    let file = device.update(NONE, 1);
    let mut stream = begun(device, "PUT", &path, &file).unwrap();
    stream.write_all(&file).and_then(|()| stream.flush()).unwrap();
    let stored = || rounds::find(&fleet.home().book, round).unwrap().unwrap().stored;
    assert!((0..1000).any(|_| {
        park_timeout(Duration::from_millis(10));
        stored() == 1
    }));
    drop(stream);
    for _ in 0..3 {
        let again = device.upload(round, &file);
        assert_eq!(again.status, 200, "{}", again.text());
        assert_eq!(message::read::<Receipt>(&again.body).unwrap().receipt, Hash::of(&file));
    }
    assert_eq!(stored(), 1);
}

/// transact-rs/sqlx 4385, 4349: a caller who hung up left a transaction open, and a connection dead.
#[test]
fn ten_thousand_hang_ups_leave_the_book_and_the_server_as_they_should_be() {
    let fleet = Fleet::with(|settings| settings.rate = Rate { per_s: 1.0, burst: 1e9 });
    let threads = 8;
    let work = |(seed, mut device): (u64, Device)| {
        std::thread::spawn(move || {
            for count in 1..=10_000 / threads {
                (device.counter, device.time_ms) = (count, device.time_ms + 1);
                let body = message::write(&device.check_in_with()).unwrap();
                let Some(mut stream) = begun(&device, "POST", "/v1/checkin", &body) else {
                    continue;
                };
                // In the middle of the call, at its end, or while it is answered.
                let sent = if (count + seed) % 3 == 0 { body.len() / 2 } else { body.len() };
                let _ = stream.write_all(&body[..sent]).and_then(|()| stream.flush());
                if count % 3 == 1 {
                    park_timeout(Duration::from_micros(200 * (count % 10)));
                }
            }
            device
        })
    };
    let mut watched = fleet.enrolled(100);
    let all: Vec<_> = (0..threads).map(|n| (n, fleet.enrolled(n as u8))).map(work).collect();
    let over = Arc::new(AtomicBool::new(false));
    let mut slowest = Duration::ZERO;
    while !over.load(Ordering::Relaxed) {
        let clock = SystemClock::start();
        watched.check_in().unwrap();
        slowest = slowest.max(clock.elapsed());
        over.store(all.iter().all(std::thread::JoinHandle::is_finished), Ordering::Relaxed);
        park_timeout(Duration::from_millis(50));
    }
    assert!(slowest < SOON, "{slowest:?}");
    let mut devices = vec![watched];
    for thread in all {
        let mut device = thread.join().unwrap();
        device.check_in().unwrap();
        let row = devices::find(&fleet.home().book, device.id).unwrap().unwrap();
        assert_eq!(row.counter, device.counter);
        devices.push(device);
    }
    // A round still goes from its beginning to its end.
    let home = fleet.home();
    let policy = r#"{"min_devices": 2, "quota": 9}"#;
    fleet_server::operator::rounds::policy(&home.book, &cohort(&home), policy, fleet.now_ms())
        .unwrap();
    devices.iter_mut().for_each(|device| device.time_ms = fleet.now_ms() + 10_000);
    let (round, _) = given(&fleet, &mut devices, 1);
    until(&fleet, round, State::Merged);
}

//! A release from the lab to all devices, and back: over TLS, with stages that go on by themselves.

use crate::common::{
    self, Device, Fleet, candidate, cohort, fleet, own, promote, release, run, said, so_far,
};
use fleet_server::home;
use fleet_server::operator::releases::{self as orders, Word};
use fleet_server::overview;
use fleet_server::rollout::{self, State};
use fleet_server::rounds::NONE;
use sapwood_protocol::fleet::id::Hash;
use sapwood_protocol::fleet::message::{Installed, Offer, Outcome, Report};
use sapwood_protocol::fleet::statement::{Role, Statement};
use serde_json::json;
use std::time::Duration;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A check-in today, and the statement that is offered.
fn offered(fleet: &Fleet, device: &mut Device) -> Option<(Statement, Offer)> {
    device.time_ms = fleet.now_ms();
    let offer = device.check_in().unwrap().release?;
    Some((Statement::decode(&offer.statement.0).unwrap(), offer))
}

/// The next check-in tells how the install of a statement ended.
fn ends(fleet: &Fleet, device: &mut Device, statement: &Statement, outcome: Outcome) {
    if outcome == Outcome::Confirmed {
        let Statement { sequence, artifact, .. } = *statement;
        device.installed = Some(Installed { sequence, artifact });
    }
    device.counter += 1;
    device.time_ms = fleet.now_ms();
    let report = Report {
        sequence: statement.sequence,
        outcome,
        reason: "a test said so".into(),
        before: Some(2.0),
        after: Some(1.5),
    };
    let told = sapwood_protocol::fleet::message::CheckIn {
        reports: vec![report],
        ..device.check_in_with()
    };
    assert_eq!(device.tell(&told).unwrap().acked, [statement.sequence]);
    assert_eq!(device.tell(&told).unwrap().acked, [statement.sequence], "the answer was lost");
}

#[test]
fn a_release_goes_stage_by_stage_to_every_device_and_is_what_rounds_go_on_from() {
    let (fleet, mut devices) = fleet(24);
    let (sequence, artifact) = candidate(&fleet, &mut devices, NONE, 0);
    let error = promote(&fleet, sequence, "online.key").unwrap_err();
    assert!(error.contains("signatures"), "{error}");
    let sequence = promote(&fleet, sequence, "release.key").unwrap();
    assert_eq!(sequence, 2);
    assert!(
        promote(&fleet, 1, "release.key").unwrap_err().contains("replaced, expected a candidate")
    );
    let mut reached = 0;
    for stage in 1..=5 {
        so_far(&fleet, sequence, |release| release.stage == stage);
        let percent = rollout::STAGES[stage as usize];
        let mut now = 0;
        for device in &mut devices {
            if let Some((statement, _)) = offered(&fleet, device) {
                assert_eq!((statement.role, statement.artifact), (Role::Release, artifact));
                let bucket = sapwood_protocol::fleet::schedule::bucket(sequence, device.id);
                assert!(u64::from(bucket) < 100 * percent, "{bucket} at {percent} %");
                ends(&fleet, device, &statement, Outcome::Confirmed);
                now += 1;
            }
        }
        reached += now;
        assert!(offered(&fleet, &mut devices[0]).is_none() || devices[0].installed.is_none());
        fleet.wind(DAY);
    }
    assert_eq!(reached, 24, "each was offered it once");
    so_far(&fleet, sequence, |release| release.state == State::Complete);
    let seen = overview::overview(&fleet.home(), fleet.now_ms()).unwrap();
    let newest = &seen["cohorts"][0]["releases"][0];
    assert_eq!(
        (&newest["confirmed"], &newest["success_rate"]),
        (&json!(24), &json!(1.0)),
        "{newest}"
    );
    assert_eq!(newest["bits_per_byte"], json!({"before": 2.0, "after": 1.5, "devices": 24}));
    devices.iter_mut().for_each(|device| device.time_ms = fleet.now_ms());
    let (next, better) = candidate(&fleet, &mut devices, artifact, 100);
    assert!(next == 3 && better != artifact, "the next round goes on from the release");
}

#[test]
fn a_bad_release_pauses_and_is_back_within_a_check_in() {
    let (fleet, mut devices) = fleet(12);
    let (sequence, artifact) = candidate(&fleet, &mut devices, NONE, 0);
    let sequence = promote(&fleet, sequence, "release.key").unwrap();
    let home = fleet.home();
    let outsider = devices.iter_mut().find_map(|one| offered(&fleet, one).is_none().then_some(one));
    ends(&fleet, outsider.unwrap(), &own(&fleet, sequence), Outcome::Reverted);
    let nobody = rollout::total(&home.book, &release(&fleet, sequence)).unwrap();
    assert_eq!(nobody.outcomes(), 0, "who was not offered it does not stop it");
    for stage in 2..=5 {
        orders::say(&home.book, cohort(&home).id, sequence, Word::Advance, fleet.now_ms()).unwrap();
        assert_eq!(release(&fleet, sequence).stage, stage);
    }
    let last = orders::say(&home.book, cohort(&home).id, sequence, Word::Advance, fleet.now_ms());
    assert!(
        last.unwrap_err()
            .to_string()
            .contains("expected a release that is active, and not at 100 %")
    );
    for device in &mut devices[..6] {
        let (statement, _) = offered(&fleet, device).unwrap();
        ends(&fleet, device, &statement, Outcome::Confirmed);
    }
    let (statement, _) = offered(&fleet, &mut devices[6]).unwrap();
    ends(&fleet, &mut devices[6], &statement, Outcome::Reverted);
    let paused = so_far(&fleet, sequence, |release| release.state == State::Paused);
    assert!(paused.reason.unwrap().contains("1 of 7 devices reverted it"));
    assert!(offered(&fleet, &mut devices[7]).is_none(), "nobody else");
    orders::say(&home.book, cohort(&home).id, sequence, Word::Resume, fleet.now_ms()).unwrap();
    std::thread::park_timeout(Duration::from_millis(100));
    assert_eq!(
        release(&fleet, sequence).state,
        State::Active,
        "what was counted is no reason again"
    );
    assert!(offered(&fleet, &mut devices[7]).is_some());
    assert!(offered(&fleet, &mut devices[6]).is_none(), "it has said no");

    let tries = &mut devices[7];
    (tries.installed, tries.trial) = (Some(Installed { sequence, artifact }), true);
    assert!(offered(&fleet, tries).is_none(), "it is on trial");
    let keys = [home::key(&fleet.folder().join("keys/release.key")).unwrap()];
    let (back, zeros) =
        orders::rollback(&home, &cohort(&home), None, &keys, fleet.now_ms()).unwrap();
    assert_eq!((release(&fleet, sequence).state, back), (State::Aborted, sequence + 1));
    let (confirmed, tried) = devices.split_at_mut(6);
    for device in confirmed.iter_mut().chain(&mut tried[1..2]) {
        let (statement, offer) = offered(&fleet, device).unwrap();
        assert_eq!((statement.sequence, statement.artifact), (back, zeros), "at its next check-in");
        let file = device.call("GET", &offer.url, b"").unwrap();
        assert_eq!((file.status, Hash::of(&file.body)), (200, zeros));
        device.trial = false;
        ends(&fleet, device, &statement, Outcome::Confirmed);
    }
    devices
        .iter_mut()
        .for_each(|device| device.installed = Some(Installed { sequence: back, artifact: zeros }));
    let (sequence, _) = candidate(&fleet, &mut devices, zeros, 50);
    let sequence = promote(&fleet, sequence, "release.key").unwrap();
    let keys = [home::key(&fleet.folder().join("keys/release.key")).unwrap()];
    let again = orders::rollback(&home, &cohort(&home), None, &keys, fleet.now_ms()).unwrap();
    assert_eq!(again, (sequence + 1, zeros), "what stood before, not the one that was taken back");
    assert_ne!(artifact, zeros);
}

/// Its operator saw nothing of it, and it got neither candidates nor releases.
#[test]
fn a_device_of_the_lab_that_takes_no_candidates_says_so_and_gets_releases() {
    let (fleet, mut devices) = fleet(2);
    let lab = |seed, candidates| {
        let mut device = fleet.device(seed);
        device.enrol(fleet.link(1, true).token.as_deref()).unwrap();
        device.candidates = candidates;
        device
    };
    let [mut takes, mut silent, mut refuses] =
        [(20, Some(true)), (21, None), (22, Some(false))].map(|(seed, word)| lab(seed, word));
    let (sequence, _) = candidate(&fleet, &mut devices, NONE, 0);
    let sequences = |device: &mut Device| Some(offered(&fleet, device)?.0.sequence);
    assert_eq!(sequences(&mut takes), Some(sequence));
    assert_eq!(sequences(&mut silent), Some(sequence), "a program of before");
    assert_eq!(sequences(&mut refuses), None);
    let list = |line: &str| {
        let rows = said(&run(&fleet.folder(), &["devices", "list"]));
        let row = rows.lines().find(|row| row.contains(line)).unwrap().to_owned();
        row.contains("lab, takes no candidates")
    };
    assert_eq!(
        [&takes, &silent, &refuses].map(|one| list(&one.id.to_string())),
        [false, false, true]
    );
    let release = promote(&fleet, sequence, "release.key").unwrap();
    assert_eq!(sequences(&mut refuses), Some(release), "it is of the lab all the same");
    refuses.candidates = Some(true);
    sequences(&mut refuses);
    assert!(!list(&refuses.id.to_string()));
}

#[test]
fn what_stands_is_not_offered_again_and_what_no_lab_tried_is_warned_of() {
    let (fleet, mut devices) = fleet(2);
    let (sequence, artifact) = candidate(&fleet, &mut devices, NONE, 0);
    let folder = fleet.folder();
    let key = folder.join("keys/release.key").display().to_string();
    let promoted =
        common::run(&folder, &["releases", "promote", "1", "--release-key", &key, "--json"]);
    let warned = String::from_utf8_lossy(&promoted.stderr).into_owned();
    assert!(warned.contains("no device of the lab has confirmed sequence 1"), "{warned}");
    assert_eq!(common::json(&promoted)["sequence"], sequence + 1);
    let home = fleet.home();
    let keys = [home::key(&folder.join("keys/release.key")).unwrap()];
    let back = |to| orders::rollback(&home, &cohort(&home), to, &keys, fleet.now_ms());
    assert_eq!(back(None).unwrap().0, 3);
    let line = back(None).unwrap_err().to_string();
    assert!(line.contains("sequence 3 offers artifact") && line.contains("already"), "{line}");
    assert_eq!(back(Some(2)).unwrap(), (4, artifact));
    let line = back(Some(1)).unwrap_err().to_string();
    assert!(line.contains("sequence 4 offers artifact"), "{line}");
}

common::over_every_store!();

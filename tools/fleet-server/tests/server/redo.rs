//! A round that waits, failed or was judged, and is merged again: over TLS, with merges that run by themselves.

use crate::common::{
    self, Device, Fleet, candidate, cohort, fleet, given, open, promote, release, run, said, until,
};
use fleet_server::operator::rounds::{self as orders, Redone, Verdict};
use fleet_server::overview;
use fleet_server::rollout::State as ReleaseState;
use fleet_server::rounds::{self, NONE, State};
use fleet_server::store::{Book, Statement};
use fleet_server::work::{self, Waiting};
use sapwood_protocol::fleet::id::Hash;
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);

fn blob(fleet: &Fleet, hash: Hash) -> PathBuf {
    let name = hash.to_string();
    fleet.folder().join("blobs").join(&name[..2]).join(name)
}

/// A closed round of three, of which the first device's file is damaged; that file as it was.
fn damaged() -> (Fleet, Vec<Device>, u64, (PathBuf, Vec<u8>)) {
    let (fleet, mut devices) = fleet(3);
    let round = open(&fleet);
    let mut give = |n: usize| {
        devices[n].check_in().unwrap();
        let file = devices[n].update(NONE, n as u64);
        assert_eq!(devices[n].upload(round, &file).status, 201);
        file
    };
    let whole = give(0);
    let path = blob(&fleet, Hash::of(&whole));
    let mut bad = whole.clone();
    bad[200..204].iter_mut().for_each(|byte| *byte ^= 0xff);
    std::fs::write(&path, bad).unwrap();
    give(1);
    give(2);
    (fleet, devices, round, (path, whole))
}

/// Waits until the merge of a round has failed at this time or later.
fn waiting(fleet: &Fleet, round: u64) -> Waiting {
    let home = fleet.home();
    for _ in 0..2000 {
        let waits = work::waiting(&home.book, round).unwrap();
        if let Some(waits) = waits.filter(|waits| waits.next_ms > fleet.now_ms()) {
            return waits;
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
    panic!("{:?}", rounds::find(&home.book, round));
}

#[test]
fn a_round_whose_file_is_damaged_waits_until_it_is_put_back() {
    let (fleet, _, round, (path, whole)) = damaged();
    let waits = waiting(&fleet, round);
    assert!(waits.why.contains("what keeps it has changed it"), "{waits:?}");
    for _ in 0..4 {
        fleet.wind(Duration::from_secs(70));
        let later = waiting(&fleet, round);
        assert!(later.next_ms >= waits.next_ms);
    }
    let seen = overview::overview(&fleet.home(), fleet.now_ms()).unwrap();
    let shown = &seen["cohorts"][0]["rounds"][0];
    assert_eq!(shown["state"], "closed");
    assert!(
        shown["waits"]["why"].as_str().unwrap().contains("what keeps it has changed it"),
        "{shown}"
    );
    let text = said(&run(&fleet.folder(), &["rounds", "show", "1"]));
    assert!(
        text.contains("the merge waits") && text.contains("what keeps it has changed it"),
        "{text}"
    );
    std::fs::write(&path, whole).unwrap();
    fleet.wind(HOUR);
    assert_eq!(until(&fleet, round, State::Merged).stored, 3);
    let text = said(&run(&fleet.folder(), &["rounds", "show", "1"]));
    assert!(!text.contains("the merge waits"), "{text}");
}

#[test]
fn a_round_that_failed_over_a_file_is_merged_again_with_it_or_without() {
    let (fleet, devices, round, (path, whole)) = damaged();
    let (home, id) = (fleet.home(), round);
    for _ in 0..40 {
        if rounds::find(&home.book, id).unwrap().unwrap().state == State::Failed {
            break;
        }
        waiting(&fleet, id);
        fleet.wind(HOUR);
        std::thread::park_timeout(Duration::from_millis(60));
    }
    let report = until(&fleet, id, State::Failed).report.unwrap();
    assert!(report.contains("tried as often as it may be"), "{report}");
    std::fs::remove_file(&path).unwrap();
    let error = orders::redo(&home, id, &[], fleet.now_ms()).unwrap_err().to_string();
    assert!(error.contains("is not there") && error.contains("--without"), "{error}");
    assert_eq!(until(&fleet, id, State::Failed).report, Some(report), "it is as it was");
    std::fs::write(&path, &whole).unwrap();
    assert_eq!(orders::redo(&home, id, &[], fleet.now_ms()).unwrap(), Redone::default());
    let all = until(&fleet, id, State::Merged);
    assert_eq!(all.stored, 3);
    // Said twice it is said once.
    let device = devices[0].id.to_string();
    let twice = ["rounds", "redo", "--without", &device, "--without", &device, "1"];
    said(&run(&fleet.folder(), &twice));
    let fewer = until(&fleet, id, State::Merged);
    assert!(fewer.stored == 2 && fewer.result != all.result);
}

#[test]
fn a_round_that_waits_over_a_file_goes_on_without_its_device_at_once() {
    let (fleet, devices, round, _) = damaged();
    waiting(&fleet, round);
    orders::redo(&fleet.home(), round, &[devices[0].id], fleet.now_ms()).unwrap();
    assert_eq!(until(&fleet, round, State::Merged).stored, 2);
}

#[test]
fn an_update_that_counts_in_another_round_since_does_not_come_back() {
    let (fleet, mut devices) = fleet(3);
    let round = open(&fleet);
    devices[0].check_in().unwrap();
    let file = devices[0].update(NONE, 1);
    assert_eq!(devices[0].upload(round, &file).status, 201);
    fleet.wind(24 * HOUR);
    devices.iter_mut().for_each(|device| device.time_ms = fleet.now_ms());
    until(&fleet, round, State::Failed);
    let next = open(&fleet);
    devices[0].check_in().unwrap();
    assert_eq!(devices[0].upload(next, &file).status, 201);
    let redone = orders::redo(&fleet.home(), round, &[], fleet.now_ms()).unwrap();
    assert_eq!(redone.elsewhere, [devices[0].id]);
    let failed = until(&fleet, round, State::Failed);
    assert!(failed.report.unwrap().contains("0 uploads came"));
    assert_eq!(devices[0].upload(next, &file).status, 200, "it is there, in the other round");
}

#[test]
fn a_candidate_whose_round_is_merged_again_is_withdrawn() {
    let (fleet, mut devices) = fleet(3);
    let (sequence, _) = candidate(&fleet, &mut devices, NONE, 0);
    let mut lab = fleet.device(77);
    lab.enrol(fleet.link(1, true).token.as_deref()).unwrap();
    assert!(lab.check_in().unwrap().release.is_some());
    let home = fleet.home();
    let redone = orders::redo(&home, 1, &[], fleet.now_ms()).unwrap();
    assert_eq!((&redone.withdrawn[..], &redone.released[..]), (&[sequence][..], &[][..]));
    assert_eq!(release(&fleet, sequence).state, ReleaseState::Aborted);
    assert!(lab.check_in().unwrap().release.is_none(), "nobody is offered it");
    let error = promote(&fleet, sequence, "release.key").unwrap_err();
    assert!(error.contains("candidate, aborted"), "{error}");
    let sql = "select detail from audit where what = 'round redo'";
    let line = format!("{:?}", home.book.read(sql, &[]).unwrap());
    assert!(line.contains("withdrawn [1]"), "{line}");

    let (artifact, bytes) = until(&fleet, 1, State::Merged).result.unwrap();
    let verdict = Verdict { who: "operator", artifact, bytes, report: json!({}) };
    let next = orders::approve(&home, 1, &verdict, fleet.now_ms()).unwrap();
    let state = |state: u64| {
        let sql = "update round set state = $1 where id = 1";
        home.book.write(vec![Statement::one(sql, [state.into()])]).unwrap();
    };
    state(6);
    let error = promote(&fleet, next, "release.key").unwrap_err();
    assert!(error.contains("round 1 is failed, expected candidate"), "{error}");
    state(5);
    let released = promote(&fleet, next, "release.key").unwrap();
    let text = said(&run(&fleet.folder(), &["rounds", "redo", "1"]));
    let line = format!("sequence {released}: a release of what it made, which stands");
    assert!(text.contains(&line) && text.contains("`releases rollback`"), "{text}");
    assert_eq!(release(&fleet, released).state, ReleaseState::Active);
}

/// Goal: a suspect can be found. Oracle: tokens over their mean.
#[test]
fn a_round_shows_what_each_device_weighed() {
    let (fleet, mut devices) = fleet(3);
    let (round, _) = given(&fleet, &mut devices, 0);
    until(&fleet, round, State::Merged);
    let shown = common::json(&run(&fleet.folder(), &["rounds", "show", "--json", "1"]));
    assert_eq!(shown["report"].get("weights"), None, "told device by device");
    for upload in shown["uploads"].as_array().unwrap() {
        let expected = upload["tokens"].as_f64().unwrap() / 1001.0;
        assert!((upload["weight"].as_f64().unwrap() - expected).abs() < 1e-12, "{upload}");
    }
    let text = said(&run(&fleet.folder(), &["rounds", "show", "1"]));
    let first = devices[0].id;
    assert!(text.contains(&format!("of an equal one: {first} 1.00")), "{text}");
    let seen = overview::overview(&fleet.home(), fleet.now_ms()).unwrap();
    assert!(!seen.to_string().contains("weights"), "{seen}");
    let change = ["cohorts", "policy", "{\"quota\": 2}"];
    assert!(!said(&run(&fleet.folder(), &change)).contains("is open"));
    let next = open(&fleet);
    let text = said(&run(&fleet.folder(), &["cohorts", "policy", "{\"quota\": 7}"]));
    assert!(text.contains(&format!("round {next} is open: it keeps its quota of 2")), "{text}");
    assert_eq!(cohort(&fleet.home()).policy.quota, 7);
}

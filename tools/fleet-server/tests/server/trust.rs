//! Other keys for a fleet that goes on: devices of the old epoch follow, and what a key signed that is no
//! longer named is taken by none of them.

use crate::common::{
    self, Device, Fleet, candidate, cohort, fleet, given, json, promote, refused, release, run,
    said, until,
};
use fleet_server::home;
use fleet_server::operator as orders;
use fleet_server::operator::rounds::Verdict;
use fleet_server::operator::trust::{Change, Rotated};
use fleet_server::ports::SystemChance;
use fleet_server::rollout::State;
use fleet_server::rounds::NONE;
use fleet_server::rounds::State::Merged;
use fleet_server::store::{Book, Columns};
use sapwood_protocol::fleet::id::Bytes;
use sapwood_protocol::fleet::key::SecretKey;
use sapwood_protocol::fleet::message::{self, Installed, Offer, TrustAnswer};
use sapwood_protocol::fleet::signatures::Signatures;
use sapwood_protocol::fleet::statement::{Role, Standing, Statement, StatementError};
use sapwood_protocol::fleet::trust::Trust;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

fn file(fleet: &Fleet, name: &str) -> String {
    fleet.folder().join("keys").join(name).display().to_string()
}

fn key(fleet: &Fleet, name: &str) -> SecretKey {
    home::key(&PathBuf::from(file(fleet, name))).unwrap()
}

/// A new epoch in the time of the fleet's clock.
fn changed(fleet: &Fleet, change: Change) -> Result<Rotated, String> {
    let change = Change { seconds: 86_400, ..change };
    let (home, roots) = (fleet.home(), [key(fleet, "root.key")]);
    orders::trust::rotate(&home, &roots, &change, &SystemChance, fleet.now_ms())
        .map_err(|error| error.to_string())
}

/// The order of an operator.
fn rotate(fleet: &Fleet, arguments: &[&str]) -> std::process::Output {
    run(&fleet.folder(), &[&["trust", "rotate", "--json"], arguments].concat())
}

/// Makes a key beside those of the fleet.
fn new_key(fleet: &Fleet, name: &str) -> String {
    let path = file(fleet, name);
    said(
        &std::process::Command::new(env!("CARGO_BIN_EXE_fleet-server"))
            .args(["trust", "key", &path])
            .output()
            .unwrap(),
    );
    path
}

/// The trust that a device has which enrolled before anything changed.
fn first(fleet: &Fleet, device: &mut Device) -> Trust {
    let link = fleet.link(1, true);
    let enrolled = device.enrol(link.token.as_deref()).unwrap().trust;
    let signatures = Signatures::decode(&enrolled.signatures.0).unwrap();
    Trust::first(&enrolled.statement.0, &signatures, link.fleet, link.trust).unwrap()
}

/// Follows to the newest epoch as a device does: from the one it holds, by what the server tells.
fn follow(device: &mut Device, mut trust: Trust) -> Trust {
    let newest = device.check_in().unwrap().trust_epoch.unwrap();
    while trust.epoch < newest {
        let reply = device.send("GET", &format!("/v1/trust?after={}", trust.epoch), &[], b"");
        let answer: TrustAnswer = message::read(&reply.unwrap().body).unwrap();
        for signed in answer.trust {
            let signatures = Signatures::decode(&signed.signatures.0).unwrap();
            trust = trust.next(&signed.statement.0, &signatures).unwrap();
        }
    }
    trust
}

/// Whether a device of the lab that took nothing yet takes an offer.
fn takes(device: &Device, trust: &Trust, offer: &Offer) -> Result<Statement, StatementError> {
    let cohort = device.cohort();
    let standing = Standing { trust, cohort, candidates: true, taken: 0, now_ms: device.time_ms };
    standing.take(&offer.statement.0, &Signatures::decode(&offer.signatures.0).unwrap())
}

fn offered(device: &mut Device) -> Offer {
    device.check_in().unwrap().release.unwrap()
}

#[test]
fn a_device_of_the_old_epoch_follows_and_takes_what_the_new_keys_sign_alone() {
    let (fleet, mut devices) = fleet(2);
    let mut lab = fleet.device(77);
    let old = first(&fleet, &mut lab);
    candidate(&fleet, &mut devices, NONE, 0);
    let by_old = offered(&mut lab);
    assert_eq!(takes(&lab, &old, &by_old).unwrap().role, Role::Candidate);
    new_key(&fleet, "second.key");
    let release_keys = vec![key(&fleet, "second.key")];
    let made = Change { online: true, release: release_keys, ..Change::default() };
    let made = changed(&fleet, made).unwrap();
    assert_eq!((made.trust.epoch, made.signed.len(), made.signed[0].sequence), (2, 1, 1));
    let shown = json(&run(&fleet.folder(), &["trust", "show", "--json"]));
    assert_eq!(shown["online"], made.trust.online.to_string());
    assert_eq!(shown["release"]["keys"][0], made.trust.release[0].to_string());

    let new = follow(&mut lab, old.clone());
    assert_eq!((new.epoch, &new.root), (2, &old.root));
    assert!(new.online != old.online && new.release != old.release);
    let again = offered(&mut lab);
    assert_eq!(again.statement, by_old.statement, "the candidate that stands");
    takes(&lab, &new, &again).unwrap();
    let error = takes(&lab, &new, &by_old).unwrap_err();
    assert!(matches!(error, StatementError::Signatures { got: 0, epoch: 2, .. }), "{error}");

    let error = promote(&fleet, 1, "release.key").unwrap_err();
    assert!(error.contains("expected 1 by the keys of trust epoch 2"), "{error}");
    let sequence = promote(&fleet, 1, "second.key").unwrap();
    let row = release(&fleet, sequence);
    let (statement, signatures) = (Bytes(row.statement), Bytes(row.signatures));
    let offer = Offer { statement, signatures, ..again };
    assert_eq!(takes(&lab, &new, &offer).unwrap().role, Role::Release);
    let mut revoked = Signatures::default();
    revoked.sign(&key(&fleet, "release.key"), &offer.statement.0).unwrap();
    let revoked = Offer { signatures: Bytes(revoked.encode()), ..offer };
    assert!(takes(&lab, &old, &revoked).is_ok() && takes(&lab, &new, &revoked).is_err());

    // What the server signs from now on it signs with its new key, without being started again.
    let installed = Installed { sequence, artifact: made.signed[0].artifact };
    devices.iter_mut().for_each(|device| device.installed = Some(installed));
    let (next, _) = candidate(&fleet, &mut devices, installed.artifact, 10);
    assert!(next > sequence);
    let newest = offered(&mut lab);
    takes(&lab, &new, &newest).unwrap();
}

#[test]
fn what_stands_is_offered_on_under_new_release_keys_and_what_was_taken_back_is_not() {
    let (fleet, mut devices) = fleet(2);
    let mut lab = fleet.device(77);
    let old = first(&fleet, &mut lab);
    candidate(&fleet, &mut devices, NONE, 0);
    let bad = promote(&fleet, 1, "release.key").unwrap();
    let (home, keys) = (fleet.home(), [key(&fleet, "release.key")]);
    let back = orders::releases::rollback(&home, &cohort(&home), None, &keys, fleet.now_ms());
    let (good, _) = back.unwrap();
    let before = release(&fleet, bad);
    assert_eq!(before.state, State::Aborted);
    new_key(&fleet, "second.key");
    let release_keys = vec![key(&fleet, "second.key")];
    let made = changed(&fleet, Change { release: release_keys, ..Change::default() }).unwrap();
    let sequences = made.signed.iter().map(|one| one.sequence);
    assert_eq!(sequences.collect::<Vec<_>>(), [good]);
    assert_eq!(release(&fleet, bad), before);
    let new = follow(&mut lab, old);
    let offer = offered(&mut lab);
    assert_eq!(takes(&lab, &new, &offer).unwrap().sequence, good);
    assert_eq!(new.online, home.online().unwrap().public(), "the server's key stays");
    let words = home.book.read("select what from audit order by id desc limit 1", &[]).unwrap();
    assert_eq!(Columns::of(words[0].clone()).text().unwrap(), "trust rotate");
}

#[test]
fn roots_name_their_successors_and_alone_say_for_how_long() {
    let fleet = Fleet::new();
    let mut device = fleet.device(1);
    let old = first(&fleet, &mut device);
    let (root, next) = (file(&fleet, "root.key"), new_key(&fleet, "next.key"));
    json(&rotate(&fleet, &["--root-key", &root, "--new-root-key", &next]));
    let new = follow(&mut device, old.clone());
    assert_eq!((new.epoch, &new.release, new.online), (2, &old.release, old.online));
    let line = refused(&rotate(&fleet, &["--root-key", &root]));
    assert!(line.contains("0 signatures of the old root keys hold, expected 1"), "{line}");
    let longer = json(&rotate(&fleet, &["--root-key", &next, "--days", "36500"]));
    assert_eq!(longer["signed_again"].as_array().unwrap().len(), 0);
    let renewed = follow(&mut device, new.clone());
    assert!(renewed.epoch == 3 && renewed.expires_s > new.expires_s && renewed.root == new.root);
    assert_eq!(follow(&mut device, old), renewed, "over two epochs");
    let text = said(&run(&fleet.folder(), &["trust", "show"]));
    assert!(text.contains("epoch 3, believed for 36") && text.contains("1 of 1"), "{text}");
}

#[test]
fn two_of_three_release_keys_sign() {
    let (fleet, mut devices) = fleet(2);
    candidate(&fleet, &mut devices, NONE, 0);
    let names = ["a.key", "b.key", "c.key"];
    let paths = names.map(|name| new_key(&fleet, name));
    let release_keys = names.map(|name| key(&fleet, name)).into();
    let two = Some(2);
    let change = Change { release: release_keys, release_threshold: two, ..Change::default() };
    changed(&fleet, change).unwrap();
    let error = promote(&fleet, 1, "a.key").unwrap_err();
    assert!(error.contains("1 signatures of a Release hold, expected 2"), "{error}");
    let (home, keys) = (fleet.home(), [key(&fleet, "c.key"), key(&fleet, "a.key")]);
    orders::releases::promote(&home, &cohort(&home), 1, &keys, fleet.now_ms()).unwrap();
    // One more must sign, and nobody says with which keys: what stands could not be offered.
    let three = Change { release_threshold: Some(3), ..Change::default() };
    let error = changed(&fleet, three).unwrap_err();
    assert!(error.contains("2 signatures of a Release hold, expected 3"), "{error}");
    let root = file(&fleet, "root.key");
    let mut arguments = vec!["--root-key", &root, "--release-threshold", "3"];
    paths.iter().for_each(|path| arguments.extend(["--new-release-key", path]));
    let made = json(&rotate(&fleet, &arguments));
    assert_eq!((&made["epoch"], &made["release"]["threshold"]), (&3.into(), &3.into()));
    assert_eq!(made["release"]["keys"].as_array().unwrap().len(), 3);
}

#[test]
fn an_epoch_that_nobody_would_follow_changes_nothing() {
    let (fleet, mut devices) = fleet(2);
    candidate(&fleet, &mut devices, NONE, 0);
    let root = file(&fleet, "root.key");
    let state = || {
        let home = fleet.home();
        let tables = ["select * from trust", "select * from release", "select * from audit"];
        let rows = tables.map(|table| home.book.read(table, &[]).unwrap());
        (rows, fs::read_dir(fleet.folder().join("keys")).unwrap().count())
    };
    let stranger = fleet.place.path().join("stranger.key");
    home::keep_key(&stranger, &[9; 32]).unwrap();
    let (stranger, online) = (stranger.display().to_string(), file(&fleet, "online.key"));
    let before = state();
    for (arguments, expected) in [
        (vec!["--root-key", &stranger, "--online"], "0 signatures of the old root keys hold"),
        (
            vec!["--root-key", &root, "--new-root-key", &stranger, "--root-threshold", "2"],
            "asks for 2 of 1 root keys",
        ),
        (
            vec!["--root-key", &root, "--online", "--release-threshold", "2"],
            "asks for 2 of 1 release keys",
        ),
        (
            vec!["--root-key", &root, "--new-release-key", &online],
            "would be the online key and a release key, expected another for each",
        ),
        (vec!["--root-key", &root, "--new-release-key", "/nowhere"], "No such file"),
    ] {
        let line = refused(&rotate(&fleet, &arguments));
        assert!(line.contains(expected), "{line}");
        assert_eq!(state(), before, "{line}");
    }
    let line =
        refused(&run(&fleet.folder(), &["releases", "promote", "1", "--release-key", &root]));
    assert!(line.contains("0 signatures of a Release hold, expected 1"), "{line}");
}

/// A power cut between the server's new key and the epoch that names it.
#[test]
fn a_key_without_an_epoch_signs_nothing_and_is_the_next_epochs() {
    let fleet = Fleet::new();
    let home = fleet.home();
    let before = home.online().unwrap().public();
    let left = home::new_key(&home.online_path(2), &fleet_server::ports::SystemChance).unwrap();
    assert_eq!(home.online().unwrap().public(), before);
    let root = file(&fleet, "root.key");
    let made = json(&rotate(&fleet, &["--root-key", &root, "--online"]));
    assert_eq!(made["online"], left.public().to_string());
    assert_eq!(home.online().unwrap().public(), left.public());
    json(&rotate(&fleet, &["--root-key", &root, "--online"]));
    assert_ne!(home.online().unwrap().public(), left.public());
    fs::remove_file(home.online_path(3)).unwrap();
    let error = home.online().unwrap_err().to_string();
    assert!(error.contains("has the online key of epoch 3"), "{error}");
}

#[test]
fn under_a_trust_that_has_expired_nothing_is_offered_before_it_is_renewed() {
    let (fleet, mut devices) = fleet(2);
    let (round, _) = given(&fleet, &mut devices, 0);
    let (artifact, bytes) = until(&fleet, round, Merged).result.unwrap();
    changed(&fleet, Change::default()).unwrap();
    fleet.wind(Duration::from_secs(86_400));
    let report = serde_json::json!({});
    let verdict = Verdict { who: "operator", artifact, bytes, report };
    let approve = || orders::rounds::approve(&fleet.home(), round, &verdict, fleet.now_ms());
    let error = approve().unwrap_err().to_string();
    assert!(error.contains("trust epoch 2 expired"), "{error}");
    changed(&fleet, Change::default()).unwrap();
    assert_eq!(approve().unwrap(), 1);
}

common::over_every_store!();

//! What the book itself sees to when two are at it at once, and what is left to a device that is stopped.

use crate::common::{self, Device, Fleet, Line, candidate, cohort, fleet, open, promote, release};
use fleet_server::operator::{self, Word};
use fleet_server::rollout::State as ReleaseState;
use fleet_server::rounds::{self, NONE, Receive, Sent, State};
use fleet_server::situation::Situation;
use fleet_server::store::{Book, Statement};
use sapwood_protocol::fleet::code::Code;
use sapwood_protocol::fleet::id::Hash;
use sapwood_protocol::fleet::key::{SecretKey, replacement};
use sapwood_protocol::fleet::message::{self, Installed, Rekey};
use sapwood_protocol::limits::FLEET_BODY_BYTES_MAX;

fn sent(hash: Hash) -> Sent {
    Sent { hash, bytes: 1, tokens: 1, rank: 1, norm: 1.0, shape: vec![0] }
}

/// A round in which all were asked, on a server that has stopped: nobody else closes it.
fn asked(devices: u8) -> (Fleet, Vec<Device>, u64) {
    let (mut fleet, mut devices) = fleet(devices);
    let round = open(&fleet);
    devices.iter_mut().for_each(|device| assert!(device.check_in().unwrap().invite.is_some()));
    fleet.server = None;
    (fleet, devices, round)
}

/// Keeps an upload; whether its row was written.
fn stores(fleet: &Fleet, round: u64, device: &Device, hash: Hash) -> bool {
    let stored = rounds::stored(round, device.id, &sent(hash), fleet.now_ms());
    match fleet.home().book.write(stored) {
        Ok(_) => true,
        Err(error) => {
            assert!(error.is_lost(), "{error}");
            false
        }
    }
}

#[test]
fn the_last_upload_of_a_quota_closes_its_round_and_none_comes_after() {
    let (fleet, devices, round) = asked(3);
    let quota = "update round set quota = 2 where id = $1";
    fleet.home().book.write(vec![Statement::one(quota, [round.into()])]).unwrap();
    assert!(stores(&fleet, round, &devices[0], Hash([1; 32])));
    let found = || rounds::find(&fleet.home().book, round).unwrap().unwrap();
    assert_eq!((found().state, found().stored), (State::Open, 1));
    assert!(stores(&fleet, round, &devices[1], Hash([2; 32])));
    assert_eq!((found().state, found().stored), (State::Closed, 2));
    assert!(!stores(&fleet, round, &devices[2], Hash([3; 32])));
    // A round that is open with all of its quota takes no more either.
    let again = "update round set state = 1 where id = $1";
    fleet.home().book.write(vec![Statement::one(again, [round.into()])]).unwrap();
    assert!(!stores(&fleet, round, &devices[2], Hash([3; 32])));
    assert_eq!(found().stored, 2);
}

#[test]
fn an_upload_of_a_device_that_was_stopped_meanwhile_is_not_kept() {
    let (fleet, devices, round) = asked(2);
    let home = fleet.home();
    operator::say(&home.book, devices[0].id, &Word::Suspend, fleet.now_ms()).unwrap();
    assert!(!stores(&fleet, round, &devices[0], Hash([1; 32])));
    assert!(stores(&fleet, round, &devices[1], Hash([1; 32])));
}

#[test]
fn the_book_keeps_one_contribution_a_device_and_artifact() {
    let (fleet, devices, round) = asked(2);
    assert!(stores(&fleet, round, &devices[0], Hash([1; 32])));
    let home = fleet.home();
    home.book.write(vec![rounds::close(round)]).unwrap();
    let next = open(&fleet);
    let found = rounds::find(&home.book, next).unwrap().unwrap();
    let ask = |device: &Device| {
        let asked = rounds::invitation(&found, device.id, NONE, fleet.now_ms());
        home.book.write(asked.to_vec()).unwrap();
    };
    devices.iter().for_each(ask);
    assert!(!stores(&fleet, next, &devices[0], Hash([2; 32])), "given in the round before");
    assert!(stores(&fleet, next, &devices[1], Hash([2; 32])));
}

#[test]
fn a_round_takes_nothing_at_its_deadline() {
    let (fleet, devices, round) = asked(2);
    let home = fleet.home();
    let found = rounds::find(&home.book, round).unwrap().unwrap();
    let row = rounds::upload(&home.book, round, devices[0].id).unwrap();
    let at = |now_ms| rounds::receive(&found, row.as_ref(), None, Hash([1; 32]), now_ms);
    assert_eq!(at(found.deadline_ms - 1).unwrap(), Receive::Take(NONE));
    assert_eq!(at(found.deadline_ms).unwrap_err().code(), Code::RoundClosed);
    let stored = rounds::stored(round, devices[0].id, &sent(Hash([1; 32])), found.deadline_ms);
    assert!(home.book.write(stored).unwrap_err().is_lost());
}

#[test]
fn who_waits_or_is_stopped_sends_and_fetches_nothing_and_changes_no_key() {
    let (fleet, mut devices) = fleet(2);
    let (_, artifact) = candidate(&fleet, &mut devices, NONE, 0);
    let round = open(&fleet);
    let mut waits = fleet.device(77);
    waits.enrol(None).unwrap();
    devices[0].check_in().unwrap();
    let book = &fleet.home().book;
    operator::say(book, devices[0].id, &Word::Suspend, fleet.now_ms()).unwrap();
    for (device, code) in [(&waits, Code::Pending), (&devices[0], Code::Suspended)] {
        let reply = device.upload(round, &device.update(NONE, 5));
        assert_eq!(reply.refusal().error, code, "{}", reply.text());
        let reply = device.call("GET", &format!("/v1/artifacts/{artifact}"), b"").unwrap();
        assert_eq!(reply.refusal().error, code, "{}", reply.text());
    }
    let device = &devices[0];
    let new = fleet.device(99).key;
    let proof = new.sign(&replacement(fleet.id, device.id, &new.public()));
    let body = message::write(&Rekey { new_public_key: new.public(), proof }).unwrap();
    let reply = device.call("POST", "/v1/key", &body).unwrap();
    assert_eq!(reply.refusal().error, Code::Suspended, "{}", reply.text());
}

#[test]
fn a_connection_goes_on_after_a_refusal_whose_body_has_come() {
    let fleet = Fleet::new();
    let device = fleet.enrolled(1);
    let mut line = Line::new(&device);
    let body = vec![b' '; 30_000];
    let head = device.head("POST", "/v1/nothing", &body, device.time_ms);
    for _ in 0..2 {
        let reply = line.send("POST", "/v1/nothing", &head, &body);
        assert_eq!(reply.refusal().error, Code::NotFound);
        assert!(!reply.head.contains("connection: close"), "{}", reply.head);
    }
}

#[test]
fn a_release_takes_the_place_of_the_one_before_and_a_complete_one_ends_what_is_below() {
    let (fleet, mut devices) = fleet(2);
    let (_, artifact) = candidate(&fleet, &mut devices, NONE, 0);
    let first = promote(&fleet, 1, "release.key").unwrap();
    let installed = Installed { sequence: first, artifact };
    devices.iter_mut().for_each(|device| device.installed = Some(installed));
    let (next, _) = candidate(&fleet, &mut devices, artifact, 50);
    let second = promote(&fleet, next, "release.key").unwrap();
    assert_eq!(release(&fleet, first).state, ReleaseState::Replaced);
    let home = fleet.home();
    let offered = || -> Vec<u64> {
        let cohort = Some(cohort(&home).id);
        let all = Situation::read(&home.book, devices[0].id, cohort).unwrap().releases;
        all.into_iter().map(|release| release.sequence).collect()
    };
    assert_eq!(offered(), [second]);
    // Below a complete one nothing is offered, even if its row says that it is active.
    let set = "update release set state = $2 where sequence = $1";
    let state = |sequence: u64, state: u64| Statement::one(set, [sequence.into(), state.into()]);
    home.book.write(vec![state(first, 2), state(second, 4)]).unwrap();
    assert_eq!(offered(), [second]);
}

/// Its name would be two devices'.
#[test]
fn a_key_that_another_device_had_first_is_nobody_elses() {
    let fleet = Fleet::new();
    let (first, other) = (fleet.enrolled(1), fleet.enrolled(2));
    let rekey = |device: &Device, new: &SecretKey| {
        let proof = new.sign(&replacement(fleet.id, device.id, &new.public()));
        let body = message::write(&Rekey { new_public_key: new.public(), proof }).unwrap();
        device.call("POST", "/v1/key", &body).unwrap()
    };
    assert_eq!(rekey(&first, &fleet.device(9).key).status, 200);
    let reply = rekey(&other, &first.key);
    assert_eq!(reply.refusal().error, Code::Signature, "{}", reply.text());
}

#[test]
fn a_message_that_is_too_long_is_told_so_before_it_is_read() {
    let fleet = Fleet::new();
    let device = fleet.enrolled(1);
    let body = vec![b' '; FLEET_BODY_BYTES_MAX + 1];
    let reply = device.call("POST", "/v1/checkin", &body).unwrap();
    assert_eq!((reply.status, reply.refusal().error), (413, Code::TooLarge));
    let told = format!("the body has {} bytes, expected at most", body.len());
    assert!(reply.refusal().message.contains(&told), "{}", reply.text());
}

#[test]
fn a_check_in_that_is_sent_again_asks_for_nothing_that_no_row_says() {
    let (fleet, mut devices) = fleet(2);
    devices[0].check_in().unwrap();
    let round = open(&fleet);
    let again = devices[0].tell(&devices[0].check_in_with()).unwrap();
    assert!(again.invite.is_none());
    assert!(rounds::upload(&fleet.home().book, round, devices[0].id).unwrap().is_none());
    assert_eq!(devices[0].check_in().unwrap().invite.unwrap().round, round);
}

/// Sequences are a cohort's own: what was offered in another says nothing.
#[test]
fn a_device_that_adapts_something_else_begins_anew_in_its_new_cohort() {
    let (fleet, mut devices) = fleet(2);
    candidate(&fleet, &mut devices, NONE, 0);
    let mut lab = fleet.device(77);
    lab.enrol(fleet.link(1, true).token.as_deref()).unwrap();
    assert!(lab.check_in().unwrap().release.is_some());
    let offer = |lab: &Device| {
        let row = fleet_server::devices::find(&fleet.home().book, lab.id).unwrap().unwrap();
        (row.cohort, row.offer.sequence)
    };
    assert_eq!(offer(&lab), (Some(lab.cohort()), 1));
    lab.facts.first_layer = 0;
    assert!(lab.check_in().unwrap().release.is_none());
    assert_eq!(offer(&lab), (Some(lab.cohort()), 0));
}

/// What a web page that somebody looks at sends names another host, or where it comes from.
#[test]
fn the_overview_is_for_programs_of_this_machine() {
    let fleet = Fleet::new();
    let health = fleet.server.as_ref().unwrap().health.unwrap();
    let get = |host: &str, more: &str| {
        #[expect(clippy::disallowed_methods, reason = "the other end of the server's interface")]
        let mut stream = std::net::TcpStream::connect(health).unwrap();
        let text = format!(
            "GET /v1/admin/overview HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{more}\r\n"
        );
        std::io::Write::write_all(&mut stream, text.as_bytes()).unwrap();
        common::read(stream).unwrap().status
    };
    assert_eq!(get("localhost:1", ""), 200);
    assert_eq!(get("fleet.example", ""), 401);
    assert_eq!(get("localhost:1", "origin: https://evil.example\r\n"), 401);
}

common::over_every_store!();

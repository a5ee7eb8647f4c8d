//! The server over TLS, in this process: what each call answers, and what holds afterwards.

use crate::common::{self, DAY_ONE_MS, Device, Fleet, LABEL};
use fleet_server::devices;
use fleet_server::operator::{self, Word};
use fleet_server::serve::{self, Settings};
use sapwood_protocol::fleet::code::Code;
use sapwood_protocol::fleet::id::Hash;
use sapwood_protocol::fleet::key::{SecretKey, replacement};
use sapwood_protocol::fleet::message::{self, DeviceState, Rekey, Rekeyed, TrustAnswer};
use sapwood_protocol::fleet::signatures::Signatures;
use sapwood_protocol::fleet::trust::Trust;
use std::time::Duration;

fn state(fleet: &Fleet, device: &Device) -> DeviceState {
    devices::find(&fleet.home().book, device.id).unwrap().unwrap().state
}

#[test]
fn a_device_enrols_by_its_link_and_hears_whom_to_trust() {
    let fleet = Fleet::new();
    let link = fleet.link(1, false);
    let mut device = fleet.device(1);
    let enrolled = device.enrol(link.token.as_deref()).unwrap();
    assert_eq!((enrolled.state, enrolled.fleet), (DeviceState::Accepted, link.fleet));
    assert_eq!((enrolled.label.as_deref(), enrolled.time), (Some(LABEL), DAY_ONE_MS));
    let signatures = Signatures::decode(&enrolled.trust.signatures.0).unwrap();
    let statement = &enrolled.trust.statement.0;
    Trust::first(statement, &signatures, link.fleet, link.trust).unwrap();
    let again = device.enrol(link.token.as_deref()).unwrap();
    assert_eq!((again.device, again.state), (enrolled.device, enrolled.state));
    let refused = fleet.device(2).enrol(link.token.as_deref()).unwrap_err();
    assert_eq!(refused.error, Code::Rejected, "the token is used up");
    let waits = fleet.device(3).enrol(None).unwrap();
    assert_eq!((waits.state, waits.label), (DeviceState::Pending, None));
    let reply = device.send("GET", "/v1/trust?after=0", &[], b"").unwrap();
    let trust: TrustAnswer = message::read(&reply.body).unwrap();
    assert_eq!(trust.trust, [enrolled.trust]);
    let reply = device.send("GET", "/v1/trust?after=1", &[], b"").unwrap();
    assert!(message::read::<TrustAnswer>(&reply.body).unwrap().trust.is_empty());
    for wrong in ["?after=", "?after=x", "?before=1", "?after=99999999999999999999"] {
        let reply = device.send("GET", &format!("/v1/trust{wrong}"), &[], b"").unwrap();
        assert_eq!((reply.status, reply.refusal().error), (400, Code::Malformed), "{wrong}");
    }
}

#[test]
fn a_check_in_says_how_things_stand_and_a_replay_changes_nothing() {
    let fleet = Fleet::new();
    let mut device = fleet.enrolled(1);
    let first = device.check_in().unwrap();
    assert_eq!(
        (first.state, first.time, first.trust_epoch),
        (DeviceState::Accepted, DAY_ONE_MS, Some(1))
    );
    assert!((810..=990).contains(&first.check_in_s), "{}", first.check_in_s);
    let row = || devices::find(&fleet.home().book, device.id).unwrap().unwrap();
    let before = row();
    assert_eq!((before.counter, before.agent.as_str(), before.generation), (1, "test/1", 3));
    fleet.wind(Duration::from_secs(10));
    device.tell(&device.check_in_with()).unwrap();
    assert_eq!(row(), before, "the same bytes again");
}

#[test]
fn a_counter_that_runs_back_suspends_and_an_operator_has_the_device_go_on() {
    let fleet = Fleet::new();
    let mut device = fleet.enrolled(1);
    device.counter = 6;
    device.check_in().unwrap();
    device.counter = 2;
    let heard = device.check_in().unwrap();
    assert_eq!(
        (heard.state, state(&fleet, &device)),
        (DeviceState::Suspended, DeviceState::Suspended)
    );
    device.counter = 8;
    assert_eq!(device.check_in().unwrap().state, DeviceState::Suspended, "not by itself");
    let reply = device.call("GET", &format!("/v1/artifacts/{}", Hash([1; 32])), b"").unwrap();
    assert_eq!(reply.refusal().error, Code::Suspended);
    operator::say(&fleet.home().book, device.id, &Word::Resume, DAY_ONE_MS).unwrap();
    device.counter = 0;
    assert_eq!(
        device.check_in().unwrap().state,
        DeviceState::Accepted,
        "and its counter begins again"
    );
}

#[test]
fn a_clock_that_is_off_is_told_the_servers() {
    let fleet = Fleet::new();
    let mut device = fleet.device(1);
    let token = fleet.link(1, false).token;
    device.time_ms = 3_600_000;
    let refused = device.enrol(token.as_deref()).unwrap_err();
    assert_eq!((refused.error, refused.time), (Code::Clock, Some(DAY_ONE_MS)));
    device.time_ms = refused.time.unwrap();
    device.enrol(token.as_deref()).unwrap();
    device.time_ms += 300_001;
    assert_eq!(device.check_in().unwrap_err().error, Code::Clock);
    device.time_ms = DAY_ONE_MS - 300_000;
    device.tell(&device.check_in_with()).unwrap();
}

#[test]
fn a_device_changes_its_key_and_keeps_its_name() {
    let fleet = Fleet::new();
    let mut device = fleet.enrolled(1);
    let new = SecretKey::from_seed(&[9; 32]);
    let proof = |by: &SecretKey| {
        let proof = by.sign(&replacement(fleet.id, device.id, &new.public()));
        message::write(&Rekey { new_public_key: new.public(), proof }).unwrap()
    };
    let reply = device.call("POST", "/v1/key", &proof(&device.key)).unwrap();
    assert_eq!(reply.refusal().error, Code::Signature, "the new key must sign too");
    let body = proof(&new);
    let reply = device.call("POST", "/v1/key", &body).unwrap();
    let Rekeyed { state } = message::read(&reply.body).unwrap();
    assert_eq!(state, DeviceState::Accepted);
    assert_eq!(device.check_in().unwrap_err().error, Code::Signature, "the old one is gone");
    device.key = new;
    device.check_in().unwrap();
    let reply = device.call("POST", "/v1/key", &body).unwrap();
    assert_eq!(reply.status, 200, "asked again, since the answer was lost");
    let other = fleet.enrolled(2);
    let stolen = other.key.public();
    let proof = other.key.sign(&replacement(fleet.id, device.id, &stolen));
    let body = message::write(&Rekey { new_public_key: stolen, proof }).unwrap();
    let reply = device.call("POST", "/v1/key", &body).unwrap();
    assert_eq!(reply.refusal().error, Code::Signature, "another device's key");
}

#[test]
fn who_asks_too_often_is_told_when_to_come_again() {
    let fleet =
        Fleet::with(|settings| settings.rate = fleet_server::door::Rate { per_s: 1.0, burst: 3.0 });
    let device = fleet.device(1);
    let ask = || device.send("GET", "/v1/trust", &[], b"").unwrap();
    assert!((0..3).all(|_| ask().status == 200));
    let reply = ask();
    assert_eq!((reply.status, reply.refusal().retry_after_s), (429, Some(1)));
    assert!(reply.head.contains("retry-after: 1"), "{}", reply.head);
    fleet.wind(Duration::from_secs(1));
    assert_eq!(ask().status, 200);
}

#[test]
fn a_folder_has_one_server_and_health_a_door_of_its_own() {
    let fleet = Fleet::new();
    let error = serve::start(Settings::new(&fleet.folder())).err().unwrap().to_string();
    assert!(error.contains("served by another process"), "{error}");
    let health = fleet.server.as_ref().unwrap().health.unwrap();
    let get = |path: &str| {
        #[expect(clippy::disallowed_methods, reason = "the other end of the server's interface")]
        let mut stream = std::net::TcpStream::connect(health).unwrap();
        let text = format!("GET {path} HTTP/1.1\r\nhost: {health}\r\nconnection: close\r\n\r\n");
        std::io::Write::write_all(&mut stream, text.as_bytes()).unwrap();
        common::read(stream).unwrap()
    };
    fleet.enrolled(1);
    assert_eq!((get("/healthz").status, get("/readyz").status), (200, 200));
    let numbers = get("/metrics").text();
    assert!(numbers.contains("sapwood_fleet_devices{state=\"accepted\"} 1"), "{numbers}");
    assert!(
        numbers.contains("http_request_seconds_count{route=\"enroll\",status=\"2xx\"} 1"),
        "{numbers}"
    );
    assert_eq!(get("/v1/enroll").status, 404);
    let reply = fleet.device(2).send("GET", "/metrics", &[], b"").unwrap();
    assert_eq!(reply.refusal().error, Code::NotFound, "numbers are not for devices");
    let folder = fleet.folder();
    drop(fleet.server);
    serve::start(Settings::new(&folder)).unwrap().stop();
}

common::over_every_store!();

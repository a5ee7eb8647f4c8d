//! Decisions about devices by themselves, and enrolment in a book.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
use super::*;
use crate::store::sqlite::Sqlite;
use sapwood_protocol::fleet::key::SecretKey;

fn token(uses: u64, auto: bool) -> Token {
    let hash = Hash([1; 32]);
    Token { hash, label: "pumps".into(), uses, auto, lab: true, expires_ms: 1000 }
}

/// A device that takes part and has told nothing yet.
pub(crate) fn device(n: u32) -> Device {
    let facts = Facts { base: Hash([2; 32]), first_layer: 1, targets: 5, rank: 8 };
    Device {
        id: DeviceId(u128::from(n).to_le_bytes()),
        key: PublicKey([3; 32]),
        cohort: None,
        state: DeviceState::Accepted,
        name: "valve 7".into(),
        agent: String::new(),
        label: None,
        lab: false,
        candidates: true,
        facts,
        enrolled_ms: 1,
        seen_ms: 0,
        counter: 7,
        told_ms: 5000,
        installed: Installed { sequence: 0, artifact: Hash([0; 32]) },
        trial: false,
        generation: 0,
        offer: Offered::default(),
    }
}

#[test]
fn a_token_lets_in_until_it_is_used_up_or_too_old() {
    let admitted = admit(true, Some(&token(1, true)), 999).unwrap();
    assert_eq!(admitted.state, DeviceState::Accepted);
    assert_eq!((admitted.label.as_deref(), admitted.lab), (Some("pumps"), true));
    assert_eq!(admit(true, Some(&token(1, false)), 0).unwrap().state, DeviceState::Pending);
    let waits = admit(false, None, 0).unwrap();
    assert_eq!((waits.state, waits.label), (DeviceState::Pending, None));
    for (given, token, now_ms) in
        [(true, None, 0), (true, Some(token(0, true)), 0), (true, Some(token(1, true)), 1000)]
    {
        assert_eq!(admit(given, token.as_ref(), now_ms).unwrap_err().code(), Code::Rejected);
    }
}

fn asks(seed: u8, token: Option<&str>) -> Enroll {
    let public_key = SecretKey::from_seed(&[seed; 32]).public();
    Enroll {
        public_key,
        token: token.map(Into::into),
        name: "valve".into(),
        facts: device(7).facts,
    }
}

#[test]
fn the_same_key_gets_the_same_answer_and_a_token_is_used_once_a_device() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fleet.db");
    let meta = "insert into meta(version, fleet, name, created) values (2, $1, 'x', 1)";
    Sqlite::create(&path, &[Statement::one(meta, [vec![0; 16].into()])]).unwrap();
    let book = Sqlite::open(&path).unwrap();
    let secret = Token { hash: Hash::of(b"secret"), ..token(2, true) };
    book.write(vec![keep_token(&secret)]).unwrap();
    let code = |asks: &Enroll| enrol(&book, asks, 0).map_err(|refused| refused.code());
    let first = code(&asks(1, Some("secret"))).unwrap();
    assert_eq!((first.state, first.lab), (DeviceState::Accepted, true));
    assert_eq!(first.cohort, Some(first.facts.cohort("pumps").unwrap()));
    assert_eq!(code(&asks(1, Some("secret"))).unwrap(), first);
    assert_eq!(code(&asks(1, None)).unwrap(), first, "it is known, whatever it says");
    assert_eq!(super::token(&book, secret.hash).unwrap().unwrap().uses, 1);
    code(&asks(2, Some("secret"))).unwrap();
    assert_eq!(code(&asks(3, Some("secret"))), Err(Code::Rejected), "used up");
    assert_eq!(code(&asks(3, Some("secrez"))), Err(Code::Rejected));
    let waits = code(&asks(3, None)).unwrap();
    assert_eq!((waits.state, waits.cohort, waits.label), (DeviceState::Pending, None, None));
    let new = SecretKey::from_seed(&[9; 32]).public();
    let rekey = "update device set key = $2 where id = $1";
    book.write(vec![Statement::one(rekey, [first.id.into(), new.into()])]).unwrap();
    assert_eq!(code(&asks(1, None)), Err(Code::Signature), "its old key");
    assert_eq!(code(&asks(9, None)), Err(Code::Signature), "its new key is no other device's");
    assert_eq!(all(&book, None).unwrap().len(), 3);
    assert_eq!(cohorts::all(&book).unwrap().len(), 1);
}

#[test]
fn no_more_than_ten_thousand_wait_and_a_token_needs_no_place_among_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fleet.db");
    let meta = "insert into meta(version, fleet, name, created) values (2, $1, 'x', 1)";
    Sqlite::create(&path, &[Statement::one(meta, [vec![0; 16].into()])]).unwrap();
    let book = Sqlite::open(&path).unwrap();
    book.write(vec![keep_token(&Token { hash: Hash::of(b"secret"), ..token(2, false) })]).unwrap();
    let waits = |n: u64| {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&n.to_le_bytes());
        let asks = Enroll { public_key: PublicKey(key), ..asks(1, None) };
        let admission = admit(false, None, 0).unwrap();
        enrolment(&asks, None, &admission, 0).unwrap().remove(0)
    };
    book.write((1..PENDING_MAX).map(waits).collect()).unwrap();
    assert_eq!(enrol(&book, &asks(1, None), 0).unwrap().state, DeviceState::Pending);
    let refused = enrol(&book, &asks(2, None), 0).unwrap_err();
    assert_eq!((refused.code(), refused.refusal().retry_after_s), (Code::Unavailable, Some(3600)));
    let invited = enrol(&book, &asks(2, Some("secret")), 0).unwrap();
    assert_eq!(invited.state, DeviceState::Pending);
}

#[test]
fn a_counter_that_runs_back_is_told_from_a_replay() {
    let device = device(7);
    for (counter, told_ms, expected) in [
        (8, 5001, Count::New),
        (8, 4000, Count::New),
        (7, 5001, Count::New),
        (7, 5000, Count::Old),
        (3, 4000, Count::Old),
        (6, 5001, Count::Back),
        (0, u64::MAX, Count::Back),
    ] {
        assert_eq!(count(&device, counter, told_ms), expected, "{counter} {told_ms}");
    }
}

#[test]
fn every_state_has_its_number() {
    for number in 0..5 {
        assert_eq!(super::number(state(number).unwrap()), number);
    }
    assert!(state(5).is_err());
}

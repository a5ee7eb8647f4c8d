//! What comes from a fleet: statements, trust statements, messages, adapters' files.
//!
//! - In: a statement and its signatures with a mark between them; a message behind a byte that chooses
//!   its kind; a whole file.
//! - Promises: what is read is written as the same bytes, or as a message that reads the same; what is
//!   taken was signed by who may, which only these keys can do; a file that is taken opens with the
//!   safetensors crate too, and its numbers are finite however it is cut; a refusal is one line.

use crate::Seed;
use crate::cursor::{Cursor, joined, parts};
use safetensors::SafeTensors;
use sapwood_protocol::fleet::code::Code;
use sapwood_protocol::fleet::id::{Bytes, CohortId, FleetId, Hash};
use sapwood_protocol::fleet::key::SecretKey;
use sapwood_protocol::fleet::link::Link;
use sapwood_protocol::fleet::message::{
    CheckIn, CheckedIn, DeviceState, Enroll, Enrolled, Facts, Installed, Invite, Message, Offer,
    Outcome, Ready, Receipt, Refusal, Rekey, Rekeyed, Report, Signed, TrustAnswer, read, write,
};
use sapwood_protocol::fleet::request::Claim;
use sapwood_protocol::fleet::signatures::Signatures;
use sapwood_protocol::fleet::statement::{Role, Standing, Statement};
use sapwood_protocol::fleet::trust::Trust;
use sapwood_protocol::fleet::update::{Finite, Header, UpdateError, header_bytes};
use std::fmt::{Debug, Display};
use std::str::from_utf8;

pub(crate) const FLEET: FleetId = FleetId([3; 16]);
const COHORT: CohortId = CohortId([5; 32]);
const ROOTS: [u8; 3] = [1, 2, 3];
const RELEASES: [u8; 3] = [11, 12, 13];
const ONLINE: u8 = 20;
pub(crate) const NOW_S: u64 = 1_764_000_000;

pub(crate) fn secret(number: u8) -> SecretKey {
    SecretKey::from_seed(&[number; 32])
}

pub(crate) fn trust() -> Trust {
    let keys = |numbers: [u8; 3]| numbers.map(|number| secret(number).public()).to_vec();
    Trust {
        fleet: FLEET,
        epoch: 4,
        expires_s: NOW_S * 2,
        online: secret(ONLINE).public(),
        root: keys(ROOTS),
        root_threshold: 2,
        release: keys(RELEASES),
        release_threshold: 2,
    }
}

pub(crate) fn one_line(refused: &impl Display) {
    let said = refused.to_string();
    assert!(!said.contains(['\n', '\r']) && said.len() < 2000, "{said}");
}

/// How many of these keys really signed: a signature is the same whenever it is made.
fn signers(signatures: &Signatures, message: &[u8], keys: &[u8]) -> usize {
    let list = signatures.encode();
    let entries = list[1..].chunks(72);
    let made = |number: &&u8| {
        let key = secret(**number);
        let own = [&key.public().id().0[..], &key.sign(message).0].concat();
        entries.clone().any(|entry| entry == own)
    };
    keys.iter().filter(made).count()
}

/// Two parts: a statement and its signatures.
pub fn statement(bytes: &[u8]) {
    let [statement, list] = parts(bytes);
    let trust = trust();
    let device = Standing {
        trust: &trust,
        cohort: COHORT,
        candidates: true,
        taken: 6,
        now_ms: NOW_S * 1000,
    };
    let read = Statement::decode(statement).inspect_err(one_line);
    if let Ok(read) = read {
        assert_eq!(read.encode()[..], *statement);
        assert_eq!(read.check(), Ok(()));
        let mut signatures = Signatures::default();
        [ONLINE, 11, 12].iter().for_each(|key| signatures.sign(&secret(*key), statement).unwrap());
        let own = read.fleet == FLEET && read.cohort == COHORT;
        let good = own && read.sequence > 6 && read.expires_s > NOW_S;
        assert_eq!(device.take(statement, &signatures).is_ok(), good);
    }
    let Ok(signatures) = Signatures::decode(list).inspect_err(one_line) else {
        return;
    };
    assert_eq!(signatures.encode(), list);
    match device.take(statement, &signatures) {
        Err(refused) => one_line(&refused),
        Ok(taken) if taken.role == Role::Candidate => {
            assert_eq!(signers(&signatures, statement, &[ONLINE]), 1);
        }
        Ok(_) => assert!(signers(&signatures, statement, &RELEASES) >= 2),
    }
}

/// Two parts: a trust statement and its signatures.
pub fn trusted(bytes: &[u8]) {
    let [statement, list] = parts(bytes);
    let old = trust();
    let read = Trust::decode(statement).inspect_err(one_line);
    if let Ok(read) = &read {
        assert_eq!(read.encode().as_deref(), Ok(statement));
        let roots = |number: &u8| read.root.contains(&secret(*number).public());
        let mut signatures = Signatures::default();
        ROOTS.iter().for_each(|key| signatures.sign(&secret(*key), statement).unwrap());
        let known = ROOTS.iter().filter(|number| roots(number)).count();
        let good = read.fleet == FLEET && read.epoch > old.epoch;
        let enough = known >= usize::from(read.root_threshold);
        assert_eq!(old.next(statement, &signatures).is_ok(), good && enough);
    }
    let Ok(signatures) = Signatures::decode(list).inspect_err(one_line) else {
        return;
    };
    let next = old.next(statement, &signatures).inspect_err(one_line);
    if next.is_ok() {
        assert!(signers(&signatures, statement, &ROOTS) >= 2);
    }
    let first = Trust::first(statement, &signatures, FLEET, Hash::of(statement));
    assert!(first.is_err() || first.ok() == read.ok());
}

fn reads_back<M: Message + PartialEq + Debug>(body: &[u8]) {
    let Ok(message) = read::<M>(body).inspect_err(one_line) else { return };
    let written = write(&message);
    // What fits in another form may not fit in ours.
    let Ok(written) = written.inspect_err(one_line) else { return };
    assert_eq!(read::<M>(&written), Ok(message));
}

/// The first byte says what the rest is.
pub fn messages(bytes: &[u8]) {
    let mut cursor = Cursor(bytes);
    let kind = cursor.byte() % 11;
    let body = cursor.0;
    match kind {
        0 => reads_back::<Enroll>(body),
        1 => reads_back::<Enrolled>(body),
        2 => reads_back::<CheckIn>(body),
        3 => reads_back::<CheckedIn>(body),
        4 => reads_back::<Receipt>(body),
        5 => reads_back::<TrustAnswer>(body),
        6 => reads_back::<Rekey>(body),
        7 => reads_back::<Rekeyed>(body),
        8 => refusal(body),
        9 => link(body),
        _ => headers(body),
    }
}

fn refusal(body: &[u8]) {
    let read = Refusal::read(body).inspect_err(one_line);
    let Ok(refusal) = read else { return };
    if let Ok(written) = refusal.write() {
        assert_eq!(Refusal::read(&written), Ok(refusal));
    }
}

fn link(body: &[u8]) {
    let Ok(text) = from_utf8(body) else { return };
    let Ok(link) = text.parse::<Link>().inspect_err(one_line) else { return };
    assert!(link.to_string().parse::<Link>().is_ok_and(|again| again == link));
}

/// A header a line.
fn headers(body: &[u8]) {
    let mut lines = body.split(|byte| *byte == b'\n').map(|line| from_utf8(line).ok());
    let values = [0; 4].map(|_| lines.next().flatten());
    match Claim::read(values) {
        Err(refused) => one_line(&refused),
        Ok(claim) => {
            let written = claim.values();
            assert_eq!(written.each_ref().map(|value| Some(value.as_str())), values);
        }
    }
}

/// A whole file.
pub fn update(file: &[u8]) {
    let (prefix, length) = (Cursor(file).take(8), file.len() as u64);
    let Ok(prefix) = prefix.try_into() else { return };
    let read = header_bytes(prefix, length).and_then(|bytes| {
        let header = Header::read(&file[8..8 + bytes], length)?;
        Ok((header, &file[8 + bytes..]))
    });
    let Ok((header, body)) = read.inspect_err(one_line) else { return };
    let other = SafeTensors::deserialize(file).unwrap();
    let shape = header.shape;
    let modules = usize::from(shape.layers) * shape.targets.count_ones() as usize;
    assert_eq!(other.len(), 2 * modules);
    assert!((1..=128).contains(&header.rank));
    let whole = looked_at(&header, &mut [body].into_iter());
    for length in [1, 3, 1000] {
        assert_eq!(looked_at(&header, &mut body.chunks(length)), whole, "pieces of {length}");
    }
    if let Err(refused) = whole {
        assert!(matches!(refused, UpdateError::NotFinite { .. }), "{refused}");
        one_line(&refused);
    }
}

fn looked_at(header: &Header, pieces: &mut dyn Iterator<Item = &[u8]>) -> Result<(), UpdateError> {
    let mut finite = Finite::new(header);
    for piece in pieces {
        finite.feed(piece)?;
    }
    finite.end()
}

pub(crate) fn signed(statement: &[u8], signers: &[u8]) -> Vec<u8> {
    let mut signatures = Signatures::default();
    signers.iter().for_each(|key| signatures.sign(&secret(*key), statement).unwrap());
    signatures.encode()
}

/// A release of this sequence.
pub(crate) fn statement_of(sequence: u64) -> Statement {
    Statement {
        role: Role::Release,
        fleet: FLEET,
        cohort: COHORT,
        sequence,
        issued_s: NOW_S,
        expires_s: NOW_S + 1000,
        artifact_bytes: 6_800_000,
        artifact: Hash([9; 32]),
    }
}

/// A release and a candidate that are taken, and a release that was signed by one alone.
pub fn statement_seeds() -> Vec<Seed> {
    let release = statement_of(7);
    let candidate = Statement { role: Role::Candidate, ..release }.encode();
    let release = release.encode();
    vec![
        ("release", joined(&[&release, &signed(&release, &[11, 13])])),
        ("candidate", joined(&[&candidate, &signed(&candidate, &[ONLINE])])),
        ("alone", joined(&[&release, &signed(&release, &[11])])),
    ]
}

/// A next trust statement that is taken, and one without the old roots.
pub fn trust_seeds() -> Vec<Seed> {
    let next = Trust { epoch: 5, root_threshold: 1, ..trust() }.encode().unwrap();
    let own = vec![secret(9).public()];
    let other = Trust { epoch: 6, root: own, root_threshold: 1, ..trust() }.encode().unwrap();
    vec![
        ("next", joined(&[&next, &signed(&next, &[1, 2])])),
        ("usurper", joined(&[&other, &signed(&other, &[9])])),
    ]
}

/// One message of every kind, a link, and headers.
pub fn message_seeds() -> Vec<Seed> {
    let (key, hash) = (secret(1).public(), Hash([7; 32]));
    let facts = Facts { base: hash, first_layer: 6, targets: 15, rank: 8 };
    let list = || Signed { statement: Bytes(vec![1; 184]), signatures: Bytes(vec![2; 73]) };
    let report = Report {
        sequence: 6,
        outcome: Outcome::Reverted,
        reason: "worse on a second look".into(),
        before: Some(2.25),
        after: None,
    };
    let with = |kind: u8, body: Vec<u8>| [&[kind][..], &body].concat();
    let enroll = Enroll { public_key: key, token: Some("a".into()), name: "Ofen 3".into(), facts };
    let enrolled = Enrolled {
        device: key.device(),
        state: DeviceState::Accepted,
        fleet: FLEET,
        label: Some("Werk".into()),
        trust: list(),
        time: NOW_S * 1000,
        check_in_s: 900,
    };
    let check_in = CheckIn {
        counter: 7,
        agent: "sapwood/0.1.0".into(),
        facts,
        installed: Some(Installed { sequence: 6, artifact: hash }),
        trial: true,
        candidates: None,
        generation: 12,
        ready: Some(Ready { steps: 40, tokens: 9000 }),
        reports: vec![report],
    };
    let [url, link] = [
        format!("https://cdn.example/{hash}"),
        format!("sapwood+https://fleet.example/#fleet={FLEET}&token=a&trust={hash}&pin={hash}"),
    ];
    let (statement, signatures) = (Bytes(vec![1; 136]), Bytes(vec![2; 73]));
    let invite =
        Invite { round: 3, artifact: hash, deadline_s: 3600, bytes_max: 1 << 20, rank_max: 16 };
    let checked_in = CheckedIn {
        time: NOW_S * 1000,
        check_in_s: 900,
        state: DeviceState::Accepted,
        acked: vec![6],
        trust_epoch: Some(4),
        release: Some(Offer { statement, signatures, url }),
        invite: Some(invite),
    };
    let rekey = Rekey { new_public_key: key, proof: secret(1).sign(b"") };
    let refusal = Refusal {
        error: Code::Clock,
        message: "the request's time is 0".into(),
        retry_after_s: Some(30),
        time: Some(NOW_S),
    };
    let claim =
        Claim { device: key.device(), time_ms: NOW_S, digest: hash, signature: rekey.proof };
    vec![
        ("enroll", with(0, write(&enroll).unwrap())),
        ("enrolled", with(1, write(&enrolled).unwrap())),
        ("checkin", with(2, write(&check_in).unwrap())),
        ("checked_in", with(3, write(&checked_in).unwrap())),
        ("receipt", with(4, write(&Receipt { receipt: hash }).unwrap())),
        ("trust", with(5, write(&TrustAnswer { trust: vec![list()] }).unwrap())),
        ("rekey", with(6, write(&rekey).unwrap())),
        ("rekeyed", with(7, write(&Rekeyed { state: DeviceState::Retired }).unwrap())),
        ("refusal", with(8, refusal.write().unwrap())),
        ("link", with(9, link.into_bytes())),
        ("headers", with(10, claim.values().join("\n").into_bytes())),
    ]
}

/// An update of one layer, and one with a number that is none.
pub fn update_seeds() -> Vec<Seed> {
    let hash = "07".repeat(32);
    let name = "base_model.model.model.layers.6.self_attn.q_proj.lora_";
    let json = format!(
        r#"{{"__metadata__":{{"format":"sapwood-update/1","base":"{hash}","cohort":"{hash}","from":"{hash}","generation":"1","steps":"2","tokens":"3"}},"{name}A.weight":{{"dtype":"F16","shape":[1,3],"data_offsets":[0,6]}},"{name}B.weight":{{"dtype":"F32","shape":[2,1],"data_offsets":[6,14]}}}}"#
    );
    let file = |last: [u8; 4]| {
        let body = [0, 60, 0, 60, 1, 2, 0, 0, 128, 63];
        [&(json.len() as u64).to_le_bytes()[..], json.as_bytes(), &body, &last].concat()
    };
    vec![("update", file(1.0_f32.to_le_bytes())), ("infinite", file(f32::INFINITY.to_le_bytes()))]
}

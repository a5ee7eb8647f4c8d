//! Statements and trust statements: golden ones are taken; damaged, foreign, old ones are not.

use super::{bytes, golden, list, number, one_clear_line, secret, text};
use crate::fleet::id::{CohortId, FleetId, Hash};
use crate::fleet::signatures::{Signatures, SignaturesError};
use crate::fleet::statement::{Role, Standing, Statement, StatementError};
use crate::fleet::trust::{Trust, TrustError};
use crate::limits::{FLEET_KEYS_MAX, FLEET_SIGNATURES_MAX};
use std::string::ToString;
use std::vec;
use std::vec::Vec;

const NOW_MS: u64 = 1_764_100_000_000;

fn pair(part: &str, at: usize) -> (Vec<u8>, Signatures) {
    let case = &golden(part)[at];
    let signatures = Signatures::decode(&bytes(&case["signatures"])).unwrap();
    assert_eq!(signatures.encode(), bytes(&case["signatures"]));
    (bytes(&case["statement"]), signatures)
}

fn fleet() -> FleetId {
    FleetId(core::array::from_fn(|at| at as u8))
}

fn cohort() -> CohortId {
    text(&golden("names")["cohort"]).parse().unwrap()
}

fn first() -> Trust {
    let (bytes, signatures) = pair("trust", 0);
    let hash = text(&golden("trust")[0]["hash"]).parse().unwrap();
    Trust::first(&bytes, &signatures, fleet(), hash).unwrap()
}

fn standing(trust: &Trust) -> Standing<'_> {
    Standing { trust, cohort: cohort(), candidates: false, taken: 6, now_ms: NOW_MS }
}

fn signed(statement: &[u8], signers: &[u8]) -> Signatures {
    let mut signatures = Signatures::default();
    signers.iter().for_each(|signer| signatures.sign(&secret(*signer), statement).unwrap());
    signatures
}

#[test]
fn statements_are_what_other_packages_make_of_them() {
    let trust = first();
    for (at, case) in list(&golden("statements")).iter().enumerate() {
        let (bytes, signatures) = pair("statements", at);
        let taker = Standing { candidates: true, ..standing(&trust) };
        let statement = taker.take(&bytes, &signatures).unwrap();
        assert_eq!(statement.role as u64, number(&case["role"]));
        assert_eq!(statement.sequence, number(&case["sequence"]));
        assert_eq!(statement.issued_s, number(&case["issued"]));
        assert_eq!(statement.expires_s, number(&case["expires"]));
        assert_eq!(statement.artifact_bytes, number(&case["artifact_bytes"]));
        assert_eq!(statement.artifact, Hash::of(b"an artifact"));
        assert_eq!((statement.fleet, statement.cohort), (fleet(), cohort()));
        assert_eq!(statement.encode()[..], bytes);
    }
    let (bytes, signatures) = pair("statements", 0);
    assert_eq!(signatures, signed(&bytes, &[11, 13]), "the same key, the same signature");
}

#[test]
fn trust_is_what_other_packages_make_of_it_and_follows_itself() {
    let mut trust = first();
    for (at, case) in list(&golden("trust")).iter().enumerate() {
        let (bytes, signatures) = pair("trust", at);
        if at > 0 {
            trust = trust.next(&bytes, &signatures).unwrap();
        }
        assert_eq!(trust.encode().unwrap(), bytes);
        assert_eq!(
            (trust.epoch, trust.expires_s),
            (number(&case["epoch"]), number(&case["expires"]))
        );
        let thresholds = [trust.root_threshold, trust.release_threshold].map(u64::from);
        assert_eq!(thresholds, [0, 1].map(|which| number(&case["thresholds"][which])));
        assert_eq!(trust.online.to_string(), case["online"]);
        for (keys, names) in [(&trust.root, "root"), (&trust.release, "release")] {
            let keys: Vec<_> = keys.iter().map(ToString::to_string).collect();
            assert_eq!(keys, list(&case[names]).iter().map(text).collect::<Vec<_>>());
        }
    }
    // The keys of a later epoch alone hold now: 14, not 11 and 13.
    let (bytes, signatures) = pair("statements", 0);
    let refused = standing(&trust).take(&bytes, &signatures);
    let expected =
        StatementError::Signatures { role: Role::Release, expected: 1, got: 0, epoch: 9 };
    assert_eq!(refused, Err(expected));
    assert!(standing(&trust).take(&bytes, &signed(&bytes, &[14])).is_ok());
}

#[test]
fn every_flipped_byte_of_a_statement_is_refused() {
    let (trust, (bytes, signatures)) = (first(), pair("statements", 0));
    assert!(standing(&trust).take(&bytes, &signatures).is_ok());
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            let refused = standing(&trust).take(&flipped, &signatures).unwrap_err();
            one_clear_line(&refused.to_string());
        }
    }
    let list = signatures.encode();
    for at in 0..list.len() {
        let mut flipped = list.clone();
        flipped[at] ^= 1;
        let read = Signatures::decode(&flipped);
        assert!(read.is_err() || standing(&trust).take(&bytes, &read.unwrap()).is_err(), "{at}");
    }
    for cut in 0..bytes.len() {
        let refused = StatementError::Length { got: cut };
        assert_eq!(Statement::decode(&bytes[..cut]), Err(refused));
    }
    assert!(Statement::decode(&[&bytes[..], &[0]].concat()).is_err());
}

#[test]
fn every_flipped_byte_of_a_trust_statement_is_refused() {
    let (trust, (bytes, signatures)) = (first(), pair("trust", 1));
    assert!(trust.next(&bytes, &signatures).is_ok());
    let (start, own) = pair("trust", 0);
    let hash = Hash::of(&start);
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1;
        one_clear_line(&trust.next(&flipped, &signatures).unwrap_err().to_string());
        assert!(trust.next(&bytes[..at], &signatures).is_err(), "cut at {at}");
        let mut flipped = start.clone();
        flipped[at] ^= 1;
        let refused = Trust::first(&flipped, &own, fleet(), hash);
        assert!(matches!(refused, Err(TrustError::First { .. })));
        // Its own hash, but not its roots' word.
        assert!(Trust::first(&flipped, &own, fleet(), Hash::of(&flipped)).is_err(), "{at}");
    }
}

#[test]
fn replayed_expired_foreign_and_unsigned_statements_are_refused_by_name() {
    let trust = first();
    let (bytes, signatures) = pair("statements", 0);
    let good = standing(&trust);
    for taken in [7, 8, u64::MAX] {
        let refused = Standing { taken, ..good }.take(&bytes, &signatures);
        assert_eq!(refused, Err(StatementError::Sequence { taken, got: 7 }));
    }
    let last_ms = 1_770_000_000_000 - 1;
    assert!(Standing { now_ms: last_ms, ..good }.take(&bytes, &signatures).is_ok());
    let expired = Standing { now_ms: last_ms + 1, ..good }.take(&bytes, &signatures);
    let now_s = 1_770_000_000;
    assert_eq!(expired, Err(StatementError::Expired { expires_s: now_s, now_s }));
    // A device whose clock stands at 1970 goes by the server's time, and takes what has not expired.
    assert!(Standing { now_ms: 0, ..good }.take(&bytes, &signatures).is_ok());

    let other = CohortId([1; 32]);
    let foreign = Standing { cohort: other, ..good }.take(&bytes, &signatures);
    assert_eq!(foreign, Err(StatementError::Cohort { expected: other, got: cohort() }));
    let elsewhere = Trust { fleet: FleetId([1; 16]), ..trust.clone() };
    let foreign = standing(&elsewhere).take(&bytes, &signatures);
    let expected = StatementError::Fleet { expected: elsewhere.fleet, got: fleet() };
    assert_eq!(foreign, Err(expected));
    let old = Trust { expires_s: NOW_MS / 1000, ..trust.clone() };
    let refused = standing(&old).take(&bytes, &signatures);
    assert!(matches!(refused, Err(StatementError::TrustExpired { epoch: 1, .. })), "{refused:?}");
}

#[test]
fn a_release_needs_its_threshold_of_distinct_release_keys() {
    let trust = first();
    let (release, _) = pair("statements", 0);
    let take = |signers: &[u8]| standing(&trust).take(&release, &signed(&release, signers));
    for enough in [&[11, 13][..], &[12, 11], &[11, 12, 13], &[1, 20, 13, 12]] {
        assert!(take(enough).is_ok(), "{enough:?}");
    }
    // One alone, twice the same, roots, the online key, strangers.
    for too_few in [&[11][..], &[11, 11, 11], &[1, 2, 3], &[20], &[20, 11], &[30, 31], &[]] {
        let got = usize::from(too_few.contains(&11));
        let (role, expected, epoch) = (Role::Release, 2, 1);
        let refused = StatementError::Signatures { role, expected, got, epoch };
        assert_eq!(take(too_few), Err(refused), "{too_few:?}");
    }
    // The same signature twice under one key's name, made by hand.
    let one = signed(&release, &[11]).encode();
    let twice = [&[2][..], &one[1..], &one[1..]].concat();
    let twice = Signatures::decode(&twice).unwrap();
    assert!(standing(&trust).take(&release, &twice).is_err());
    // A signature of another statement, and one under another key's name.
    let (other, _) = pair("statements", 2);
    assert!(standing(&trust).take(&release, &signed(&other, &[11, 13])).is_err());
    let mut renamed = signed(&release, &[30, 13]).encode();
    renamed[1..9].copy_from_slice(&secret(11).public().id().0);
    let renamed = Signatures::decode(&renamed).unwrap();
    assert!(standing(&trust).take(&release, &renamed).is_err());
}

#[test]
fn a_candidate_is_for_the_lab_and_speaks_by_the_online_key_alone() {
    let trust = first();
    let (candidate, signatures) = pair("statements", 1);
    let lab = Standing { candidates: true, ..standing(&trust) };
    assert!(lab.take(&candidate, &signatures).is_ok());
    assert_eq!(standing(&trust).take(&candidate, &signatures), Err(StatementError::Candidate));
    assert!(lab.take(&candidate, &signed(&candidate, &[11, 12, 13])).is_err());
}

#[test]
fn every_field_of_a_statement_is_checked() {
    let (good, _) = pair("statements", 0);
    let with = |at: usize, field: &[u8]| {
        let mut bytes = good.clone();
        bytes[at..at + field.len()].copy_from_slice(field);
        Statement::decode(&bytes).unwrap_err().to_string()
    };
    let most = u64::MAX.to_le_bytes();
    for (at, field, says) in [
        (0, &b"S"[..], "magic"),
        (16, &[2], "version 2, expected 1"),
        (18, &[0], "role 0"),
        (18, &[3], "role 3"),
        (19, &[1], "zeros"),
        (23, &[1], "zeros"),
        (72, &[0; 8], "sequence 0"),
        (72, &most, "sequence"),
        (80, &most, "issued"),
        (88, &[0; 8], "expires 0"),
        (88, &most, "expires"),
        (96, &[0; 8], "artifact bytes 0"),
        (96, &(64_u64 << 20 | 1).to_le_bytes(), "artifact bytes"),
    ] {
        let said = with(at, field);
        one_clear_line(&said);
        assert!(said.contains(says), "{said}");
    }
}

#[test]
fn every_field_of_a_trust_statement_is_checked() {
    let good = first();
    let keys = |range: std::ops::Range<u8>| range.map(|key| secret(key).public()).collect();
    let many: Vec<_> = keys(100..101 + FLEET_KEYS_MAX as u8);
    for (trust, says) in [
        (Trust { epoch: 0, ..good.clone() }, "epoch 0"),
        (Trust { epoch: u64::MAX, ..good.clone() }, "epoch"),
        (Trust { expires_s: 0, ..good.clone() }, "expires 0"),
        (Trust { root_threshold: 0, ..good.clone() }, "0 of 3 root keys"),
        (Trust { root_threshold: 4, ..good.clone() }, "4 of 3 root keys"),
        (Trust { release_threshold: 0, ..good.clone() }, "0 of 3 release keys"),
        (Trust { release_threshold: 255, ..good.clone() }, "255 of 3 release keys"),
        (Trust { root: vec![], ..good.clone() }, "0 root keys"),
        (Trust { root: many.clone(), ..good.clone() }, "17 root keys"),
        (Trust { release: many, ..good.clone() }, "17 release keys"),
        (Trust { root: vec![good.root[0]; 2], ..good.clone() }, "twice"),
        (Trust { release: vec![good.release[0]; 2], ..good.clone() }, "twice"),
        (Trust { online: good.root[2], ..good.clone() }, "twice"),
        (Trust { online: good.release[0], ..good.clone() }, "twice"),
    ] {
        let said = trust.encode().unwrap_err().to_string();
        one_clear_line(&said);
        assert!(said.contains(says), "{said}");
    }
    let bytes = good.encode().unwrap();
    for (at, byte, says) in [
        (0, b'S', "magic"),
        (16, 2, "version 2"),
        (18, 0, "0 of 3"),
        (20, 2, "expected 248"),
        (20, 0, "expected 184"),
        (21, 255, "bytes"),
        (22, 1, "0x1"),
        (23, 1, "0x100"),
    ] {
        let mut wrong = bytes.clone();
        wrong[at] = byte;
        let said = Trust::decode(&wrong).unwrap_err().to_string();
        one_clear_line(&said);
        assert!(said.contains(says), "{said}");
    }
    // A root may sign releases too, where one person has all of a fleet.
    let alone = Trust { root: keys(1..2), root_threshold: 1, release: keys(1..2), ..good };
    let alone = Trust { release_threshold: 1, ..alone };
    assert_eq!(Trust::decode(&alone.encode().unwrap()), Ok(alone));
}

#[test]
fn trust_goes_on_only_by_the_word_of_old_and_new_roots() {
    let trust = first();
    let (next, signatures) = pair("trust", 1);
    assert!(trust.next(&next, &signatures).is_ok());
    // Roots 1 2 3 before, 2 3 4 after; two of each.
    for (signers, which) in
        [(&[1, 2][..], "new"), (&[3, 4], "old"), (&[4], "old"), (&[11, 12], "old")]
    {
        let refused = trust.next(&next, &signed(&next, signers)).unwrap_err();
        let TrustError::Signatures { which: got, expected: 2, .. } = refused else {
            unreachable!("{refused}")
        };
        assert_eq!(got, which, "{signers:?}");
    }
    assert!(trust.next(&next, &signed(&next, &[1, 3, 4])).is_ok());
    let later = Trust { epoch: 2, ..trust.clone() };
    assert_eq!(later.next(&next, &signatures), Err(TrustError::Epoch { newest: 2, got: 2 }));
    let other = Trust { fleet: FleetId([1; 16]), ..trust.clone() };
    let foreign = other.next(&next, &signatures);
    assert!(matches!(foreign, Err(TrustError::Fleet { .. })), "{foreign:?}");
    // An old one that has expired is still followed.
    let old = Trust { expires_s: 1, ..trust };
    assert!(old.next(&next, &signatures).is_ok());
    let (start, _) = pair("trust", 0);
    let alone = Trust::first(&start, &signed(&start, &[1]), fleet(), Hash::of(&start));
    assert!(matches!(alone, Err(TrustError::Signatures { which: "own", expected: 2, got: 1 })));
}

#[test]
fn a_list_of_signatures_is_as_long_as_it_says() {
    for (bytes, refused) in [
        (vec![], SignaturesError::Count { got: 0 }),
        (vec![0], SignaturesError::Count { got: 0 }),
        (vec![33; 1 + 33 * 72], SignaturesError::Count { got: 33 }),
        (vec![1; 72], SignaturesError::Length { count: 1, expected: 73, got: 72 }),
        (vec![1; 74], SignaturesError::Length { count: 1, expected: 73, got: 74 }),
    ] {
        assert_eq!(Signatures::decode(&bytes), Err(refused));
        one_clear_line(&refused.to_string());
    }
    let mut signatures = Signatures::default();
    for signer in 1..=FLEET_SIGNATURES_MAX as u8 {
        signatures.sign(&secret(signer), b"x").unwrap();
        signatures.sign(&secret(signer), b"x").unwrap();
    }
    let full = SignaturesError::Count { got: FLEET_SIGNATURES_MAX + 1 };
    assert_eq!(signatures.sign(&secret(99), b"x"), Err(full));
    assert_eq!(Signatures::decode(&signatures.encode()), Ok(signatures));
}

//! A call's signature against golden headers, the clock, and everything that could be swapped.

use super::{bytes, golden, list, number, one_clear_line, secret, text};
use crate::fleet::code::Code;
use crate::fleet::id::{FleetId, Hash};
use crate::fleet::key::SecretKey;
use crate::fleet::request::{Call, Claim, HEADERS, RequestError};
use crate::limits::FLEET_CLOCK_MS_MAX;
use std::string::ToString;

const NOW_MS: u64 = 1_764_100_000_000;
const CALL: Call<'static> =
    Call { fleet: FleetId([3; 16]), method: "POST", path: "/v1/checkin?a=1", body_bytes: 4 };

fn claim() -> Claim {
    let key = secret(1);
    CALL.sign(&key, key.public().device(), NOW_MS, Hash::of(b"body")).unwrap()
}

#[test]
fn headers_are_what_other_packages_make_of_them() {
    for case in list(&golden("requests")) {
        let key = SecretKey::from_seed(&bytes(&case["seed"]).try_into().unwrap());
        let body = bytes(&case["body"]);
        let call = Call {
            fleet: text(&case["fleet"]).parse().unwrap(),
            method: text(&case["method"]),
            path: text(&case["path"]),
            body_bytes: body.len() as u64,
        };
        let (device, time_ms) = (key.public().device(), text(&case["headers"][1]).parse().unwrap());
        let signed = call.signed(device, time_ms, Hash::of(&body)).unwrap();
        assert_eq!(signed.len() as u64, number(&case["signed_bytes"]));
        let claim = call.sign(&key, device, time_ms, Hash::of(&body)).unwrap();
        let values = claim.values();
        assert_eq!(values.each_ref().map(|value| value.as_str()), {
            [0, 1, 2, 3].map(|at| text(&case["headers"][at]))
        });
        let read = Claim::read(values.each_ref().map(|value| Some(value.as_str())));
        assert_eq!(read, Ok(claim));
        assert_eq!(claim.verify(&call, &key.public(), time_ms), Ok(()));
        assert_eq!(claim.covers(&call, body.len() as u64, Hash::of(&body)), Ok(()));
        assert_eq!(claim.enrols(&key.public()), Ok(()));
    }
}

#[test]
fn every_part_of_a_call_is_signed() {
    let (claim, key) = (claim(), secret(1).public());
    assert_eq!(claim.verify(&CALL, &key, NOW_MS), Ok(()));
    let refused = Err(RequestError::Signature { device: claim.device });
    for call in [
        Call { fleet: FleetId([4; 16]), ..CALL },
        Call { method: "PUT", ..CALL },
        Call { method: "POST/", path: "v1/checkin?a=1", ..CALL },
        Call { path: "/v1/checkin?a=2", ..CALL },
        Call { path: "/v1/checkin?a=1&", ..CALL },
        Call { body_bytes: 5, ..CALL },
    ] {
        assert_eq!(claim.verify(&call, &key, NOW_MS), refused, "{call:?}");
    }
    let other = Claim { digest: Hash::of(b"other"), ..claim };
    assert_eq!(other.verify(&CALL, &key, NOW_MS), refused);
    let other = Claim { time_ms: NOW_MS + 1, ..claim };
    assert_eq!(other.verify(&CALL, &key, NOW_MS), refused);
    let device = secret(9).public().device();
    let other = Claim { device, ..claim };
    assert_eq!(other.verify(&CALL, &key, NOW_MS), Err(RequestError::Signature { device }));
    assert_eq!(claim.verify(&CALL, &secret(9).public(), NOW_MS), refused);
    for at in 0..64 {
        let mut other = claim;
        other.signature.0[at] ^= 1;
        assert_eq!(other.verify(&CALL, &key, NOW_MS), refused, "byte {at}");
    }
}

#[test]
fn a_time_within_five_minutes_is_taken_and_no_other() {
    let (claim, key) = (claim(), secret(1).public());
    for now_ms in [NOW_MS - FLEET_CLOCK_MS_MAX, NOW_MS + FLEET_CLOCK_MS_MAX] {
        assert_eq!(claim.verify(&CALL, &key, now_ms), Ok(()));
    }
    for now_ms in [0, NOW_MS - FLEET_CLOCK_MS_MAX - 1, NOW_MS + FLEET_CLOCK_MS_MAX + 1, u64::MAX] {
        let refused = claim.verify(&CALL, &key, now_ms).unwrap_err();
        assert_eq!(refused, RequestError::Clock { got_ms: NOW_MS, now_ms });
        assert_eq!(refused.code(), Code::Clock);
    }
}

#[test]
fn another_body_and_another_name_are_refused() {
    let claim = claim();
    assert_eq!(claim.covers(&CALL, 4, Hash::of(b"body")), Ok(()));
    for (length, digest) in [(4, Hash::of(b"bodY")), (5, Hash::of(b"body"))] {
        let refused = claim.covers(&CALL, length, digest).unwrap_err();
        assert_eq!(refused.code(), Code::Signature);
        one_clear_line(&refused.to_string());
    }
    let refused = claim.enrols(&secret(2).public()).unwrap_err();
    assert!(matches!(refused, RequestError::Device { .. }), "{refused}");
}

#[test]
fn every_header_that_is_wrong_is_named() {
    let values = claim().values();
    let good = values.each_ref().map(|value| Some(value.as_str()));
    assert!(Claim::read(good).is_ok());
    for at in 0..4 {
        for wrong in [
            None,
            Some(""),
            Some(" "),
            Some("-1"),
            Some("+1"),
            Some("01"),
            Some("9007199254740992"),
        ] {
            let mut headers = good;
            headers[at] = wrong;
            let refused = Claim::read(headers).unwrap_err();
            assert_eq!(refused.code(), Code::Malformed);
            let said = refused.to_string();
            one_clear_line(&said);
            assert!(said.contains(HEADERS[at]), "{said}");
        }
    }
    let upper = values[2].to_uppercase();
    assert!(Claim::read([good[0], good[1], Some(&upper), good[3]]).is_err());
}

#[test]
fn a_method_or_path_that_is_too_long_is_not_signed() {
    let key = secret(1);
    for call in
        [Call { method: &"M".repeat(17), ..CALL }, Call { path: &"/".repeat(1 << 16), ..CALL }]
    {
        let refused = call.sign(&key, key.public().device(), NOW_MS, Hash::of(b"body"));
        assert!(matches!(refused, Err(RequestError::Long { .. })), "{refused:?}");
        let refused = claim().verify(&call, &key.public(), NOW_MS);
        assert!(matches!(refused, Err(RequestError::Long { .. })), "{refused:?}");
    }
}

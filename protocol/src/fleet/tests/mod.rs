//! The fleet's formats against golden bytes, damage, strangers and every field that is wrong.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod messages;
mod names;
mod requests;
mod statements;
mod updates;

use super::id::{Bytes, Signature};
use super::key::SecretKey;
use serde_json::Value;
use std::vec::Vec;

/// Oracle: `tools/golden/fleet.py` (cryptography 50.0.2, blake3 1.0.11).
fn golden(part: &str) -> Value {
    let all: Value =
        serde_json::from_str(include_str!("../../../../tests/golden/fleet/fleet.json")).unwrap();
    all[part].clone()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn bytes(value: &Value) -> Vec<u8> {
    text(value).parse::<Bytes>().unwrap().0
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap()
}

/// The key of a golden seed: 0 to 31, or one number 32 times.
fn secret(number: u8) -> SecretKey {
    let mut seed = [number; 32];
    if number == 0 {
        (0..32).for_each(|at| seed[usize::from(at)] = at);
    }
    SecretKey::from_seed(&seed)
}

/// One line, and not a long one.
fn one_clear_line(said: &str) {
    assert!(!said.contains(['\n', '\r']) && (10..400).contains(&said.len()), "{said}");
}

#[test]
fn what_is_no_signature_is_none() {
    let key = secret(1).public();
    assert!(!key.verifies(b"", &Signature([0; 64])) && !key.verifies(b"", &Signature([255; 64])));
}

/// A key of small order accepts one signature of every message in a lenient check (RFC 8032, 8.4).
#[test]
fn a_weak_key_verifies_nothing() {
    // The neutral element, its signature with R neutral and S zero.
    let mut neutral = [0; 32];
    neutral[0] = 1;
    let mut signature = [0; 64];
    signature[0] = 1;
    let key = super::id::PublicKey(neutral);
    assert!(!key.verifies(b"any", &Signature(signature)));
}

/// The order of the group added to S is the same signature in another form.
#[test]
fn a_signature_has_one_form() {
    const ORDER: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde,
        0x14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let (key, message) = (secret(1), b"message");
    let mut signature = key.sign(message);
    assert!(key.public().verifies(message, &signature));
    let mut carry = 0;
    for (byte, order) in signature.0[32..].iter_mut().zip(ORDER) {
        carry += u16::from(*byte) + u16::from(order);
        *byte = carry as u8;
        carry >>= 8;
    }
    assert!(!key.public().verifies(message, &signature));
}

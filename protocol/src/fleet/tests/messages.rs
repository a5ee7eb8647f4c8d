//! Messages: the texts as they are on the wire, every field wrong in turn, every bound.

use super::{one_clear_line, secret};
use crate::fleet::code::Code;
use crate::fleet::id::{Bytes, Hash};
use crate::fleet::message::{
    CheckIn, CheckedIn, Enroll, Enrolled, Message, MessageError, Receipt, Refusal, Rekey, Rekeyed,
    TrustAnswer, one_line, read, told, write,
};
use crate::limits::{FLEET_BODY_BYTES_MAX, FLEET_KEYS_MAX, FLEET_REPORTS_MAX, FLEET_TRUST_MAX};
use serde_json::{Value, json};
use std::string::{String, ToString};
use std::vec::Vec;
use std::{format, vec};

/// Fields that may be missing.
const OPTIONAL: [&str; 10] = [
    "token",
    "label",
    "installed",
    "candidates",
    "ready",
    "before",
    "after",
    "trust_epoch",
    "release",
    "invite",
];

fn hash() -> String {
    Hash([0xab; 32]).to_string()
}

fn facts() -> Value {
    json!({"base": hash(), "first_layer": 6, "targets": 15, "rank": 8})
}

fn offer(bytes: usize) -> Value {
    json!({"statement": "0f".repeat(bytes), "signatures": "01".repeat(73)})
}

fn enroll() -> Value {
    json!({"protocol": 1, "public_key": secret(1).public(), "token": "a-1", "name": "Ofen 3",
        "facts": facts()})
}

fn enrolled() -> Value {
    json!({"protocol": 1, "device": secret(1).public().device(), "state": "pending",
        "fleet": "00".repeat(16), "label": "Werk 3", "trust": offer(184),
        "time": 1_764_100_000_000_u64, "check_in_s": 900})
}

fn check_in() -> Value {
    json!({"protocol": 1, "counter": 7, "agent": "sapwood/0.1.0", "facts": facts(),
        "installed": {"sequence": 6, "artifact": hash()}, "trial": false, "candidates": true,
        "generation": 12,
        "ready": {"steps": 340, "tokens": 87040},
        "reports": [{"sequence": 6, "outcome": "confirmed", "reason": "as good as before",
            "before": 2.25, "after": 2.24}]})
}

fn checked_in() -> Value {
    let mut release = offer(136);
    release["url"] = json!(format!("/v1/artifacts/{}", hash()));
    json!({"protocol": 1, "time": 1_764_100_000_000_u64, "check_in_s": 900, "state": "accepted",
        "acked": [6], "trust_epoch": 2, "release": release, "invite": {"round": 3,
            "artifact": hash(), "deadline_s": 3600, "bytes_max": 1 << 20, "rank_max": 16}})
}

fn trust() -> Value {
    json!({"protocol": 1, "trust": [offer(184)]})
}

fn rekey() -> Value {
    let (key, proof) = (secret(9).public(), secret(9).sign(b""));
    json!({"protocol": 1, "new_public_key": key, "proof": proof})
}

fn said<M: Message>(value: &Value) -> Result<M, MessageError> {
    read(value.to_string().as_bytes())
}

/// The value reads, and is written again as it was; then with each of its fields wrong in turn.
fn every_field<M: Message>(good: &Value) {
    let message: M = said(good).unwrap();
    let written: Value = serde_json::from_slice(&write(&message).unwrap()).unwrap();
    assert_eq!(&written, good);
    let mut later = good.clone();
    later["later"] = json!({"any": [1, {}]});
    assert!(said::<M>(&later).is_ok(), "a later version may say more");
    let mut seen = 0;
    for pointer in pointers(good, "") {
        let name = pointer.rsplit('/').next().unwrap();
        let is_score = ["before", "after"].contains(&name);
        for wrong in wrong_values() {
            let optional = OPTIONAL.contains(&name) && wrong.is_null();
            let number = is_score && (wrong == json!(1.5) || wrong == json!(1_u64 << 53));
            if optional || number || (["trial", "candidates"].contains(&name) && wrong.is_boolean())
            {
                continue;
            }
            let mut bad = good.clone();
            *bad.pointer_mut(&pointer).unwrap() = wrong.clone();
            let Err(refused) = said::<M>(&bad) else { unreachable!("{pointer} took {wrong}") };
            one_clear_line(&refused.to_string());
            seen += 1;
        }
        let mut bad = good.clone();
        let (parent, _) = pointer.rsplit_once('/').unwrap();
        if let Some(parent) = bad.pointer_mut(parent).unwrap().as_object_mut() {
            parent.remove(name);
            assert_eq!(said::<M>(&bad).is_ok(), OPTIONAL.contains(&name), "without {pointer}");
        }
    }
    assert!(seen >= 8);
    let text = good.to_string();
    for cut in 0..text.len() {
        one_clear_line(&read::<M>(&text.as_bytes()[..cut]).err().unwrap().to_string());
    }
}

/// Whoever reads a list of devices would read another name than was sent, or two as one.
#[test]
fn a_device_has_a_name_that_is_seen() {
    for name in ["Ofen\u{202e}3", "Ofen 3\u{200b}", "\u{feff}", "a\u{2029}b"] {
        let mut bad = enroll();
        bad["name"] = json!(name);
        one_clear_line(&said::<Enroll>(&bad).unwrap_err().to_string());
    }
}

fn wrong_values() -> [Value; 8] {
    let most = 1_u64 << 53;
    [
        json!(null),
        json!(true),
        json!(-1),
        json!(1.5),
        json!(most),
        json!("\n"),
        json!({}),
        json!([[]]),
    ]
}

/// Where every value inside a value lies.
fn pointers(value: &Value, at: &str) -> Vec<String> {
    let inside: Vec<(String, &Value)> = match value {
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| (format!("{at}/{name}"), value)).collect()
        }
        Value::Array(items) => {
            items.iter().enumerate().map(|(item, value)| (format!("{at}/{item}"), value)).collect()
        }
        _ => return Vec::new(),
    };
    let deeper = inside.iter().flat_map(|(at, value)| pointers(value, at));
    inside.iter().map(|(at, _)| at.clone()).chain(deeper).collect()
}

#[test]
fn every_wrong_field_of_every_message_is_told_in_one_line() {
    every_field::<Enroll>(&enroll());
    every_field::<Enrolled>(&enrolled());
    every_field::<CheckIn>(&check_in());
    every_field::<CheckedIn>(&checked_in());
    every_field::<TrustAnswer>(&trust());
    every_field::<Rekey>(&rekey());
    every_field::<Rekeyed>(&json!({"protocol": 1, "state": "retired"}));
    every_field::<Receipt>(&json!({"protocol": 1, "receipt": hash()}));
}

#[test]
fn a_check_in_is_these_bytes() {
    let written = |value: &Value| {
        let message: CheckIn = said(value).unwrap();
        String::from_utf8(write(&message).unwrap()).unwrap()
    };
    // As a program of before says it.
    let mut before = check_in();
    before.as_object_mut().unwrap().remove("candidates");
    let text = written(&before);
    let now = text.replace("\"trial\":false,", "\"trial\":false,\"candidates\":true,");
    assert_eq!(written(&check_in()), now);
    let hash = hash();
    assert_eq!(
        text,
        format!(
            "{{\"protocol\":1,\"counter\":7,\"agent\":\"sapwood/0.1.0\",\"facts\":{{\"base\":\"{hash}\",\
             \"first_layer\":6,\"targets\":15,\"rank\":8}},\"installed\":{{\"sequence\":6,\
             \"artifact\":\"{hash}\"}},\"trial\":false,\"generation\":12,\"ready\":{{\"steps\":340,\
             \"tokens\":87040}},\"reports\":[{{\"sequence\":6,\"outcome\":\"confirmed\",\
             \"reason\":\"as good as before\",\"before\":2.25,\"after\":2.24}}]}}"
        )
    );
}

#[test]
fn the_field_that_is_wrong_is_named() {
    let with = |change: fn(&mut Value)| {
        let mut value = check_in();
        change(&mut value);
        said::<CheckIn>(&value).unwrap_err().to_string()
    };
    let begins = |said: String, expected: &str| assert!(said.starts_with(expected), "{said}");
    begins(
        with(|value| value["counter"] = json!(1_u64 << 53)),
        "counter is 9007199254740992, expected 0 to 9007199254740991",
    );
    begins(
        with(|value| value["counter"] = json!("x")),
        "a message is not of the expected form near `counter`: invalid type",
    );
    begins(
        with(|value| value["facts"]["base"] = json!("AB".repeat(32))),
        "a message is not of the expected form near `base`: a hash has 'A' at 0",
    );
    begins(with(|value| value["facts"]["rank"] = json!(129)), "rank is 129, expected 1 to 128");
    begins(
        with(|value| value["facts"]["targets"] = json!(128)),
        "targets is 128, expected 1 to 127",
    );
    begins(with(|value| value["agent"] = json!("")), "agent has 0 bytes, expected 1 to 64");
    begins(
        with(|value| value["agent"] = json!("a\u{7f}")),
        "agent has '\\u{7f}' at byte 1, expected no control character",
    );
    begins(
        with(|value| value["reports"][0]["before"] = json!(-0.5)),
        "before is -0.5, expected bits per byte",
    );
    begins(
        with(|value| value["reports"][0]["reason"] = json!("x".repeat(257))),
        "reason has 257 bytes, expected 0 to 256",
    );
    begins(
        with(|value| value["reports"] = json!(vec![value["reports"][0].clone(); 17])),
        "reports has 17 elements, expected 0 to 16",
    );
    begins(
        with(|value| value["reports"][0]["outcome"] = json!("\u{7}x".repeat(999))),
        "a message is not of the expected form near `outcome`: unknown variant",
    );
    let twice = check_in().to_string().replacen('{', "{\"counter\":7,", 1);
    let refused = read::<CheckIn>(twice.as_bytes()).unwrap_err().to_string();
    assert!(refused.contains("duplicate field `counter`"), "{refused}");
}

#[test]
fn other_bounds_hold_too() {
    let checked = |change: fn(&mut Value)| {
        let mut value = checked_in();
        change(&mut value);
        said::<CheckedIn>(&value)
    };
    let changes: [fn(&mut Value); 16] = [
        |value| value["check_in_s"] = json!(59),
        |value| value["check_in_s"] = json!(86_401),
        |value| value["time"] = json!(0),
        |value| value["acked"] = json!([0]),
        |value| value["acked"] = json!(vec![1; 17]),
        |value| value["trust_epoch"] = json!(0),
        |value| value["invite"]["bytes_max"] = json!((64_u64 << 20) + 1),
        |value| value["invite"]["rank_max"] = json!(0),
        |value| value["invite"]["round"] = json!(0),
        |value| value["release"]["statement"] = json!("00".repeat(135)),
        |value| value["release"]["signatures"] = json!(""),
        |value| value["release"]["signatures"] = json!("00".repeat(2 + 32 * 72)),
        |value| value["release"]["url"] = json!("http://plain.example/"),
        |value| value["release"]["url"] = json!("//elsewhere.example/"),
        |value| value["release"]["url"] = json!("/with space"),
        |value| value["release"]["url"] = json!(["/", &"x".repeat(2048)].concat()),
    ];
    for change in changes {
        one_clear_line(&checked(change).unwrap_err().to_string());
    }
    assert!(checked(|value| value["release"]["url"] = json!("https://cdn.example/a?b")).is_ok());
    let mut long = enroll();
    for (field, text) in
        [("name", "x".repeat(65)), ("token", "x".repeat(129)), ("token", "é".into())]
    {
        let before = long[field].take();
        long[field] = json!(text);
        assert!(said::<Enroll>(&long).unwrap_err().to_string().starts_with(field));
        long[field] = before;
    }
}

#[test]
fn another_version_and_a_long_body_have_codes_of_their_own() {
    for protocol in [0_u64, 2, u64::MAX] {
        // Whatever else a later version may have made of it.
        let later = json!({"protocol": protocol, "counter": "seven"});
        let refused = said::<CheckIn>(&later).unwrap_err();
        assert_eq!(refused, MessageError::Protocol { got: protocol });
        assert_eq!(refused.code(), Code::Protocol);
    }
    let mut body = check_in().to_string().into_bytes();
    body.resize(FLEET_BODY_BYTES_MAX, b' ');
    assert!(read::<CheckIn>(&body).is_ok());
    body.push(b' ');
    let refused = read::<CheckIn>(&body).unwrap_err();
    assert_eq!(refused, MessageError::Long { got: FLEET_BODY_BYTES_MAX + 1 });
    assert_eq!(refused.code(), Code::TooLarge);
    for body in [&b""[..], b"\xff\xfe", b"[]", b"1", b"{\"protocol\":1}x", &[b'['; 60_000]] {
        assert_eq!(read::<CheckIn>(body).unwrap_err().code(), Code::Malformed);
    }
}

/// A message that is too long for the other side is not sent either.
#[test]
fn what_the_other_side_would_refuse_is_not_written() {
    let mut message: CheckIn = said(&check_in()).unwrap();
    message.reports[0].after = Some(f64::NAN);
    assert!(matches!(write(&message), Err(MessageError::Score { field: "after", .. })));
    message.reports[0].after = None;
    // The worst that a check-in may be is no longer than a message.
    message.agent = "\"".repeat(64);
    message.reports[0].reason = "\"".repeat(256);
    message.reports = vec![message.reports[0].clone(); FLEET_REPORTS_MAX];
    assert!(write(&message).is_ok());
    let mut answer: TrustAnswer = said(&trust()).unwrap();
    answer.trust[0].statement = Bytes(vec![0; 88 + 64 * FLEET_KEYS_MAX]);
    answer.trust[0].signatures = Bytes(vec![0; 1 + 72 * 2 * FLEET_KEYS_MAX]);
    answer.trust = vec![answer.trust[0].clone(); FLEET_TRUST_MAX];
    assert!(write(&answer).is_ok());
    answer.trust.push(answer.trust[0].clone());
    assert!(matches!(write(&answer), Err(MessageError::Length { field: "trust", got: 9, .. })));
}

#[test]
fn refusals_say_what_their_code_promises() {
    for code in Code::ALL {
        let (retry_after_s, time) =
            (code.waits().then_some(30), (code == Code::Clock).then_some(1_764_100_000_000));
        let refusal = Refusal { error: code, message: "no".into(), retry_after_s, time };
        let written = refusal.write().unwrap();
        assert_eq!(Refusal::read(&written), Ok(refusal.clone()));
        let name = serde_json::to_value(code).unwrap();
        let kebab = |letter: char| letter.is_ascii_lowercase() || letter == '-';
        assert!(name.as_str().unwrap().chars().all(kebab) && (400..600).contains(&code.status()));
        let bare = Refusal { retry_after_s: None, time: None, ..refusal };
        assert_eq!(bare.write().is_ok(), retry_after_s.is_none() && time.is_none(), "{code:?}");
    }
    for body in [
        json!({"error": "of-later", "message": "x"}),
        json!({"error": "malformed", "message": ""}),
        json!({"error": "malformed", "message": "a\nb"}),
        json!({"error": "too-many", "message": "x"}),
        json!({"error": "too-many", "message": "x", "retry_after_s": 0}),
        json!({"error": "unavailable", "message": "x", "retry_after_s": 86_401}),
        json!({"error": "clock", "message": "x"}),
        json!({"message": "x"}),
    ] {
        let refused = Refusal::read(body.to_string().as_bytes()).unwrap_err();
        one_clear_line(&refused.to_string());
    }
}

#[test]
fn a_text_of_several_lines_becomes_one_that_fits() {
    assert_eq!(one_line("a\r\nb\tc", 64), "a  b c");
    assert_eq!(one_line("Öl", 1), "");
    assert_eq!(one_line("Öl", 2), "Ö");
    assert_eq!(one_line(&"ß".repeat(200), 255).len(), 254);
    // A control character of two bytes becomes a space of one.
    assert_eq!(one_line("\u{85}ab", 3), "ab");
}

#[test]
fn an_error_is_one_line_that_says_nothing_twice() {
    let twice = ["cannot read a: no such file", "no such\n  file"];
    assert_eq!(told(twice), "cannot read a: no such file");
    assert_eq!(told(["cannot read\ta", "no such\r\n  file"]), "cannot read a: no such file");
    assert_eq!(told(["", "\n"]), "");
}

//! What nobody should send: each gets one clear line, and nothing has changed.

use crate::common::{self, BASE, Device, Fleet, Line, Reply, adapter, fleet, meta, open};
use fleet_server::operator::rounds as orders;
use fleet_server::rounds::NONE;
use fleet_server::store::{Book, Row};
use sapwood::adapter::wire;
use sapwood_protocol::fleet::code::Code;
use sapwood_protocol::fleet::id::{CohortId, Hash};
use sapwood_protocol::fleet::key::SecretKey;
use sapwood_protocol::fleet::message::{self, Enroll, Report};
use sapwood_protocol::fleet::request::HEADERS;
use sapwood_protocol::fleet::update::{Kind, Meta};
use sapwood_protocol::limits::{FLEET_ADAPTER_BYTES_MAX, FLEET_BODY_BYTES_MAX};
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::path::Path;

/// Everything that the server remembers, but for when a device was seen.
fn kept(fleet: &Fleet) -> (Vec<Vec<Row>>, Vec<String>) {
    let home = fleet.home();
    let tables = [
        "select * from meta",
        "select * from trust",
        "select * from token order by hash",
        "select * from cohort order by id",
        "select * from device order by id",
        "select * from round order by id",
        "select * from upload order by round, device",
        "select * from task order by kind, subject",
        "select * from release order by cohort, sequence",
        "select * from install order by cohort, sequence, device",
        "select * from tally order by cohort, sequence, stage, outcome, shard",
        "select * from audit order by id",
    ];
    let rows = tables.iter().map(|sql| home.book.read(sql, &[]).unwrap()).collect();
    let mut files = Vec::new();
    list(&fleet.folder().join("blobs"), &mut files);
    // In a bucket they are nowhere else.
    let blobs = (0..=u8::MAX).flat_map(|first| home.blobs.older(first, u64::MAX).unwrap());
    files.extend(blobs.map(|blob| blob.to_string()));
    (rows, files)
}

fn list(folder: &Path, files: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => list(&path, files),
            false => files.push(path.display().to_string()),
        }
    }
    files.sort();
}

/// Fails unless a reply is this refusal, in one line that says something.
fn refused(reply: &Reply, expected: &[Code], what: &str) {
    assert!(reply.status >= 400, "{what}: {}", reply.text());
    let refusal = reply.refusal();
    assert!(expected.contains(&refusal.error), "{what}: {}", reply.text());
    assert_eq!(reply.status, refusal.error.status(), "{what}");
    assert!(
        refusal.message.len() > 15 && !refusal.message.contains('\n'),
        "{what}: {}",
        refusal.message
    );
    for secret in ["/tmp", "fleet.db", "panicked"] {
        assert!(!refusal.message.contains(secret), "{what}: {}", refusal.message);
    }
}

fn post(device: &Device, path: &str, body: &Value) -> Reply {
    device.call("POST", path, body.to_string().as_bytes()).unwrap()
}

/// The same message with one field taken out, of another type, or out of its range.
fn spoiled(message: &Value, optional: &[&str]) -> Vec<(String, Value)> {
    let mut all = Vec::new();
    let wrong = [
        json!(null),
        json!(-1),
        json!(1.5),
        json!("\u{0}"),
        json!([1]),
        json!({"a": 1}),
        json!(1e300),
    ];
    let fields: Vec<String> = message.as_object().unwrap().keys().cloned().collect();
    for field in fields {
        if !optional.contains(&field.as_str()) {
            let mut without = message.clone();
            without.as_object_mut().unwrap().remove(&field);
            all.push((format!("without {field}"), without));
        }
        for value in &wrong {
            // Nothing is as good as no word of an optional field; a word is one of the token.
            if optional.contains(&field.as_str()) && value.is_null() {
                continue;
            }
            let mut changed = message.clone();
            changed[&field] = value.clone();
            all.push((format!("{field} = {value}"), changed));
        }
        if message[&field].is_object() {
            for (what, inner) in spoiled(&message[&field], &[]) {
                let mut changed = message.clone();
                changed[&field] = inner;
                all.push((format!("{field}: {what}"), changed));
            }
        }
    }
    all
}

#[test]
fn every_field_of_every_message_is_looked_at() {
    let (fleet, mut devices) = fleet(2);
    let device = &mut devices[0];
    device.check_in().unwrap();
    device.counter += 1;
    device.time_ms += 1000;
    let mut told = device.check_in_with();
    told.installed =
        Some(sapwood_protocol::fleet::message::Installed { sequence: 1, artifact: BASE });
    told.reports = vec![Report {
        sequence: 1,
        outcome: sapwood_protocol::fleet::message::Outcome::Confirmed,
        reason: String::new(),
        before: Some(1.0),
        after: Some(1.0),
    }];
    let mut message: Value = serde_json::from_slice(&message::write(&told).unwrap()).unwrap();
    let before = kept(&fleet);
    for (what, spoiled) in spoiled(&message, &["installed", "ready"]) {
        refused(&post(device, "/v1/checkin", &spoiled), &[Code::Malformed, Code::Protocol], &what);
    }
    let report = message["reports"][0].clone();
    for (what, report) in spoiled(&report, &["before", "after"]) {
        // A score may be any number of at least 0.
        if [
            "before = 1.5",
            "after = 1.5",
            "before = 1e300",
            "after = 1e300",
            "before = 1e+300",
            "after = 1e+300",
        ]
        .contains(&what.as_str())
        {
            continue;
        }
        message["reports"] = json!([report]);
        refused(&post(device, "/v1/checkin", &message), &[Code::Malformed], &what);
    }
    message["reports"] = json!(vec![report; 17]);
    refused(&post(device, "/v1/checkin", &message), &[Code::Malformed], "17 reports");
    let stranger = fleet.device(50);
    let asks = Enroll {
        public_key: stranger.key.public(),
        token: Some("no".into()),
        name: "valve".into(),
        facts: stranger.facts,
    };
    let asks: Value = serde_json::from_slice(&message::write(&asks).unwrap()).unwrap();
    let codes = [Code::Malformed, Code::Protocol, Code::Rejected, Code::Signature];
    for (what, spoiled) in spoiled(&asks, &["token"]) {
        refused(&post(&stranger, "/v1/enroll", &spoiled), &codes, &what);
    }
    let rekey =
        json!({"protocol": 1, "new_public_key": device.key.public(), "proof": "ab".repeat(64)});
    for (what, spoiled) in spoiled(&rekey, &[]) {
        refused(
            &post(device, "/v1/key", &spoiled),
            &[Code::Malformed, Code::Protocol, Code::Signature],
            &what,
        );
    }
    for body in [&b""[..], b"{", b"null", b"\xff\xfe", &[b'['; 5000]] {
        let reply = device.call("POST", "/v1/checkin", body).unwrap();
        refused(&reply, &[Code::Malformed], &String::from_utf8_lossy(&body[..body.len().min(9)]));
    }
    let large = vec![b' '; FLEET_BODY_BYTES_MAX + 1];
    refused(
        &device.call("POST", "/v1/checkin", &large).unwrap(),
        &[Code::TooLarge],
        "64 KiB and a byte",
    );
    assert_eq!(kept(&fleet), before);
}

#[test]
fn a_signature_holds_for_one_call_of_one_device_at_its_time() {
    let (fleet, mut devices) = fleet(2);
    devices[0].check_in().unwrap();
    let device = &devices[0];
    let body = message::write(&device.check_in_with()).unwrap();
    let sign = |by: &Device, method: &str, path: &str, body: &[u8], time_ms| {
        by.head(method, path, body, time_ms)
    };
    let good = sign(device, "POST", "/v1/checkin", &body, device.time_ms);
    let before = kept(&fleet);
    let send = |what: &str, head: &[(String, String)], body: &[u8], expected: Code| {
        refused(&device.send("POST", "/v1/checkin", head, body).unwrap(), &[expected], what);
    };
    let with = |name: &str, value: &str| {
        let mut head = good.clone();
        head.iter_mut().filter(|(own, _)| own == name).for_each(|(_, own)| value.clone_into(own));
        head
    };
    let other = sign(&devices[1], "POST", "/v1/checkin", &body, device.time_ms);
    send("another device's", &with(HEADERS[3], &other[3].1), &body, Code::Signature);
    send(
        "as another device",
        &with(HEADERS[0], &devices[1].id.to_string()),
        &body,
        Code::Signature,
    );
    send("as nobody", &with(HEADERS[0], &"0".repeat(32)), &body, Code::UnknownDevice);
    send(
        "another time",
        &with(HEADERS[1], &(device.time_ms + 1).to_string()),
        &body,
        Code::Signature,
    );
    send("another body", &good, &body.to_ascii_uppercase(), Code::Signature);
    let digest = Hash::of(b"").to_string();
    send("another digest", &with(HEADERS[2], &digest), &body, Code::Signature);
    let early = sign(device, "POST", "/v1/checkin", &body, device.time_ms - 400_000);
    send("of yesterday", &early, &body, Code::Clock);
    let path = sign(device, "POST", "/v1/enroll", &body, device.time_ms);
    send("another path", &path, &body, Code::Signature);
    let method = sign(device, "PUT", "/v1/checkin", &body, device.time_ms);
    send("another method", &method, &body, Code::Signature);
    let mut stranger = fleet.device(0);
    stranger.fleet = sapwood_protocol::fleet::id::FleetId([9; 16]);
    let foreign = sign(&stranger, "POST", "/v1/checkin", &body, device.time_ms);
    send("another fleet", &foreign, &body, Code::Signature);
    for name in HEADERS {
        let without: Vec<_> = good.iter().filter(|(own, _)| own != name).cloned().collect();
        send(&format!("without {name}"), &without, &body, Code::Malformed);
        let twice: Vec<_> =
            good.iter().chain(good.iter().filter(|(own, _)| own == name)).cloned().collect();
        send(&format!("{name} twice"), &twice, &body, Code::Malformed);
        for value in ["", "0", "-1", &"f".repeat(300), "\u{e9}"] {
            let head = with(name, value);
            let reply = device.send("POST", "/v1/checkin", &head, &body).unwrap();
            refused(&reply, &[Code::Malformed, Code::Clock], &format!("{name}: {value}"));
        }
    }
    let no_length: Vec<_> =
        good.iter().filter(|(own, _)| own != "content-length").cloned().collect();
    let chunked = [&no_length[..], &[("transfer-encoding".into(), "chunked".into())]].concat();
    send("of unknown length", &chunked, b"0\r\n\r\n", Code::Malformed);
    for (method, path) in [
        ("GET", "/v1/checkin"),
        ("DELETE", "/v1/enroll"),
        ("GET", "/v1/x"),
        ("PUT", "/v1/rounds/x/upload"),
    ] {
        let reply = device.call(method, path, b"").unwrap();
        refused(&reply, &[Code::NotFound], path);
    }
    let replay = device.send("POST", "/v1/checkin", &good, &body).unwrap();
    assert_eq!(replay.status, 200, "{}", replay.text());
    assert_eq!(kept(&fleet), before);
}

/// A file whose header says what it is told; the body is zeros.
fn file(header: &Value, body_bytes: usize) -> Vec<u8> {
    let header = header.to_string();
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; body_bytes]].concat()
}

/// The header of a file, its body's first byte, and its body's length.
fn opened(file: &[u8]) -> (Value, usize, usize) {
    let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let header = serde_json::from_slice(&file[8..8 + length]).unwrap();
    (header, 8 + length, file.len() - 8 - length)
}

#[test]
fn no_file_is_kept_that_is_no_update_of_the_round() {
    let (fleet, mut devices) = fleet(2);
    let cohort = orders::cohort(&fleet.home().book, None).unwrap();
    orders::policy(&fleet.home().book, &cohort, "{\"rank_max\": 4}", fleet.now_ms()).unwrap();
    let round = open(&fleet);
    devices[0].check_in().unwrap().invite.unwrap();
    let (device, stranger) = (&devices[0], &devices[1]);
    let cohort = device.cohort();
    let good = device.update(NONE, 1);
    let before = kept(&fleet);
    let mut line = Line::new(device);
    let mut send = |what: &str, file: &[u8], expected: &[Code]| {
        refused(&line.upload(round, file), expected, what);
    };
    let of = |meta: Meta| wire::encode(&adapter(2, 1), &meta).unwrap();
    let own = meta(cohort, NONE, 1000);
    let adapter_code = &[Code::Adapter][..];
    send("a global", &of(Meta { kind: Kind::Global, ..own }), adapter_code);
    send("another base", &of(Meta { base: Hash([8; 32]), ..own }), adapter_code);
    send("another cohort", &of(Meta { cohort: CohortId([8; 32]), ..own }), adapter_code);
    send("another artifact", &of(Meta { from: Hash([8; 32]), ..own }), &[Code::Stale]);
    send("rank 5", &wire::encode(&adapter(5, 1), &own).unwrap(), adapter_code);
    let (header, body, bytes) = opened(&good);
    for (at, number) in [(body, [0, 0x7c]), (body + 2, [0, 0xfc]), (good.len() - 2, [1, 0x7e])] {
        let mut spoiled = good.clone();
        spoiled[at..at + 2].copy_from_slice(&number);
        send("a number that is none", &spoiled, adapter_code);
    }
    let tensors: Vec<String> = header
        .as_object()
        .unwrap()
        .keys()
        .filter(|name| *name != "__metadata__")
        .cloned()
        .collect();
    for name in &tensors {
        for (field, value) in [
            ("dtype", json!("F64")),
            ("dtype", json!("I8")),
            ("shape", json!([2, 7])),
            ("shape", json!([2, 1_u64 << 60])),
            ("shape", json!([2])),
            ("shape", json!([0, 6])),
            ("data_offsets", json!([0, 1])),
            ("data_offsets", json!([4, 0])),
            ("data_offsets", json!([0, u64::MAX])),
            ("data_offsets", json!([-1, 5])),
        ] {
            let mut lies = header.clone();
            lies[name][field] = value.clone();
            send(&format!("{name} {field} {value}"), &file(&lies, bytes), adapter_code);
        }
        let mut without = header.clone();
        without.as_object_mut().unwrap().remove(name);
        send(&format!("without {name}"), &file(&without, bytes), adapter_code);
        let mut more = header.clone();
        more[format!("{name}x")] = header[name].clone();
        send(&format!("more than {name}"), &file(&more, bytes), adapter_code);
    }
    for (key, value) in [
        ("tokens", "0"),
        ("tokens", "-1"),
        ("steps", "9007199254740992"),
        ("format", "x"),
        ("base", "x"),
    ] {
        let mut lies = header.clone();
        lies["__metadata__"][key] = json!(value);
        send(&format!("{key} {value}"), &file(&lies, bytes), adapter_code);
    }
    let mut huge = good.clone();
    huge[..8].copy_from_slice(&(1_u64 << 40).to_le_bytes());
    send("a header of a terabyte", &huge, adapter_code);
    send("more than its tensors", &[&good[..], b"x"].concat(), adapter_code);
    let mut line = Line::new(device);
    for cut in 0..good.len() {
        refused(
            &line.upload(round, &good[..cut]),
            &[Code::Adapter, Code::Malformed],
            &format!("cut at {cut}"),
        );
    }
    let path = format!("/v1/rounds/{round}/upload");
    let head = device.head("PUT", &path, &good, device.time_ms);
    for at in (0..good.len()).step_by(3) {
        let mut flipped = good.clone();
        flipped[at] ^= 1 << (at % 8);
        let reply = line.send("PUT", &path, &head, &flipped);
        refused(
            &reply,
            &[Code::Adapter, Code::Signature, Code::Stale],
            &format!("byte {at} flipped on the way"),
        );
    }
    // Broken off on the way: nobody is there to be answered.
    for sent in [0, 7, body - 1, body, good.len() - 1] {
        let mut stream = device.stream().unwrap();
        let lines: String =
            head.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        write!(stream, "PUT {path} HTTP/1.1\r\nhost: localhost\r\n{lines}\r\n").unwrap();
        stream.write_all(&good[..sent]).unwrap();
        stream.flush().unwrap();
    }
    refused(&stranger.upload(round, &good), &[Code::NotInvited], "not asked");
    refused(&device.upload(round + 1, &good), &[Code::NotFound], "another round");
    std::thread::park_timeout(std::time::Duration::from_millis(300));
    assert_eq!(kept(&fleet), before);
    let reply = device.upload(round, &good);
    assert_eq!(reply.status, 201, "and the good one is taken: {}", reply.text());
}

/// A refusal is heard at every size: the server reads on before it answers.
#[test]
fn a_file_that_is_too_large_is_told_so_whatever_its_size() {
    let (fleet, mut devices) = fleet(2);
    let round = open(&fleet);
    devices[0].check_in().unwrap();
    let device = &devices[0];
    let path = format!("/v1/rounds/{round}/upload");
    let before = kept(&fleet);
    for bytes in [FLEET_ADAPTER_BYTES_MAX + 1, 1 << 30] {
        let call = sapwood_protocol::fleet::request::Call {
            fleet: fleet.id,
            method: "PUT",
            path: &path,
            body_bytes: bytes,
        };
        let claim = call.sign(&device.key, device.id, device.time_ms, Hash([1; 32])).unwrap();
        let mut stream = device.stream().unwrap();
        let mut lines = format!("content-length: {bytes}\r\n");
        for (name, value) in HEADERS.iter().zip(claim.values()) {
            lines.push_str(&format!("{name}: {value}\r\n"));
        }
        write!(stream, "PUT {path} HTTP/1.1\r\nhost: localhost\r\n{lines}\r\n").unwrap();
        let (piece, mut sent) = (vec![0; 64 << 10], 0);
        while sent < bytes
            && stream.write_all(&piece[..(bytes - sent).min(64 << 10) as usize]).is_ok()
        {
            sent += 64 << 10;
            // A client that listens while it sends stops as soon as it is answered.
            if sent >= FLEET_ADAPTER_BYTES_MAX + (1 << 20) {
                break;
            }
        }
        let _ = stream.flush();
        let reply = common::read(stream).unwrap();
        refused(&reply, &[Code::TooLarge], &format!("{bytes} bytes"));
    }
    assert_eq!(kept(&fleet), before);
}

/// Another key for the same name, and a key that is not one.
#[test]
fn keys_that_are_none_enrol_nobody() {
    let fleet = Fleet::new();
    let mut device = fleet.device(1);
    let before = kept(&fleet);
    let asks = |public_key: Value| json!({"protocol": 1, "public_key": public_key, "name": "v", "facts": device.facts});
    let small = "00".repeat(32);
    for key in
        [json!(small), json!("ff".repeat(32)), json!(SecretKey::from_seed(&[3; 32]).public())]
    {
        refused(
            &post(&device, "/v1/enroll", &asks(key.clone())),
            &[Code::Signature],
            &key.to_string(),
        );
    }
    assert_eq!(kept(&fleet), before);
    let token = fleet.link(1, false).token;
    device.facts.targets = 0x7f;
    device.enrol(token.as_deref()).unwrap();
}

common::over_every_store!();

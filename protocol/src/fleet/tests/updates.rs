//! An adapter's file: a golden one fits; every claim of its header wrong in turn does not.

use super::{golden, one_clear_line, text};
use crate::fleet::code::Code;
use crate::fleet::id::Hash;
use crate::fleet::update::{Expected, Finite, Header, Kind, Shape, UpdateError, header_bytes};
use crate::limits::{FLEET_ADAPTER_BYTES_MAX, FLEET_HEADER_BYTES_MAX, FLEET_LAYERS_MAX};
use serde_json::{Value, json};
use std::string::{String, ToString};
use std::vec::Vec;
use std::{format, vec};

/// Oracle: `tools/golden/fleet.py` (safetensors 0.8.0).
const FILE: &[u8] = include_bytes!("../../../../tests/golden/fleet/update.safetensors");
const Q: [u32; 2] = [4, 4];
const V: [u32; 2] = [4, 3];
const NONE: [u32; 2] = [0, 0];
const SHAPE: Shape =
    Shape { first_layer: 6, layers: 1, targets: 5, fans: [Q, NONE, V, NONE, NONE, NONE, NONE] };

fn split(file: &[u8]) -> (&[u8], &[u8]) {
    let prefix = file[..8].try_into().unwrap();
    let bytes = header_bytes(prefix, file.len() as u64).unwrap();
    file[8..].split_at(bytes)
}

fn expected() -> Expected<'static> {
    let names = golden("names");
    Expected {
        kind: Kind::Update,
        base: Hash::of(b"a base"),
        cohort: text(&names["cohort"]).parse().unwrap(),
        from: Some(Hash::of(b"an artifact")),
        shape: &SHAPE,
        rank_max: 2,
    }
}

/// The golden header as JSON.
fn header() -> Value {
    serde_json::from_slice(split(FILE).0).unwrap()
}

fn name(what: &str) -> String {
    format!("base_model.model.model.layers.6.self_attn.{what}.weight")
}

/// What is said of a header before a body of the golden one's length.
fn read(header: &Value) -> Result<Header, UpdateError> {
    before(header, split(FILE).1.len() as u64)
}

fn before(header: &Value, body_bytes: u64) -> Result<Header, UpdateError> {
    let json = header.to_string();
    Header::read(json.as_bytes(), 8 + json.len() as u64 + body_bytes)
}

fn looked_at(header: &Header, pieces: &[&[u8]]) -> Result<(), UpdateError> {
    let mut finite = Finite::new(header);
    pieces.iter().try_for_each(|piece| finite.feed(piece))?;
    finite.end()
}

#[test]
fn a_golden_file_fits_and_is_finite() {
    let (json, body) = split(FILE);
    let header = Header::read(json, FILE.len() as u64).unwrap();
    assert_eq!((header.rank, header.shape), (2, SHAPE));
    let meta = header.meta;
    assert_eq!((meta.generation, meta.steps, meta.tokens), (12, 340, 87_040));
    assert_eq!((meta.kind, meta.from), (Kind::Update, Hash::of(b"an artifact")));
    assert_eq!(header.fits(&expected()), Ok(()));
    assert_eq!(looked_at(&header, &[body]), Ok(()));
    // An update against whatever it says, as a global adapter's first reader takes it.
    assert_eq!(header.fits(&Expected { from: None, ..expected() }), Ok(()));
}

#[test]
fn a_header_cut_at_any_byte_is_refused() {
    let (json, _) = split(FILE);
    // The blanks behind the object fill it up to eight bytes and may be missing.
    let end = json.iter().rposition(|byte| *byte == b'}').unwrap();
    for cut in 0..=end {
        let refused = Header::read(&json[..cut], FILE.len() as u64).unwrap_err();
        one_clear_line(&refused.to_string());
        let length = FILE.len() as u64 - json.len() as u64 + cut as u64;
        assert!(Header::read(&json[..cut], length).is_err(), "cut at {cut}");
    }
    for bytes in 0..FILE.len() as u64 {
        assert!(Header::read(json, bytes).is_err(), "a file of {bytes} bytes");
    }
    assert!(Header::read(json, FILE.len() as u64 + 1).is_err());
}

#[test]
fn a_length_that_does_not_fit_is_refused_before_anything_is_read() {
    let most = FLEET_HEADER_BYTES_MAX;
    for (bytes, file) in [(0, 100), (1, 100), (93, 100), (u64::MAX, 100)] {
        let refused = header_bytes(u64::to_le_bytes(bytes), file).unwrap_err();
        let max = file.saturating_sub(8);
        assert_eq!(refused, UpdateError::HeaderBytes { got: bytes, max });
    }
    for got in [0, 7, 9] {
        let refused = header_bytes(2_u64.to_le_bytes(), got).unwrap_err();
        assert_eq!(refused, UpdateError::Short { got });
        assert!(refused.to_string().contains(&format!("{got} bytes, expected at least 10")));
    }
    assert_eq!(header_bytes(92_u64.to_le_bytes(), 100), Ok(92));
    assert_eq!(header_bytes(most.to_le_bytes(), most + 8), Ok(1 << 20));
    assert!(header_bytes((most + 1).to_le_bytes(), most * 2).is_err());
    let got = FLEET_ADAPTER_BYTES_MAX + 1;
    let refused = header_bytes(2_u64.to_le_bytes(), got).unwrap_err();
    assert_eq!((refused.code(), refused), (Code::TooLarge, UpdateError::Long { got }));
}

#[test]
fn every_claim_of_a_tensor_is_checked_and_names_it() {
    // The last of the body: [2, 4] in f16.
    let last = name("v_proj.lora_A");
    let begin = header()[&last]["data_offsets"][0].as_u64().unwrap();
    let with = |field: &str, value: Value| {
        let mut header = header();
        header[&last][field] = value;
        read(&header).unwrap_err()
    };
    let claim = |dtype: &str, shape: Value, end: u64| {
        let mut header = header();
        header[&last] = json!({"dtype": dtype, "shape": shape, "data_offsets": [begin, end]});
        before(&header, end).unwrap_err()
    };
    let cases: Vec<(UpdateError, &str)> = vec![
        (with("dtype", json!("BF16")), "\"BF16\", expected F16 or F32"),
        (with("dtype", json!("f32")), "expected F16 or F32"),
        (with("shape", json!([8])), "1 dimensions"),
        (with("shape", json!([])), "0 dimensions"),
        (with("shape", json!([1, 2, 4])), "3 dimensions"),
        (with("shape", json!([4, 2])), "shape [4, 2], expected [2, 2]"),
        (with("shape", json!([2, 5])), "ends at"),
        (with("shape", json!([u64::MAX, 2])), "ends at"),
        (with("shape", json!([1_u64 << 63, 2])), "ends at"),
        (with("data_offsets", json!([begin + 1, begin + 17])), "begins at"),
        (with("data_offsets", json!([begin - 1, begin + 15])), "begins at"),
        (with("data_offsets", json!([u64::MAX - 17, u64::MAX - 1])), "begins at"),
        (with("data_offsets", json!([begin, begin + 17])), "ends at"),
        (with("data_offsets", json!([begin, begin])), "ends at"),
        (with("data_offsets", json!([begin + 16, begin])), "ends at"),
        (with("data_offsets", json!([u64::MAX - 16, u64::MAX])), "ends at"),
        (claim("F32", json!([4, 1]), begin + 16), "shape [4, 1], expected [2, 1]"),
        (claim("F16", json!([2, 0]), begin), "shape [2, 0], expected [2, 1]"),
        (claim("F16", json!([0, 4]), begin), "rank 0"),
        (claim("F16", json!([129, 4]), begin + 1032), "rank 129, expected 1 to 128"),
    ];
    for (refused, says) in cases {
        let said = refused.to_string();
        one_clear_line(&said);
        assert!(said.contains("v_proj.lora_A") && said.contains(says), "{said}");
        assert_eq!(refused.code(), Code::Adapter);
    }
    for (field, value) in [
        ("dtype", json!(1)),
        ("shape", json!([-1, 2])),
        ("shape", json!([1.5, 2])),
        ("shape", json!("[3,2]")),
        ("data_offsets", json!([0])),
        ("data_offsets", json!([0, 1, 2])),
        ("later", json!(1)),
    ] {
        let said = with(field, value).to_string();
        one_clear_line(&said);
        assert!(said.contains("v_proj.lora_A"), "{said}");
    }
}

#[test]
fn a_body_has_no_end_but_its_last_tensors() {
    let (json, body) = split(FILE);
    for more in [1, 8, 4096] {
        let refused = Header::read(json, FILE.len() as u64 + more).unwrap_err();
        let expected = body.len() as u64;
        assert_eq!(refused, UpdateError::Body { expected, got: expected + more });
    }
}

#[test]
fn only_names_of_peft_are_taken_and_each_once() {
    let renamed = |to: &str| {
        let mut header = header();
        let entry = header.as_object_mut().unwrap().remove(&name("q_proj.lora_A")).unwrap();
        header[to] = entry;
        read(&header).unwrap_err()
    };
    for unknown in [
        "base_model.model.model.layers.06.self_attn.q_proj.lora_A.weight",
        "base_model.model.model.layers.65536.self_attn.q_proj.lora_A.weight",
        "base_model.model.model.layers.-1.self_attn.q_proj.lora_A.weight",
        "base_model.model.model.layers.6.self_attn.x_proj.lora_A.weight",
        "base_model.model.model.layers.6.self_attn.q_proj.lora_C.weight",
        "base_model.model.model.layers.6.self_attn.q_proj.lora_A.bias",
        "base_model.model.model.layers.6.self_attn.q_proj.lora_A.weight ",
        "model.layers.6.self_attn.q_proj.lora_A.weight",
        "base_model.model.lm_head.lora_A.weight",
        "",
        "a\nb",
    ] {
        let refused = renamed(unknown);
        assert!(matches!(refused, UpdateError::Unknown { .. }), "{unknown}: {refused}");
        one_clear_line(&refused.to_string());
    }
    one_clear_line(&renamed(&"x".repeat(5000)).to_string());
    // A tensor, and the metadata, that stand there twice.
    let (json, _) = split(FILE);
    let text = core::str::from_utf8(json).unwrap();
    let entry = header()[name("q_proj.lora_A")].to_string();
    let twice = text.replacen('{', &format!("{{\"{}\":{entry},", name("q_proj.lora_A")), 1);
    let refused = Header::read(twice.as_bytes(), (FILE.len() + twice.len() - json.len()) as u64);
    assert!(matches!(refused, Err(UpdateError::Begin { .. })), "{refused:?}");
    let twice = text.replacen('{', "{\"__metadata__\":{\"format\":\"sapwood-update/1\"},", 1);
    let refused = Header::read(twice.as_bytes(), (FILE.len() + twice.len() - json.len()) as u64);
    let said = refused.unwrap_err().to_string();
    assert!(said.contains("duplicate field `__metadata__`"), "{said}");
    let twice = text.replacen(":{", ":{\"format\":\"sapwood-update/1\",", 1);
    let refused = Header::read(twice.as_bytes(), (FILE.len() + twice.len() - json.len()) as u64);
    assert_eq!(refused, Err(UpdateError::Metadata { key: "format", got: 2 }));
    let blank = text.replacen('{', " {", 1);
    let refused = Header::read(blank.as_bytes(), FILE.len() as u64 + 1);
    assert!(matches!(refused, Err(UpdateError::Json { .. })), "{refused:?}");
}

#[test]
fn metadata_is_checked_key_by_key() {
    let meta = "__metadata__";
    for (key, wrong) in [
        ("format", &["", "sapwood-update/2", "pt", "sapwood-update/1 "][..]),
        ("base", &["", "ab", &"AB".repeat(32)]),
        ("cohort", &["", "ab"]),
        ("from", &["", "0"]),
        ("generation", &["", "-1", "+1", "01", "1.0", " 1", "9007199254740992", "x"]),
        ("steps", &["", "0", "-1", "99999999999999999999"]),
        ("tokens", &["", "0"]),
    ] {
        let mut without = header();
        without[meta].as_object_mut().unwrap().remove(key);
        assert_eq!(read(&without), Err(UpdateError::Metadata { key, got: 0 }));
        for value in wrong {
            let mut header = header();
            header[meta][key] = json!(value);
            let said = read(&header).unwrap_err().to_string();
            one_clear_line(&said);
            assert!(said.contains(&format!("`{key}`")), "{said}");
        }
        let mut header = header();
        header[meta][key] = json!(1);
        one_clear_line(&read(&header).unwrap_err().to_string());
    }
    let mut more = header();
    more[meta]["later"] = json!("x");
    assert!(read(&more).is_ok(), "a later version may say more");
    let mut global = header();
    global[meta]["format"] = json!("sapwood-global/1");
    (global[meta]["steps"], global[meta]["tokens"]) = (json!("0"), json!("0"));
    let global = read(&global).unwrap();
    assert_eq!(global.fits(&Expected { kind: Kind::Global, ..expected() }), Ok(()));
    let mut none = header();
    none.as_object_mut().unwrap().remove(meta);
    assert_eq!(read(&none), Err(UpdateError::Metadata { key: "format", got: 0 }));
}

#[test]
fn a_file_of_something_else_is_refused_by_name() {
    let header = Header::read(split(FILE).0, FILE.len() as u64).unwrap();
    let good = expected();
    let said = |expected: Expected<'_>| header.fits(&expected).unwrap_err();
    for (expected, key) in [
        (Expected { kind: Kind::Global, ..good }, "format"),
        (Expected { base: Hash([1; 32]), ..good }, "base"),
        (Expected { cohort: crate::fleet::id::CohortId([1; 32]), ..good }, "cohort"),
        (Expected { from: Some(Hash([1; 32])), ..good }, "from"),
    ] {
        let refused = said(expected);
        one_clear_line(&refused.to_string());
        let code = if key == "from" { Code::Stale } else { Code::Adapter };
        assert_eq!(refused.code(), code);
        let UpdateError::Other { key: got, .. } = refused else { unreachable!("{refused}") };
        assert_eq!(got, key);
    }
    let mut wide = SHAPE;
    wide.fans[2] = [4, 4];
    for (shape, says) in [
        (Shape { targets: 1, ..SHAPE }, "layers.6.self_attn.v_proj.lora_A.weight is of a module"),
        (Shape { targets: 7, ..SHAPE }, "layers.6.self_attn.k_proj.lora_A.weight is missing"),
        (Shape { layers: 2, ..SHAPE }, "layers.7.self_attn.q_proj.lora_A.weight is missing"),
        (
            Shape { first_layer: 5, ..SHAPE },
            "layers.6.self_attn.q_proj.lora_A.weight is of a module",
        ),
        (wide, "v_proj.lora_B.weight has shape [3, 2], expected [4, 2]"),
    ] {
        let refused = said(Expected { shape: &shape, ..good }).to_string();
        one_clear_line(&refused);
        assert!(refused.contains(says), "{refused}");
    }
    let refused = said(Expected { rank_max: 1, ..good });
    assert!(matches!(refused, UpdateError::Rank { max: 1, got: 2, .. }), "{refused}");
}

/// Files of q alone, in f16, a number a side, layers as they are given.
fn thin(layers: &[u32], factors: &[&str]) -> Result<Header, UpdateError> {
    let mut all = json!({"__metadata__": header()["__metadata__"]});
    let mut end = 0;
    for layer in layers {
        for factor in factors {
            let name = format!(
                "base_model.model.model.layers.{layer}.self_attn.q_proj.lora_{factor}.weight"
            );
            all[name] = json!({"dtype": "F16", "shape": [1, 1], "data_offsets": [end, end + 2]});
            end += 2;
        }
    }
    let json = all.to_string();
    Header::read(json.as_bytes(), 8 + json.len() as u64 + end)
}

#[test]
fn each_layer_has_the_same_modules_with_both_factors() {
    let both = ["A", "B"];
    let most = u32::from(FLEET_LAYERS_MAX);
    let shape = thin(&(0..most).collect::<Vec<_>>(), &both).unwrap().shape;
    assert_eq!((shape.first_layer, shape.layers, shape.targets), (0, FLEET_LAYERS_MAX, 1));
    let last = thin(&[65_535], &both).unwrap().shape;
    assert_eq!((last.first_layer, last.layers), (65_535, 1));
    assert!(matches!(thin(&[3, 4], &["A"]), Err(UpdateError::Missing { .. })));
    assert!(matches!(thin(&[3, 5], &both), Err(UpdateError::Missing { .. })));
    assert_eq!(thin(&[0, most], &both), Err(UpdateError::Layers { got: most + 1 }));
    assert_eq!(thin(&[0, 65_535], &both), Err(UpdateError::Layers { got: 65_536 }));
    assert_eq!(thin(&[], &both), Err(UpdateError::Count { got: 0 }));
    assert_eq!(thin(&[0], &["A"]), Err(UpdateError::Count { got: 1 }));
    let many: Vec<u32> = (0..3000).collect();
    assert!(matches!(thin(&many, &both), Err(UpdateError::Count { .. })));
}

#[test]
fn a_tensor_without_a_place_of_its_own_is_there_twice() {
    let (json, body) = split(FILE);
    let mut text = core::str::from_utf8(json).unwrap().trim_end().to_string();
    let end = body.len();
    text.pop();
    let again = name("q_proj.lora_A");
    text += &format!(
        ",\"{again}\":{{\"dtype\":\"F16\",\"shape\":[2,4],\"data_offsets\":[{end},{}]}}}}",
        end + 16
    );
    let refused = Header::read(text.as_bytes(), (8 + text.len() + end + 16) as u64);
    assert_eq!(refused, Err(UpdateError::Twice { tensor: again }));
}

#[test]
fn every_number_that_is_not_finite_is_found_however_the_body_is_cut() {
    let (json, body) = split(FILE);
    let header = Header::read(json, FILE.len() as u64).unwrap();
    // v B has 6 numbers in f32, q A, q B and v A 8 in f16.
    let json: Value = serde_json::from_slice(json).unwrap();
    let mut numbers = 0;
    for (name, entry) in
        json.as_object().unwrap().iter().filter(|(name, _)| *name != "__metadata__")
    {
        let is_f32 = entry["dtype"] == "F32";
        let begin = entry["data_offsets"][0].as_u64().unwrap() as usize;
        let size = if is_f32 { 4 } else { 2 };
        let end = entry["data_offsets"][1].as_u64().unwrap() as usize;
        for (position, at) in (begin..end).step_by(size).enumerate() {
            for (f16, f32) in [
                (0x7c00_u16, f32::INFINITY),
                (0xfc00, f32::NEG_INFINITY),
                (0x7c01, f32::from_bits(0x7f80_0001)),
                (0xffff, f32::NAN),
            ] {
                let mut bad = body.to_vec();
                let number =
                    if is_f32 { f32.to_le_bytes().to_vec() } else { f16.to_le_bytes().to_vec() };
                bad[at..at + size].copy_from_slice(&number);
                let (tensor, position) = (name.clone(), position as u64);
                let refused = Err(UpdateError::NotFinite { tensor, position });
                for length in [1, 2, 3, 5, 7, 1000] {
                    let pieces: Vec<&[u8]> = bad.chunks(length).collect();
                    assert_eq!(looked_at(&header, &pieces), refused, "pieces of {length}");
                }
            }
            numbers += 1;
        }
    }
    assert_eq!(numbers, 30);
    for length in 1..body.len() {
        let pieces: Vec<&[u8]> = body.chunks(length).collect();
        assert_eq!(looked_at(&header, &pieces), Ok(()), "pieces of {length}");
        let (expected, got) = (body.len() as u64, length as u64);
        assert_eq!(
            looked_at(&header, &[&body[..length]]),
            Err(UpdateError::Body { expected, got })
        );
    }
    // The largest finite numbers.
    let mut large = body.to_vec();
    large[..4].copy_from_slice(&f32::MAX.to_le_bytes());
    large[70..].copy_from_slice(&0xfbff_u16.to_le_bytes());
    assert_eq!(looked_at(&header, &[&large]), Ok(()));
    let refused = looked_at(&header, &[body, &[0]]);
    assert!(matches!(refused, Err(UpdateError::Body { .. })), "{refused:?}");
}

//! A base with its adapter folded in: it scores as the two do, and nothing is replaced.

use super::fixture::{accepted, files, fixture, refused};
use serde_json::Value;
use std::fs;

/// Bits per byte over the fixture's text.
fn bits(model: &str, more: &[&str]) -> f64 {
    let data = fixture().text("pump.jsonl");
    let ask = ["--json", "eval", "--model", model, "--data", &data, "--max-seq-length", "32"];
    let said = accepted(&[&ask[..], more].concat());
    let value: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    value["bits_per_byte"].as_f64().unwrap()
}

#[test]
fn a_fused_model_scores_as_base_and_adapter_do() {
    let held = fixture().learned();
    let (state, model) = (held.state.display().to_string(), fixture().text("model"));
    let expected = bits(&model, &["--state", &state]);
    assert!((bits(&model, &[]) - expected).abs() > 1e-2, "the adapter says something");
    let at = |name: &str| held.place.path().join(name).display().to_string();
    for (name, base, more, within) in [
        ("f32", &model, &[][..], 1e-5),
        ("own", &model, &["--format", "sapwood"], 1e-5),
        ("own-f16", &model, &["--format", "sapwood", "--dtype", "f16"], 1e-3),
        ("bf16", &model, &["--dtype", "bf16"], 1e-2),
        ("from-hf", &fixture().text("hf"), &["--dtype", "f16"], 1e-3),
    ] {
        let (out, exported) = (at(name), at(&format!("{name}-exported")));
        let ask = ["fuse", "--model", base, "--adapter-path", &state, &out];
        accepted(&[&ask[..], more].concat());
        let fused = match more.first() {
            Some(&"--format") => out,
            _ => {
                accepted(&["export", &out, &exported]);
                exported
            }
        };
        let got = bits(&fused, &[]);
        assert!((got - expected).abs() < within, "{name}: {got}, expected {expected}");
    }
    let config = fs::read_to_string(held.place.path().join("bf16/config.json")).unwrap();
    assert!(config.contains("\"bfloat16\""), "{config}");
    held.assert_untouched();
}

#[test]
fn what_cannot_be_fused_is_refused_and_leaves_nothing_behind() {
    let held = fixture().learned();
    let (state, model) = (held.state.display().to_string(), fixture().text("model"));
    let out = held.place.path().join("out");
    let ask = |base: &str, adapter: &str, more: &[&str]| {
        let name = out.display().to_string();
        let words = ["fuse", "--model", base, "--adapter-path", adapter, &name];
        [&words[..], more].concat().iter().map(|word| (*word).to_owned()).collect::<Vec<_>>()
    };
    refused(&ask(&model, &state, &["--format", "sapwood", "--dtype", "bf16"]), &["--dtype bf16"]);
    refused(&ask(&model, "nowhere", &[]), &["nowhere"]);
    refused(&ask("nowhere", &state, &[]), &["nowhere/config.json"]);
    // Another base of the same shape.
    let other = held.place.path().join("other").display().to_string();
    sapwood_tiny::write(other.as_ref(), 8, sapwood_tiny::VOCAB).unwrap();
    refused(&ask(&other, &state, &[]), &["was made for base"]);
    // An adapter of the output layer, as PEFT writes it.
    let place = fixture().text("adapter");
    let text = fs::read_to_string(format!("{place}/adapter_config.json")).unwrap();
    let spoiled = held.place.path().join("spoiled");
    fs::create_dir(&spoiled).unwrap();
    for (path, bytes) in files(place.as_ref()) {
        fs::write(spoiled.join(path.file_name().unwrap()), bytes).unwrap();
    }
    fs::remove_file(spoiled.join("adapter_meta.json")).unwrap();
    let mut value: Value = serde_json::from_str(&text).unwrap();
    value["modules_to_save"] = serde_json::json!(["lm_head"]);
    fs::write(spoiled.join("adapter_config.json"), value.to_string()).unwrap();
    refused(&ask(&model, &spoiled.display().to_string(), &[]), &["modules_to_save", "lm_head"]);
    assert!(!out.exists());
    // A folder that holds something.
    fs::create_dir(&out).unwrap();
    fs::write(out.join("precious"), "1").unwrap();
    for more in [&[][..], &["--format", "sapwood"]] {
        refused(&ask(&model, &state, more), &["is not an empty folder"]);
    }
    assert_eq!(fs::read_dir(&out).unwrap().count(), 1);
    held.assert_untouched();
}

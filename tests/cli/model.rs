//! Models and adapters that are refused, before the state is touched.

use super::fixture::{Held, copy, fixture, refused};
use sapwood_tiny as tiny;
use std::fs;
use std::path::{Path, PathBuf};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// A copy of a model folder in a place of its own, beside a state that has learned.
fn beside(model: &Path) -> (Held, PathBuf) {
    let held = fixture().learned();
    let folder = held.place.path().join("model");
    copy(model, &folder);
    (held, folder)
}

/// The refusal of a job with this model; the state is as it was.
fn of(held: &Held, model: &Path, names: &[&str]) -> String {
    let mut job = fixture().job(&held.state, &fixture().at("pump.jsonl"), &[]);
    job[2] = model.display().to_string();
    let line = refused(&job, names);
    held.assert_untouched();
    line
}

#[test]
fn a_model_folder_that_is_not_there_or_lacks_a_file_is_named() {
    let held = fixture().learned();
    of(&held, "nope".as_ref(), &["nope/config.json"]);
    for file in ["config.json", "model.onnx", "tokenizer.json"] {
        let (held, model) = beside(&fixture().at("model"));
        fs::remove_file(model.join(file)).unwrap();
        let line = of(&held, &model, &[file, "No such file"]);
        assert_eq!(line.matches("No such file").count(), 1, "{line}");
    }
}

#[test]
fn a_truncated_onnx_file_is_refused_wherever_it_ends() {
    let (held, model) = beside(&fixture().at("model"));
    let whole = fs::read(model.join("model.onnx")).unwrap();
    for end in [0, 1, 100, whole.len() / 2, whole.len() - 1] {
        fs::write(model.join("model.onnx"), &whole[..end]).unwrap();
        of(&held, &model, &["model.onnx"]);
    }
    fs::write(model.join("model.onnx"), b"PK\x03\x04 some other kind of file").unwrap();
    of(&held, &model, &["model.onnx is not a whole ONNX model"]);
}

#[test]
fn an_operator_that_no_llama_has_is_named() {
    let (held, model) = beside(&golden("onnx/hand_op17"));
    let mut bytes = fs::read(model.join("model.onnx")).unwrap();
    let at = bytes.windows(9).position(|window| window == b"\x22\x07Softmax").unwrap();
    bytes[at..at + 9].copy_from_slice(b"\x22\x07Hardmax");
    fs::write(model.join("model.onnx"), bytes).unwrap();
    of(&held, &model, &["Hardmax", "sapwood export"]);
}

#[test]
fn external_data_that_is_missing_or_short_is_named() {
    let (held, model) = beside(&golden("onnx/hand_external"));
    let data = model.join("model.onnx.data");
    let bytes = fs::read(&data).unwrap();
    fs::write(&data, &bytes[..bytes.len() / 2]).unwrap();
    of(&held, &model, &["model.onnx.data", "truncated"]);
    fs::remove_file(&data).unwrap();
    of(&held, &model, &["model.onnx.data", "copy it beside model.onnx"]);
}

#[test]
fn weights_of_other_shapes_than_config_json_says_are_refused() {
    for (was, is, name) in [
        ("\"intermediate_size\": 64", "\"intermediate_size\": 48", "48"),
        ("\"num_hidden_layers\": 3", "\"num_hidden_layers\": 4", "layer"),
        ("\"vocab_size\": 300", "\"vocab_size\": 320", "320"),
    ] {
        let (held, model) = beside(&fixture().at("model"));
        let config = fs::read_to_string(model.join("config.json")).unwrap();
        assert!(config.contains(was));
        fs::write(model.join("config.json"), config.replace(was, is)).unwrap();
        of(&held, &model, &[name]);
    }
}

#[test]
fn a_configuration_that_we_cannot_compute_is_refused_by_its_field() {
    for (was, is, name) in [
        ("\"model_type\": \"llama\"", "\"model_type\": \"mamba\"", "model_type"),
        ("\"hidden_act\": \"silu\"", "\"hidden_act\": \"gelu\"", "hidden_act"),
        ("\"hidden_size\": 32", "\"hidden_size\": -32", "hidden_size"),
        ("{", "", "config.json is not a JSON object"),
    ] {
        let (held, model) = beside(&fixture().at("model"));
        let config = fs::read_to_string(model.join("config.json")).unwrap();
        assert!(config.contains(was));
        fs::write(model.join("config.json"), config.replacen(was, is, 1)).unwrap();
        of(&held, &model, &[name]);
    }
}

#[test]
fn a_tokenizer_that_does_not_match_the_vocabulary_is_refused() {
    let held = fixture().learned();
    let (hf, model) = (held.place.path().join("hf"), held.place.path().join("model"));
    tiny::write(&hf, 7, 96).unwrap();
    refused(
        &["export", &hf.display().to_string(), &model.display().to_string()],
        &["tokenizer.json", "299", "below 96"],
    );
    copy(&fixture().at("model"), &model);
    let text = fs::read_to_string(model.join("tokenizer.json")).unwrap();
    let mut more: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut token = more["added_tokens"][0].clone();
    (token["id"], token["content"]) = (tiny::VOCAB.into(), "<more>".into());
    more["added_tokens"].as_array_mut().unwrap().push(token);
    fs::write(model.join("tokenizer.json"), more.to_string()).unwrap();
    of(&held, &model, &["tokenizer does not match the model", "below 300", "got 300"]);
    fs::write(model.join("tokenizer.json"), "{\"version\":\"1.0\"}").unwrap();
    of(&held, &model, &["tokenizer.json is not a tokenizer"]);
}

#[test]
fn a_safetensors_file_whose_header_lies_is_not_exported() {
    let place = tempfile::tempdir().unwrap();
    let hf = place.path().join("hf");
    tiny::write(&hf, 7, tiny::VOCAB).unwrap();
    let path = hf.join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    let length = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let header = String::from_utf8(whole[8..8 + length].to_vec()).unwrap();
    let with = |header: &str| {
        [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &whole[8 + length..]].concat()
    };
    let lies: [(Vec<u8>, &str); 7] = [
        (whole[..5].to_vec(), "5 bytes"),
        ([&(1u64 << 60).to_le_bytes(), &whole[8..]].concat(), "header of 1152921504606846976"),
        (whole[..whole.len() - 4].to_vec(), "model.safetensors"),
        (with(&header.replacen("[300,32]", "[300,33]", 1)), "[300, 33]"),
        (with(&header.replacen("\"F32\"", "\"I32\"", 1)), "I32"),
        (with(&header.replacen("model.norm.weight", "model.norm.wight", 1)), "model.norm"),
        (with(&header.replacen('{', "[", 1)), "model.safetensors"),
    ];
    for (bytes, name) in lies {
        assert!(bytes != whole);
        fs::write(&path, bytes).unwrap();
        let [hf, model] = ["hf", "model"].map(|name| place.path().join(name).display().to_string());
        refused(&["export", &hf, &model], &[name]);
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1, "nothing is left behind");
    }
}

#[test]
fn a_folder_that_holds_something_is_not_exported_over() {
    let (hf, model) = (fixture().text("hf"), fixture().text("model"));
    let before = super::fixture::files(&fixture().at("model"));
    refused(&["export", &hf, &model], &["not an empty folder", "nothing was changed"]);
    assert!(before == super::fixture::files(&fixture().at("model")));
}

#[test]
fn an_adapter_or_a_state_of_another_base_is_refused() {
    let held = fixture().learned();
    let (hf, model) = (held.place.path().join("hf"), held.place.path().join("model"));
    tiny::write(&hf, 8, tiny::VOCAB).unwrap();
    sapwood::base::export(&hf, &model, sapwood::base::ExportOptions::default()).unwrap();
    let (other, adapter) = (model.display().to_string(), fixture().text("adapter"));
    let state = held.state.display().to_string();
    let ask = ["generate", "--model", &other, "-p", "x"];
    refused(&[&ask[..], &["--adapter-path", &adapter]].concat(), &["adapter", "made for base"]);
    refused(&[&ask[..], &["--state", &state]].concat(), &["made for base"]);
    of(&held, &model, &["another base model", "unchanged"]);
}

#[test]
fn a_damaged_adapter_is_named() {
    let place = tempfile::tempdir().unwrap();
    let adapter = place.path().join("adapter");
    let (model, path) = (fixture().text("model"), adapter.display().to_string());
    for (file, bytes, name) in [
        ("adapter_model.safetensors", &b"\xff\xff\xff\xff"[..], "adapter_model.safetensors"),
        ("adapter_config.json", b"{\"peft_type\":\"LORA\"", "adapter_config.json"),
        ("adapter_meta.json", b"{}", "adapter_meta.json"),
    ] {
        copy(&fixture().at("adapter"), &adapter);
        fs::write(adapter.join(file), bytes).unwrap();
        refused(&["generate", "--model", &model, "--adapter-path", &path, "-p", "x"], &[name]);
        refused(&["adapter", "inspect", &path, "--model", &model], &[name]);
    }
    fs::remove_file(adapter.join("adapter_config.json")).unwrap();
    refused(&["adapter", "inspect", &path], &["adapter_config.json", "No such file"]);
}

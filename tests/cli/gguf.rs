//! GGUF files: exported, asked, and refused where a model folder is meant.

use super::fixture::{accepted, fixture, refused};
use std::fs;
use std::path::{Path, PathBuf};

fn quantised() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/gguf/quantised/model.gguf")
}

#[test]
fn a_gguf_file_becomes_a_model_folder_that_reads_and_writes() {
    let place = tempfile::tempdir().unwrap();
    let (file, model) = (quantised().display().to_string(), place.path().join("model"));
    let model = model.display().to_string();
    let said = accepted(&["export", &file, &model]);
    assert!(said.contains("config.json, tokenizer.json") && said.contains("model.onnx"), "{said}");
    let written = accepted(&["generate", "--model", &model, "-p", "the pump", "--max-tokens", "4"]);
    assert!(!written.trim().is_empty());
    let score = ["eval", "--model", &model, "--data", &fixture().text("door.jsonl")];
    accepted(&[&score[..], &["--max-seq-length", "32"]].concat());
}

#[test]
fn a_gguf_file_as_a_model_is_refused_with_the_way_out() {
    let file = quantised().display().to_string();
    let way = ["is a GGUF file", "sapwood export"];
    refused(&["generate", "--model", &file, "-p", "x"], &way);
    refused(&["eval", "--model", &file, "--data", &fixture().text("door.jsonl")], &way);
    refused(&["doctor", "--model", &file], &way);
    refused(&["adapter", "inspect", &fixture().text("adapter"), "--model", &file], &way);
    let held = fixture().learned();
    let mut job = fixture().job(&held.state, &fixture().at("pump.jsonl"), &[]);
    job[2] = file;
    refused(&job, &way);
    held.assert_untouched();
}

#[test]
fn a_damaged_gguf_file_is_not_exported() {
    let place = tempfile::tempdir().unwrap();
    let whole = fs::read(quantised()).unwrap();
    let (path, out) = (place.path().join("x.gguf"), place.path().join("model"));
    let claims = [&whole[..8], &[0xff; 16], &whole[24..]].concat();
    for (bytes, name) in [
        (whole[..whole.len() / 2].to_vec(), "it is cut off"),
        (whole[..100].to_vec(), "x.gguf is not a whole GGUF file"),
        (claims, "18446744073709551615 tensors"),
        (b"PK\x03\x04 some other kind of file".to_vec(), "expected \"GGUF\""),
        (Vec::new(), "the word GGUF"),
    ] {
        fs::write(&path, bytes).unwrap();
        refused(&["export", &path.display().to_string(), &out.display().to_string()], &[name]);
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1, "nothing is left behind");
    }
}

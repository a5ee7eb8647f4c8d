//! Adapters for other runtimes: what is written is read back as it was, and nothing is replaced.

use super::fixture::{accepted, fixture, refused};
use std::fs;

#[test]
fn an_adapter_comes_back_from_mlx_as_it_went() {
    let held = fixture().learned();
    let (state, model) = (held.state.display().to_string(), fixture().text("model"));
    let at = |name: &str| held.place.path().join(name).display().to_string();
    let (mlx, peft, again) = (at("mlx"), at("peft"), at("again"));
    accepted(&["convert", "--to", "mlx", &state, &mlx, "--model", &model]);
    accepted(&["convert", "--to", "peft", &state, &peft, "--model", &model]);
    accepted(&["convert", "--to", "peft", &mlx, &again, "--model", &model]);
    let tensors = |folder: &str| fs::read(format!("{folder}/adapter_model.safetensors")).unwrap();
    assert!(tensors(&peft) == tensors(&again), "factors are turned and turned back, not computed");
    let data = fixture().text("door.jsonl");
    let score = |name: &[&str]| {
        let ask = ["eval", "--model", &model, "--data", &data, "--max-seq-length", "32"];
        accepted(&[&ask[..], name].concat())
    };
    assert_eq!(score(&["--adapter-path", &mlx]), score(&["--state", &state]));
    assert_ne!(score(&["--adapter-path", &mlx]), score(&[]));
}

#[test]
fn a_converted_adapter_replaces_nothing_and_says_how_it_is_used() {
    let held = fixture().learned();
    let (state, model) = (held.state.display().to_string(), fixture().text("model"));
    let out = held.place.path().join("adapter.gguf");
    let name = out.display().to_string();
    let ask = |to: &str, more: &[&str]| {
        let words = ["convert", "--to", to, &state, &name, "--model", &model];
        [&words[..], more].concat().iter().map(|word| (*word).to_owned()).collect::<Vec<_>>()
    };
    refused(&ask("mlx", &["--dtype", "f16"]), &["--dtype f16", "--to gguf"]);
    assert!(!out.exists());
    let said = accepted(&ask("gguf", &["--dtype", "f16"]));
    assert!(said.contains("--lora") && said.contains("ADAPTER"), "{said}");
    let written = fs::read(&out).unwrap();
    assert!(written.starts_with(b"GGUF"));
    for to in ["gguf", "mlx", "peft"] {
        refused(&ask(to, &[]), &["adapter.gguf"]);
    }
    assert!(fs::read(&out).unwrap() == written, "the file of before is unchanged");
    refused(&["convert", "--to", "gguf", "missing", "out.gguf"], &["missing"]);
}

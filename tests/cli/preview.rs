//! What is said before anything is learned: what data holds and what of it counts, and what a model is not.

use super::fixture::{accepted, events, fixture, refused, sapwood};
use std::fs;
use std::path::Path;

fn check(data: &Path, more: &[&str]) -> Vec<String> {
    let data = data.display().to_string();
    let (model, named) = (fixture().text("model"), ["data", "check", "--model"]);
    let args = named.iter().copied().chain([model.as_str(), "--data", data.as_str()]);
    args.chain(more.iter().copied()).map(str::to_owned).collect()
}

/// Questions with an answer each; the last has `last`.
fn questions(count: usize, last: &str) -> String {
    let line = |at: usize| {
        let answer = if at + 1 == count { last } else { "open" };
        format!("{{\"prompt\":\"door {at} \",\"completion\":\"{answer}\"}}\n")
    };
    (0..count).map(line).collect()
}

#[test]
fn data_check_says_what_is_read_and_learned_and_shows_it() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path().join("data.jsonl");
    let twice = "{\"prompt\":\"door 0 \",\"completion\":\"open\"}\n";
    fs::write(&data, format!("{twice}{}", questions(19, "shut"))).unwrap();
    let said = accepted(&check(&data, &["--mask-prompt", "--show", "1"]));
    for part in [
        "data.jsonl: train, JSON lines, examples: 20",
        "train: 19 completions",
        "data: 1 completions",
        "twice in train: 1; held out and in train too: 0",
        "example 1, what counts in ⟦ ⟧:",
        "⟦open",
    ] {
        assert!(said.contains(part), "expected {part:?} in {said}");
    }
    assert!(!said.contains("⟦door") && !said.contains("example 2") && !said.contains('\u{1b}'));
    let told = events(&accepted(&check(&data, &["--json", "--mask-prompt", "--show", "2"])));
    let of = |event: &str| told.iter().filter(|one| one["event"] == event).collect::<Vec<_>>();
    assert_eq!((of("file").len(), of("part").len(), of("example").len()), (1, 2, 2));
    assert_eq!(of("part")[0]["kinds"]["completions"], 19);
    let learned = |one: &&serde_json::Value| one["learned"] == true;
    assert_eq!(of("example")[1]["pieces"].as_array().unwrap().iter().filter(learned).count(), 1);
    let whole = events(&accepted(&check(&data, &["--json"])));
    let labels = |told: &[serde_json::Value]| {
        told.iter().find(|one| one["event"] == "part").unwrap()["learned"].as_u64().unwrap()
    };
    assert!(labels(&whole) > labels(&told));
}

/// The held-out end has nothing that counts: which part it is, is said.
#[test]
fn data_check_refuses_what_a_job_refuses_and_names_the_part() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path().join("data.jsonl");
    fs::write(&data, questions(12, "")).unwrap();
    let names = ["the held-out end of the data", "no token is trainable"];
    let checked = refused(&check(&data, &["--mask-prompt"]), &names);
    let state = place.path().join("state");
    let learned = refused(&fixture().job(&state, &data, &["--mask-prompt"]), &names);
    assert_eq!(checked, learned);
    assert!(!state.exists());
    let one = place.path().join("one.jsonl");
    fs::write(&one, questions(1, "open")).unwrap();
    refused(&check(&one, &[]), &["one has one example", "held out"]);
    refused(&check(Path::new("nope"), &[]), &["nope", "No such file"]);
}

#[test]
fn a_model_that_is_none_is_named_with_the_way_out() {
    let place = tempfile::tempdir().unwrap();
    let gguf = place.path().join("model.gguf").display().to_string();
    let text = fixture().text("pump.jsonl");
    for (model, what) in [
        (gguf.as_str(), "GGUF"),
        (fixture().text("hf").as_str(), "Hugging Face folder"),
        ("some-org/some-model-1.5B", "name of the hub"),
        ("hf:some-org/some-model", "name of the hub"),
    ] {
        let names = [what, "sapwood export"];
        refused(&["eval", "--model", model, "--data", &text], &names);
        refused(&["generate", "--model", model, "-p", "the"], &names);
        refused(&["doctor", "--model", model], &names);
        refused(&["stream", "--model", model, &text], &names);
        refused(&["adapt", "--model", model, "--data", &text], &names);
    }
    let line = refused(&["eval", "--model", "no-such-model", "--data", &text], &["no-such-model"]);
    assert!(!line.contains("hub"), "{line}");
}

#[test]
fn export_makes_the_folders_above_and_takes_them_back_when_it_fails() {
    let place = tempfile::tempdir().unwrap();
    let hf = fixture().text("hf");
    let model = place.path().join("a/b/model");
    accepted(&["export", &hf, &model.display().to_string()]);
    assert!(model.join("model.onnx").is_file());
    let broken = place.path().join("hf");
    super::fixture::copy(Path::new(&hf), &broken);
    let path = broken.join("tokenizer.json");
    let mut tokenizer: serde_json::Value =
        serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let pad = serde_json::json!({"id": 99_999, "content": "<pad>", "special": true,
        "single_word": false, "lstrip": false, "rstrip": false, "normalized": false});
    tokenizer["added_tokens"].as_array_mut().unwrap().push(pad);
    fs::write(&path, tokenizer.to_string()).unwrap();
    let out = place.path().join("c/d/model").display().to_string();
    let names = ["<pad>", "99999", "ids below"];
    refused(&["export", &broken.display().to_string(), &out], &names);
    assert!(!place.path().join("c").exists(), "what was made for it is still there");
    assert!(model.exists());
}

#[test]
fn passes_stand_in_place_of_steps_and_a_log_has_the_time_that_is_left() {
    let place = tempfile::tempdir().unwrap();
    let state = place.path().join("state");
    let job = fixture().job(&state, &fixture().at("pump.jsonl"), &[]);
    let job: Vec<String> =
        job.into_iter().filter(|word| word != "--iters" && word != "12").collect();
    let with = |more: &[&str]| -> Vec<String> {
        job.iter().cloned().chain(more.iter().map(|word| (*word).to_owned())).collect()
    };
    refused(&with(&["--epochs", "2", "--iters", "3"]), &["--epochs"]);
    refused(&with(&["--epochs", "0"]), &["--epochs", "more than 0"]);
    refused(&with(&["--epochs", "nan"]), &["--epochs"]);
    let output = sapwood(&with(&["--epochs", "1", "--json"]));
    let text = String::from_utf8(output.stdout).unwrap();
    let told = events(&text);
    let of = |event: &str| told.iter().find(|one| one["event"] == event).unwrap();
    let blocks = of("ready")["blocks"].as_u64().unwrap();
    assert_eq!(of("plan")["settings"]["iters"].as_u64(), Some(blocks.div_ceil(4)), "{text}");
    fs::remove_dir_all(&state).unwrap();
    let output = sapwood(&with(&["--epochs", "2"]));
    let log = String::from_utf8(output.stderr).unwrap();
    let line = log.lines().find(|line| line.starts_with("step 4/")).unwrap();
    assert!(line.ends_with("s left"), "{log}");
}

#[test]
fn eval_takes_narrow_weights_and_a_system_prompt_wants_a_chat() {
    let (model, data) = (fixture().text("model"), fixture().text("pump.jsonl"));
    let args = ["eval", "--model", &model, "--data", &data, "--max-seq-length", "32"];
    let score = |weights: &str| accepted(&[&args[..], &["--head-weights", weights]].concat());
    assert_eq!(score("auto"), accepted(&args));
    assert_ne!(score("int8"), score("f32"));
    refused(&[&args[..], &["--head-weights", "int4"]].concat(), &["int4"]);
    let system = ["generate", "--model", &model, "-p", "a", "--system", "b"];
    refused(&system, &["required arguments"]);
}

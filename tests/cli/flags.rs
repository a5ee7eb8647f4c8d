//! Flags and configuration files that are refused.

use super::fixture::{accepted, fixture, refused, sapwood};
use std::fs;

#[test]
fn the_command_alone_shows_its_help_and_every_subcommand_has_one() {
    let output = sapwood::<&str>(&[]);
    assert_eq!(output.status.code(), Some(2));
    let help = String::from_utf8(output.stderr).unwrap();
    let names =
        ["quickstart", "adapt", "eval", "generate", "stream", "export", "replay", "adapter"];
    for name in names.into_iter().chain(["rollback", "doctor"]) {
        assert!(help.contains(name), "{help}");
        assert!(accepted(&[name, "--help"]).contains("Usage:"));
    }
}

#[test]
fn what_the_command_line_does_not_know_is_named() {
    refused(&["adapt", "--modle", "x"], &["--modle"]);
    refused(&["adpat"], &["adpat"]);
    refused(&["adapt", "--iters", "many"], &["--iters", "many"]);
    refused(&["adapt", "--device", "tpu"], &["--device", "tpu"]);
    refused(&["generate", "--model", "x"], &["not provided"]);
}

#[test]
fn what_every_job_needs_is_asked_for() {
    let model = fixture().text("model");
    refused(&["adapt"], &["--model is missing", "sapwood export"]);
    refused(&["adapt", "--model", &model], &["--data is missing"]);
    refused(&["eval", "--model", &model], &["--data", "--choices"]);
    refused(&["generate", "-p", "x"], &["--model is missing"]);
    refused(&["stream", "x"], &["--model is missing"]);
}

#[test]
fn a_value_out_of_range_is_named_with_its_range() {
    let held = fixture().learned();
    for (flag, value, range) in [
        ("--iters", "0", "1 to"),
        ("--rank", "0", "1 to"),
        ("--retain", "1", "0 to 0.999999"),
        ("--learning-rate", "NaN", "expected a number"),
        ("--target-modules", "qkv", "q_proj"),
        ("--num-layers", "4", "at most the model's 3"),
        ("--max-seq-length", "129", "128"),
        ("--replay-blocks", "65537", "1 to 65536"),
    ] {
        let job = fixture().job(&held.state, &fixture().at("pump.jsonl"), &[flag, value]);
        refused(&job, &[flag, range, value]);
        held.assert_untouched();
    }
}

#[test]
fn a_configuration_is_refused_with_its_line() {
    let held = fixture().learned();
    let path = held.place.path().join("job.toml");
    let config = path.display().to_string();
    for (text, names) in [
        ("rank = 8\n\nrnak = 8\n", ["job.toml", "line 3", "`rnak`"]),
        ("seed = 1\nrank = 'four'\n", ["job.toml", "line 2", "string"]),
        ("seed = \n", ["job.toml", "line 1", "configuration"]),
        ("[job]\nrank = 8\n", ["job.toml", "line 1", "`job`"]),
    ] {
        fs::write(&path, text).unwrap();
        let job = fixture().job(&held.state, &fixture().at("pump.jsonl"), &["-c", &config]);
        refused(&job, &names);
    }
    fs::remove_file(&path).unwrap();
    let job = fixture().job(&held.state, &fixture().at("pump.jsonl"), &["-c", &config]);
    let line = refused(&job, &["job.toml", "No such file"]);
    assert_eq!(line.matches("No such file").count(), 1, "{line}");
    held.assert_untouched();
}

#[test]
fn what_generate_cannot_do_is_said() {
    let model = fixture().text("model");
    let ask = |more: &[&str], names: &[&str]| {
        refused(&[&["generate", "--model", &model][..], more].concat(), names)
    };
    ask(&["-p", ""], &["prompt has no tokens"]);
    ask(&["-p", "x", "--temp", "nan"], &["--temp", "0 to 100"]);
    ask(&["-p", "x", "--top-p", "0"], &["--top-p"]);
    ask(&["-p", &"the pump ".repeat(100)], &["the prompt has", "context is 128"]);
    ask(&["-p", "x", "--adapter-path", "nope"], &["nope"]);
}

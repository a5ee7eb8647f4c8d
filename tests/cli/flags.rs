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

/// Threads of a process while it runs, at most; the kernel counts them.
#[cfg(target_os = "linux")]
fn threads_of(args: &[String]) -> usize {
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_sapwood"))
        .args(args)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let tasks = format!("/proc/{}/task", child.id());
    let mut most = 0;
    let status = loop {
        most = most.max(fs::read_dir(&tasks).map_or(0, Iterator::count));
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        std::thread::park_timeout(std::time::Duration::from_millis(1));
    };
    assert!(status.success());
    most
}

/// Two threads that compute, or three: beside them the main one alone. A machine of one core shows
/// nothing, so the number that is asked for is more than that of any core here.
#[cfg(target_os = "linux")]
#[test]
fn threads_that_are_named_are_all_that_compute() {
    let (fixture, held) = (fixture(), fixture().learned());
    let (model, data) = (fixture.text("model"), fixture.text("pump.jsonl"));
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let eval = ["eval", "--model", &model, "--data", &data, "--max-seq-length", "32"];
    let generate = ["generate", "--model", &model, "-p", "the ", "--max-tokens", "40"];
    for threads in [1, 3] {
        let number = threads.to_string();
        let bound = ["--threads", &number];
        let more = ["--iters", "2", "--threads", &number];
        let job = fixture.job(&held.state, &fixture.at("pump.jsonl"), &more);
        let [eval, generate] = [&eval[..], &generate].map(|args| words(&[args, &bound].concat()));
        for command in [eval, generate, job] {
            let most = threads_of(&command);
            // The trunk runs tract on as many of its own, which wait while the others compute.
            assert!(most <= 1 + 2 * threads, "{command:?} took {most} threads for {threads}");
        }
    }
}

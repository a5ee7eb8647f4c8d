//! Data that is refused, before anything was learned from it.

use super::fixture::{fixture, refusal, refused};
use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

/// The refusal of a job over a data file of these bytes; the state is as it was.
fn of(name: &str, bytes: &[u8], more: &[&str], names: &[&str]) -> String {
    let held = fixture().learned();
    let path = held.place.path().join(name);
    fs::write(&path, bytes).unwrap();
    let line = refused(&fixture().job(&held.state, &path, more), names);
    held.assert_untouched();
    line
}

#[test]
fn missing_data_is_named_once() {
    let held = fixture().learned();
    let line =
        refused(&fixture().job(&held.state, "nope".as_ref(), &[]), &["nope", "No such file"]);
    assert_eq!(line.matches("No such file").count(), 1, "{line}");
    held.assert_untouched();
}

#[test]
fn empty_data_is_refused() {
    of("a.txt", b"", &[], &["a.txt is empty"]);
    of("a.jsonl", b"\n \r\n\n", &[], &["a.jsonl is empty"]);
    let held = fixture().learned();
    let folder = held.place.path().join("folder");
    fs::create_dir(&folder).unwrap();
    refused(&fixture().job(&held.state, &folder, &[]), &["folder is empty"]);
    held.assert_untouched();
}

#[test]
fn binary_data_is_refused_with_its_line() {
    of("a.txt", b"text\nmore\0text\n", &[], &["a.txt is binary", "NUL byte in line 2"]);
    of("a.jsonl", b"{\"text\":\"\xff\"}", &[], &["a.jsonl is binary", "not UTF-8 in line 1"]);
}

#[test]
fn a_broken_line_is_named_by_its_number() {
    let broken =
        |second: &str| format!("{{\"text\":\"one\"}}\n\n{second}\n{{\"text\":\"four\"}}\n");
    for (line, names) in [
        (
            "{\"text\":\"two",
            ["a.jsonl, line 3", "not a JSON object: EOF while parsing a string at column"],
        ),
        ("[1, 2]", ["a.jsonl, line 3", "not a JSON object"]),
        ("{\"txt\":\"two\"}", ["a.jsonl, line 3", "got txt"]),
        ("{\"text\":2}", ["a.jsonl, line 3", "text: expected a string, got 2"]),
        ("{\"messages\":[]}", ["a.jsonl, line 3", "at least one"]),
        (
            "{\"prompt\":\"x\",\"choices\":[\"a\",\"b\"],\"answer\":2}",
            ["a.jsonl, line 3", "answer"],
        ),
    ] {
        of("a.jsonl", broken(line).as_bytes(), &[], &names);
    }
}

#[test]
fn a_line_that_never_ends_is_refused_by_its_length() {
    let line = format!("{{\"text\":\"{}\"}}\n", "x".repeat(17 << 20));
    of("a.jsonl", line.as_bytes(), &[], &["a.jsonl, line 1", "expected at most 16777216 bytes"]);
}

#[test]
fn data_in_which_nothing_is_learned_is_refused() {
    let prompts = "{\"prompt\":\"the pump\",\"completion\":\"\"}\n".repeat(30);
    of(
        "a.jsonl",
        prompts.as_bytes(),
        &["--mask-prompt"],
        &["no token is trainable", "--mask-prompt"],
    );
    let long = format!("{{\"prompt\":\"{}\",\"completion\":\" yes\"}}\n", "the pump ".repeat(30));
    let names = ["no token is trainable", "--max-seq-length"];
    of("a.jsonl", long.repeat(30).as_bytes(), &["--mask-prompt"], &names);
}

#[test]
fn one_example_leaves_nothing_to_judge_by() {
    of(
        "a.jsonl",
        b"{\"prompt\":\"the \",\"completion\":\"pump\"}\n",
        &[],
        &["a has one example", "held out"],
    );
}

#[test]
fn a_folder_with_two_files_for_one_split_is_refused() {
    let held = fixture().learned();
    let folder = held.place.path().join("data");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("train.txt"), "one").unwrap();
    fs::write(folder.join("train.jsonl"), "{\"text\":\"two\"}").unwrap();
    refused(
        &fixture().job(&held.state, &folder, &[]),
        &["train.jsonl", "train.txt", "one of them"],
    );
    held.assert_untouched();
}

/// What was not asked for, and what does no good, is said.
#[test]
fn what_is_passed_over_and_threads_that_only_wait_are_told() {
    let place = tempfile::tempdir().unwrap();
    fs::copy(fixture().at("pump.jsonl"), place.path().join("test.jsonl")).unwrap();
    (0..7).for_each(|at| fs::write(place.path().join(format!("{at}.md")), "more").unwrap());
    let (model, data) = (fixture().text("model"), place.path().display().to_string());
    let args = ["eval", "--model", &model, "--data", &data, "--max-seq-length", "32"];
    let said = |threads: &str| {
        let program = env!("CARGO_BIN_EXE_sapwood");
        let out = Command::new(program).args(args).args(["--threads", threads]).output().unwrap();
        assert!(out.status.success());
        String::from_utf8(out.stderr).unwrap()
    };
    let crowded = said("1000");
    for part in ["4.md was passed over: beside files called train", "2 more were passed over"] {
        assert!(crowded.contains(part), "{crowded}");
    }
    assert!(crowded.contains("--threads 1000 is more than the ") && !crowded.contains("5.md"));
    assert!(!said("1").contains("--threads"));
}

#[test]
fn choices_and_text_are_told_apart_by_eval() {
    let (model, data) = (fixture().text("model"), fixture().text("door.jsonl"));
    let args = ["eval", "--model", &model, "--choices", &data, "--max-seq-length", "32"];
    refused(&args, &["expected lines of {\"prompt\", \"choices\", \"answer\"}"]);
}

#[test]
fn broken_standard_input_is_refused_like_a_file() {
    let held = fixture().learned();
    let mut child = Command::new(env!("CARGO_BIN_EXE_sapwood"))
        .args(fixture().job(&held.state, "-".as_ref(), &[]))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"{\"text\":\"a\"}\n{\"text\":").unwrap();
    refusal(&child.wait_with_output().unwrap(), &["standard input, line 2"]);
    held.assert_untouched();
}

#[test]
fn windows_line_ends_a_byte_order_mark_and_folders_in_folders_are_learned() {
    let held = fixture().learned();
    let folder = held.place.path().join("notes");
    fs::create_dir_all(folder.join("a/b")).unwrap();
    let windows = format!("\u{feff}{}", super::fixture::lines("a door ", 20).replace('\n', "\r\n"));
    fs::write(folder.join("a/b/lines.jsonl"), windows).unwrap();
    fs::write(folder.join("a/text.md"), "# Doors\r\n\r\nA door is open.\r\n".repeat(20)).unwrap();
    let said = fixture().adapt(&held.state, &folder, &["--iters", "2"]);
    assert!(said.contains("notes:") && said.contains("generation in use: 2"), "{said}");
}

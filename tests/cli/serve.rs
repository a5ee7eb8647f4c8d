//! `sapwood serve`: what stands beside it or in PATH serves, with the very arguments.
#![cfg(unix)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

/// The command in a folder of its own, which is as good as installed there.
fn installed(folder: &Path) -> Command {
    let program = folder.join("sapwood");
    let built = Path::new(env!("CARGO_BIN_EXE_sapwood"));
    if !program.exists() && fs::hard_link(built, &program).is_err() {
        fs::copy(built, &program).unwrap();
    }
    Command::new(program)
}

/// A program that says what it was given.
fn other(folder: &Path, says: &str) {
    let path = folder.join("firmware-host");
    fs::write(&path, format!("#!/bin/sh\necho {says} \"$@\"\nexit 7\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).trim_end().to_owned()
}

#[test]
fn serving_is_done_by_the_program_beside_it_else_by_that_in_path() {
    let [folder, elsewhere] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let serve = |words: &[&str]| {
        let mut command = installed(folder.path());
        let path = format!("{}:/bin:/usr/bin", elsewhere.path().display());
        command.args(words).env("PATH", path).output().unwrap()
    };
    let none = serve(&["serve", "--model", "m"]);
    let told = said(&none);
    assert!(!none.status.success() && told.lines().count() == 1, "{told}");
    assert!(told.contains("firmware-host is neither beside this program nor in PATH"), "{told}");
    other(elsewhere.path(), "there");
    assert_eq!(said(&serve(&["serve", "--model", "m"])), "there serve --model m");
    other(folder.path(), "here");
    let words = ["serve", "--model", "m", "--adapter-path", "a=b c", "--port", "1", "--help"];
    let output = serve(&words);
    assert_eq!(said(&output), "here serve --model m --adapter-path a=b c --port 1 --help");
    assert_eq!(output.status.code(), Some(7), "its end is that of the program");
    assert_eq!(said(&serve(&["--json", "serve"])), "here serve --json");
    assert_eq!(said(&serve(&["serve", "--help"])), "here serve --help");
    assert_eq!(said(&serve(&["serve", "--json", "--host", "::1"])), "here serve --host ::1 --json");
}

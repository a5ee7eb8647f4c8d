//! What the tests of the command share: a model, data, a state that has learned, and ways to ask.

use sapwood_tiny as tiny;
use serde_json::Value;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use tempfile::TempDir;

/// Everything that is made once and only read.
pub(crate) struct Fixture {
    place: TempDir,
}

/// The shared fixture.
pub(crate) fn fixture() -> &'static Fixture {
    static FIXTURE: OnceLock<Fixture> = OnceLock::new();
    FIXTURE.get_or_init(|| {
        let place = tempfile::tempdir().unwrap();
        let fixture = Fixture { place };
        fixture.make();
        fixture
    })
}

/// Flags that make a job short and its adapter one that is kept: the gate is tested elsewhere.
pub(crate) const JOB: [&str; 24] = [
    "--iters",
    "12",
    "--batch-size",
    "4",
    "--replay-batch-size",
    "4",
    "--num-layers",
    "2",
    "--max-seq-length",
    "32",
    "--learning-rate",
    "0.01",
    "--retain",
    "0.5",
    "--replay-blocks",
    "16",
    "--threads",
    "1",
    "--gate-old",
    "10",
    "--gate-new",
    "-1",
    "--steps-per-report",
    "4",
];

impl Fixture {
    fn make(&self) {
        tiny::write(&self.at("hf"), 7, tiny::VOCAB).unwrap();
        accepted(&["export", &self.text("hf"), &self.text("model")]);
        fs::write(self.at("pump.jsonl"), lines("the pump reports pressure ", 40)).unwrap();
        fs::write(self.at("door.jsonl"), lines("a door is open and clean ", 40)).unwrap();
        self.adapt(
            &self.at("state"),
            &self.at("pump.jsonl"),
            &["--adapter-path", &self.text("adapter")],
        );
    }

    /// A path of the fixture.
    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    /// The same as text.
    pub(crate) fn text(&self, name: &str) -> String {
        self.at(name).display().to_string()
    }

    /// The arguments of a short job.
    pub(crate) fn job(&self, state: &Path, data: &Path, more: &[&str]) -> Vec<String> {
        let (state, data) = (state.display().to_string(), data.display().to_string());
        let named = ["adapt", "--model", &self.text("model"), "--state", &state, "--data", &data];
        // A flag that is given again must win, and the command line takes each once.
        let kept = JOB.chunks(2).filter(|pair| !more.contains(&pair[0])).flatten();
        named.iter().chain(kept).chain(more).map(|text| (*text).to_string()).collect()
    }

    /// Runs a short job that must succeed.
    pub(crate) fn adapt(&self, state: &Path, data: &Path, more: &[&str]) -> String {
        accepted(&self.job(state, data, more))
    }

    /// A copy of the state that has learned, for a test to spoil.
    pub(crate) fn learned(&self) -> Held {
        let place = tempfile::tempdir().unwrap();
        let state = place.path().join("state");
        copy(&self.at("state"), &state);
        Held { before: files(&state), state, place }
    }

    /// What the adapter in use says.
    pub(crate) fn says(&self, state: &Path) -> String {
        let state = state.display().to_string();
        accepted(&[
            "generate",
            "--model",
            &self.text("model"),
            "--state",
            &state,
            "-p",
            "the ",
            "--max-tokens",
            "8",
        ])
    }

    /// Asserts that the state's generation is still what says what it said.
    pub(crate) fn assert_works(&self, state: &Path) {
        assert_eq!(self.says(state), self.says(&self.at("state")), "the adapter in use changed");
        accepted(&["replay", "verify", "--state", &state.display().to_string()]);
    }
}

/// A state folder and what it held.
pub(crate) struct Held {
    pub(crate) state: PathBuf,
    before: BTreeMap<PathBuf, Vec<u8>>,
    pub(crate) place: TempDir,
}

impl Held {
    /// Asserts that no byte of the state has changed.
    pub(crate) fn assert_untouched(&self) {
        let now = files(&self.state);
        let names = |files: &BTreeMap<PathBuf, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&now), names(&self.before));
        for (path, bytes) in &self.before {
            assert!(now[path] == *bytes, "{} changed", path.display());
        }
    }
}

/// One line of `{"text"}` for each of `count` documents, which end in a number.
pub(crate) fn lines(text: &str, count: usize) -> String {
    (0..count).map(|i| format!("{{\"text\":\"{}{i}\"}}\n", text.repeat(2))).collect()
}

/// Every file below a folder with its bytes.
pub(crate) fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(files(&path));
        } else {
            let bytes = fs::read(&path).unwrap();
            all.insert(path, bytes);
        }
    }
    all
}

/// Copies a folder with all in it.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for (path, bytes) in files(from) {
        let target = to.join(path.strip_prefix(from).unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::write(target, bytes).unwrap();
    }
}

/// The lines of `--json`, each an object with the name of its event.
pub(crate) fn events(text: &str) -> Vec<Value> {
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(events.iter().all(|event| event["event"].is_string()), "{text}");
    events
}

/// Runs the command with an empty standard input.
pub(crate) fn sapwood<S: AsRef<OsStr>>(args: &[S]) -> Output {
    sapwood_with(args, &[])
}

/// The same with variables.
pub(crate) fn sapwood_with<S: AsRef<OsStr>>(args: &[S], said: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sapwood"));
    // A working folder of its own: nothing may be found or left here by chance.
    let place = tempfile::tempdir().unwrap();
    command.args(args).stdin(Stdio::null()).current_dir(place.path()).envs(said.iter().copied());
    let output = command.output().unwrap();
    assert!(fs::read_dir(place.path()).unwrap().next().is_none(), "something was left behind");
    output
}

/// Runs a command that must succeed; its standard output.
pub(crate) fn accepted<S: AsRef<OsStr>>(args: &[S]) -> String {
    let output = sapwood(args);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// Asserts that a command failed with one clear line that names what is wrong, and gives the line.
pub(crate) fn refusal(output: &Output, names: &[&str]) -> String {
    let errors = String::from_utf8(output.stderr.clone()).unwrap();
    let found: Vec<&str> = errors.lines().filter(|line| line.starts_with("error:")).collect();
    assert!(matches!(output.status.code(), Some(1 | 2)), "{:?}: {errors}", output.status);
    assert_eq!(found.len(), 1, "expected one line of error: {errors}");
    let last = errors.lines().last() == Some(found[0]);
    assert!(last || output.status.code() == Some(2), "the error is the last word: {errors}");
    assert!(!errors.contains("panicked"), "{errors}");
    for name in names {
        assert!(found[0].contains(name), "expected {name:?} in: {}", found[0]);
    }
    found[0].to_owned()
}

/// Runs a command that must be refused.
pub(crate) fn refused<S: AsRef<OsStr>>(args: &[S], names: &[&str]) -> String {
    refusal(&sapwood(args), names)
}

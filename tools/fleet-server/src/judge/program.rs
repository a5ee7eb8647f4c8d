//! The learner's program, which scores a text under an adapter.
//!
//! - In: the operator's texts, an adapter. Out: bits per byte; or why there are none.
//! - A program that is not done in its time is ended, one that says without end is not heard to its end.

use super::{JudgeError, Score, Scores};
use crate::cohorts::Cohort;
use crate::ports::{Clock, SystemClock};
use sapwood::adapter::Adapter;
use sapwood::adapter::peft::{self, Meta, Role};
use sapwood_protocol::fleet::id::Hash;
use serde_json::Value;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// Bytes of what it says that are read.
const SAID_BYTES_MAX: u64 = 1 << 20;
/// Between two looks whether it has ended.
const LOOK: Duration = Duration::from_millis(10);
/// For the rest of what it said, once it has ended.
const REST: Duration = Duration::from_secs(5);

/// The learner's program and the operator's texts.
#[derive(Clone, Debug)]
pub struct Program {
    /// `sapwood`.
    pub sapwood: PathBuf,
    /// The base's model folder.
    pub model: PathBuf,
    /// General text.
    pub general: PathBuf,
    /// Text of the cohort.
    pub cohort: PathBuf,
    /// Where adapters are put for the program, one after the other.
    pub scratch: PathBuf,
    /// How it is started; the rest of its command comes behind.
    pub start: fn(&Path) -> Command,
    /// How long it may take for a text.
    pub limit: Duration,
    /// Whether this program was told to end: then that one is ended too.
    pub is_told: fn() -> bool,
}

impl Score for Program {
    fn score(&mut self, adapter: Option<&Adapter>, cohort: &Cohort) -> Result<Scores, JudgeError> {
        if let Some(adapter) = adapter {
            self.put(adapter, cohort.base)?;
        }
        let folder = adapter.map(|_| self.scratch.as_path());
        let scores = self
            .eval(&self.general, folder)
            .and_then(|general| Ok(Scores { general, cohort: self.eval(&self.cohort, folder)? }));
        if adapter.is_some() {
            // Best effort: the next one is put over it.
            let _ = fs::remove_dir_all(&self.scratch);
        }
        scores
    }
}

impl Program {
    /// Writes an adapter as the folder that the learner reads.
    fn put(&self, adapter: &Adapter, base: Hash) -> Result<(), JudgeError> {
        let path = &self.scratch;
        let disk = |source| JudgeError::Disk { path: path.clone(), source };
        let meta = Meta {
            base_hash: base.0,
            generation: 0,
            steps: 0,
            role: Role::Slow,
            retain: 0.0,
            global: None,
        };
        fs::create_dir_all(path).map_err(disk)?;
        for (name, bytes) in peft::write(adapter, &meta, "")? {
            fs::write(path.join(name), bytes).map_err(disk)?;
        }
        Ok(())
    }

    /// Bits per byte of a text.
    fn eval(&self, text: &Path, adapter: Option<&Path>) -> Result<f64, JudgeError> {
        let wrong = |problem: String| JudgeError::Eval { program: self.sapwood.clone(), problem };
        let mut command = (self.start)(&self.sapwood);
        command.args(["eval", "--json", "--model"]).arg(&self.model).arg("--data").arg(text);
        if let Some(folder) = adapter {
            command.arg("--adapter-path").arg(folder);
        }
        let Said { status, out, err } =
            said(&mut command, self.limit, self.is_told).map_err(wrong)?;
        let said = String::from_utf8_lossy(&err);
        let last = said.lines().last().unwrap_or("it said nothing");
        if !status.success() {
            return Err(wrong(format!("{status} of {}: {last}", text.display())));
        }
        let lines = String::from_utf8_lossy(&out);
        let events = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let bits = events.filter_map(|event| event["bits_per_byte"].as_f64()).next_back();
        let bits = bits.filter(|bits| bits.is_finite() && *bits >= 0.0);
        bits.ok_or_else(|| {
            wrong(format!("no bits_per_byte of {}, expected an event with it", text.display()))
        })
    }
}

/// What a program left when it ended.
struct Said {
    status: ExitStatus,
    out: Vec<u8>,
    err: Vec<u8>,
}

/// Runs a program to its end; one whose time is up is ended, as is one when this program is told to end.
fn said(command: &mut Command, limit: Duration, is_told: fn() -> bool) -> Result<Said, String> {
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let [out, err] = [child.stdout.take().map(heard), child.stderr.take().map(heard)];
    let clock = SystemClock::start();
    let status = loop {
        match child.try_wait().map_err(|error| error.to_string())? {
            Some(status) => break status,
            None if clock.elapsed() < limit && !is_told() => std::thread::park_timeout(LOOK),
            None => {
                // It may have ended by itself right now.
                let _ = child.kill();
                let _ = child.wait();
                return Err(match is_told() {
                    true => "it was ended, for this program was told to end".to_owned(),
                    false => format!("it was not done after {} s, and was ended", limit.as_secs()),
                });
            }
        }
    };
    let all = |heard: Option<Receiver<Vec<u8>>>| {
        let all = heard.map(|heard| heard.recv_timeout(REST)).transpose();
        all.map(Option::unwrap_or_default).map_err(|_| "what it said has no end".to_owned())
    };
    Ok(Said { status, out: all(out)?, err: all(err)? })
}

/// All that is said, up to [`SAID_BYTES_MAX`]; a program of the program may go on saying it.
fn heard(pipe: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (all, heard) = channel();
    std::thread::spawn(move || {
        let mut said = Vec::new();
        // What came before a fault of the pipe counts.
        let _ = pipe.take(SAID_BYTES_MAX).read_to_end(&mut said);
        // Whoever does not wait for it any more was told something else.
        let _ = all.send(said);
    });
    heard
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    /// Read by a shell: a file that was just written may still be open for writing in a program that
    /// another test has started, and cannot be run as one.
    fn start(program: &Path) -> Command {
        let mut shell = Command::new("sh");
        shell.arg(program);
        shell
    }

    #[test]
    fn what_the_learners_program_says_is_read_and_what_it_does_not_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let program = |script: &str| {
            let path = at("sapwood");
            fs::write(&path, format!("{script}\n")).unwrap();
            let [model, general, cohort] = ["model", "general", "cohort"].map(at);
            let limit = Duration::from_secs(20);
            let (scratch, is_told) = (at("scratch"), (|| false) as fn() -> bool);
            Program { sapwood: path, model, general, cohort, scratch, start, limit, is_told }
        };
        let told =
            "echo '{\"event\": \"load\"}'; echo '{\"event\": \"text\", \"bits_per_byte\": 1.25}'";
        let good = program(&format!("test \"$1\" = eval && test -z \"$7\" && {told}"));
        assert!((good.eval(&good.general, None).unwrap() - 1.25).abs() < 1e-12);
        for (script, expected) in [
            ("echo 'no model there' >&2; exit 1", "no model there"),
            ("echo '{\"event\": \"text\"}'", "no bits_per_byte"),
            ("echo '{\"bits_per_byte\": -1}'", "no bits_per_byte"),
        ] {
            let bad = program(script);
            let error = bad.eval(&bad.general, None).unwrap_err().to_string();
            assert!(
                error.contains(expected) && error.contains("the round is as it was"),
                "{error}"
            );
        }
        let slow = Program { limit: Duration::from_secs(1), ..program("exec sleep 100") };
        let clock = SystemClock::start();
        let error = slow.eval(&slow.general, None).unwrap_err().to_string();
        assert!(error.contains("not done after 1 s") && clock.elapsed().as_secs() < 20, "{error}");
        let endless = Program { limit: Duration::from_secs(20), ..program("exec yes") };
        assert!(endless.eval(&endless.general, None).is_err() && clock.elapsed().as_secs() < 20);
        let told = Program {
            limit: Duration::from_secs(90),
            is_told: || true,
            ..program("exec sleep 100")
        };
        let clock = SystemClock::start();
        let error = told.eval(&told.general, None).unwrap_err().to_string();
        assert!(error.contains("told to end") && clock.elapsed().as_secs() < 20, "{error}");
        let none = Program { sapwood: at("none"), ..program("true") };
        assert!(none.eval(&none.general, None).is_err());
    }
}

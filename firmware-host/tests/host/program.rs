//! The running program as its neighbours meet it: what only a process shows.
#![cfg(all(target_os = "linux", feature = "engine"))]

use firmware_host::clock::{Clock, SystemClock};
use firmware_host::status::JobReport;
use sapwood::base::{ExportOptions, export};
use sapwood::inbox::{Bounds, Inbox};
use sapwood::ports::Disk;
use sapwood_tiny as tiny;
use serde_json::Value;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread::park_timeout;
use std::time::Duration;

/// Longest wait for what the program does within a second or two.
const PATIENCE: Duration = Duration::from_secs(30);
/// Jobs do not begin by themselves.
const QUIET: &str = "[job]\nsamples-min = 60000\nsamples-max = 60000\n";

/// A program of the test's own, in a folder of its own; it is killed with it.
struct Program {
    folder: tempfile::TempDir,
    child: Option<Child>,
}

impl Program {
    /// A folder with a base and a configuration that ends with `settings`.
    fn prepared(settings: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        tiny::write(&folder.path().join("hf"), 7, tiny::VOCAB).unwrap();
        export(&folder.path().join("hf"), &folder.path().join("model"), ExportOptions::default())
            .unwrap();
        let head = "model = \"model\"\nstate = \"state\"\n[serve]\nlisten = \"127.0.0.1:0\"\n";
        fs::write(folder.path().join("host.toml"), format!("{head}{settings}")).unwrap();
        Self { folder, child: None }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    /// Starts it and waits until it serves.
    fn start(&mut self, log: impl Into<Stdio>) {
        let program = Path::new(env!("CARGO_BIN_EXE_firmware-host"));
        let mut command = Command::new(program);
        command.args(["run", "-c", "host.toml"]).current_dir(self.folder.path());
        self.child = Some(command.stdout(Stdio::null()).stderr(log).spawn().unwrap());
        self.until("ready", |program| {
            program.ask("GET", "/readyz", "").is_some_and(|said| said.contains("ready"))
        });
    }

    /// The body of an answer over the Unix socket.
    fn ask(&self, method: &str, path: &str, body: &str) -> Option<String> {
        let mut stream = UnixStream::connect(self.path("state/socket")).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
        );
        stream.write_all(&[head.as_bytes(), body.as_bytes()].concat()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
    }

    fn status(&self) -> Value {
        serde_json::from_str(&self.ask("GET", "/v1/status", "").unwrap()).unwrap()
    }

    fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let clock = SystemClock::start();
        while !holds(self) {
            assert!(clock.elapsed() < PATIENCE, "waited for {what} for {PATIENCE:?}");
            park_timeout(Duration::from_millis(20));
        }
    }

    /// A power cut.
    fn cut(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Starts it with a log in a file.
    fn start_logged(&mut self) {
        let log = File::options().create(true).append(true).open(self.path("log")).unwrap();
        self.start(log);
    }

    /// How often the log says so.
    fn logged(&self, what: &str) -> usize {
        fs::read_to_string(self.path("log")).unwrap_or_default().matches(what).count()
    }

    /// A command beside the program; what it says.
    fn command(&self, words: &[&str]) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_firmware-host"));
        command.args(["-c", "host.toml"]).args(words).current_dir(self.folder.path());
        let output = command.output().unwrap();
        String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
    }

    fn send(&self, texts: impl Iterator<Item = String>) -> Value {
        let lines: String = texts.map(|text| format!("{{\"text\":\"{text}\"}}\n")).collect();
        serde_json::from_str(&self.ask("POST", "/v1/samples", &lines).unwrap()).unwrap()
    }

    /// Tells it to end, and how it did.
    fn end(&mut self) -> ExitStatus {
        let mut child = self.child.take().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let clock = SystemClock::start();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status;
            }
            if clock.elapsed() > PATIENCE {
                child.kill().unwrap();
            }
            park_timeout(Duration::from_millis(20));
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Jobs that are long and small, and leave no checkpoint.
const SLOW: &str = "[job]\nsamples-min = 4\nsamples-max = 8\niters-min = 100000\n\
    iters-max = 100000\npoll-seconds = 0.05\n\
    [learn]\nnum-layers = 1\nmax-seq-length = 32\nbatch-size = 2\nreplay-batch-size = 2\n\
    replay-blocks = 16\nrank = 2\nsave-every = 100000\nsteps-per-eval = 0\nthreads = 1\n\
    anchor-blocks = 0\n";

#[test]
fn cuts_at_the_beginning_of_a_job_cost_no_sample() {
    let mut program = Program::prepared(SLOW);
    program.start_logged();
    program.send((1..=6).map(|valve| format!("valve {valve} opens")));
    for cut in 1..=3 {
        program.until("a job", |program| program.logged("job begins") >= cut);
        program.cut();
        program.start_logged();
    }
    program.until("a job", |program| program.logged("job begins") >= 4);
    let status = program.status();
    assert_eq!((&status["inbox"]["samples"], &status["inbox"]["aside"]), (&6.into(), &0.into()));
    assert!(program.logged("now with fewer samples") >= 3);
    let again = program.send(std::iter::once("valve 1 opens".to_owned()));
    assert_eq!(again["duplicates"], 1);
}

/// What a run begins anew is not given up: its samples are learned all the same.
#[test]
fn a_job_that_begins_anew_with_other_settings_is_not_called_given_up() {
    let mut program = Program::prepared(&SLOW.replace("save-every = 100000", "save-every = 5"));
    program.start_logged();
    program.send((1..=6).map(|valve| format!("valve {valve} opens")));
    program.until("a checkpoint", |program| program.path("state/checkpoint").exists());
    program.cut();
    let config = fs::read_to_string(program.path("host.toml")).unwrap();
    fs::write(program.path("host.toml"), config + "learning-rate = 0.002\n").unwrap();
    program.start_logged();
    program.until("a job", |program| program.status()["steps_made"].as_u64() > Some(0));
    let log = fs::read_to_string(program.path("log")).unwrap();
    assert!(log.contains("samples are learned from the beginning"), "{log}");
    assert!(!log.contains("given up") && !log.contains("--resume"), "{log}");
    assert_eq!(program.status()["inbox"]["samples"], 6);
}

#[test]
fn what_brings_every_job_down_is_set_aside_and_may_be_tried_again() {
    let mut program = Program::prepared(SLOW);
    program.start_logged();
    program.send((1..=4).map(|valve| format!("valve {valve} opens")));
    // Whatever job begins is brought down, as if it was the first sample's fault.
    let mut cuts = 0;
    while program.status()["inbox"]["aside"] == 0 {
        program.until("a job", |program| {
            program.logged("job begins") > cuts || program.status()["inbox"]["aside"] != 0
        });
        if program.status()["inbox"]["aside"] == 0 {
            program.cut();
            cuts += 1;
            program.start_logged();
        }
    }
    assert!(cuts >= 4, "a half, a quarter, alone, and alone again: {cuts}");
    let listed = program.command(&["aside", "list"]);
    assert!(listed.contains("valve 1 opens") && listed.contains("brought"), "{listed}");
    let metrics = program.ask("GET", "/metrics", "").unwrap();
    assert!(metrics.contains("sapwood_inbox_aside_samples 1"), "{metrics}");
    assert_eq!(program.status()["inbox"]["samples"], 3);
    assert!(program.command(&["aside", "retry", "1"]).contains("1 samples wait"));
    let missing = program.command(&["aside", "drop", "1"]);
    assert!(missing.contains("no sample of number 1 was set aside"), "{missing}");
    assert_eq!(program.status()["inbox"]["samples"], 4);
    program.end();
    // Without the program the folder itself is asked.
    assert!(program.command(&["aside", "list"]).contains("no sample was set aside"));
}

#[test]
fn an_order_to_learn_nothing_is_refused_and_does_not_wait_for_something() {
    let mut program = Program::prepared(&SLOW.replace("samples-min = 4", "samples-min = 8"));
    program.start_logged();
    let said = program.command(&["job", "now"]);
    assert!(said.contains("nothing waits in the inbox"), "{said}");
    program.send((1..=6).map(|valve| format!("valve {valve} opens")));
    program.until("two looks", |program| program.logged("\"message\":\"waiting\"") >= 1);
    park_timeout(Duration::from_millis(300));
    assert_eq!(program.logged("job begins"), 0);
    assert!(program.command(&["job", "now"]).contains("told to learn now"));
    program.until("a job", |program| program.logged("job begins") == 1);
    program.cut();
    // Where no program runs the command does it itself, and says what there was to do.
    fs::remove_dir_all(program.path("state")).unwrap();
    let said = program.command(&["job", "now"]);
    assert!(said.contains("no job: nothing waits"), "{said}");
}

#[test]
fn an_order_is_on_the_disk_when_it_is_answered_or_refused_and_the_program_goes_on() {
    let mut program = Program::prepared(QUIET);
    program.start_logged();
    let said = program.command(&["rollback"]);
    assert!(said.contains("refused (404)") && said.contains("no generation before"), "{said}");
    let said = program.command(&["rollback", "--to", "0"]);
    assert_eq!(said.trim(), "in use: the bare base (before: the bare base)");
    let order = program.path("state/paused");
    // What a disk does that takes no more names, for whoever may do everything.
    fs::create_dir(&order).unwrap();
    let said = program.command(&["pause"]);
    assert!(said.contains("refused (507)") && said.contains("learning goes on"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    fs::remove_dir(&order).unwrap();
    park_timeout(Duration::from_millis(300));
    assert_eq!((&program.status()["phase"], order.exists()), (&"waiting".into(), false));
    assert!(program.command(&["pause"]).contains("waits for `resume`"));
    assert!(order.is_file(), "answered before it was on the disk");
    fs::remove_file(&order).unwrap();
    fs::create_dir_all(order.join("kept")).unwrap();
    let said = program.command(&["resume"]);
    assert!(said.contains("refused (507)") && said.contains("stays paused"), "{said}");
    program.until("a look", |program| program.status()["phase"] == "paused");
    fs::remove_dir_all(&order).unwrap();
    fs::write(&order, "").unwrap();
    assert!(program.command(&["resume"]).contains("learning goes on"));
    assert!(!order.exists());
    program.until("a look", |program| program.status()["phase"] == "waiting");
    assert!(program.end().success());
}

/// Jobs that are over in a moment.
const QUICK: &str = "[job]\nsamples-min = 4\niters-min = 1\niters-max = 10\n\
    [learn]\nnum-layers = 1\nmax-seq-length = 32\nbatch-size = 2\nreplay-batch-size = 2\n\
    replay-blocks = 16\nrank = 2\nthreads = 1\nanchor-blocks = 0\ngate-new = -1.0\n";

#[test]
fn a_job_in_the_foreground_tells_its_run_however_many_there_were() {
    let program = Program::prepared(QUICK);
    fs::create_dir(program.path("state")).unwrap();
    let run = |number| JobReport { number, ..JobReport::default() };
    let jobs: Vec<JobReport> = (1..=32).map(run).collect();
    let history = serde_json::json!({ "runs": 32, "starts": [], "jobs": jobs });
    fs::write(program.path("state/history.json"), history.to_string()).unwrap();
    let state = program.path("state");
    let inbox = |lines: &str| {
        let disk = Arc::new(Disk::exclusive(&state).unwrap());
        let bounds = Bounds { bytes: 1 << 20, samples: 1_000 };
        Inbox::open(disk, bounds, 0).unwrap().offer(lines).unwrap();
    };
    let lines: String = (1..=6).map(|n| format!("{{\"text\":\"valve {n} opens\"}}\n")).collect();
    inbox(&lines);
    let said = program.command(&["job", "now"]);
    assert!(said.contains("33, ") && said.contains("kept, ") && !said.contains("no job"), "{said}");
    let said = program.command(&["job", "now"]);
    assert!(said.contains("no job: nothing waits in the inbox"), "{said}");
    inbox("{\"text\":\"\"}\n");
    let said = program.command(&["job", "now"]);
    assert!(said.contains("no job: nothing can be learned from the samples"), "{said}");
}

#[test]
fn a_job_takes_no_more_samples_than_it_may() {
    let mut program = Program::prepared(SLOW);
    program.start_logged();
    program.send((1..=300).map(|valve| format!("valve {valve} opens")));
    program.until("a job", |program| program.logged("job begins") == 1);
    assert_eq!(program.logged("\"samples\":8"), 1);
    assert_eq!(program.status()["inbox"]["samples"], 300);
}

#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    let mut program =
        Program::prepared(&format!("{QUIET}[intake]\nwatch = \"drop\"\nwatch-seconds = 0.05\n"));
    fs::create_dir(program.path("drop")).unwrap();
    program.start(File::options().write(true).open("/dev/full").unwrap());
    for file in 1..=3_u64 {
        let line = format!("{{\"text\":\"a line of file {file}\"}}\n");
        fs::write(program.path(&format!("drop/{file}.jsonl")), line).unwrap();
        program.until("the file", |program| program.status()["inbox"]["samples"] == file);
    }
    let status = program.status();
    assert!(status["log_lines_lost"].as_u64().unwrap() > 0, "{status}");
    assert_eq!((&status["panics"], &status["fault"]), (&0.into(), &Value::Null));
    assert!(program.end().success());
}

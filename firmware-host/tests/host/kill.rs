//! The real program under intake, killed again and again: what it acknowledged is accounted for.
//!
//! - Every round starts `firmware-host run` on the same state folder, sends batches over HTTP, and
//!   kills it at a moment of chance: while it starts, takes in, reads and tokenises, learns or commits.
//!   One life in five ends 50 ms to 2 s after samples of it were first read for a job.
//! - Then, of a copy of the folder: the state opens, its generation is sound, and every acknowledged
//!   sample waits, was part of a job that ended, or was set aside and lies there as it came.
//! - 200 kills in the gate; `SAPWOOD_KILLS=10000 cargo test -p firmware-host --test host kill::` for more.
#![cfg(all(unix, feature = "engine"))]

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use sapwood::base::{ExportOptions, export};
use sapwood::inbox::{Bounds, Inbox};
use sapwood::intake::Example;
use sapwood::ports::{Memory, Storage};
use sapwood::state::State;
use sapwood_tiny as tiny;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

const KILLS: u32 = 200;
/// Devices that live at the same time.
const DEVICES: u32 = 2;
/// Longest life of a round: long enough for a job of the small base, now and then.
const LIFE_MS_MAX: u64 = 400;
/// One in so many ends in a job that it has begun.
const IN_JOBS: u64 = 5;
/// How long after that, in milliseconds; as often in each doubling.
const JOB_MS: (f64, f64) = (50.0, 2_000.0);
/// Longest wait for a job to begin.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of a long sample: some milliseconds of tokenising, and more blocks than a job's steps read.
const LONG_BYTES: usize = 20_000;
const BOUNDS: Bounds = Bounds { bytes: 1 << 20, samples: 1_000 };

fn kills() -> u32 {
    #[expect(clippy::disallowed_methods, reason = "the length of the campaign is the caller's")]
    let named = std::env::var("SAPWOOD_KILLS").ok();
    named.and_then(|kills| kills.parse().ok()).unwrap_or(KILLS)
}

fn config(model: &Path, state: &Path) -> String {
    format!(
        "model = {model:?}\nstate = {state:?}\n\
         [serve]\nlisten = \"127.0.0.1:0\"\n\
         [intake]\ninbox-bytes-max = {}\ninbox-samples-max = {}\n\
         [job]\nsamples-min = 8\nsamples-max = 24\nepochs = 1\niters-min = 2\niters-max = 12\npoll-seconds = 0.05\n\
         [learn]\nnum-layers = 1\nmax-seq-length = 32\nbatch-size = 2\nreplay-batch-size = 2\n\
         replay-blocks = 16\nrank = 2\nsave-every = 2\nsteps-per-eval = 0\nthreads = 1\n\
         gate-new = -1.0\ngate-old = 1.0\n",
        BOUNDS.bytes, BOUNDS.samples
    )
}

/// The program, and its lines of log as they come.
fn start(config: &Path) -> (Child, Receiver<Value>) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_firmware-host"))
        .args(["run", "--log-format", "json", "--log-level", "debug", "-c"])
        .arg(config)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (sender, lines) = channel();
    let stderr = BufReader::new(child.stderr.take().unwrap());
    thread::spawn(move || {
        for line in stderr.lines().map_while(Result::ok) {
            let event = serde_json::from_str(&line).unwrap_or(Value::String(line));
            if sender.send(event).is_err() {
                break;
            }
        }
    });
    (child, lines)
}

/// Sends a batch on a connection of its own; its receipt if there was one.
fn send(address: SocketAddr, lines: &str) -> Option<Value> {
    #[expect(clippy::disallowed_methods, reason = "the other end of the program's interface")]
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
    let head = format!(
        "POST /v1/samples HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        lines.len()
    );
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(lines.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.starts_with("HTTP/1.1 200").then(|| serde_json::from_str(body).ok())?
}

/// The folder as it lies there, in memory, so that looking changes nothing.
fn copy(root: &Path, folder: &str, memory: &Memory) {
    for entry in fs::read_dir(root.join(folder)).into_iter().flatten().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
        if entry.file_type().unwrap().is_dir() {
            copy(root, &path, memory);
        } else if entry.file_type().unwrap().is_file() {
            memory.write(&path, &fs::read(entry.path()).unwrap()).unwrap();
        }
    }
}

/// Fails unless every acknowledged sample is accounted for; how many were learned and set aside.
fn check(folder: &Path, acknowledged: &BTreeMap<u64, String>) -> [u64; 2] {
    let memory = Arc::new(Memory::default());
    copy(folder, "", &memory);
    let state = State::open(memory.clone()).unwrap();
    assert!(state.recovery().fell_back.is_empty(), "{:?}", state.recovery());
    if let Some(current) = state.current() {
        state.verify(current.number).unwrap();
    }
    let inbox = Inbox::open(memory, BOUNDS, state.learned()).unwrap();
    assert_eq!(inbox.found().lost_samples, 0);
    let waiting: BTreeSet<String> = inbox
        .take(u64::MAX)
        .unwrap()
        .samples
        .into_iter()
        .filter_map(|(_, example)| match example {
            Example::Text(text) => Some(text),
            _ => None,
        })
        .collect();
    // Kill after kill looks like a sample that brings the program down: it may be set aside, not lost.
    let aside: BTreeSet<u64> = inbox.aside().collect();
    for number in &aside {
        let found = inbox.look_aside(*number).unwrap().unwrap();
        // One whose receipt the kill cut off was promised to nobody.
        let promised = acknowledged.get(number);
        assert!(promised.is_none_or(|text| found.line.contains(text)), "{found:?}");
        assert!(*number <= state.learned(), "sample {number} is aside and waits");
    }
    for (number, text) in acknowledged {
        let learned = *number <= state.learned();
        assert!(learned != waiting.contains(text), "sample {number}, learned {learned}: {text}");
    }
    [state.learned() - aside.len() as u64, aside.len() as u64]
}

/// When a life ends.
enum End {
    /// So long after its start.
    Start(Duration),
    /// So long after a job of it has begun to read samples.
    Job(Duration),
}

impl End {
    fn draw(chance: &mut ChaCha8Rng) -> Self {
        let start = Self::Start(Duration::from_millis(chance.next_u64() % LIFE_MS_MAX));
        let part = f64::from(chance.next_u32()) / f64::from(u32::MAX);
        match chance.next_u64().is_multiple_of(IN_JOBS) {
            true => Self::Job(Duration::from_secs_f64(
                JOB_MS.0 * (JOB_MS.1 / JOB_MS.0).powf(part) / 1e3,
            )),
            false => start,
        }
    }
}

/// Kills the process when its time has come; `begun` hears of a job.
fn kill_at(end: &End, victim: u32, begun: &Receiver<()>) {
    let life = match end {
        End::Start(life) => *life,
        End::Job(life) => {
            // Without a job the life ends all the same.
            let began = begun.recv_timeout(PATIENCE).is_ok();
            if began { *life } else { Duration::ZERO }
        }
    };
    thread::park_timeout(life);
    let pid = rustix::process::Pid::from_raw(victim.try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

/// A folder with a base and a configuration, `host.toml`.
fn prepared() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    tiny::write(&at("hf"), 7, tiny::VOCAB).unwrap();
    export(&at("hf"), &at("model"), ExportOptions::default()).unwrap();
    fs::write(at("host.toml"), config(&at("model"), &at("state"))).unwrap();
    folder
}

#[test]
fn a_second_program_on_the_same_folder_is_refused_and_harms_nothing() {
    let folder = prepared();
    let config = folder.path().join("host.toml");
    let serving = |event: &Value| event["message"] == "serving";
    let (mut first, events) = start(&config);
    let address = events.iter().find(serving).unwrap()["listen"].as_str().unwrap().parse().unwrap();
    let (mut second, said) = start(&config);
    assert!(!second.wait().unwrap().success());
    let reasons: Vec<String> = said.iter().map(|event| event["reason"].to_string()).collect();
    assert!(
        reasons.iter().any(|reason| reason.contains("in use by another process")),
        "{reasons:?}"
    );
    let receipt = send(address, "{\"text\":\"still here\"}").unwrap();
    assert_eq!(receipt["accepted"], 1);
    first.kill().unwrap();
    first.wait().unwrap();
}

/// Texts of a batch; now and then one is long.
fn texts(chance: &mut ChaCha8Rng, sent: &mut u64) -> Vec<String> {
    let count = 1 + chance.next_u64() % 4;
    let one = |n: u64| {
        let text = format!("valve {n} opens {} times", n * 37 % 100);
        match n % 97 {
            0 => format!("{text} {}", "and closes ".repeat(LONG_BYTES / 11)),
            _ => text,
        }
    };
    let texts = (*sent..*sent + count).map(one).collect();
    *sent += count;
    texts
}

/// How long the program may say nothing before a job has ended.
const JOB: Duration = Duration::from_secs(300);

/// One device, killed again and again: kills, those in jobs, samples acknowledged, learned, set aside.
fn device(kills: u32, seed: u64) -> [u64; 5] {
    let folder = prepared();
    let at = |name: &str| folder.path().join(name);
    let (mut chance, mut acknowledged, mut sent) =
        (ChaCha8Rng::seed_from_u64(seed), BTreeMap::new(), 0_u64);
    let (mut served, mut in_jobs) = (0, 0);
    for kill in 0..kills {
        let (mut child, events) = start(&at("host.toml"));
        let (end, victim) = (End::draw(&mut chance), child.id());
        in_jobs += u64::from(matches!(end, End::Job(_)));
        let (began, begun) = channel::<()>();
        let killer = thread::spawn(move || kill_at(&end, victim, &begun));
        let serving = |event: &Value| event["message"] == "serving";
        let address = events
            .iter()
            .find(serving)
            .map(|event| event["listen"].as_str().unwrap().parse().unwrap());
        let hear = || {
            let read = |event: Value| event["message"] == "samples are read";
            if events.try_iter().any(read) {
                let _ = began.send(());
            }
        };
        while let Some(address) = address.filter(|_| !killer.is_finished()) {
            hear();
            // A flood would fill the inbox once and for all.
            thread::park_timeout(Duration::from_millis(10));
            let texts = texts(&mut chance, &mut sent);
            let lines: String =
                texts.iter().map(|text| format!("{{\"text\":\"{text}\"}}\n")).collect();
            let Some(receipt) = send(address, &lines) else {
                // Full, or dead: both pass.
                thread::park_timeout(Duration::from_millis(5));
                continue;
            };
            let count = texts.len() as u64;
            assert_eq!(receipt["accepted"], count, "{receipt}");
            let first = receipt["last"].as_u64().unwrap() + 1 - count;
            acknowledged.extend((first..).zip(texts));
            served += 1;
        }
        killer.join().unwrap();
        let status = child.wait().unwrap();
        assert_eq!(status.signal(), Some(9), "the program ended by itself: {status}");
        check(&at("state"), &acknowledged);
        assert!(kill < 20 || served > 0, "no round came as far as to serve");
        if (kill + 1) % 500 == 0 {
            let told = format!("device {seed}: {} kills\n", kill + 1);
            std::io::stderr().write_all(told.as_bytes()).unwrap();
        }
    }
    // On a busy machine no job may come to its end between two kills: the last life is left alone.
    let (mut child, events) = start(&at("host.toml"));
    let ends = |event: Value| event["message"] == "job ends";
    while !ends(events.recv_timeout(JOB).unwrap()) {}
    child.kill().unwrap();
    child.wait().unwrap();
    let [learned, aside] = check(&at("state"), &acknowledged);
    [kills.into(), in_jobs, acknowledged.len() as u64, learned, aside]
}

/// Several devices at once: a life is mostly waiting.
#[test]
fn what_was_acknowledged_survives_every_kill() {
    let share = kills().div_ceil(DEVICES);
    let devices: Vec<_> =
        (0..DEVICES).map(|n| thread::spawn(move || device(share, 9 + u64::from(n)))).collect();
    let counts = devices.into_iter().map(|device| device.join().unwrap());
    let sum = |one: [u64; 5], other: [u64; 5]| std::array::from_fn(|at| one[at] + other[at]);
    let [kills, in_jobs, acknowledged, learned, aside] = counts.reduce(sum).unwrap();
    let told = format!(
        "{kills} kills, {in_jobs} of them in jobs; {acknowledged} acknowledged, {learned} learned, \
         {aside} set aside\n"
    );
    std::io::stderr().write_all(told.as_bytes()).unwrap();
    assert!(acknowledged > 50 && learned > 0, "{told}");
}

//! A device of memory behind the real server, for the check of the status page in a browser.
//!
//! Prints one line of JSON with the addresses of three servers, a full one, one that has just begun,
//! and one behind a token; ends when standard input does. What it shows is hostile on purpose.

use firmware_host::clock::SystemClock;
use firmware_host::config::Serve;
use firmware_host::constraints::ConstraintState;
use firmware_host::paused::OrderError;
use firmware_host::probe::Readings;
use firmware_host::serve::{
    Device, Draw, Given, Learner, Model, ModelError, ServeError, Server, Token, Written, start,
};
use firmware_host::status::{
    Board, Change, Ending, InboxStatus, JobKind, JobReport, Phase, ReservoirStatus, ServingStatus,
    StepPoint,
};
use firmware_host::supervise::Supervisor;
use firmware_host::wire::{How, IN_USE, Listed, Prompt, Scored};
use sapwood::gate::Tally;
use sapwood::inbox::{Aside, InboxError, Receipt};
use std::error::Error;
use std::io::{self, Read, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// What would run if the page took text for markup.
const HOSTILE: &str = "<img src=x onerror=\"window.hostile=1\"><script>window.hostile=1</script>";

/// Shows a board and does nothing else.
#[derive(Clone)]
struct Shown(Arc<Board>);

/// Says nothing.
struct Mute;

impl Model for Mute {
    fn generation(&self) -> Option<u64> {
        None
    }

    fn context(&self) -> usize {
        1
    }

    fn admits(&self, _how: &How) -> Result<(), ModelError> {
        Ok(())
    }

    fn read(&self, _prompt: &Prompt, _how: &How) -> Result<Given, ModelError> {
        Err(ModelError::Prompt("this device has no model".into()))
    }

    fn follow(
        &self,
        _ids: &[u32],
        _likeliest: usize,
        _each: &mut dyn FnMut(Scored) -> ControlFlow<()>,
    ) -> Result<(), ModelError> {
        Ok(())
    }

    fn write(
        &self,
        _ids: &[u32],
        _tokens: usize,
        _draw: Draw<'_>,
        _each: &mut dyn FnMut(Token<'_>) -> ControlFlow<()>,
    ) -> Result<Written, ModelError> {
        Ok(Written::default())
    }
}

impl Learner for Shown {
    fn offer(&self, _lines: &str) -> Result<Receipt, InboxError> {
        Err(InboxError::Empty)
    }

    fn aside(&self) -> Result<Vec<Aside>, InboxError> {
        Ok(Vec::new())
    }

    fn retry_aside(&self, _number: u64) -> Result<bool, InboxError> {
        Ok(false)
    }

    fn drop_aside(&self, _number: u64) -> Result<bool, InboxError> {
        Ok(false)
    }

    fn job_now(&self) -> Result<(), OrderError> {
        Err(OrderError::Stopping)
    }

    fn pause(&self) -> Result<(), OrderError> {
        Err(OrderError::Stopping)
    }

    fn resume(&self) -> Result<(), OrderError> {
        Err(OrderError::Stopping)
    }

    fn roll_back(&self, _to: Option<u64>) -> Result<[Option<u64>; 2], OrderError> {
        Err(OrderError::Stopping)
    }
}

impl Device for Shown {
    fn board(&self) -> &Board {
        &self.0
    }

    fn learner(&self) -> Option<&dyn Learner> {
        Some(self)
    }

    fn models(&self) -> Vec<Listed> {
        vec![Listed { id: IN_USE.to_owned(), ..Listed::default() }]
    }

    fn model(&self, _id: &str) -> Result<Arc<dyn Model>, ModelError> {
        Ok(Arc::new(Mute))
    }

    fn compare(
        &self,
        _ids: [&str; 2],
        _texts: Option<&[String]>,
        _going: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<[Tally; 2], ModelError> {
        Err(ModelError::NoText)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let token_file = std::env::args_os().nth(1).map(PathBuf::from);
    let (full, empty) = (Arc::new(Board::default()), Arc::new(Board::default()));
    fill(&full);
    empty.update(|status| (status.version, status.model) = ("0.1.0", "base".into()));
    let servers = [
        served(&full, None)?,
        served(&empty, None)?,
        served(&full, Some(token_file.ok_or("expected the path of a token file")?))?,
    ];
    let [full_at, empty_at, token_at] = servers.each_ref().map(|server| server.addresses().tcp);
    let line = serde_json::json!({ "full": full_at, "empty": empty_at, "token": token_at });
    writeln!(io::stdout(), "{line}")?;
    thread::spawn(move || learn_on(&full));
    io::stdin().read_to_end(&mut Vec::new())?;
    servers.into_iter().for_each(Server::stop);
    Ok(())
}

fn served(board: &Arc<Board>, token_file: Option<PathBuf>) -> Result<Server, ServeError> {
    let listen = ([127, 0, 0, 1], 0).into();
    let config = Serve { listen, token_file, ..Serve::default() };
    start(&config, Shown(board.clone()), Arc::new(SystemClock::start()), &Supervisor::default())
}

/// A step twice a second, so that the page has something new to show.
#[expect(clippy::disallowed_methods, reason = "a program waits at its edge")]
fn learn_on(board: &Board) {
    for step in 121.. {
        thread::sleep(Duration::from_millis(500));
        board.step(point(step));
    }
}

fn point(step: u64) -> StepPoint {
    let wave = (step as f32 * 0.7).sin() * 0.12 + (step as f32 * 1.9).cos() * 0.07;
    let fresh = 2.1 + 1.9 * (-(step as f32) / 45.0).exp() + wave;
    let replay = (step > 8).then(|| 2.4 + 0.3 * (-(step as f32) / 60.0).exp() - wave * 0.6);
    StepPoint { step, loss: replay.map_or(fresh, |replay| (fresh + replay) / 2.0), fresh, replay }
}

fn fill(board: &Board) {
    (1..=120).for_each(|step| board.step(point(step)));
    (1..=11).for_each(|number| board.job(job(number)));
    let constraint = |name, met, why: &str| ConstraintState { name, met, why: why.into() };
    let constraints = vec![
        constraint("charging", true, "on power"),
        constraint("battery-not-low", true, "83 %, expected at least 20 %"),
        constraint("temperature", false, &format!("86.5 °C, expected at most 75 °C {HOSTILE}")),
        constraint("storage-not-low", true, "41.2 GiB free, expected at least 256 MiB"),
        constraint("windows", true, "always"),
    ];
    board.update(|status| {
        (status.version, status.uptime_seconds) = ("0.1.0", 93_784.0);
        status.model = format!("base{HOSTILE}");
        status.phase = Phase::Waiting;
        status.waiting_for = "temperature: 86.5 °C, expected at most 75 °C".into();
        status.constraints = constraints;
        status.readings = Readings {
            celsius: Some(86.5),
            charging: Some(true),
            battery_percent: Some(83.0),
            watts: Some(11.4),
            load: Some(0.21),
            memory_bytes: Some(5_368_709_120),
            memory_stall_percent: Some(0.0),
            storage_bytes: Some(44_238_000_128),
            ..Readings::default()
        };
        status.inbox = InboxStatus {
            samples: 37,
            bytes: 21_845_000,
            bytes_max: 64 << 20,
            accepted: 4_211,
            duplicates: 96,
            refused: 3,
            frames_dropped: 2,
            ..InboxStatus::default()
        };
        status.reservoir = Some(ReservoirStatus { held: 412, capacity: 500, seen: 3_107 });
        status.serving = ServingStatus {
            generation: Some(9),
            active: 1,
            requests: 128,
            refused: 0,
            tokens: 9_342,
        };
        status.resident_bytes = Some(171_966_464);
    });
}

fn job(number: u64) -> JobReport {
    let ending = match number {
        4 => Ending::Stopped,
        7 => Ending::Failed,
        9 => Ending::Dropped,
        _ => Ending::Kept,
    };
    let judged = matches!(ending, Ending::Kept | Ending::Dropped);
    let text = |name: &str, from: f64, gain: f64| {
        let before = from - 0.08 * number as f64;
        Change { text: name.into(), before, after: before - gain }
    };
    let worse = if ending == Ending::Dropped { -0.05 } else { 0.03 };
    let changes = [text("new", 3.9, 0.6), text("old", 3.1, worse), text("general", 2.9, 0.01)];
    let reason = match ending {
        Ending::Kept => "new text better by 15 %, old and general within their bounds".into(),
        Ending::Dropped => "old text worse by 2.1 %, expected at most 1 %".into(),
        Ending::Stopped => "the device is hot: 86.5 °C, expected at most 85 °C".into(),
        Ending::Failed => HOSTILE.into(),
    };
    JobReport {
        number,
        kind: JobKind::Learn,
        started: format!("2026-11-{:02}T02:15:00Z", number + 9),
        seconds: 40.0 * number as f64,
        joules: number.is_multiple_of(2).then_some(512.0 * number as f64),
        bytes_written: 3 << 20,
        samples: 64 + number,
        steps: [if judged { 120 } else { 44 }, 120],
        ending,
        reason,
        generation: Some(number.min(9)),
        changes: if judged { changes.to_vec() } else { Vec::new() },
    }
}

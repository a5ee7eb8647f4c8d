//! What the service manager is told: ready, stopping, one line of status, and signs of progress.
//!
//! - Out: datagrams of sd_notify(3) to `NOTIFY_SOCKET`; nothing where there is none, as on macOS.
//! - Invariant: the watchdog is fed when [`Board::beats`] has grown since the last look, and only
//!   then. No timer stands in for progress: what hangs is killed and started again.
//! - A message that cannot be sent is no reason to stop learning: the log says so once.

use crate::status::{Board, Phase, Status};
use crate::supervise::Supervisor;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Longest time between two looks: the status line is at most so old.
const LOOK_MAX: Duration = Duration::from_secs(5);
/// Looks within the time that the watchdog grants.
const LOOKS: u32 = 4;

/// Tells the service manager how the program is; silent once it is dropped.
#[derive(Debug)]
pub struct Notifier {
    /// Dropped to end the thread.
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<Option<()>>>,
}

impl Notifier {
    /// Begins to look at the board, if a service manager listens.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(board: Arc<Board>, supervisor: &Supervisor) -> std::io::Result<Self> {
        if !manager::listens() {
            return Ok(Self { stop: None, thread: None });
        }
        let granted = manager::watchdog();
        let interval = granted.map_or(LOOK_MAX, |time| (time / LOOKS).min(LOOK_MAX));
        let (stop, stopped) = mpsc::channel();
        let thread = supervisor.start("notify", move || {
            let mut watch = Watch { beats: board.beats(), line: String::new() };
            // An interval of nothing, from a malformed variable, must not become a busy loop.
            let interval = interval.max(Duration::from_millis(1));
            while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                let told = watch.look(board.beats(), &board.snapshot());
                manager::tell(&told, granted.is_some());
            }
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }

    /// The program serves.
    pub fn ready(&self) {
        manager::tell(&[Message::Ready], true);
    }

    /// The program is on its way out.
    pub fn stopping(&self) {
        manager::tell(&[Message::Stopping], true);
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // What a panic there would say its supervisor has heard.
            let _ = thread.join();
        }
    }
}

/// One thing to say.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Message {
    Ready,
    Stopping,
    /// Something went forward.
    Progress,
    /// One line for `systemctl status`.
    Line(String),
}

/// What was seen at the last look.
struct Watch {
    beats: u64,
    line: String,
}

impl Watch {
    /// What this look gives to say.
    fn look(&mut self, beats: u64, status: &Status) -> Vec<Message> {
        let mut told = Vec::new();
        if beats != self.beats {
            self.beats = beats;
            told.push(Message::Progress);
        }
        let line = line(status);
        if line != self.line {
            self.line.clone_from(&line);
            told.push(Message::Line(line));
        }
        told
    }
}

/// The status in one line.
fn line(status: &Status) -> String {
    let phase = match (status.phase, status.steps.last()) {
        (Phase::Learning, Some(point)) => format!("learning, step {}", point.step),
        (Phase::Waiting, _) if !status.waiting_for.is_empty() => {
            format!("waiting: {}", status.waiting_for)
        }
        (phase, _) => phase_name(phase).into(),
    };
    let generation = status
        .serving
        .generation
        .map_or("the bare base".into(), |number| format!("generation {number}"));
    let line = format!("{phase}; {generation}, {} samples wait", status.inbox.samples);
    // A new line would begin another message.
    line.replace(char::is_control, " ")
}

fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Starting => "starting",
        Phase::Waiting => "waiting",
        Phase::Learning => "learning",
        Phase::Paused => "paused",
        Phase::Stopping => "stopping",
    }
}

/// systemd, through its datagrams.
#[cfg(target_os = "linux")]
mod manager {
    use super::Message;
    use sd_notify::NotifyState;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    static COMPLAINED: AtomicBool = AtomicBool::new(false);

    #[expect(clippy::disallowed_methods, reason = "systemd says where it listens in a variable")]
    pub(super) fn listens() -> bool {
        std::env::var_os("NOTIFY_SOCKET").is_some()
    }

    /// The time within which it wants a sign of progress.
    pub(super) fn watchdog() -> Option<Duration> {
        sd_notify::watchdog_enabled().filter(|time| !time.is_zero())
    }

    pub(super) fn tell(messages: &[Message], watchdog: bool) {
        let mut states = Vec::new();
        for message in messages {
            match message {
                Message::Ready => states.push(NotifyState::Ready),
                Message::Stopping => states.push(NotifyState::Stopping),
                Message::Progress if !watchdog => {}
                Message::Progress => states.push(NotifyState::Watchdog),
                Message::Line(line) => states.push(NotifyState::Status(line)),
            }
        }
        if states.is_empty() {
            return;
        }
        if let Err(error) = sd_notify::notify(&states)
            && !COMPLAINED.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(reason = %error, "the service manager cannot be told");
        }
    }
}

/// launchd asks nothing of its programs.
#[cfg(not(target_os = "linux"))]
mod manager {
    use super::Message;
    use std::time::Duration;

    pub(super) fn listens() -> bool {
        false
    }

    pub(super) fn watchdog() -> Option<Duration> {
        None
    }

    pub(super) fn tell(_: &[Message], _: bool) {}
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;
    use std::io::{BufRead, Write};
    use std::os::unix::net::UnixDatagram;
    use std::process::{Child, ChildStdin, Command, Stdio};

    #[test]
    fn progress_is_told_once_for_what_went_forward_since_the_last_look() {
        let mut watch = Watch { beats: 0, line: String::new() };
        let status = Status::default();
        assert_eq!(watch.look(0, &status).len(), 1, "the first line");
        assert_eq!(watch.look(2, &status), [Message::Progress]);
        assert_eq!(watch.look(2, &status), []);
        assert_eq!(watch.look(3, &status), [Message::Progress]);
    }

    #[test]
    fn the_status_is_one_line_whatever_stands_in_it() {
        let status = Status {
            phase: Phase::Waiting,
            waiting_for: "samples\nWATCHDOG=1".into(),
            ..Status::default()
        };
        assert_eq!(line(&status), "waiting: samples WATCHDOG=1; the bare base, 0 samples wait");
    }

    /// The program of the test below: a letter of its input is a beat or a change of its status.
    #[test]
    #[ignore = "the watched side: started by the test below, with a socket"]
    fn watched_program() {
        let board = Arc::new(Board::default());
        let notifier = Notifier::start(board.clone(), &Supervisor::default()).unwrap();
        notifier.ready();
        for order in std::io::stdin().lock().lines().map_while(Result::ok) {
            match order.as_str() {
                "beat" => board.beat(),
                _ => board.update(|status| status.inbox.samples += 1),
            }
        }
        notifier.stopping();
    }

    fn watched(socket: &std::path::Path) -> Child {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "service::notify::tests::watched_program", "--ignored"])
            .env("NOTIFY_SOCKET", socket)
            .env("WATCHDOG_USEC", "40000")
            .env_remove("WATCHDOG_PID")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// Messages until one holds `text`; whether the watchdog was fed on the way.
    fn until(manager: &UnixDatagram, text: &str) -> bool {
        let mut fed = false;
        loop {
            let mut bytes = [0; 4096];
            let length = manager.recv(&mut bytes).unwrap();
            let message = String::from_utf8_lossy(&bytes[..length]).into_owned();
            fed |= message.contains("WATCHDOG=1");
            if message.contains(text) {
                return fed;
            }
        }
    }

    fn order(input: &mut ChildStdin, word: &str) {
        writeln!(input, "{word}").unwrap();
    }

    /// A change of the status line proves that a look took place, without waiting for time to pass.
    #[test]
    fn the_watchdog_is_fed_by_progress_and_by_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("notify");
        let manager = UnixDatagram::bind(&socket).unwrap();
        manager.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut program = watched(&socket);
        let mut input = program.stdin.take().unwrap();
        assert!(!until(&manager, "READY=1"));
        for samples in 1..=5 {
            order(&mut input, "look");
            assert!(!until(&manager, &format!(", {samples} samples wait")), "fed without progress");
        }
        order(&mut input, "beat");
        assert!(until(&manager, "WATCHDOG=1"));
        order(&mut input, "look");
        assert!(!until(&manager, ", 6 samples wait"), "fed twice for one beat");
        drop(input);
        assert!(!until(&manager, "STOPPING=1"));
        assert!(program.wait().unwrap().success());
    }
}

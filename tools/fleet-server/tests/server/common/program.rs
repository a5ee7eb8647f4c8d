//! The program: its orders, and its server as a process of its own.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

pub(crate) fn run(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fleet-server"));
    let (first, rest) = arguments.split_first().unwrap();
    // What has commands of its own takes its options behind them.
    let (second, rest) = match rest.split_first() {
        Some((second, rest))
            if ["devices", "rounds", "cohorts", "releases", "rollout", "trust"].contains(first) =>
        {
            (Some(second), rest)
        }
        _ => (None, rest),
    };
    command.arg(first).args(second).arg("--folder").arg(folder).args(rest).output().unwrap()
}

/// A program is written by another process: what this one holds open, a program that another test
/// starts at that moment holds too, and a file that is open for writing cannot be run.
pub(crate) fn install(from: &Path, to: &Path) {
    let mut install = Command::new("install");
    assert!(install.args(["-m", "755"]).arg(from).arg(to).status().unwrap().success());
}

pub(crate) fn said(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn json(output: &Output) -> serde_json::Value {
    serde_json::from_str(&said(output)).unwrap()
}

/// The one line in which a command refuses.
pub(crate) fn refused(output: &Output) -> String {
    let line = String::from_utf8(output.stderr.clone()).unwrap();
    assert!(!output.status.success() && output.stdout.is_empty(), "{line}");
    assert_eq!(line.lines().count(), 1, "{line}");
    line
}

/// The server as a process; it is killed with this.
pub(crate) struct Served {
    pub(crate) child: Child,
    /// Where it listens, if it came so far.
    pub(crate) address: Option<SocketAddr>,
    /// Where it tells of its health.
    pub(crate) health: Option<SocketAddr>,
}

impl Served {
    pub(crate) fn start(folder: &Path) -> Self {
        Self::with(Command::new(env!("CARGO_BIN_EXE_fleet-server")), folder)
    }

    /// One that may open so many files at most.
    pub(crate) fn with_files(folder: &Path, files: u64) -> Self {
        let mut shell = Command::new("sh");
        let program = env!("CARGO_BIN_EXE_fleet-server");
        shell.args(["-c", &format!("ulimit -n {files} && exec \"$0\" \"$@\""), program]);
        Self::with(shell, folder)
    }

    /// One of these roles, and whatever else it is told.
    pub(crate) fn of_roles(folder: &Path, roles: &str, more: &[&str]) -> Self {
        let mut program = Command::new(env!("CARGO_BIN_EXE_fleet-server"));
        program.args(["serve", "--roles", roles]).args(more);
        Self::serving(program, folder)
    }

    /// One whose files may have so many blocks of 512 bytes at most, and that says what it does in a file.
    pub(crate) fn with_file_blocks(folder: &Path, log: &Path, blocks: u64) -> Self {
        let mut shell = Command::new("sh");
        let program = env!("CARGO_BIN_EXE_fleet-server");
        shell.args(["-c", &format!("ulimit -f {blocks} && exec \"$0\" \"$@\""), program, "serve"]);
        let mut served = Self::heard(shell, folder, Stdio::piped());
        // Through a pipe, or the limit would hold for it too.
        let (mut said, mut log) = (served.child.stderr.take().unwrap(), File::create(log).unwrap());
        std::thread::spawn(move || std::io::copy(&mut said, &mut log));
        served
    }

    fn with(mut command: Command, folder: &Path) -> Self {
        command.arg("serve");
        Self::serving(command, folder)
    }

    fn serving(command: Command, folder: &Path) -> Self {
        Self::heard(command, folder, Stdio::null())
    }

    fn heard(mut command: Command, folder: &Path, told: Stdio) -> Self {
        let mut child = command
            .args(["--json", "--listen", "127.0.0.1:0", "--health", "127.0.0.1:0"])
            .args(["--rate", "1000000", "--folder"])
            .arg(folder)
            .stdout(Stdio::piped())
            .stderr(told)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let said: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
        let at = |name: &str| said[name].as_str().and_then(|listen| listen.parse().ok());
        let (address, health) = (at("listen"), at("health"));
        Self { child, address, health }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // One that has ended already cannot be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The number that a script writes of itself.
pub(crate) fn written(pid: &Path) -> String {
    for _ in 0..2000 {
        let text = std::fs::read_to_string(pid).unwrap_or_default();
        if text.ends_with('\n') {
            return text.trim().to_owned();
        }
        std::thread::park_timeout(Duration::from_millis(10));
    }
    panic!("{} is not written", pid.display());
}

/// Whether a process is gone within ten seconds, or is but a name that nobody has asked after.
pub(crate) fn is_gone(pid: &str) -> bool {
    (0..1000).any(|_| {
        std::thread::park_timeout(Duration::from_millis(10));
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        stat.map_or(true, |stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')))
    })
}

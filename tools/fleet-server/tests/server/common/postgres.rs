//! A Postgres of a test's own: on a port of this machine, in a folder that is deleted.
//!
//! - Found by SAPWOOD_POSTGRES_BIN, else as Debian has it, else by PATH. It refuses to be root: then it is
//!   nobody.
//! - Absent: the test says so by its name and passes, unless SAPWOOD_SERVICES=required.
//! - Here `fsync` is off: a killed process loses nothing that it wrote, and a disk is not what is tested.

use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Nobody, by number.
const NOBODY: u32 = 65_534;

/// A Postgres that is killed with this.
pub(crate) struct Postgres {
    folder: tempfile::TempDir,
    bin: PathBuf,
    port: u16,
    child: Option<Child>,
}

#[expect(clippy::disallowed_methods, reason = "where services are is the machine's")]
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn found() -> Option<PathBuf> {
    if let Some(named) = environment("SAPWOOD_POSTGRES_BIN") {
        return Some(named.into());
    }
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut all: Vec<PathBuf> = debian.map(|version| version.path().join("bin")).collect();
    all.sort();
    all.reverse();
    let path = environment("PATH").unwrap_or_default();
    all.extend(path.split(':').map(PathBuf::from));
    all.into_iter().find(|bin| bin.join("initdb").is_file() && bin.join("postgres").is_file())
}

/// A port that nobody listens on, below those that the system gives to whoever connects.
#[expect(clippy::disallowed_methods, reason = "a port is free when it can be had")]
fn free() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let own =
        || std::process::id().wrapping_mul(61).wrapping_add(NEXT.fetch_add(1, Ordering::SeqCst));
    let mut ports = std::iter::repeat_with(|| 20_000 + (own() % 12_000) as u16);
    ports.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether there is one to start; else that is told under a test's name, or an error where it is required.
pub(crate) fn is_there(test: &str) -> bool {
    let is_there = found().is_some();
    if !is_there {
        let told = "postgres is absent (apt-get install postgresql, or SAPWOOD_POSTGRES_BIN)";
        assert!(environment("SAPWOOD_SERVICES").is_none_or(|it| it != "required"), "{told}");
        // Past the harness, which shows what a test says only where it fails.
        std::io::stderr().write_all(format!("SKIPPED {test}: {told}\n").as_bytes()).unwrap();
    }
    is_there
}

impl Postgres {
    /// Starts one; none when there is none to start, which is told under the test's name.
    pub(crate) fn start(test: &str) -> Option<Self> {
        Self::with(test, |_| {})
    }

    /// The same; `change` is told where its files are, before it starts.
    pub(crate) fn with(test: &str, change: impl Fn(&Path)) -> Option<Self> {
        let bin = if is_there(test) { found()? } else { return None };
        let folder = tempfile::Builder::new().prefix("postgres").tempdir_in("/tmp").unwrap();
        if is_root() {
            chown(folder.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let mut service = Self { folder, bin, port: free(), child: None };
        let data = service.data();
        let made = service
            .command("initdb")
            .arg("-D")
            .arg(data)
            .args(["-U", "fleet", "-A", "trust"])
            .args(["-N", "-E", "UTF8", "--locale=C.UTF-8"])
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        change(&service.data());
        if is_root() {
            for name in ["server.crt", "server.key"] {
                // One without TLS has neither.
                let _ = chown(service.data().join(name), Some(NOBODY), None);
            }
        }
        service.begin();
        Some(service)
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        if is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command.current_dir(self.folder.path()).stdin(Stdio::null());
        command
    }

    /// Starts it, again after it was killed.
    pub(crate) fn begin(&mut self) {
        let is_new = self.launch();
        for _ in 0..400 {
            // Another test's may answer in its place.
            let own = self.psql("postgres", "show data_directory");
            if own.is_ok_and(|own| own == self.data().display().to_string()) {
                return;
            }
            if self.child.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some()) {
                // Another has the port; or what was killed has left something behind for a moment.
                if is_new {
                    self.port = free();
                }
                self.launch();
            }
            std::thread::park_timeout(Duration::from_millis(50));
        }
        let log = std::fs::read_to_string(self.log()).unwrap();
        panic!("postgres does not start: {}", log.lines().rev().take(12).collect::<String>());
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// Whether it is the first time.
    fn launch(&mut self) -> bool {
        let is_new = !self.log().exists();
        let log = std::fs::File::options().create(true).append(true).open(self.log()).unwrap();
        let port = self.port.to_string();
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data()).args(["-p", &port, "-h", "127.0.0.1", "-k", "", "-F"]);
        command.args(["-c", "max_connections=200", "-c", "shared_buffers=32MB"]);
        self.child = Some(command.stdout(Stdio::null()).stderr(log).spawn().unwrap());
        is_new
    }

    /// Kills it and all that it started, as a power cut does but for the disk.
    pub(crate) fn kill(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let own = format!("/proc/{0}/task/{0}/children", child.id());
        let own = std::fs::read_to_string(own).unwrap_or_default();
        child.kill().unwrap();
        child.wait().unwrap();
        for one in own.split_whitespace().filter_map(|one| one.parse().ok()) {
            if let Some(one) = rustix::process::Pid::from_raw(one) {
                // One that has ended by itself cannot be killed.
                let _ = rustix::process::kill_process(one, rustix::process::Signal::KILL);
            }
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Runs a text; what it says.
    pub(crate) fn psql(&self, database: &str, text: &str) -> Result<String, String> {
        let port = self.port.to_string();
        let mut command = self.command("psql");
        command.args(["-h", "127.0.0.1", "-p", &port, "-U", "fleet", "-d", database]);
        let said = command.args(["-v", "ON_ERROR_STOP=1", "-XAtq", "-c", text]).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if said.status.success() { Ok(text(&said.stdout)) } else { Err(text(&said.stderr)) }
    }

    /// A new database; its address.
    pub(crate) fn database(&self, name: &str) -> String {
        self.psql("postgres", &format!("create database {name}")).unwrap();
        format!("postgres://fleet@127.0.0.1:{}/{name}?sslmode=disable", self.port)
    }
}

/// The one in which all fleets of a program have a database of their own, where no test has asked for
/// another; none when there is none to start. A shell ends it when this process ends, however that comes
/// about.
pub(crate) fn shared(test: &str) -> Option<&'static Postgres> {
    static SHARED: OnceLock<Option<(Postgres, Child)>> = OnceLock::new();
    let shared = SHARED.get_or_init(|| {
        let service = Postgres::start(test)?;
        let process = service.child.as_ref()?.id().to_string();
        let watch = r#"read -r _; kill -QUIT "$1"; n=0
            while kill -0 "$1" 2>/dev/null && [ $n -lt 50 ]; do sleep 0.1; n=$((n + 1)); done
            rm -rf "$2""#;
        let watch = Command::new("sh")
            .args(["-c", watch, "sh", &process])
            .arg(service.folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Some((service, watch))
    });
    shared.as_ref().map(|(service, _)| service)
}

/// A database of a fleet's own in the shared one; its address.
pub(crate) fn database(test: &str) -> Option<String> {
    static DRAWN: AtomicU32 = AtomicU32::new(0);
    let number = DRAWN.fetch_add(1, Ordering::SeqCst);
    shared(test).map(|service| service.database(&format!("fleet{number}")))
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.kill();
    }
}

//! The server that is tried: the real program, or the same library under a clock that runs faster.
//!
//! - At a speed of 1 it is `fleet-server serve`, as anybody would start it; at another the command `serve` of
//!   this program, which gives the server's library simulated time, so that deadlines, stages and signatures
//!   are as fast as the devices.
//! - Either is a process of its own, killed at the end: what it costs is read from `/proc`. Where this program
//!   is killed itself, it ends too: the fast one when nobody holds its input, the real one on Linux.

use crate::line::Server;
use crate::time::Time;
use anyhow::{Context, Result, ensure};
use fleet_server::door::Rate;
use fleet_server::home::{self, STORES, Stores, Wish};
use fleet_server::ports::{Clock, SystemChance};
use fleet_server::serve::{self, Settings};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// Real time between two looks of a fast server at rounds and releases, at least.
const LOOK_MIN: Duration = Duration::from_millis(20);
/// Calls a second of one address: the server's own default.
const RATE: f64 = 50.0;

/// Programs that may serve.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `fleet-server`.
    pub server: PathBuf,
    /// This one.
    pub own: PathBuf,
}

/// A server that runs; it is killed when this is dropped.
#[derive(Debug)]
pub struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended already cannot be killed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    /// Its process.
    pub fn process(&self) -> u32 {
        self.0.id()
    }
}

/// Makes a fleet's folder, with a certificate for this machine.
///
/// # Errors
/// What the server's library says.
pub fn init(folder: &Path, stores: &Stores, time: &Time) -> Result<()> {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let wish = Wish { folder, name: "simulated", tls: Some(&names), now_ms: time.now_ms() };
    home::init_with(&wish, stores, &SystemChance)?;
    Ok(())
}

/// Copies what another server of the same fleet needs; both see one folder of blobs.
///
/// # Errors
/// What the system says.
pub fn copy(from: &Path, to: &Path) -> io::Result<()> {
    for part in ["keys", "tls"] {
        fs::create_dir_all(to.join(part))?;
        for entry in fs::read_dir(from.join(part))? {
            let name = entry?.file_name();
            fs::copy(from.join(part).join(&name), to.join(part).join(&name))?;
        }
    }
    fs::copy(from.join(STORES), to.join(STORES))?;
    std::os::unix::fs::symlink(from.join("blobs"), to.join("blobs"))
}

/// Starts a server of a folder.
///
/// # Errors
/// When it does not come so far as to listen.
pub fn start(
    programs: &Programs,
    folder: &Path,
    time: &Time,
    log: &Path,
) -> Result<(Running, Server)> {
    let is_real = time.speed() == 1.0;
    let program = if is_real { &programs.server } else { &programs.own };
    let mut command = Command::new(program);
    if is_real && cfg!(target_os = "linux") {
        command.args(["beneath", &std::process::id().to_string()]).arg(program);
    }
    command.arg("serve").arg("--folder").arg(folder);
    if is_real {
        command.args(["--json", "--listen", "127.0.0.1:0", "--health", "127.0.0.1:0"]);
    } else {
        command.args(["--start", &time.start_ms().to_string()]);
        command.args(["--speed", &time.speed().to_string()]);
    }
    let log_file = File::create(log).with_context(|| log.display().to_string())?;
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log_file).spawn();
    let mut running = Running(child.with_context(|| program.display().to_string())?);
    let out = running.0.stdout.take().context("a pipe")?;
    let mut line = String::new();
    BufReader::new(out).read_line(&mut line)?;
    let said: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
    let listen = said["listen"].as_str().and_then(|listen| listen.parse::<SocketAddr>().ok());
    ensure!(listen.is_some(), "{} did not start; its log: {}", program.display(), log.display());
    let address = listen.context("an address")?;
    Ok((running, Server { address, host: format!("localhost:{}", address.port()) }))
}

/// Serves a folder in simulated time, until this process is killed or its input ends.
///
/// # Errors
/// What the server's library says.
#[expect(clippy::print_stdout, reason = "who started this waits for the address")]
pub fn serve(folder: &Path, time: Time) -> Result<()> {
    let look = Duration::from_secs(1).div_f64(time.speed()).max(LOOK_MIN);
    // As many as the default lets through in simulated time.
    let rate = Rate { per_s: RATE, burst: 10.0 * RATE };
    let settings = Settings { clock: Arc::new(time), look, rate, ..Settings::new(folder) };
    let server = serve::start(settings)?;
    println!("{}", serde_json::json!({ "listen": server.address }));
    // Nothing is ever said there: whoever holds the other end lives.
    io::copy(&mut io::stdin().lock(), &mut io::sink())?;
    drop(server);
    Ok(())
}

//! The programs beside this one: commands that end, and programs that run until the end.
//!
//! - In: a program's name and arguments. Out: the last line it prints, as JSON.
//! - Invariant: what was started here ends with its [`Running`], and that with this program, even where it
//!   is told to end, or on Linux killed.

use crate::program::ended;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(300);

/// Where programs are, and what is left out of the commands that are shown.
pub(super) struct Programs {
    beside: PathBuf,
    folder: String,
}

/// A program that ends when this is dropped.
pub(super) struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // A cut of the power is no worse; and one that is gone already is gone.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Programs {
    /// Those beside this program, playing in `folder`.
    pub(super) fn find(folder: &Path) -> Result<Self> {
        let own = std::env::current_exe().context("cannot tell where this program lies")?;
        let beside = own.parent().context("this program lies in no folder")?.to_owned();
        let programs = Self { beside, folder: folder.display().to_string() };
        for name in ["firmware-host", "sapwood"] {
            let path = programs.path(name);
            ensure!(
                path.is_file(),
                "{} is not there: expected it beside fleet-server, where `cargo build --release` puts it",
                path.display()
            );
        }
        Ok(programs)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.beside.join(name)
    }

    fn command(&self, name: &str, args: &[&str]) -> Command {
        let mut command = ended::beneath(&self.path(name));
        command.args(args).arg("--json").stdin(Stdio::null());
        command
    }

    /// Shows a command and runs it; what it printed last.
    pub(super) fn ask(&self, name: &str, args: &[&str]) -> Result<Value> {
        self.show(name, args);
        self.quietly(name, args)
    }

    /// Runs a command; what it printed last.
    pub(super) fn quietly(&self, name: &str, args: &[&str]) -> Result<Value> {
        let output = self.command(name, args).output().with_context(|| name.to_owned())?;
        let told = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{name} {}: {}", args.join(" "), told.trim());
        let printed = String::from_utf8_lossy(&output.stdout);
        let last = printed.lines().next_back().unwrap_or("null");
        serde_json::from_str(last).with_context(|| format!("{name}: expected JSON, got {last:?}"))
    }

    /// Shows a program and starts it, its log in a file.
    pub(super) fn start(&self, name: &str, args: &[&str], log: &Path) -> Result<Running> {
        self.show(name, args);
        let file = File::create(log).with_context(|| log.display().to_string())?;
        let mut command = ended::beneath(&self.path(name));
        command.args(args).stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        Ok(Running(command.spawn().with_context(|| name.to_owned())?))
    }

    /// Shows a program and starts it; what it prints first.
    pub(super) fn start_told(
        &self,
        name: &str,
        args: &[&str],
        folder: &str,
    ) -> Result<(Running, Value)> {
        self.show(name, args);
        let log = File::create(Path::new(folder).with_extension("log"))?;
        let mut command = self.command(name, args);
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn()?;
        let out = child.stdout.take().context("a pipe")?;
        let (running, mut line) = (Running(child), String::new());
        BufReader::new(out).read_line(&mut line)?;
        let told = serde_json::from_str(&line);
        Ok((running, told.with_context(|| format!("{name} did not start; its log: {folder}.log"))?))
    }

    #[expect(clippy::print_stderr, reason = "what happens is told while it does")]
    fn show(&self, name: &str, args: &[&str]) {
        let quoted = |arg: &&str| match arg.contains([' ', '{', '#', '&']) {
            true => format!("'{arg}'"),
            false => (*arg).to_owned(),
        };
        let args: Vec<String> = args.iter().map(quoted).collect();
        eprintln!("  $ {name} {}", args.join(" ").replace(&self.folder, "$DEMO"));
    }
}

/// Looks until there is something, or patience ends.
#[expect(clippy::disallowed_methods, reason = "a program waits for others")]
pub(super) fn until<T>(
    what: &str,
    patience: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let begun = Instant::now();
    loop {
        if ended::is_told() {
            bail!("the demo was told to end: so did its server and its devices");
        }
        if let Some(found) = look()? {
            return Ok(found);
        }
        if begun.elapsed() > patience {
            bail!("expected within {} s that {what}; it did not come about", patience.as_secs());
        }
        thread::sleep(PAUSE);
    }
}

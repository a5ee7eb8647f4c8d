//! The end of this program is that of what it started.
//!
//! - Where it is told to end, whoever heeds that ends what it started.
//! - Where it is killed, on Linux, the system does: what is started here is this program once more, which
//!   asks for that and becomes the other. Elsewhere what was started goes on to its own end.

use anyhow::{Context, Result, ensure};
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use tokio::signal::unix::{SignalKind, signal};

static ENDED: AtomicBool = AtomicBool::new(false);

/// Whether this program was told to end, since it heeds that.
pub(super) fn is_told() -> bool {
    ENDED.load(Ordering::Relaxed)
}

/// Has everything that heeds it end.
pub(super) fn tell() {
    ENDED.store(true, Ordering::Relaxed);
}

/// Hears from now on when this program is told to end, which no longer ends it in the middle.
///
/// # Errors
/// When the system lets nobody listen.
pub(super) fn heed() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let entered = runtime.enter();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    drop(entered);
    thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                _ = hangup.recv() => {}
            }
        });
        tell();
    });
    Ok(())
}

/// A command of another program, which ends with the thread that starts it.
pub(super) fn beneath(program: &Path) -> Command {
    if !cfg!(target_os = "linux") {
        return Command::new(program);
    }
    // Not by a path: an upgrade may have put another program there.
    let mut command = Command::new("/proc/self/exe");
    command.args(["beneath", &std::process::id().to_string()]).arg(program);
    command
}

/// Becomes another program, which ends with the one that started it.
#[derive(clap::Args)]
pub(super) struct Beneath {
    /// The process that does.
    parent: i32,
    program: PathBuf,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

impl Beneath {
    pub(super) fn run(&self) -> Result<()> {
        #[cfg(target_os = "linux")]
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        let parent = rustix::process::getppid();
        let is_there = parent.is_some_and(|parent| parent.as_raw_pid() == self.parent);
        ensure!(is_there, "the program that wanted {} has ended", self.program.display());
        let failed = Command::new(&self.program).args(&self.arguments).exec();
        Err(failed).with_context(|| self.program.display().to_string())
    }
}

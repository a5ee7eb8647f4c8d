//! Whether this program was told to end: what it started ends with it then.

use anyhow::Result;
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

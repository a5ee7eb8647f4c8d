//! The order to end, from outside: SIGTERM or SIGINT.
//!
//! - The first signal asks: whoever looks at [`Stop`] ends at the next point where nothing is lost.
//! - The second one ends the process at once, which is a power cut like any other.

use firmware_host::supervise::Supervisor;
use std::io;
use std::sync::Arc;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// How a process ends that was interrupted: 128 and the number of SIGINT.
const INTERRUPTED: i32 = 130;

/// Whether the program was told to end; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Stop(Arc<watch::Sender<bool>>);

impl Stop {
    /// Listens to signals from now on.
    ///
    /// # Errors
    /// The system gives no thread, or no handler.
    pub(crate) fn on_signals(supervisor: &Supervisor) -> io::Result<Self> {
        let stop = Self(Arc::new(watch::Sender::new(false)));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (mut terminate, mut interrupt) = {
            let _inside = runtime.enter();
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
        };
        let told = stop.clone();
        supervisor.start("signals", move || {
            runtime.block_on(async {
                let name = either(&mut terminate, &mut interrupt).await;
                told.set();
                tracing::info!(reason = name, "told to end");
                let name = either(&mut terminate, &mut interrupt).await;
                tracing::warn!(reason = name, "told to end again: ending at once");
                std::process::exit(INTERRUPTED);
            });
        })?;
        Ok(stop)
    }

    /// Tells everybody.
    pub(crate) fn set(&self) {
        self.0.send_replace(true);
    }

    /// Comes back when it is told to end.
    pub(crate) async fn told(&self) {
        // The sender lives in `self`: waiting cannot fail.
        let _ = self.0.subscribe().wait_for(|&set| set).await;
    }
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}

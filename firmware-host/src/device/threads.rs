//! The threads that learn: they give way to those that serve, and to the rest of the machine.

use super::DeviceError;
use rayon::{ThreadPool, ThreadPoolBuilder};
use sapwood::learner;
use sapwood::settings::Settings;

/// The threads of a job.
///
/// # Errors
/// [`DeviceError::Threads`].
pub(super) fn pool(settings: &Settings) -> Result<ThreadPool, DeviceError> {
    let threads = learner::threads(settings);
    ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|index| format!("learn-{index}"))
        .start_handler(|_| yield_to_others())
        .build()
        .map_err(|error| DeviceError::Threads { threads, why: error.to_string() })
}

/// Lets every other thread of the machine go first: who waits for a text does not wait for learning.
pub(super) fn yield_to_others() {
    // Linux takes this for the calling thread alone, as is meant; elsewhere it is the whole process.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, 19) {
        tracing::debug!(%error, "learning keeps its priority");
    }
}

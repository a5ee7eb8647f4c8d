//! What the host says of itself, and the threads that are taken of it.
//!
//! Every reading is optional: a system that does not tell changes nothing but a line of text.

use super::console::Console;
use anyhow::Context;
use sapwood::settings::THREADS_MAX;
use std::fs;

/// A field of a `/proc` file, given there in kB, in bytes.
fn proc_field(file: &str, field: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// Has everything that computes share so many threads, 0 for one a core: the first call in a process
/// counts, and it comes before anything is computed. More of them than cores are told, since they wait for
/// each other.
pub(crate) fn bind_threads(threads: usize, console: &Console) -> anyhow::Result<()> {
    anyhow::ensure!(
        threads <= THREADS_MAX,
        "--threads: expected 0 to {THREADS_MAX}, got {threads}; nothing was started"
    );
    let cores = std::thread::available_parallelism().map_or(usize::MAX, usize::from);
    if threads > cores {
        console
            .warn(&format!("--threads {threads} is more than the {cores} cores: slower than 0"))?;
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    pool.with_context(|| format!("cannot start {threads} threads; nothing was started"))
}

/// Resident memory of this process.
pub(crate) fn resident_bytes() -> Option<u64> {
    proc_field("/proc/self/status", "VmRSS:")
}

/// Memory that can still be had without swapping.
pub(crate) fn available_bytes() -> Option<u64> {
    proc_field("/proc/meminfo", "MemAvailable:")
}

/// A variable of the surroundings, where it is text: those by which other programs are told the same.
#[expect(
    clippy::disallowed_methods,
    reason = "caches and tokens of the hub and of Ollama are set there"
)]
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Whether standard output is a terminal that may show colours.
#[expect(clippy::disallowed_methods, reason = "NO_COLOR is a wish of the terminal's user")]
pub(crate) fn shows_colours() -> bool {
    std::io::IsTerminal::is_terminal(&std::io::stdout()) && std::env::var_os("NO_COLOR").is_none()
}

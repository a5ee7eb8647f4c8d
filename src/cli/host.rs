//! What the host says of itself: memory in use and memory to be had.
//!
//! Every reading is optional: a system that does not tell changes nothing but a line of text.

use std::fs;

/// A field of a `/proc` file, given there in kB, in bytes.
fn proc_field(file: &str, field: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// Resident memory of this process.
pub(crate) fn resident_bytes() -> Option<u64> {
    proc_field("/proc/self/status", "VmRSS:")
}

/// Memory that can still be had without swapping.
pub(crate) fn available_bytes() -> Option<u64> {
    proc_field("/proc/meminfo", "MemAvailable:")
}

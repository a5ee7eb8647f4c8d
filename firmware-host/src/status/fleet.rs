//! What the device says of its fleet.

use serde::Serialize;

/// The device in its fleet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FleetStatus {
    /// The fleet.
    pub fleet: String,
    /// Host and port of its server.
    pub server: String,
    /// The device.
    pub device: String,
    /// What people call it.
    pub name: String,
    /// The operator's label for its cohort, once it is known.
    pub label: Option<String>,
    /// `joining`, `pending`, `accepted`, `suspended`, `rejected` or `retired`.
    pub state: &'static str,
    /// What is amiss or waited for, in a line; empty when nothing is.
    pub waiting_for: String,
    /// Highest sequence that was taken, 0 before the first.
    pub taken: u64,
    /// Sequence of what is installed.
    pub installed: Option<u64>,
    /// Whether that is on trial.
    pub trial: bool,
    /// Sequence of the statement under way.
    pub pending: Option<u64>,
    /// Bytes of its artifact that are here, and all of them.
    pub pending_bytes: Option<[u64; 2]>,
    /// Reports that the server has not acknowledged.
    pub reports: u64,
    /// When the server last answered a check-in, RFC 3339, by its own time.
    pub last_check_in: Option<String>,
    /// When it is asked again, by the same.
    pub next_check_in: Option<String>,
    /// Bytes of updates sent today, and how many there may be; none while no program runs.
    pub up_today: Option<[u64; 2]>,
    /// Bytes of artifacts that came today, and how many there may be; none while no program runs.
    pub down_today: Option<[u64; 2]>,
    /// Check-ins since the program began: answered, failed.
    pub check_ins: [u64; 2],
    /// Updates that the server has, since the program began.
    pub uploads: u64,
    /// Artifacts that came whole, since the program began.
    pub downloads: u64,
    /// Bytes of updates sent and of artifacts that came, since the program began.
    pub bytes: [u64; 2],
}

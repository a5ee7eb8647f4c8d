//! What the device can tell of itself: heat, power, memory, storage, load; every reading optional.
//!
//! - In: roots of sysfs and procfs from the configuration. Out: [`Readings`].
//! - Never here: what a reading means for learning (`constraints`).
//! - A reading that cannot be had is `None`, never an error: a device without a battery still learns.

use serde::Serialize;

/// What could be read at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub struct Readings {
    /// The hottest thermal zone that counts, in degrees Celsius.
    pub celsius: Option<f32>,
    /// Whether the device is on power.
    pub charging: Option<bool>,
    /// Charge of the battery, in percent; none without one.
    pub battery_percent: Option<f32>,
    /// What the device draws, in watts.
    pub watts: Option<f32>,
    /// A counter of the energy it has drawn, in joules, where the hardware keeps one.
    pub joules: Option<f64>,
    /// Load a core over the last minute.
    pub load: Option<f32>,
    /// Memory that can be had, in bytes, the limits of the control group included.
    pub memory_bytes: Option<u64>,
    /// Part of the last 10 s that some task waited for memory, in percent.
    pub memory_stall_percent: Option<f32>,
    /// Free bytes of the state folder's disk.
    pub storage_bytes: Option<u64>,
}

/// Where readings come from; tests bring scripted ones.
pub trait Probes: Send {
    /// All that can be read now.
    fn read(&mut self) -> Readings;
}

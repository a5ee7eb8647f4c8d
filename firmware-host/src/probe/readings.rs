//! Every reading, one row each: what it is, where it is looked for, how it is shown, and its metric.
//!
//! - Out: [`Readings`], the lines of `probes`, the gauges of `/metrics`. What is not in the table is in none.
//! - Never here: how a reading is had (the probes beside this file), what it means (`constraints`).

use serde::Serialize;
use std::path::{Path, PathBuf};

/// One thing that was found, or looked for in vain, for a person to read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// A field of [`Readings`], or a sensor, rail or supply behind one, with its label.
    pub name: String,
    /// The file or folder it comes from, or where it would have to be.
    pub source: String,
    /// What it says now, with its unit; `none` when it cannot be read.
    pub value: String,
}

/// A reading as a number for `/metrics`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gauge {
    /// Its name, without the program's.
    pub name: &'static str,
    /// What it is.
    pub help: &'static str,
    /// Its value; none when it cannot be had.
    pub value: Option<f64>,
}

/// A reading with where it comes from.
pub(super) type Found<T> = Option<(T, String)>;

/// Below which root a reading is looked for.
#[derive(Clone, Copy)]
enum Root {
    Sys,
    Proc,
    State,
}

/// The roots of a device.
pub(super) struct Roots<'r> {
    pub(super) sys: &'r Path,
    pub(super) proc: &'r Path,
    pub(super) state: &'r Path,
}

impl Roots<'_> {
    fn path(&self, root: Root, path: &str) -> PathBuf {
        match root {
            Root::Sys => self.sys.join(path),
            Root::Proc => self.proc.join(path),
            Root::State => self.state.to_path_buf(),
        }
    }
}

/// `name: type, looked for at a path below a root, shown as text (, a gauge of a name and a help, as f64);`
macro_rules! readings {
    ($(
        $(#[$doc:meta])+
        $name:ident: $kind:ty, at $root:ident $path:literal, shown $shown:expr
        $(, gauge $gauge:literal $help:literal as $number:expr)?;
    )+) => {
        /// What could be read at one moment.
        #[derive(Clone, Debug, Default, PartialEq, Serialize)]
        #[serde(rename_all = "snake_case")]
        pub struct Readings {
            $($(#[$doc])+ pub $name: Option<$kind>,)+
        }

        /// All readings with where they come from.
        pub(super) struct Sourced {
            $(pub(super) $name: Found<$kind>,)+
        }

        impl Sourced {
            pub(super) fn readings(self) -> Readings {
                Readings { $($name: self.$name.map(|(value, _)| value),)+ }
            }

            /// One line a reading; one that is missing names the place that was searched.
            pub(super) fn findings(self, roots: &Roots<'_>) -> Vec<Finding> {
                vec![$(
                    line(stringify!($name), self.$name, &roots.path(Root::$root, $path), $shown),
                )+]
            }
        }

        impl Readings {
            /// Those that are numbers for `/metrics`.
            pub fn gauges(&self) -> Vec<Gauge> {
                [$($(gauge($gauge, $help, self.$name, $number),)?)+].into()
            }
        }
    };
}

readings! {
    /// The hottest thermal zone that counts, in degrees Celsius.
    celsius: f32, at Sys "class/thermal", shown |celsius| format!("{celsius:.1} C"),
        gauge "celsius" "The hottest thermal zone that counts" as f64::from;
    /// Whether the device is on power; one without a battery is.
    charging: bool, at Sys "class/power_supply", shown |on| on.to_string();
    /// Charge of the battery, in percent; none without one.
    battery_percent: f32, at Sys "class/power_supply", shown percent,
        gauge "battery_ratio" "Charge of the battery, from 0 to 1" as |now| f64::from(now) / 100.0;
    /// What the device draws, in watts.
    watts: f32, at Sys "class/hwmon", shown |watts| format!("{watts:.2} W"),
        gauge "watts" "What the device draws" as f64::from;
    /// A counter of the energy it has drawn, in joules, where the hardware keeps one.
    joules: f64, at Sys "class/powercap", shown |joules| format!("{joules:.1} J");
    /// Load a core over the last minute.
    load: f32, at Proc "loadavg", shown |load| format!("{load:.2} a core");
    /// Part of the last 10 s that some task waited for a core, in percent.
    processor_stall_percent: f32, at Proc "pressure/cpu", shown percent;
    /// Memory that can be had, in bytes, the limits of the control group included.
    memory_bytes: u64, at Proc "meminfo", shown mebibytes,
        gauge "memory_bytes" "Memory that can be had, in bytes" as |bytes| bytes as f64;
    /// Part of the last 10 s that some task waited for memory, in percent.
    memory_stall_percent: f32, at Proc "pressure/memory", shown percent;
    /// Free bytes of the state folder's disk.
    storage_bytes: u64, at State "", shown mebibytes,
        gauge "storage_bytes" "Free bytes of the state folder's disk" as |bytes| bytes as f64;
}

fn percent(value: f32) -> String {
    format!("{value:.1} %")
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

fn line<T>(name: &str, found: Found<T>, at: &Path, shown: fn(T) -> String) -> Finding {
    let (value, source) = match found {
        Some((value, source)) => (shown(value), source),
        None => ("none".to_owned(), at.display().to_string()),
    };
    Finding { name: name.to_owned(), source, value }
}

fn gauge<T>(name: &'static str, help: &'static str, now: Option<T>, number: fn(T) -> f64) -> Gauge {
    Gauge { name, help, value: now.map(number) }
}

//! The machine that the figures are of.

use sapwood::settings::Device;
use std::fs;
use std::num::NonZero;
use std::process::Command;
use std::thread::available_parallelism;

/// Cores that this process may use.
pub(crate) fn cores() -> usize {
    available_parallelism().map_or(1, NonZero::get)
}

/// The processor's name, as Linux tells it.
pub(crate) fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}

/// The GPU's name before a comma, as its driver tells it; nothing of the CPU.
pub(crate) fn gpu(device: Device) -> String {
    let Device::Cuda(index) = device else { return String::new() };
    let mut command = Command::new("nvidia-smi");
    command.args(["--query-gpu=name,driver_version", "--format=csv,noheader", "-i"]);
    let output = command.arg(index.to_string()).output();
    let name = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    format!("{}, ", name.unwrap_or_else(|_| device.to_string()).replace(", ", ", driver "))
}

/// Processes that wanted a core over the last minute, on average; a busy machine is worth a note.
pub(crate) fn load() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split_whitespace().next()?.parse().ok()
}

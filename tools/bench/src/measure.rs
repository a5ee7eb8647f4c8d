//! What one process measures of itself: the line that it prints, and the doors to clock and kernel.
//!
//! - [`Line`] is what a worker of either side prints, ours and `peer.py` alike.
//! - Linux only: memory and CPU time are those of `/proc/self`.

use anyhow::{Context, Result, ensure};
use sapwood::settings::Device;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::Instant;

/// One worker's result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Line {
    /// Wall time of every timed step.
    pub(crate) step_ms: Vec<f64>,
    /// CPU time of all threads, the mean of the timed steps.
    pub(crate) cpu_ms: f64,
    /// Resident memory before a model is loaded, in MB of a million bytes: program and libraries.
    pub(crate) libraries_mb: f64,
    /// Resident memory once everything is loaded.
    pub(crate) loaded_mb: f64,
    /// Most resident memory of the process's life, its libraries and loading included.
    pub(crate) peak_mb: f64,
    /// Memory of the GPU that came to be used since the process began, as its driver counts it: what a
    /// library holds back for later included.
    pub(crate) device_mb: Option<f64>,
    /// Numbers of the first step that both sides must agree on.
    pub(crate) checks: BTreeMap<String, f64>,
    /// What computed it.
    pub(crate) versions: BTreeMap<String, String>,
}

impl Line {
    /// The last line of a worker's output.
    ///
    /// # Errors
    /// When it is no such line, or holds no step.
    pub(crate) fn parse(output: &str) -> Result<Self> {
        let last = output.lines().rev().find(|line| !line.trim().is_empty());
        let last = last.context("the worker printed nothing, expected a line of JSON")?;
        let line: Self = serde_json::from_str(last)
            .with_context(|| format!("expected a worker's line of JSON, got {last:?}"))?;
        ensure!(!line.step_ms.is_empty(), "the worker timed no step");
        Ok(line)
    }

    /// The middle of the timed steps.
    pub(crate) fn median_ms(&self) -> f64 {
        median(&self.step_ms)
    }

    /// The largest relative difference of what both sides computed, and its name; `free` is the
    /// name of a number that is not compared.
    ///
    /// # Errors
    /// When the sides did not compute the same things.
    pub(crate) fn difference(&self, other: &Self, free: Option<&str>) -> Result<(String, f64)> {
        let names = |line: &Self| line.checks.keys().cloned().collect::<Vec<_>>();
        ensure!(
            names(self) == names(other) && !self.checks.is_empty(),
            "the sides report different numbers: {:?} and {:?}",
            names(self),
            names(other)
        );
        let mut worst = (String::new(), 0.0);
        let pairs = self.checks.iter().zip(other.checks.values());
        for ((name, ours), theirs) in pairs.filter(|((name, _), _)| Some(name.as_str()) != free) {
            let difference = (ours - theirs).abs() / theirs.abs().max(f64::MIN_POSITIVE);
            // What is not a number is the worst there is.
            if difference.is_nan() || difference >= worst.1 {
                worst =
                    (name.clone(), if difference.is_nan() { f64::INFINITY } else { difference });
            }
        }
        Ok(worst)
    }
}

/// The middle number, or the mean of the two in the middle; NaN of none.
pub(crate) fn median(numbers: &[f64]) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => sorted[len / 2],
        len => f64::midpoint(sorted[len / 2 - 1], sorted[len / 2]),
    }
}

/// How a measurement begins: what was held before anything was loaded, and how often to repeat.
pub(crate) struct Begun {
    /// Steps before the clock runs, and with it.
    pub(crate) repeats: [usize; 2],
    device: Device,
    libraries_mb: f64,
    device_mb: Option<f64>,
}

impl Begun {
    /// Looks at the memory of this process and of the device.
    ///
    /// # Errors
    /// A system without `/proc`, a GPU of NVIDIA's without `nvidia-smi`.
    pub(crate) fn now(device: Device, repeats: [usize; 2]) -> Result<Self> {
        let (libraries_mb, device_mb) = (status_mb("VmRSS:")?, used_mb(device)?);
        Ok(Self { repeats, device, libraries_mb, device_mb })
    }
}

/// Runs `work` without a clock, then with one.
///
/// # Errors
/// The first error of `work`, and a system without `/proc`.
pub(crate) fn measure(
    begun: &Begun,
    mut work: impl FnMut() -> Result<BTreeMap<String, f64>>,
) -> Result<Line> {
    let [warm_up, steps] = begun.repeats;
    let loaded_mb = status_mb("VmRSS:")?;
    let (mut checks, mut step_ms, mut cpu) = (None, Vec::new(), cpu_ms()?);
    for step in 0..warm_up + steps {
        if step == warm_up {
            cpu = cpu_ms()?;
        }
        let (found, elapsed_ms) = timed(&mut work);
        let found = found?;
        checks.get_or_insert(found);
        if step >= warm_up {
            step_ms.push(elapsed_ms);
        }
    }
    Ok(Line {
        cpu_ms: (cpu_ms()? - cpu) / steps.max(1) as f64,
        step_ms,
        libraries_mb: begun.libraries_mb,
        loaded_mb,
        peak_mb: status_mb("VmHWM:")?,
        device_mb: used_mb(begun.device)?.zip(begun.device_mb).map(|(now, then)| now - then),
        checks: checks.unwrap_or_default(),
        versions: BTreeMap::from([("Sapwood".into(), env!("CARGO_PKG_VERSION").into())]),
    })
}

/// What `work` gives and how long it took, in milliseconds.
pub(crate) fn timed<T>(work: impl FnOnce() -> T) -> (T, f64) {
    #[expect(clippy::disallowed_methods, reason = "a benchmark's own door to the clock")]
    let start = Instant::now();
    let found = work();
    (found, start.elapsed().as_secs_f64() * 1e3)
}

/// Memory of a GPU of NVIDIA's that is used now, by whomever; none of another device.
fn used_mb(device: Device) -> Result<Option<f64>> {
    let Device::Cuda(index) = device else { return Ok(None) };
    let mut command = Command::new("nvidia-smi");
    command.args(["--query-gpu=memory.used", "--format=csv,noheader,nounits", "-i"]);
    let output = command.arg(index.to_string()).output().context("cannot start nvidia-smi")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mib: f64 = text.trim().parse().with_context(|| format!("nvidia-smi says {text:?}"))?;
    Ok(Some(mib * 1024.0 * 1024.0 / 1e6))
}

/// A field of `/proc/self/status`, given there in kB.
fn status_mb(key: &str) -> Result<f64> {
    let text = fs::read_to_string("/proc/self/status").context("memory is read from /proc")?;
    let field = text.lines().find_map(|line| line.strip_prefix(key));
    let kilobytes = field.and_then(|field| field.split_whitespace().next()?.parse::<f64>().ok());
    Ok(kilobytes.with_context(|| format!("/proc/self/status has no {key}"))? * 1024.0 / 1e6)
}

/// User and system time of all threads, in steps of a hundredth of a second.
fn cpu_ms() -> Result<f64> {
    let text = fs::read_to_string("/proc/self/stat").context("CPU time is read from /proc")?;
    // The second field is a name in parentheses, which may hold spaces.
    let fields = text.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: Vec<f64> = fields.skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
    ensure!(ticks.len() == 2, "/proc/self/stat has no CPU time");
    Ok(ticks.iter().sum::<f64>() * 10.0)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    fn line(loss: f64) -> Line {
        let text = format!(
            "Loading weights: 100%\n{{\"step_ms\": [3.0, 1.0, 2.0, 9.0], \"cpu_ms\": 4.5, \"libraries_mb\": 5.0, \
             \"loaded_mb\": 10.0, \"peak_mb\": 20.0, \"checks\": {{\"loss\": {loss}}}, \
             \"versions\": {{\"PyTorch\": \"2.15.0\"}}}}\n\n"
        );
        Line::parse(&text).unwrap()
    }

    #[test]
    fn a_line_of_the_peer_is_read_past_what_else_it_prints() {
        let line = line(10.5);
        assert!(
            (line.median_ms() - 2.5).abs() < 1e-12 && (line.checks["loss"] - 10.5).abs() < 1e-12
        );
        let ours = serde_json::to_string(&line).unwrap();
        assert_eq!(Line::parse(&ours).unwrap(), line);
    }

    #[test]
    fn what_is_no_line_is_an_error_that_shows_it() {
        assert!(Line::parse("").is_err());
        let error = Line::parse("Killed\n").unwrap_err();
        assert!(error.to_string().contains("Killed"), "{error}");
        let empty = r#"{"step_ms": [], "cpu_ms": 0, "libraries_mb": 1, "loaded_mb": 1, "peak_mb": 1, "checks": {}, "versions": {}}"#;
        assert!(Line::parse(empty).is_err());
    }

    #[test]
    fn a_difference_is_relative_and_only_what_is_free_is_left_out() {
        let (name, difference) = line(10.1).difference(&line(10.0), None).unwrap();
        assert_eq!(name, "loss");
        assert!((difference - 0.01).abs() < 1e-12);
        let (_, difference) = line(10.1).difference(&line(10.0), Some("loss")).unwrap();
        assert!(difference.abs() < 1e-12);
        let mut other = line(10.0);
        other.checks.insert("loss".into(), f64::NAN);
        assert!(line(10.0).difference(&other, None).unwrap().1.is_infinite());
        other.checks.insert("distance".into(), 1.0);
        assert!(line(10.0).difference(&other, None).is_err());
    }

    #[test]
    fn a_median_is_in_the_middle() {
        assert!((median(&[5.0, 1.0, 3.0]) - 3.0).abs() < 1e-12);
        assert!((median(&[4.0, 1.0]) - 2.5).abs() < 1e-12);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn a_process_knows_its_own_memory_and_time() {
        let begun = Begun::now(Device::Cpu, [1, 2]).unwrap();
        let line = measure(&begun, || Ok(BTreeMap::from([("one".to_owned(), 1.0)]))).unwrap();
        assert_eq!(line.step_ms.len(), 2);
        assert!(line.peak_mb >= line.loaded_mb && line.loaded_mb > 1.0, "{line:?}");
    }
}

//! `/metrics`: numbers of the device as text, for Prometheus.
//!
//! - OpenMetrics for whoever asks for it, else the text that every Prometheus reads, and `promtool`.
//! - Numbers of the device are read from its status when they are asked for; only the time that
//!   requests take is kept here.
//! - A number that cannot be had is left out, never zero.

use super::Device;
use crate::status::{JobReport, Status};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// What a text is: OpenMetrics.
const OPEN: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// What it is where nobody asks for that.
const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Upper bounds of the histogram, in seconds: from a status to a long text.
const SECONDS: [f64; 11] = [0.001, 0.005, 0.02, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 120.0];

/// Route and class of status.
type Labels = [(&'static str, Cow<'static, str>); 2];

/// Everything that is counted.
pub(super) struct Metrics {
    registry: Registry,
    seconds: Family<Labels, Histogram, fn() -> Histogram>,
}

impl Metrics {
    pub(super) fn new(device: Arc<dyn Device>) -> Self {
        let mut registry = Registry::with_prefix("sapwood");
        let seconds: Family<Labels, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(|| Histogram::new(SECONDS));
        let help = "Time from a request to the beginning of its answer";
        registry.register("http_request_seconds", help, seconds.clone());
        registry.register_collector(Box::new(Numbers(device)));
        Self { registry, seconds }
    }

    /// Counts an answer.
    pub(super) fn answered(&self, route: Cow<'static, str>, status: u16, taken: Duration) {
        let class = match status {
            200..300 => "2xx",
            300..400 => "3xx",
            400..500 => "4xx",
            _ => "5xx",
        };
        let labels = [("route", route), ("status", class.into())];
        self.seconds.get_or_create(&labels).observe(taken.as_secs_f64());
    }

    /// All of it as text, and what kind of text that is.
    ///
    /// - `accept`: what the client takes.
    ///
    /// # Errors
    /// None that a string can cause.
    pub(super) fn text(&self, accept: &str) -> Result<(&'static str, String), fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(if takes_open(accept) { (OPEN, text) } else { (CLASSIC, classic(&text)) })
    }
}

/// Whether a client takes OpenMetrics: named, and not with a weight of nothing.
fn takes_open(accept: &str) -> bool {
    let kind = OPEN.split(';').next().unwrap_or_default();
    accept.split(',').any(|range| {
        let mut words = range.split(';').map(str::trim);
        let named = words.next().is_some_and(|name| name.eq_ignore_ascii_case(kind));
        let weight = words.find_map(|word| word.strip_prefix("q=")?.parse::<f32>().ok());
        named && weight.is_none_or(|weight| weight > 0.0)
    })
}

/// OpenMetrics as the older text: there a counter's help and type stand under the name of its samples,
/// and nothing says where the text ends.
fn classic(text: &str) -> String {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let counters: Vec<&str> = types.filter_map(|rest| rest.strip_suffix(" counter")).collect();
    let total = |line: &str, head: &str| {
        let (name, rest) = line.strip_prefix(head)?.split_once(' ')?;
        counters.contains(&name).then(|| format!("{head}{name}_total {rest}\n"))
    };
    let one = |line: &str| {
        let renamed = total(line, "# HELP ").or_else(|| total(line, "# TYPE "));
        renamed.unwrap_or_else(|| format!("{line}\n"))
    };
    text.lines().filter(|line| *line != "# EOF").map(one).collect()
}

/// The device's status as numbers.
struct Numbers(Arc<dyn Device>);

impl fmt::Debug for Numbers {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("Numbers")
    }
}

impl Collector for Numbers {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let status = self.0.board().snapshot();
        let mut sheet = Sheet(encoder);
        intake(&mut sheet, &status)?;
        learning(&mut sheet, &status)?;
        serving(&mut sheet, &status)?;
        fleet(&mut sheet, &status)?;
        program(&mut sheet, &status)?;
        readings(&mut sheet, &status)
    }
}

/// Where numbers are written.
struct Sheet<'a>(DescriptorEncoder<'a>);

impl Sheet<'_> {
    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        ConstCounter::new(value).encode(metric)
    }

    fn counters(&mut self, name: &str, help: &str, rows: &[(&str, &str, u64)]) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        rows.iter().try_for_each(|&(label, value, number)| {
            ConstCounter::new(number).encode(family.encode_family(&[(label, value)])?)
        })
    }

    fn gauge(&mut self, name: &str, help: &str, value: Option<f64>) -> fmt::Result {
        let Some(value) = value else { return Ok(()) };
        let metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        ConstGauge::new(value).encode(metric)
    }

    fn gauges<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        rows: &[([(&str, &str); N], f64)],
    ) -> fmt::Result {
        if rows.is_empty() {
            return Ok(());
        }
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        rows.iter().try_for_each(|(labels, value)| {
            ConstGauge::new(*value).encode(family.encode_family(labels)?)
        })
    }
}

fn intake(sheet: &mut Sheet<'_>, status: &Status) -> fmt::Result {
    let inbox = &status.inbox;
    let rows = [
        ("result", "accepted", inbox.accepted),
        ("result", "duplicate", inbox.duplicates),
        ("result", "refused", inbox.refused),
    ];
    sheet.counters("samples", "Samples that came in, by what became of them", &rows)?;
    let help = "Frames of microcontrollers dropped: damaged, or no room";
    sheet.counter("frames_dropped", help, inbox.frames_dropped)?;
    let held = |value: u64| Some(value as f64);
    sheet.gauge("inbox_samples", "Samples that no job has learned", held(inbox.samples))?;
    let help = "Samples that no job could take in: see `firmware-host aside list`";
    sheet.gauge("inbox_aside_samples", help, held(inbox.aside))?;
    sheet.gauge("inbox_bytes", "Bytes of those samples", held(inbox.bytes))?;
    sheet.gauge("inbox_bytes_max", "Most bytes that may wait", held(inbox.bytes_max))
}

fn learning(sheet: &mut Sheet<'_>, status: &Status) -> fmt::Result {
    let ended = status.endings;
    let rows = [
        ("ending", "kept", ended.kept),
        ("ending", "dropped", ended.dropped),
        ("ending", "stopped", ended.stopped),
        ("ending", "failed", ended.failed),
    ];
    sheet.counters("jobs", "Runs of jobs, by how they ended", &rows)?;
    sheet.counter("steps", "Optimiser steps since the program began", status.steps_made)?;
    let step = status.steps.last();
    let help = "What the last optimiser step minimised";
    sheet.gauge("loss", help, step.map(|step| f64::from(step.loss)))?;
    let judged = status.jobs.iter().rev().find(|job| !job.changes.is_empty());
    let help = "Bits per byte of held-out text at the last verdict, by text and before or after";
    sheet.gauges("cross_entropy", help, &judged.map(bits).unwrap_or_default())?;
    if let Some(reservoir) = status.reservoir {
        let help = "Blocks that the reservoir holds";
        sheet.gauge("reservoir_blocks", help, Some(reservoir.held as f64))?;
        let help = "Blocks that it can hold";
        sheet.gauge("reservoir_blocks_max", help, Some(reservoir.capacity as f64))?;
        sheet.counter("reservoir_offers", "Blocks ever offered to it", reservoir.seen)?;
    }
    let rows: Vec<_> =
        status.constraints.iter().map(|one| ([("name", one.name)], one.met)).collect();
    let rows: Vec<_> =
        rows.into_iter().map(|(name, met)| (name, f64::from(u8::from(met)))).collect();
    sheet.gauges("constraint_met", "Whether a constraint of learning holds", &rows)
}

fn bits(job: &JobReport) -> Vec<([(&str, &str); 2], f64)> {
    let both = |when: &'static str| {
        job.changes.iter().map(move |change| {
            let value = if when == "before" { change.before } else { change.after };
            ([("text", change.text.as_str()), ("when", when)], value)
        })
    };
    both("before").chain(both("after")).collect()
}

fn serving(sheet: &mut Sheet<'_>, status: &Status) -> fmt::Result {
    let serving = status.serving;
    let help = "Generation in use; none for the bare base";
    sheet.gauge("generation", help, serving.generation.map(|number| number as f64))?;
    let help = "Sequence of the global adapter that it stands on; none without one";
    let sequence = status.global.as_ref().map(|global| global.sequence as f64);
    sheet.gauge("global_sequence", help, sequence)?;
    let help = "Starts that are left to it on trial; none when it is confirmed";
    let tries = status.trial.map(|trial| f64::from(trial.tries_left));
    sheet.gauge("trial_tries_left", help, tries)?;
    let help = "Texts that are being written";
    sheet.gauge("texts_active", help, Some(serving.active as f64))?;
    sheet.counter("texts", "Requests for text that were answered", serving.requests)?;
    let help = "Requests for text that were refused for want of room";
    sheet.counter("texts_refused", help, serving.refused)?;
    sheet.counter("tokens_written", "Tokens written", serving.tokens)
}

fn fleet(sheet: &mut Sheet<'_>, status: &Status) -> fmt::Result {
    let Some(fleet) = &status.fleet else { return Ok(()) };
    let [answered, failed] = fleet.check_ins;
    let rows = [("result", "answered", answered), ("result", "failed", failed)];
    sheet.counters("fleet_check_ins", "Check-ins at the fleet's server", &rows)?;
    let [up, down] = fleet.bytes;
    let rows = [("direction", "up", up), ("direction", "down", down)];
    sheet.counters("fleet_bytes", "Bytes of updates lent and of artifacts fetched", &rows)?;
    sheet.counter("fleet_uploads", "Updates that the fleet's server has", fleet.uploads)?;
    sheet.counter("fleet_downloads", "Artifacts that came whole", fleet.downloads)?;
    let accepted = f64::from(u8::from(fleet.state == "accepted"));
    sheet.gauge("fleet_accepted", "Whether the fleet takes this device, 0 or 1", Some(accepted))
}

fn program(sheet: &mut Sheet<'_>, status: &Status) -> fmt::Result {
    let help = "Whether the disk failed or a thread broke off; the status says what";
    sheet.gauge("fault", help, Some(f64::from(u8::from(status.fault.is_some()))))?;
    sheet.counter("panics", "Panics of any thread", status.panics)?;
    let help = "Lines of the log that could not be written";
    sheet.counter("log_lines_lost", help, status.log_lines_lost)
}

fn readings(sheet: &mut Sheet<'_>, status: &Status) -> fmt::Result {
    for gauge in status.readings.gauges() {
        sheet.gauge(gauge.name, gauge.help, gauge.value)?;
    }
    let help = "Resident memory of the process, in bytes";
    sheet.gauge("resident_bytes", help, status.resident_bytes.map(|bytes| bytes as f64))?;
    sheet.gauge("uptime_seconds", "Time since the program began", Some(status.uptime_seconds))
}

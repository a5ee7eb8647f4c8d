//! `/metrics`: numbers of the server as text, for Prometheus.
//!
//! - Time and number of answers are kept here; what the book knows is read when it is asked for.
//! - OpenMetrics; the text that every Prometheus reads is the same but for the names of counters.

use crate::store::{Book, BookError, Columns};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

/// Upper bounds of the histogram, in seconds: from a check-in to an upload over a slow line.
const SECONDS: [f64; 10] = [0.001, 0.005, 0.02, 0.05, 0.1, 0.5, 2.0, 10.0, 60.0, 600.0];

/// Route and class of status.
type Labels = [(&'static str, &'static str); 2];
/// State.
type States = [(&'static str, &'static str); 1];

/// Everything that is counted.
pub(crate) struct Metrics {
    registry: Mutex<Registry>,
    seconds: Family<Labels, Histogram, fn() -> Histogram>,
    devices: Family<States, Gauge>,
    rounds: Family<States, Gauge>,
    uploads: Gauge,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("sapwood_fleet");
        let seconds: Family<Labels, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(|| Histogram::new(SECONDS));
        let help = "Time from a request to its answer";
        registry.register("http_request_seconds", help, seconds.clone());
        let (devices, rounds, uploads) = (Family::default(), Family::default(), Gauge::default());
        registry.register("devices", "Devices by state", devices.clone());
        registry.register("rounds", "Rounds by state", rounds.clone());
        registry.register("uploads_kept", "Uploads that are kept", uploads.clone());
        Self { registry: Mutex::new(registry), seconds, devices, rounds, uploads }
    }

    /// Counts an answer.
    pub(crate) fn answered(&self, route: &'static str, status: u16, taken: Duration) {
        let class = match status {
            200..300 => "2xx",
            400..500 => "4xx",
            _ => "5xx",
        };
        let labels = [("route", route), ("status", class)];
        self.seconds.get_or_create(&labels).observe(taken.as_secs_f64());
    }

    /// All of it as text.
    ///
    /// # Errors
    /// [`BookError`].
    pub(crate) fn text(&self, book: &dyn Book) -> Result<String, BookError> {
        const DEVICES: [&str; 5] = ["pending", "accepted", "suspended", "rejected", "retired"];
        const ROUNDS: [&str; 7] = ["", "open", "closed", "merged", "judged", "candidate", "failed"];
        let gauges = [
            (&self.devices, "select state, count(*) from device group by state", &DEVICES[..]),
            (&self.rounds, "select state, count(*) from round group by state", &ROUNDS[..]),
        ];
        for (family, sql, names) in gauges {
            let mut counts = vec![0; names.len()];
            for row in book.read(sql, &[])? {
                let mut columns = Columns::of(row);
                let (state, count) = (columns.number()? as usize, columns.number()?);
                if let Some(place) = counts.get_mut(state) {
                    *place = count as i64;
                }
            }
            for (name, count) in names.iter().zip(counts).filter(|(name, _)| !name.is_empty()) {
                family.get_or_create(&[("state", *name)]).set(count);
            }
        }
        let rows = book.read("select count(*) from upload where state in (2, 3)", &[])?;
        let kept = Columns::of(rows.into_iter().next().unwrap_or_default()).number()?;
        self.uploads.set(kept as i64);
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        // Into a String, which takes everything.
        let _ = encode(&mut text, &registry);
        Ok(text)
    }
}

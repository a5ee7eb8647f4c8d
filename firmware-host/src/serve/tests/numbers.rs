//! What `/metrics` says, read as others read it.

use super::{report, routes, text};
use crate::constraints::ConstraintState;
use crate::probe::Readings;
use crate::serve::fixture::{Cage, Parrot};
use crate::status::{
    Change, Ending, FleetStatus, GlobalStatus, JobReport, ReservoirStatus, StepPoint, TrialStatus,
};
use axum::body::Body;
use axum::http::Request;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;
use tower::ServiceExt;

/// A device of which every number is known.
fn full() -> Arc<Cage> {
    let cage = Cage::with(Parrot::default());
    cage.board.step(StepPoint { step: 1, loss: 2.5, fresh: 2.5, replay: None });
    let changes = vec![Change { text: "new".into(), before: 3.0, after: 2.0 }];
    cage.board.job(JobReport { changes, ..report(1, Ending::Kept) });
    cage.board.update(|status| {
        status.readings = Readings {
            celsius: Some(41.5),
            watts: Some(6.5),
            battery_percent: Some(80.0),
            storage_bytes: Some(1 << 30),
            memory_bytes: Some(1 << 30),
            ..Readings::default()
        };
        status.resident_bytes = Some(1 << 20);
        status.fleet = Some(FleetStatus { installed: Some(7), ..FleetStatus::default() });
        status.reservoir = Some(ReservoirStatus { held: 1, capacity: 2, seen: 3 });
        status.serving.generation = Some(7);
        status.global = Some(GlobalStatus { sequence: 3, ..GlobalStatus::default() });
        status.trial = Some(TrialStatus { parent: 6, tries_left: 2 });
        let (name, why) = ("charging", String::new());
        status.constraints.push(ConstraintState { name, met: false, why });
    });
    cage
}

/// The text, and what it says it is, for a client that accepts this.
async fn scraped(cage: &Arc<Cage>, accept: &str) -> (String, String) {
    let routes = routes(cage);
    let ask = || {
        let request = Request::get("/metrics").header("accept", accept);
        routes.clone().oneshot(request.body(Body::empty()).unwrap())
    };
    // The second one has the first in its histogram.
    ask().await.unwrap();
    let response = ask().await.unwrap();
    let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
    (text(response).await, kind)
}

const PROMETHEUS: &str = "application/openmetrics-text;version=1.0.0,\
    application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";

#[tokio::test]
async fn the_text_is_open_metrics_for_who_asks_and_else_that_of_every_prometheus() {
    let cage = full();
    for accept in ["*/*", "text/plain;version=0.0.4", "application/openmetrics-text;q=0"] {
        let (text, kind) = scraped(&cage, accept).await;
        assert!(kind.starts_with("text/plain; version=0.0.4"), "{accept}: {kind}");
        assert!(text.contains("# TYPE sapwood_steps_total counter\n"), "{accept}: {text}");
        assert!(!text.contains("# EOF"), "{accept}");
    }
    for accept in [PROMETHEUS, "Application/OpenMetrics-Text"] {
        let (text, kind) = scraped(&cage, accept).await;
        assert!(kind.starts_with("application/openmetrics-text; version=1.0.0"), "{kind}");
        assert!(text.contains("# TYPE sapwood_steps counter\n") && text.ends_with("# EOF\n"));
    }
}

/// Goal: what Prometheus' own check finds wrong with a text, if anything. Oracle: `promtool check metrics`.
#[tokio::test]
async fn promtool_has_nothing_to_say() {
    let (text, _) = scraped(&full(), "*/*").await;
    let mut tool = Command::new("promtool");
    tool.args(["check", "metrics"]).stdin(Stdio::piped());
    let tool = tool.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let Ok(mut tool) = tool else {
        eprintln!("skipped: no `promtool` here (Debian's package `prometheus`)");
        return;
    };
    tool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let said = tool.wait_with_output().unwrap();
    let words = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
    assert!(said.status.success() && words.is_empty(), "{words}\n{text}");
}

/// A metric as a text says it.
#[derive(Default)]
struct Metric {
    help: String,
    kind: String,
    /// Name, labels and value of each sample.
    samples: Vec<(String, String, f64)>,
}

fn read(text: &str) -> BTreeMap<String, Metric> {
    let mut all: BTreeMap<String, Metric> = BTreeMap::new();
    for line in text.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words[..] {
            ["#", "HELP", name, help] => all.entry(name.into()).or_default().help = help.into(),
            ["#", "TYPE", name, kind] => all.entry(name.into()).or_default().kind = kind.into(),
            _ => {
                let (sample, value) = line.rsplit_once(' ').unwrap();
                let (name, labels) = sample.split_once('{').unwrap_or((sample, "}"));
                let parts = ["_bucket", "_sum", "_count"];
                let base = parts.into_iter().find_map(|part| name.strip_suffix(part));
                let is_part =
                    |base: &&str| all.get(*base).is_some_and(|one| one.kind == "histogram");
                let family = base.filter(is_part).unwrap_or(name).to_owned();
                let sample = (name.to_owned(), labels.to_owned(), value.parse().unwrap());
                all.entry(family).or_default().samples.push(sample);
            }
        }
    }
    all
}

/// Words that are no base unit, abbreviations of units, and kinds of metrics.
const FOREIGN: &str = "ms us ns s sec secs millisecond milliseconds minutes hours days b kb mb gb tb \
    bits bit kilobytes megabytes percent percentage celcius fahrenheit kelvins calories \
    wh kwh mw counter gauge histogram summary mah";

/// The rules of `promtool check metrics` that a text of ours could break, also where it is not installed.
/// Source: prometheus.io, "Metric and label naming", "Text-based format".
#[tokio::test]
async fn names_and_kinds_keep_the_rules_of_prometheus() {
    let (text, _) = scraped(&full(), "").await;
    for (name, metric) in read(&text) {
        let is_counter = metric.kind == "counter";
        assert!(metric.help.len() > 10, "{name}: {:?}", metric.help);
        assert!(
            ["counter", "gauge", "histogram"].contains(&&*metric.kind),
            "{name}: {}",
            metric.kind
        );
        assert_eq!(name.ends_with("_total"), is_counter, "{name} is a {}", metric.kind);
        let plain = |letter: char| letter.is_ascii_lowercase() || letter == '_';
        assert!(name.starts_with("sapwood_") && name.chars().all(plain), "{name}");
        let foreign: Vec<&str> =
            name.split('_').filter(|word| FOREIGN.split(' ').any(|one| one == *word)).collect();
        assert!(foreign.is_empty(), "{name}: {foreign:?}");
        let ends = ["_count", "_sum", "_bucket"];
        assert!(
            !ends.iter().any(|end| name.ends_with(end)),
            "{name} ends like part of a histogram"
        );
        for (sample, labels, value) in &metric.samples {
            assert!(!labels.contains("__") && !labels.contains("quantile="), "{name}: {labels}");
            assert!(value.is_finite() && (!is_counter || *value >= 0.0), "{name}: {value}");
            let is_bucket = metric.kind == "histogram" && sample.ends_with("_bucket");
            assert_eq!(labels.contains("le=\""), is_bucket, "{sample}: {labels}");
        }
        if metric.kind == "histogram" {
            let sum =
                |part: &str| metric.samples.iter().filter(|one| one.0.ends_with(part)).count();
            let buckets: Vec<f64> = metric
                .samples
                .iter()
                .filter(|one| one.0.ends_with("_bucket"))
                .map(|one| one.2)
                .collect();
            assert_eq!((sum("_sum"), sum("_count")), (1, 1), "{name}");
            assert!(buckets.is_sorted() && text.contains("le=\"+Inf\""), "{name}: {buckets:?}");
        }
    }
}

/// The table of README.md names every metric, and no other.
#[tokio::test]
async fn the_table_of_the_readme_has_every_metric() {
    let (text, _) = scraped(&full(), "").await;
    let made: BTreeSet<String> = read(&text).into_keys().collect();
    let rows = include_str!("../../../README.md").lines();
    let named = rows.filter_map(|row| row.strip_prefix("| `sapwood_")?.split(['`', '{']).next());
    let told: BTreeSet<String> = named.map(|name| format!("sapwood_{name}")).collect();
    assert_eq!(made, told);
}

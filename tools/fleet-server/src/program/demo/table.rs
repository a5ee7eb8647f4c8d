//! What a fleet brought its devices: bits per byte on held-out text.

use super::device::{Device, Learned};
use super::programs::Programs;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::fmt;
use std::path::Path;

/// A device's scores with one adapter.
#[derive(Clone, Copy)]
struct Scores {
    own: f64,
    others: f64,
    general: f64,
}

/// A device: with the bare base, alone, with the fleet.
struct Row {
    domain: &'static str,
    scores: [Scores; 3],
}

/// Every device's scores.
pub(super) struct Table(Vec<Row>);

impl Table {
    /// Scores what devices had alone, and what they have now.
    pub(super) fn of(
        programs: &Programs,
        models: &Path,
        devices: &[Device<'_>],
        alone: &[Learned],
    ) -> Result<Self> {
        let base = models.join("base").display().to_string();
        let score = |domain: &str, adapter: Option<&Path>| -> Result<f64> {
            let text = models.join(format!("samples/{domain}/test.jsonl")).display().to_string();
            let adapter = adapter.map(|path| path.display().to_string());
            let more = adapter.as_ref().map(|path| ["--adapter-path", path]);
            let args = ["eval", "--model", &base, "--data", &text];
            let told = programs.quietly(
                "sapwood",
                &[&args[..], more.as_ref().map_or(&[], |more| more)].concat(),
            )?;
            told["bits_per_byte"].as_f64().context("a score")
        };
        let scores = |device: &Device<'_>, adapter: Option<&Path>| -> Result<Scores> {
            let others = devices.iter().filter(|other| other.domain != device.domain);
            let others = others.map(|other| score(other.domain, adapter));
            let others = others.collect::<Result<Vec<_>>>()?;
            Ok(Scores {
                own: score(device.domain, adapter)?,
                others: others.iter().sum::<f64>() / others.len() as f64,
                general: score("general", adapter)?,
            })
        };
        let row = |(device, alone): (&Device<'_>, &Learned)| {
            let now = device.learned()?;
            let adapters = [None, Some(&*alone.adapter), Some(&*now.adapter)];
            let [bare, alone, now] = adapters.map(|adapter| scores(device, adapter));
            Ok(Row { domain: device.domain, scores: [bare?, alone?, now?] })
        };
        devices.iter().zip(alone).map(row).collect::<Result<_>>().map(Self)
    }

    /// The same for programs.
    pub(super) fn json(&self) -> Value {
        let scores = |scores: &Scores| json!({"own": scores.own, "others": scores.others, "general": scores.general});
        let row = |row: &Row| {
            let [base, alone, fleet] = row.scores.each_ref().map(scores);
            json!({"device": row.domain, "base": base, "alone": alone, "fleet": fleet})
        };
        json!({"bits_per_byte": self.0.iter().map(row).collect::<Vec<_>>()})
    }
}

impl fmt::Display for Table {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            to,
            "{:<20}{:<16}{:>8}{:>8}{:>8}   bits per byte, lower is better",
            "device", "text", "base", "alone", "fleet"
        )?;
        for row in &self.0 {
            let columns = row.scores.each_ref().map(|it| [it.own, it.others, it.general]);
            for (at, text) in ["its own", "the others'", "general"].into_iter().enumerate() {
                let device = if at == 0 { row.domain } else { "" };
                let [base, alone, fleet] = columns.map(|column| column[at]);
                writeln!(to, "{device:<20}{text:<16}{base:>8.3}{alone:>8.3}{fleet:>8.3}")?;
            }
        }
        Ok(())
    }
}

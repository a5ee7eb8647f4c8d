//! The report of a stream: every run's matrix, and each method's metrics over its seeds.
//!
//! - In: runs. Out: summaries, CSV, JSON (serde); `table.rs` has the tables for people.

use super::{Matrix, MatrixError, Metrics};
use crate::settings::Method;
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;

/// The name of general text among those of the domains.
pub(super) const GENERAL: &str = "general text";

/// Which held-out blocks the scores are of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// The domains' test text: results.
    #[default]
    Test,
    /// The end of the domains' training text, which is not learned then: for choosing settings.
    Valid,
}

/// One method over one stream with one seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Title of the method.
    pub method: String,
    /// Seed of the run.
    pub seed: u64,
    /// Its scores.
    pub matrix: Matrix,
}

impl Run {
    /// Whether all domains were learned at once.
    pub fn is_joint(&self) -> bool {
        is_joint(&self.method)
    }

    /// What had been learned at each row of R: the domain's name, or of joint training the part of its
    /// steps.
    pub fn stops(&self) -> Vec<String> {
        let names = &self.matrix.domains;
        match self.is_joint() {
            true => (1..=names.len()).map(|part| format!("{part}/{}", names.len())).collect(),
            false => names.clone(),
        }
    }
}

/// Whether the title is that of a method that learns all domains at once.
fn is_joint(title: &str) -> bool {
    Method::titled(title).is_some_and(|method| method.joint().is_some())
}

/// Mean and sample standard deviation of a method's metrics over its seeds; 0 spread for one seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Title of the method.
    pub method: String,
    /// Runs that were summed.
    pub seeds: usize,
    /// Means.
    pub mean: Metrics,
    /// Standard deviations, divisor n - 1.
    pub deviation: Metrics,
    /// Percent of the way from ER's mean ACC to that of joint training, where both were run.
    pub share: Option<f64>,
}

/// Everything that a stream measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Unit of the scores, such as `bits per byte`.
    pub unit: String,
    /// Which blocks were scored.
    #[serde(default)]
    pub split: Split,
    /// All runs, in the order they were made.
    pub runs: Vec<Run>,
}

impl Report {
    /// One summary for each method, in the order of first appearance.
    ///
    /// # Errors
    /// [`MatrixError`] when a run is not finished.
    pub fn summaries(&self) -> Result<Vec<Summary>, MatrixError> {
        let mut groups: Vec<(&str, Vec<Metrics>)> = Vec::new();
        for run in &self.runs {
            let metrics = run.matrix.metrics()?;
            match groups.iter_mut().find(|(method, _)| *method == run.method) {
                Some((_, group)) => group.push(metrics),
                None => groups.push((&run.method, vec![metrics])),
            }
        }
        let mut summaries: Vec<Summary> =
            groups.into_iter().map(|(method, group)| Summary::of(method, &group)).collect();
        self.fill_shares(&mut summaries);
        Ok(summaries)
    }

    /// Nothing is filled in where joint training was not run, or is no better than ER.
    fn fill_shares(&self, summaries: &mut [Summary]) {
        let acc = |method: Method| {
            summaries
                .iter()
                .find(|found| found.method == method.title())
                .map(|found| found.mean.acc)
        };
        let (Some(er), Some(joint), Some(first)) =
            (acc(Method::Replay), acc(Method::Joint), self.runs.first())
        else {
            return;
        };
        let gain = |to| first.matrix.direction.gain(er, to);
        for summary in summaries {
            summary.share =
                (gain(joint) > 0.0).then(|| 100.0 * gain(summary.mean.acc) / gain(joint));
        }
    }

    /// One score a line: `method,seed,learned,domain,score`; `learned` is 0 before the first domain.
    ///
    /// General text stands behind the domains, as `general text`.
    pub fn to_csv(&self) -> String {
        let mut csv = "method,seed,learned,domain,score\n".to_owned();
        for Run { method, seed, matrix } in &self.runs {
            for (learned, row) in matrix.all_rows().enumerate() {
                for (domain, score) in matrix.columns().zip(row) {
                    let (method, domain) = (quoted(method), quoted(domain));
                    // Writing to a string cannot fail.
                    let _ = writeln!(csv, "{method},{seed},{learned},{domain},{score}");
                }
            }
        }
        csv
    }
}

impl Matrix {
    /// What the scores of a row are of: the domains, and general text where there is some.
    pub(super) fn columns(&self) -> impl Iterator<Item = &str> {
        let general = (!self.general.is_empty()).then_some(GENERAL);
        self.domains.iter().map(String::as_str).chain(general)
    }

    /// b and the rows of R, each with its score of general text at its end where there is one.
    pub(super) fn all_rows(&self) -> impl Iterator<Item = Vec<f64>> {
        std::iter::once(&self.before)
            .chain(&self.rows)
            .enumerate()
            .map(|(learned, row)| row.iter().chain(self.general.get(learned)).copied().collect())
    }
}

impl Metrics {
    /// The numbers in the order of [`super::table::COLUMNS`]; NaN where there is none.
    pub(super) fn values(&self) -> [f64; 9] {
        let Self { acc, la, last, bwt, forgetting, fwt, aaa, general, prequential } = *self;
        let some = |value: Option<f64>| value.unwrap_or(f64::NAN);
        [acc, la, last, bwt, forgetting, fwt, aaa, some(prequential), some(general)]
    }

    fn from_values(values: [f64; 9]) -> Self {
        let [acc, la, last, bwt, forgetting, fwt, aaa, prequential, general] = values;
        let some = |value: f64| (!value.is_nan()).then_some(value);
        let (prequential, general) = (some(prequential), some(general));
        Self { acc, la, last, bwt, forgetting, fwt, aaa, general, prequential }
    }
}

impl Summary {
    /// Whether all domains were learned at once.
    pub fn is_joint(&self) -> bool {
        is_joint(&self.method)
    }

    fn of(method: &str, runs: &[Metrics]) -> Self {
        let (mut mean, mut deviation) = ([0.0; 9], [0.0; 9]);
        let count = runs.len() as f64;
        for metric in 0..mean.len() {
            let values = || runs.iter().map(|run| run.values()[metric]);
            mean[metric] = values().sum::<f64>() / count;
            let squares: f64 = values().map(|value| (value - mean[metric]).powi(2)).sum();
            deviation[metric] = (squares / (count - 1.0).max(1.0)).sqrt();
        }
        let (mean, deviation) = (Metrics::from_values(mean), Metrics::from_values(deviation));
        Self { method: method.to_owned(), seeds: runs.len(), mean, deviation, share: None }
    }
}

/// A CSV field, quoted when it must be.
fn quoted(field: &str) -> String {
    if field.contains([',', '"', '\n', '\r']) {
        return format!("\"{}\"", field.replace('"', "\"\""));
    }
    field.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::Direction;

    fn run(method: &str, seed: u64, end: f64, general: &[f64]) -> Run {
        Run {
            method: method.into(),
            seed,
            matrix: Matrix {
                domains: vec!["a, b".into(), "c".into()],
                direction: Direction::LowerIsBetter,
                before: vec![3.0, 3.0],
                rows: vec![vec![1.0, 2.5], vec![end, 1.0]],
                general: general.to_vec(),
                prequential: vec![],
            },
        }
    }

    fn report() -> Report {
        let runs = vec![
            run("sequential LoRA", 0, 2.0, &[]),
            run("ER", 0, 1.0, &[2.0, 2.1, 2.2]),
            run("sequential LoRA", 1, 3.0, &[]),
        ];
        Report { unit: "bits per byte".into(), split: Split::Valid, runs }
    }

    /// Oracle: by hand; forgetting 1 and 2 have mean 1.5 and deviation sqrt(0.5). 1e-12 is rounding.
    #[test]
    fn a_summary_is_mean_and_deviation_over_the_seeds_of_a_method() -> Result<(), MatrixError> {
        let summaries = report().summaries()?;
        assert_eq!((summaries.len(), summaries[0].seeds, summaries[1].seeds), (2, 2, 1));
        assert!((summaries[0].mean.forgetting - 1.5).abs() < 1e-12);
        assert!((summaries[0].deviation.forgetting - 0.5f64.sqrt()).abs() < 1e-12);
        assert!(summaries[1].deviation.forgetting.abs() < 1e-12);
        assert_eq!((summaries[0].mean.general, summaries[0].share), (None, None));
        let general = summaries[1].mean.general.unwrap_or(f64::NAN);
        assert!((general - 10.0).abs() < 1e-12, "{general}");
        Ok(())
    }

    /// Oracle: by hand; ACC is (end + 1) / 2, so of the way from 2 to 1, an end of 1.5 is at a half.
    #[test]
    fn a_share_is_the_part_of_the_way_from_replay_to_joint_training() -> Result<(), MatrixError> {
        let mut report = Report {
            runs: vec![
                run("ER", 0, 1.8, &[]),
                run("ER", 1, 2.2, &[]),
                run("I-LoRA", 0, 1.5, &[]),
                run("sequential LoRA", 0, 2.5, &[]),
                run("joint", 0, 1.0, &[]),
                run("joint, 3 x steps", 0, 0.5, &[]),
            ],
            ..report()
        };
        let shares: Vec<f64> =
            report.summaries()?.iter().map(|summary| summary.share.unwrap_or(f64::NAN)).collect();
        for (got, want) in shares.iter().zip([0.0, 50.0, -50.0, 100.0, 150.0]) {
            assert!((got - want).abs() < 1e-9, "{shares:?}");
        }
        report.runs.push(run("joint", 1, 4.0, &[]));
        assert!(report.summaries()?.iter().all(|summary| summary.share.is_none()), "no gap");
        report.runs.retain(|run| !run.is_joint());
        assert!(report.summaries()?.iter().all(|summary| summary.share.is_none()), "no joint");
        Ok(())
    }

    #[test]
    fn csv_has_a_line_for_every_score_and_json_comes_back() -> Result<(), serde_json::Error> {
        let csv = report().to_csv();
        assert_eq!(csv.lines().count(), 1 + 3 * 3 * 2 + 3);
        assert_eq!(csv.lines().nth(1), Some("sequential LoRA,0,0,\"a, b\",3"));
        assert_eq!(csv.lines().nth(4), Some("sequential LoRA,0,1,c,2.5"));
        assert_eq!(csv.lines().nth(9), Some("ER,0,0,general text,2"));
        let json = serde_json::to_string(&report())?;
        assert_eq!(serde_json::from_str::<Report>(&json)?, report());
        Ok(())
    }

    /// Golden: a `stream.json` from before general text and the choice of blocks.
    #[test]
    fn a_report_of_an_older_program_is_read() -> Result<(), serde_json::Error> {
        let old = r#"{"unit":"bits per byte","runs":[{"method":"sequential LoRA","seed":1,"matrix":
            {"domains":["a, b","c"],"direction":"lower-is-better","before":[3.0,3.0],
            "rows":[[1.0,2.5],[3.0,1.0]]}}]}"#;
        let read: Report = serde_json::from_str(old)?;
        assert_eq!((read.split, &read.runs[0]), (Split::Test, &report().runs[2]));
        Ok(())
    }
}

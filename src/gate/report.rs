//! The report of a stream: every run's matrix, and one line for each method over its seeds.

use super::{Matrix, MatrixError, Metrics};
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;

/// One method over one stream with one seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Name of the method, as the tables show it.
    pub method: String,
    /// Seed of the run.
    pub seed: u64,
    /// Its scores.
    pub matrix: Matrix,
}

/// Mean and sample standard deviation of a method's metrics over its seeds; 0 spread for one seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Name of the method.
    pub method: String,
    /// Runs that were summed.
    pub seeds: usize,
    /// Means.
    pub mean: Metrics,
    /// Standard deviations, divisor n - 1.
    pub deviation: Metrics,
}

/// Everything that a stream measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Unit of the scores, such as `bits per byte`.
    pub unit: String,
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
        Ok(groups.into_iter().map(|(method, group)| Summary::of(method, &group)).collect())
    }

    /// One score a line: `method,seed,learned,domain,score`; `learned` is 0 before the first domain.
    pub fn to_csv(&self) -> String {
        let mut csv = "method,seed,learned,domain,score\n".to_owned();
        for Run { method, seed, matrix } in &self.runs {
            for (learned, row) in std::iter::once(&matrix.before).chain(&matrix.rows).enumerate() {
                for (domain, score) in matrix.domains.iter().zip(row) {
                    let (method, domain) = (quoted(method), quoted(domain));
                    // Writing to a string cannot fail.
                    let _ = writeln!(csv, "{method},{seed},{learned},{domain},{score}");
                }
            }
        }
        csv
    }

    /// All methods as a Markdown table, mean ± deviation over seeds.
    ///
    /// # Errors
    /// [`MatrixError`] when a run is not finished.
    pub fn to_markdown(&self) -> Result<String, MatrixError> {
        let mut table = "| method | seeds | ACC | BWT | forgetting | FWT | AAA |\n".to_owned();
        table.push_str("|---|---|---|---|---|---|---|\n");
        for Summary { method, seeds, mean, deviation } in self.summaries()? {
            let _ = write!(table, "| {method} | {seeds} |");
            for (mean, deviation) in mean.values().into_iter().zip(deviation.values()) {
                let _ = match seeds {
                    1 => write!(table, " {mean:.4} |"),
                    _ => write!(table, " {mean:.4} ± {deviation:.4} |"),
                };
            }
            table.push('\n');
        }
        let _ = writeln!(table, "\nACC and AAA in {}; BWT and FWT above 0 are gains.", self.unit);
        Ok(table)
    }
}

impl Matrix {
    /// R as a Markdown table, one row for each domain learned, b first.
    pub fn to_markdown(&self) -> String {
        let mut table = format!("| after | {} |\n", self.domains.join(" | "));
        let _ = writeln!(table, "|---|{}", "---|".repeat(self.domains.len()));
        let names = std::iter::once("nothing").chain(self.domains.iter().map(String::as_str));
        for (name, row) in names.zip(std::iter::once(&self.before).chain(&self.rows)) {
            let scores: Vec<String> = row.iter().map(|score| format!("{score:.4}")).collect();
            let _ = writeln!(table, "| {name} | {} |", scores.join(" | "));
        }
        table
    }
}

impl Metrics {
    /// ACC, BWT, forgetting, FWT, AAA.
    pub fn values(&self) -> [f64; 5] {
        [self.acc, self.bwt, self.forgetting, self.fwt, self.aaa]
    }

    fn from_values([acc, bwt, forgetting, fwt, aaa]: [f64; 5]) -> Self {
        Self { acc, bwt, forgetting, fwt, aaa }
    }
}

impl Summary {
    fn of(method: &str, runs: &[Metrics]) -> Self {
        let (mut mean, mut deviation) = ([0.0; 5], [0.0; 5]);
        let count = runs.len() as f64;
        for metric in 0..5 {
            let values = || runs.iter().map(|run| run.values()[metric]);
            mean[metric] = values().sum::<f64>() / count;
            let squares: f64 = values().map(|value| (value - mean[metric]).powi(2)).sum();
            deviation[metric] = (squares / (count - 1.0).max(1.0)).sqrt();
        }
        let (mean, deviation) = (Metrics::from_values(mean), Metrics::from_values(deviation));
        Self { method: method.to_owned(), seeds: runs.len(), mean, deviation }
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

    fn report() -> Report {
        let run = |method: &str, seed, last| Run {
            method: method.into(),
            seed,
            matrix: Matrix {
                domains: vec!["a, b".into(), "c".into()],
                direction: Direction::LowerIsBetter,
                before: vec![3.0, 3.0],
                rows: vec![vec![1.0, 2.5], vec![last, 1.0]],
            },
        };
        let runs = vec![run("sequential", 0, 2.0), run("ER", 0, 1.0), run("sequential", 1, 3.0)];
        Report { unit: "bits per byte".into(), runs }
    }

    /// Oracle: by hand; forgetting 1 and 2 have mean 1.5 and deviation sqrt(0.5). 1e-12 is rounding.
    #[test]
    fn a_summary_is_mean_and_deviation_over_the_seeds_of_a_method() -> Result<(), MatrixError> {
        let summaries = report().summaries()?;
        assert_eq!((summaries.len(), summaries[0].seeds, summaries[1].seeds), (2, 2, 1));
        assert!((summaries[0].mean.forgetting - 1.5).abs() < 1e-12);
        assert!((summaries[0].deviation.forgetting - 0.5f64.sqrt()).abs() < 1e-12);
        assert!(summaries[1].deviation.forgetting.abs() < 1e-12);
        let table = report().to_markdown()?;
        assert!(table.contains("| sequential | 2 | 1.7500 ± 0.3536 |"), "{table}");
        assert!(table.contains("| ER | 1 | 1.0000 |"), "{table}");
        Ok(())
    }

    #[test]
    fn csv_has_a_line_for_every_score_and_json_comes_back() -> Result<(), serde_json::Error> {
        let csv = report().to_csv();
        assert_eq!(csv.lines().count(), 1 + 3 * 3 * 2);
        assert_eq!(csv.lines().nth(1), Some("sequential,0,0,\"a, b\",3"));
        assert_eq!(csv.lines().nth(4), Some("sequential,0,1,c,2.5"));
        let json = serde_json::to_string(&report())?;
        assert_eq!(serde_json::from_str::<Report>(&json)?, report());
        Ok(())
    }

    #[test]
    fn the_matrix_reads_as_a_table() {
        let table = report().runs[0].matrix.to_markdown();
        assert!(
            table.contains("| after | a, b | c |\n|---|---|---|\n| nothing | 3.0000 | 3.0000 |")
        );
        assert!(table.ends_with("| c | 2.0000 | 1.0000 |\n"), "{table}");
    }

    #[test]
    fn an_unfinished_run_has_no_summary() {
        let mut report = report();
        report.runs[0].matrix.rows.pop();
        assert!(report.summaries().is_err());
    }
}

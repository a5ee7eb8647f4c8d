//! Continual learning in numbers: the matrix R and what is read off it.
//!
//! `R[i][j]` is the score on domain j after learning domain i; `b[j]` before learning any.
//! Sources: GEM, arXiv 1706.08840 (ACC, BWT, FWT, divisor T - 1); Chaudhry et al., arXiv 1801.10112
//! (forgetting); LA: the mean of `R[j][j]`; AAA: the mean over the stream of the mean over the domains
//! seen. Prequential: tested on what is learned next, Dawid 1984, "Statistical theory: the prequential
//! approach".

use serde::{Deserialize, Serialize};

/// Which way a score gets better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// Accuracy.
    HigherIsBetter,
    /// Bits per byte, perplexity.
    LowerIsBetter,
}

impl Direction {
    /// By how much `after` is better than `before`; below 0 it is worse.
    pub fn gain(self, before: f64, after: f64) -> f64 {
        match self {
            Self::HigherIsBetter => after - before,
            Self::LowerIsBetter => before - after,
        }
    }
}

/// Why a matrix gives no metrics.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum MatrixError {
    /// Not square, or not as wide as there are domains.
    #[error("score matrix: expected {domains} rows and columns, got row {row} with {got}")]
    Shape {
        /// Domains of the stream.
        domains: usize,
        /// Index of the row; `domains` when there are too few or too many rows.
        row: usize,
        /// What was there.
        got: usize,
    },
    /// General text that was not scored with every row.
    #[error("scores of general text: expected {expected}, got {got}")]
    General {
        /// One before the first domain and one after each.
        expected: usize,
        /// What was there.
        got: usize,
    },
    /// No domain.
    #[error("score matrix: expected at least one domain, got none")]
    Empty,
}

/// The scores of one run over a stream of T domains.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Matrix {
    /// Names, in the order of the stream, `[T]`.
    pub domains: Vec<String>,
    /// Which way the scores get better.
    pub direction: Direction,
    /// b: scores before the first domain, `[T]`.
    pub before: Vec<f64>,
    /// R: one row for each domain learned so far, each `[T]`.
    pub rows: Vec<Vec<f64>>,
    /// Scores of general text, before the first domain and with each row; empty where none was given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub general: Vec<f64>,
    /// Score of fast on new text just before it learned it, with each row; empty where not taken.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prequential: Vec<f64>,
}

/// What is read off a finished matrix. A mean over no domains (T = 1) is 0.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Mean score over all domains after the last, in the unit of the scores.
    pub acc: f64,
    /// Learning accuracy: mean score on a domain just after it was learned, in the same unit.
    pub la: f64,
    /// Score on the last domain after it was learned, in the same unit.
    pub last: f64,
    /// Backward transfer: mean gain on a domain since it was learned; below 0 something was lost.
    pub bwt: f64,
    /// Mean loss on a domain since it was at its best; above 0 something was lost.
    pub forgetting: f64,
    /// Forward transfer: mean gain on a domain before it is learned.
    pub fwt: f64,
    /// Mean over the stream of the mean score over the domains seen, in the unit of the scores.
    pub aaa: f64,
    /// Percent by which the score on general text rose from before the first domain to the end, where
    /// there was some.
    pub general: Option<f64>,
    /// Prequential score: mean over the stream of fast's score on new text just before it learned it,
    /// in the unit of the scores, where it was taken.
    #[serde(default)]
    pub prequential: Option<f64>,
}

impl Matrix {
    /// Lets go of every row but the first so many.
    pub fn keep(&mut self, rows: usize) {
        self.rows.truncate(rows);
        self.general.truncate(rows + 1);
        self.prequential.truncate(rows);
    }

    /// The metrics of a stream that was learned to its end.
    ///
    /// Signs are told by the direction: a gain is above 0 for accuracy and for bits per byte alike.
    ///
    /// # Errors
    /// [`MatrixError`] when the matrix is not square.
    pub fn metrics(&self) -> Result<Metrics, MatrixError> {
        let last = self.check()?;
        let domains = last.len();
        let rows = &self.rows;
        let gain = |before, after| self.direction.gain(before, after);
        let best = |j: usize| {
            let earlier = rows.iter().take(domains - 1).map(|row| row[j]);
            earlier.reduce(|best, score| if gain(best, score) > 0.0 { score } else { best })
        };
        let old = 0..domains - 1;
        let general = self.general.first().zip(self.general.last());
        Ok(Metrics {
            acc: mean(last.iter().copied()),
            la: mean(rows.iter().enumerate().map(|(j, row)| row[j])),
            last: last[domains - 1],
            bwt: mean(old.clone().map(|j| gain(rows[j][j], last[j]))),
            forgetting: mean(old.map(|j| -gain(best(j).unwrap_or(last[j]), last[j]))),
            fwt: mean((1..domains).map(|j| gain(self.before[j], rows[j - 1][j]))),
            aaa: mean(
                rows.iter().enumerate().map(|(i, row)| mean(row.iter().take(i + 1).copied())),
            ),
            general: general.map(|(before, end)| 100.0 * (end / before - 1.0)),
            prequential: (!self.prequential.is_empty())
                .then(|| mean(self.prequential.iter().copied())),
        })
    }

    /// The last row of a square matrix.
    fn check(&self) -> Result<&[f64], MatrixError> {
        let domains = self.domains.len();
        let shape = |row, got| MatrixError::Shape { domains, row, got };
        if self.before.len() != domains {
            return Err(shape(0, self.before.len()));
        }
        if self.rows.len() != domains {
            return Err(shape(domains, self.rows.len()));
        }
        for (index, row) in self.rows.iter().enumerate() {
            if row.len() != domains {
                return Err(shape(index, row.len()));
            }
        }
        if !self.general.is_empty() && self.general.len() != domains + 1 {
            return Err(MatrixError::General { expected: domains + 1, got: self.general.len() });
        }
        self.rows.last().map(Vec::as_slice).ok_or(MatrixError::Empty)
    }

    /// Scores of one domain along the stream: before, then after each domain learned.
    pub fn course(&self, domain: usize) -> Vec<f64> {
        std::iter::once(&self.before)
            .chain(&self.rows)
            .filter_map(|row| row.get(domain).copied())
            .collect()
    }
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0u32), |(sum, count), value| (sum + value, count + 1));
    if count == 0 { 0.0 } else { sum / f64::from(count) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(direction: Direction, sign: f64) -> Matrix {
        let signed = |row: [f64; 4]| row.map(|score| sign * score).to_vec();
        Matrix {
            domains: ["a", "b", "c", "d"].map(str::to_owned).to_vec(),
            direction,
            before: signed([0.25, 0.22, 0.24, 0.11]),
            rows: vec![
                signed([0.80, 0.20, 0.25, 0.10]),
                signed([0.60, 0.70, 0.30, 0.12]),
                signed([0.65, 0.60, 0.90, 0.15]),
                signed([0.50, 0.72, 0.85, 0.75]),
            ],
            general: vec![2.0, 2.1, 1.9, 2.2, 2.5],
            prequential: vec![1.0, 1.0, 1.0, 3.0],
        }
    }

    fn near(got: f64, want: f64) {
        assert!((got - want).abs() < 5e-7, "{got} {want}");
    }

    /// Oracle: the worked example of the design, by hand, to six digits (hence 5e-7).
    #[test]
    fn the_metrics_are_those_of_the_worked_example() -> Result<(), MatrixError> {
        let metrics = example(Direction::HigherIsBetter, 1.0).metrics()?;
        near(metrics.acc, 0.705);
        near(metrics.la, 0.7875);
        near(metrics.last, 0.75);
        near(metrics.bwt, -0.11);
        near(metrics.forgetting, 0.11);
        near(metrics.fwt, 0.026667);
        near(metrics.aaa, 0.717917);
        near(metrics.general.unwrap_or(f64::NAN), 25.0);
        near(metrics.prequential.unwrap_or(f64::NAN), 1.5);
        Ok(())
    }

    #[test]
    fn a_loss_has_the_sign_of_a_loss_when_lower_is_better() -> Result<(), MatrixError> {
        let metrics = example(Direction::LowerIsBetter, -1.0).metrics()?;
        near(metrics.acc, -0.705);
        near(metrics.bwt, -0.11);
        near(metrics.forgetting, 0.11);
        near(metrics.fwt, 0.026667);
        Ok(())
    }

    #[test]
    fn one_domain_has_nothing_to_forget_and_a_ragged_matrix_is_refused() -> Result<(), MatrixError>
    {
        let mut matrix = Matrix {
            domains: vec!["a".into()],
            direction: Direction::LowerIsBetter,
            before: vec![2.0],
            rows: vec![vec![1.5]],
            general: vec![],
            prequential: vec![],
        };
        let metrics = matrix.metrics()?;
        assert_eq!((metrics.forgetting, metrics.bwt, metrics.fwt), (0.0, 0.0, 0.0));
        assert_eq!((metrics.general, metrics.prequential), (None, None));
        near(metrics.acc, 1.5);
        matrix.general = vec![2.0];
        assert_eq!(matrix.metrics(), Err(MatrixError::General { expected: 2, got: 1 }));
        matrix.general.clear();
        assert_eq!(matrix.course(0), vec![2.0, 1.5]);
        matrix.rows.push(vec![1.0]);
        assert_eq!(matrix.metrics(), Err(MatrixError::Shape { domains: 1, row: 1, got: 2 }));
        let none = Matrix { domains: vec![], before: vec![], rows: vec![], ..matrix };
        assert_eq!(none.metrics(), Err(MatrixError::Empty));
        Ok(())
    }
}

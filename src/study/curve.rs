//! Losses along a line between two adapters, and the barrier that stands in the way.
//!
//! - In: the losses of each domain at points of a line. Out: means over domains, barriers, the best point.
//! - The barrier is the most by which a loss on the way is above the straight line between those of the
//!   ends: 0 where there is none.
//!
//! Source: arXiv 1912.05671.

use super::{Space, StudyError, between};
use crate::adapter::Adapter;
use crate::adapter::compare::diff;
use serde::{Deserialize, Serialize};

/// A point of a line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// How far along, 0 to 1.
    pub at: f64,
    /// Loss of every domain of the stream.
    pub losses: Vec<f64>,
    /// Loss of general text, where it is scored.
    pub general: Option<f64>,
    /// Frobenius norm of what was added to the weights since the line's beginning.
    pub distance: f64,
}

/// What was found along a line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// Where the line begins.
    pub from: String,
    /// Where it ends.
    pub to: String,
    /// Where it is straight.
    pub space: Space,
    /// From the beginning to the end.
    pub points: Vec<Point>,
}

impl Curve {
    /// The mean loss of some domains at each point; none of no domain.
    pub fn mean(&self, domains: &[usize]) -> Option<Vec<f64>> {
        let mean = |point: &Point| {
            let losses = domains.iter().map(|&domain| point.losses.get(domain));
            let sum: f64 = losses.sum::<Option<f64>>()?;
            (!domains.is_empty()).then(|| sum / domains.len() as f64)
        };
        self.points.iter().map(mean).collect()
    }

    /// The loss of general text at each point, where it was scored.
    pub fn general(&self) -> Option<Vec<f64>> {
        self.points.iter().map(|point| point.general).collect()
    }

    /// The barrier of some losses, one for each point.
    pub fn barrier(&self, losses: &[f64]) -> f64 {
        let (Some(first), Some(last)) = (losses.first(), losses.last()) else { return 0.0 };
        let above =
            |(point, loss): (&Point, &f64)| loss - (1.0 - point.at) * first - point.at * last;
        // What is no number is no way through.
        let highest =
            |most: f64, above: f64| if above.is_nan() { f64::INFINITY } else { most.max(above) };
        self.points.iter().zip(losses).map(above).fold(0.0, highest)
    }

    /// The point of the least loss, and how much less it is than at the better end: 0 when that is an end.
    pub fn best(&self, losses: &[f64]) -> Option<(f64, f64)> {
        let end = losses.first()?.min(*losses.last()?);
        let least = self.points.iter().zip(losses).min_by(|one, two| one.1.total_cmp(two.1));
        least.map(|(point, loss)| (point.at, end - loss))
    }
}

/// Scores `points` points along a line, both ends among them.
///
/// - `score`: losses of every domain, and of general text where there is some.
/// - `points`: at least 2.
///
/// # Errors
/// [`StudyError`] when there is no such line; those of `score`.
pub fn along<E: From<StudyError>>(
    space: Space,
    [(from_name, from), (to_name, to)]: [(&str, &Adapter); 2],
    points: usize,
    mut score: impl FnMut(&Adapter) -> Result<(Vec<f64>, Option<f64>), E>,
) -> Result<Curve, E> {
    let mut curve =
        Curve { from: from_name.to_owned(), to: to_name.to_owned(), space, points: Vec::new() };
    for step in 0..points {
        let at = step as f64 / (points - 1).max(1) as f64;
        let adapter = between(space, from, to, at)?;
        let (losses, general) = score(&adapter)?;
        let gone = diff(from, &adapter).map_err(StudyError::from)?;
        let distance = gone.total.difference;
        curve.points.push(Point { at, losses, general, distance });
    }
    Ok(curve)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(losses: &[[f64; 2]]) -> Curve {
        let last = (losses.len() - 1) as f64;
        let point = |(step, losses): (usize, &[f64; 2])| Point {
            at: step as f64 / last,
            losses: losses.to_vec(),
            general: None,
            distance: 0.0,
        };
        let points = losses.iter().enumerate().map(point).collect();
        Curve { from: "1".into(), to: "2".into(), space: Space::Factors, points }
    }

    #[test]
    fn a_barrier_is_what_stands_above_the_straight_line() {
        let curve = curve(&[[1.0, 4.0], [3.0, 2.5], [3.0, 3.0]]);
        let of = |domains: &[usize]| curve.mean(domains).map(|losses| curve.barrier(&losses));
        assert_eq!(of(&[0]), Some(1.0), "3 where the line is at 2");
        assert_eq!(of(&[1]), Some(0.0), "below the line");
        assert_eq!(of(&[0, 1]), Some(0.0), "2.5, 2.75, 3");
        assert_eq!((of(&[]), of(&[2])), (None, None));
        assert!(curve.barrier(&[1.0, f64::NAN, 1.0]).is_infinite());
    }

    #[test]
    fn the_best_point_is_told_with_what_it_gains() {
        let curve = curve(&[[1.0, 4.0], [3.0, 2.5], [3.0, 3.0]]);
        let of = |domain| curve.mean(&[domain]).and_then(|losses| curve.best(&losses));
        assert_eq!(of(0), Some((0.0, 0.0)));
        assert_eq!(of(1), Some((0.5, 0.5)));
    }
}

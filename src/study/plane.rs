//! The plane through three adapters, between their factors.
//!
//! - Its origin is the first; its first direction leads to the second, both directions are of length 1 and
//!   at right angles (Gram-Schmidt), so that distances in it are distances of factors.
//! - Never here: what is found on it.
//!
//! Source: the plane of three minima of arXiv 1802.10026.

use super::StudyError;
use crate::adapter::Adapter;

/// A plane, with the three adapters at their places.
#[derive(Clone, Debug)]
pub struct Plane {
    origin: Adapter,
    directions: [Vec<f64>; 2],
    places: [[f64; 2]; 3],
}

impl Plane {
    /// The plane through three adapters of one shape.
    ///
    /// # Errors
    /// [`StudyError::Shapes`] when their factors differ in shape; [`StudyError::Line`].
    pub fn through(adapters: [&Adapter; 3]) -> Result<Self, StudyError> {
        let [first, second, third] = adapters;
        if first.spec != second.spec || first.spec != third.spec {
            return Err(StudyError::Shapes);
        }
        let from_first = |adapter: &Adapter| -> Vec<f64> {
            let both = adapter.values.iter().zip(&first.values);
            both.map(|(to, from)| f64::from(*to) - f64::from(*from)).collect()
        };
        let (one, two) = (from_first(second), from_first(third));
        let length = dot(&one, &one).sqrt();
        let along: Vec<f64> = one.iter().map(|x| x / length).collect();
        let shadow = dot(&two, &along);
        let rest: Vec<f64> = two.iter().zip(&along).map(|(x, along)| x - shadow * along).collect();
        let height = dot(&rest, &rest).sqrt();
        // So little is rounding of f32.
        if length.is_nan() || length <= 0.0 || height <= 1e-6 * length {
            return Err(StudyError::Line);
        }
        let across = rest.iter().map(|x| x / height).collect();
        Ok(Self {
            origin: first.clone(),
            directions: [along, across],
            places: [[0.0, 0.0], [length, 0.0], [shadow, height]],
        })
    }

    /// Where the three lie.
    pub fn places(&self) -> [[f64; 2]; 3] {
        self.places
    }

    /// The adapter at a place.
    pub fn at(&self, [x, y]: [f64; 2]) -> Adapter {
        let [along, across] = &self.directions;
        let moved = self.origin.values.iter().zip(along.iter().zip(across));
        let moved = moved.map(|(value, (one, two))| (f64::from(*value) + x * one + y * two) as f32);
        Adapter { spec: self.origin.spec.clone(), values: moved.collect() }
    }

    /// Places of a grid of `side` by `side` that reaches a part of the extent beyond all three, row by row
    /// from below.
    pub fn grid(&self, side: usize, beyond: f64) -> Vec<[f64; 2]> {
        let ends = |axis: usize| {
            let all = self.places.map(|place| place[axis]);
            let (low, high) =
                all.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), &x| {
                    (low.min(x), high.max(x))
                });
            let more = beyond * (high - low);
            (low - more, high + more)
        };
        let step = |(low, high): (f64, f64), at: usize| {
            low + (high - low) * at as f64 / side.saturating_sub(1).max(1) as f64
        };
        let (across, up) = (ends(0), ends(1));
        (0..side * side).map(|at| [step(across, at % side), step(up, at / side)]).collect()
    }
}

fn dot(one: &[f64], other: &[f64]) -> f64 {
    one.iter().zip(other).map(|(x, y)| x * y).sum()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;
    use crate::adapter::{Spec, Strength, Target};
    use crate::base::Config;
    use rand_chacha::ChaCha8Rng;
    use rand_core::{Rng, SeedableRng};

    fn adapter(seed: u64) -> Adapter {
        let json = r#"{"model_type": "llama", "hidden_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 4, "intermediate_size": 20, "vocab_size": 96}"#;
        let config = Config::parse(json, None).unwrap();
        let spec = Spec::uniform(&config, 0..1, &[Target::Q], Strength { rank: 2, alpha: 4.0 });
        let mut chance = ChaCha8Rng::seed_from_u64(seed);
        let values = (0..spec.len()).map(|_| chance.next_u32() as f32 / 2e9 - 1.0).collect();
        Adapter { spec, values }
    }

    #[test]
    fn the_three_lie_where_the_plane_says_and_distances_are_theirs() {
        let three = [1, 2, 3].map(adapter);
        let plane = Plane::through([&three[0], &three[1], &three[2]]).unwrap();
        let far = |one: &Adapter, two: &Adapter| -> f64 {
            let pairs = one.values.iter().zip(&two.values);
            pairs.map(|(x, y)| f64::from(x - y).powi(2)).sum::<f64>().sqrt()
        };
        let places = plane.places();
        for (adapter, place) in three.iter().zip(places) {
            assert!(far(&plane.at(place), adapter) < 1e-5);
        }
        for (one, two) in [(0, 1), (1, 2), (0, 2)] {
            let [x, y] = [0, 1].map(|axis| places[one][axis] - places[two][axis]);
            assert!((x.hypot(y) - far(&three[one], &three[two])).abs() < 1e-5);
        }
        let grid = plane.grid(5, 0.25);
        assert_eq!(grid.len(), 25);
        for place in places {
            let inside = |axis: usize| grid[0][axis] < place[axis] && place[axis] < grid[24][axis];
            assert!(inside(0) && inside(1));
        }
    }

    #[test]
    fn three_on_a_line_span_nothing() {
        let (one, two) = (adapter(1), adapter(2));
        assert!(matches!(Plane::through([&one, &two, &one]), Err(StudyError::Line)));
        assert!(matches!(Plane::through([&one, &one, &two]), Err(StudyError::Line)));
    }
}

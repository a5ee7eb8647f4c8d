//! Chance that can be written down: a ChaCha8 stream is its seed and how far it was read.
//!
//! - Invariant: resuming from a state gives the numbers that would have come next.
//! - Source: Vitter, Random Sampling with a Reservoir, ACM TOMS 11 (1985), Algorithm R.

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use rkyv::{Archive, Deserialize, Serialize};

/// Where a stream of chance stands.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChanceState {
    /// Seed of the ChaCha8 stream.
    pub seed: [u8; 32],
    /// How many 32-bit words of it were used.
    pub word_position: u64,
}

impl ChanceState {
    /// Where this stream stands now.
    pub fn of(chance: &ChaCha8Rng) -> Self {
        Self { seed: chance.get_seed(), word_position: chance.get_word_pos() as u64 }
    }

    /// The stream from here on.
    pub fn resume(&self) -> ChaCha8Rng {
        let mut chance = ChaCha8Rng::from_seed(self.seed);
        chance.set_word_pos(u128::from(self.word_position));
        chance
    }
}

/// A number in `0..bound`, each with exactly the same chance; 0 when `bound` is 0.
///
/// Source: Lemire, Fast Random Integer Generation in an Interval, ACM TOMACS 29 (2019).
pub fn below(chance: &mut ChaCha8Rng, bound: u64) -> u64 {
    if bound == 0 {
        return 0;
    }
    let unfair = bound.wrapping_neg() % bound;
    loop {
        let product = u128::from(chance.next_u64()) * u128::from(bound);
        if product as u64 >= unfair {
            return (product >> 64) as u64;
        }
    }
}

/// Algorithm R: the slot for the block offered after `seen` others, or none.
pub(crate) fn slot_for(seen: u64, capacity: u32, chance: &mut ChaCha8Rng) -> Option<u32> {
    if seen < u64::from(capacity) {
        return Some(seen as u32);
    }
    let at = below(chance, seen.saturating_add(1));
    (at < u64::from(capacity)).then_some(at as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resumed_stream_goes_on_where_it_stood() {
        let mut chance = ChaCha8Rng::seed_from_u64(5);
        for _ in 0..100 {
            chance.next_u32();
            let mut resumed = ChanceState::of(&chance).resume();
            let expected: Vec<u64> = (0..40).map(|_| chance.clone().next_u64()).collect();
            let got: Vec<u64> = (0..40).map(|_| resumed.clone().next_u64()).collect();
            assert_eq!(got, expected);
            assert_eq!(resumed.next_u64(), chance.next_u64());
        }
    }

    /// Chi-square over 6 cells, 60,000 draws, seed 1: 5 degrees of freedom, 20.5 is p = 0.001.
    #[test]
    fn below_is_even() {
        let (mut chance, mut counts) = (ChaCha8Rng::seed_from_u64(1), [0_u32; 6]);
        for _ in 0..60_000 {
            counts[below(&mut chance, 6) as usize] += 1;
        }
        let chi: f64 = counts.iter().map(|&n| (f64::from(n) - 10_000.0).powi(2) / 10_000.0).sum();
        assert!(chi < 20.5, "{chi} {counts:?}");
        assert_eq!((below(&mut chance, 0), below(&mut chance, 1)), (0, 0));
    }
}

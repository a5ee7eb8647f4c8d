//! The pass: every held block is served once, in an order drawn for it, before any is served again.
//!
//! - In: the slots that hold a block when a pass begins. Out: slots, those of one draw all different.
//! - A draw that crosses from one pass into the next passes over the slots it has from the one that
//!   ended; they come first in the next draw.
//! - What a slot holds at its turn is served: a pass knows of no block.
//! - Invariant: no slot is pending twice.
//! - Source: Durstenfeld, Algorithm 235, Random Permutation, CACM 7 (1964): Fisher and Yates in place.

use super::chance::below;
use rand_chacha::ChaCha8Rng;

/// One draw's way through what is left of a pass, and into the next.
pub(crate) struct Turn {
    /// What is left, the next one last.
    pending: Vec<u32>,
    /// Taken from the pass in which the draw began.
    taken: Vec<u32>,
    /// Passed over in the pass that this draw has begun, because it has them.
    again: Vec<u32>,
    /// Where chance stood before that.
    before: Option<ChaCha8Rng>,
}

impl Turn {
    /// A draw from what is left of a pass, the next slot last.
    pub(crate) fn new(pending: Vec<u32>) -> Self {
        Self { pending, taken: Vec::new(), again: Vec::new(), before: None }
    }

    /// The next slot, or none when the pass has ended.
    pub(crate) fn next_slot(&mut self) -> Option<u32> {
        while let Some(slot) = self.pending.pop() {
            if self.before.is_none() {
                self.taken.push(slot);
                return Some(slot);
            }
            if !self.taken.contains(&slot) {
                return Some(slot);
            }
            self.again.push(slot);
        }
        None
    }

    /// Begins a pass over these slots; once a draw is enough, for a pass has all that is held.
    pub(crate) fn begin(&mut self, slots: impl Iterator<Item = u32>, chance: &mut ChaCha8Rng) {
        self.before = Some(chance.clone());
        self.pending.extend(slots);
        for left in (1..self.pending.len()).rev() {
            self.pending.swap(left, below(chance, left as u64 + 1) as usize);
        }
    }

    /// What is left of the pass after this draw.
    pub(crate) fn end(mut self) -> Vec<u32> {
        self.pending.extend(self.again.into_iter().rev());
        self.pending
    }

    /// What was left of the pass before it, and chance as it was.
    pub(crate) fn undo(mut self, chance: &mut ChaCha8Rng) -> Vec<u32> {
        if let Some(before) = self.before {
            *chance = before;
            self.pending.clear();
        }
        self.pending.extend(self.taken.into_iter().rev());
        self.pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_core::SeedableRng;

    #[test]
    fn what_a_draw_has_already_comes_first_in_the_next() {
        let mut chance = ChaCha8Rng::seed_from_u64(1);
        for _ in 0..100 {
            let mut turn = Turn::new(vec![2, 0, 1]);
            let drawn: Vec<u32> = std::iter::from_fn(|| turn.next_slot()).collect();
            assert_eq!(drawn, [1, 0, 2]);
            turn.begin(0..5, &mut chance);
            let order: Vec<u32> = turn.pending.iter().rev().copied().collect();
            let new = turn.next_slot();
            assert_eq!(new, order.iter().copied().find(|slot| ![0, 1, 2].contains(slot)));
            let mut left = turn.end();
            left.reverse();
            let expected: Vec<u32> = order.into_iter().filter(|slot| Some(*slot) != new).collect();
            assert_eq!(left, expected, "as the pass has them, without the one served");
        }
    }

    #[test]
    fn a_turn_undone_leaves_pass_and_chance_as_they_were() {
        let mut chance = ChaCha8Rng::seed_from_u64(1);
        let before = chance.clone();
        let mut turn = Turn::new(vec![2, 0, 1]);
        turn.next_slot();
        turn.next_slot();
        assert_eq!(turn.undo(&mut chance), [2, 0, 1]);
        let mut turn = Turn::new(vec![2, 0, 1]);
        while turn.next_slot().is_some() {}
        turn.begin(0..5, &mut chance);
        turn.next_slot();
        assert_ne!(chance, before);
        assert_eq!(turn.undo(&mut chance), [2, 0, 1]);
        assert_eq!(chance, before);
    }
}

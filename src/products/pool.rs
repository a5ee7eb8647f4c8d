//! Buffers that layers, and one step and the next, hand on, so that a step maps no fresh memory.
//!
//! - Out: a buffer of the length asked for, with stale numbers in it: the taker writes all of it.
//! - Invariant: after `settle` the pool holds what was in use since the `settle` before and no
//!   more, so its size is that of one step however many were taken.
//! - Never here: memory that was not written once (all of it is safe `Vec`).

use std::sync::{Mutex, PoisonError};

/// Free buffers; one lock, taken a few dozen times a step.
#[derive(Default)]
pub(crate) struct Pool(Mutex<Vec<Spare>>);

struct Spare {
    numbers: Vec<f32>,
    /// Whether nobody has taken it since the last `settle`.
    idle: bool,
}

impl Pool {
    /// `len` numbers of any value: the smallest free buffer that holds them without much waste.
    pub(crate) fn take(&self, len: usize) -> Vec<f32> {
        let mut spares = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = len..=len.saturating_mul(2);
        let sizes = spares.iter().map(|spare| spare.numbers.capacity()).enumerate();
        let best = sizes.filter(|(_, size)| fits.contains(size)).min_by_key(|&(_, size)| size);
        match best {
            Some((index, _)) => {
                let mut numbers = spares.swap_remove(index).numbers;
                numbers.resize(len, 0.0);
                numbers
            }
            None => {
                let mut numbers = Vec::with_capacity(room(len));
                numbers.resize(len, 0.0);
                numbers
            }
        }
    }

    /// The same with every number zero.
    pub(crate) fn zeros(&self, len: usize) -> Vec<f32> {
        let mut numbers = self.take(len);
        numbers.fill(0.0);
        numbers
    }

    /// A copy of `numbers`.
    pub(crate) fn copy(&self, numbers: &[f32]) -> Vec<f32> {
        let mut copy = self.take(numbers.len());
        copy.copy_from_slice(numbers);
        copy
    }

    /// Takes buffers back.
    pub(crate) fn give(&self, buffers: impl IntoIterator<Item = Vec<f32>>) {
        let mut spares = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let used = buffers.into_iter().filter(|numbers| numbers.capacity() > 0);
        spares.extend(used.map(|numbers| Spare { numbers, idle: false }));
    }

    /// Ends a step: frees the buffers that it had no use for.
    pub(crate) fn settle(&self) {
        let mut spares = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        spares.retain(|spare| !spare.idle);
        spares.iter_mut().for_each(|spare| spare.idle = true);
    }
}

/// Room for `len` numbers and some more, at most an eighth of them: what the next step takes is seldom
/// exactly as long, and should find this one.
fn room(len: usize) -> usize {
    let step = (len.next_power_of_two() / 16).max(1);
    len.next_multiple_of(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_given_back_is_the_next_one_taken() {
        let pool = Pool::default();
        let first = pool.take(100);
        let place = first.as_ptr();
        pool.give([first]);
        let again = pool.take(60);
        assert_eq!((again.as_ptr(), again.len()), (place, 60));
        assert!(pool.zeros(60) == [0.0; 60]);
    }

    #[test]
    fn the_pool_is_never_larger_than_what_the_last_step_used() {
        let pool = Pool::default();
        for step in 0..50 {
            let buffers = [pool.take(1000 + step), pool.take(3000 + step), pool.take(10)];
            pool.give(buffers);
            pool.settle();
            let spares = pool.0.lock().unwrap_or_else(PoisonError::into_inner);
            let held: usize = spares.iter().map(|spare| spare.numbers.capacity()).sum();
            assert!(held <= 2 * (4010 + 2 * step) * 9 / 8, "{held} numbers after step {step}");
        }
    }

    #[test]
    fn steps_of_nearly_one_size_share_their_buffers() {
        let pool = Pool::default();
        let mut places = std::collections::BTreeSet::new();
        for len in [2_000, 1_931, 2_040, 1_999, 1_950] {
            let buffer = pool.take(len);
            places.insert(buffer.as_ptr() as usize);
            pool.give([buffer]);
            pool.settle();
        }
        assert_eq!(places.len(), 1);
        assert!((0..5_000).all(|len| (len..=len + len / 8 + 1).contains(&room(len))));
    }

    #[test]
    fn a_step_that_needs_less_frees_the_rest() {
        let pool = Pool::default();
        pool.give([vec![0.0; 1000], vec![0.0; 7]]);
        pool.settle();
        let small = pool.take(7);
        pool.give([small]);
        pool.settle();
        assert_eq!(pool.0.lock().unwrap_or_else(PoisonError::into_inner).len(), 1);
    }
}

//! Which places of the file are free: a staged block never overwrites one that a cut would need.
//!
//! - In: the places that the last commit and the last checkpoint name. Out: a free one, lowest first.
//! - Fixed size, known when the program is built, so that staging a block allocates nothing.
//! - Invariant: a pinned place is busy; a busy place is never handed out.

use sapwood_protocol::limits::RESERVOIR_PLACES_MAX;

const WORDS: usize = RESERVOIR_PLACES_MAX.div_ceil(64) as usize;

type Bits = heapless::Vec<u64, WORDS>;

/// The places of one file.
pub(crate) struct Places {
    count: u32,
    pinned: Bits,
    busy: Bits,
}

impl Places {
    /// `count` free places, at most [`RESERVOIR_PLACES_MAX`]; more are not used.
    pub(crate) fn new(count: u32) -> Self {
        let count = count.min(RESERVOIR_PLACES_MAX);
        Self { count, pinned: zeros(count), busy: zeros(count) }
    }

    /// From now on exactly `pinned` must stay as they are, and `staged` hold newer blocks.
    pub(crate) fn pin(
        &mut self,
        pinned: impl Iterator<Item = u32>,
        staged: impl Iterator<Item = u32>,
    ) {
        self.pinned = zeros(self.count);
        pinned.for_each(|place| set(&mut self.pinned, place, true));
        self.busy = self.pinned.clone();
        staged.for_each(|place| set(&mut self.busy, place, true));
    }

    /// A free place, now busy.
    pub(crate) fn take(&mut self) -> Option<u32> {
        let word = self.busy.iter().position(|word| *word != u64::MAX)?;
        let place = word as u32 * 64 + self.busy[word].trailing_ones();
        (place < self.count).then(|| {
            set(&mut self.busy, place, true);
            place
        })
    }

    /// Frees a place, unless it is pinned.
    pub(crate) fn release(&mut self, place: u32) {
        let pinned =
            self.pinned.get(place as usize / 64).is_some_and(|word| word >> (place % 64) & 1 == 1);
        set(&mut self.busy, place, pinned);
    }

    /// How many places are free.
    pub(crate) fn free(&self) -> u32 {
        self.count - self.busy.iter().map(|word| word.count_ones()).sum::<u32>().min(self.count)
    }
}

fn zeros(count: u32) -> Bits {
    core::iter::repeat_n(0, count.div_ceil(64) as usize).take(WORDS).collect()
}

fn set(bits: &mut Bits, place: u32, on: bool) {
    if let Some(word) = bits.get_mut(place as usize / 64) {
        let bit = 1 << (place % 64);
        *word = if on { *word | bit } else { *word & !bit };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_place_is_never_handed_out() {
        let mut places = Places::new(70);
        places.pin([0, 65].into_iter(), [1].into_iter());
        places.release(0);
        places.release(1);
        assert_eq!(places.free(), 68);
        let mut taken: Vec<u32> = core::iter::from_fn(|| places.take()).collect();
        assert_eq!((taken.len(), places.free(), places.take()), (68, 0, None));
        taken.sort_unstable();
        assert_eq!(taken, (1..65).chain(66..70).collect::<Vec<_>>());
    }
}

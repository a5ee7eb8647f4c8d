//! The factors of one adapted linear layer, and what they add to its output.
//!
//! - In: a layer's slots and flat factors, rows of its input. Out: `scale (x Aᵀ) Bᵀ`, added.
//! - Never here: gradients, the frozen weight.

use crate::adapter::{Adapter, Slot, Target};
use crate::products::Pool;
use crate::products::gemm::{Into, Threads, View, matmul};
use std::ops::Range;

/// The slots of one layer, and where its factors lie in the adapter.
pub(crate) fn part(adapter: &Adapter, layer: usize) -> (&[Slot], Range<usize>) {
    let slots = &adapter.spec.slots;
    let from = slots.partition_point(|slot| slot.layer < layer);
    let slots = &slots[from..slots.partition_point(|slot| slot.layer <= layer)];
    (slots, slots.first().map_or(0, |slot| slot.a.start)..slots.last().map_or(0, |slot| slot.b.end))
}

/// Where a slot's A and B lie in the flat factors of its layer, whose slots are `slots`.
pub(crate) fn places(slots: &[Slot], slot: &Slot) -> (Range<usize>, Range<usize>) {
    let start = slots[0].a.start;
    (slot.a.start - start..slot.a.end - start, slot.b.start - start..slot.b.end - start)
}

/// A and B of one slot.
pub(crate) struct Lora<'a> {
    /// Which of the layer's slots it is.
    pub(crate) index: usize,
    pub(crate) slot: &'a Slot,
    /// `[r, in]`
    pub(crate) a: &'a [f32],
    /// `[out, r]`
    pub(crate) b: &'a [f32],
}

impl<'a> Lora<'a> {
    /// The factors of a target, if the layer adapts it; its slots and flat factors.
    pub(crate) fn of(slots: &'a [Slot], factors: &'a [f32], target: Target) -> Option<Self> {
        let index = slots.iter().position(|slot| slot.target == target)?;
        let slot = &slots[index];
        let (a, b) = places(slots, slot);
        Some(Self { index, slot, a: &factors[a], b: &factors[b] })
    }

    /// Adds `scale (x Aᵀ) Bᵀ` to `out`, rows `stride` apart; gives `x Aᵀ`, `[N, r]`.
    pub(crate) fn add(
        &self,
        input: View<'_>,
        (out, stride): (&mut [f32], usize),
        pool: &Pool,
    ) -> Vec<f32> {
        let Slot { rank, fan_in, fan_out, scale, .. } = *self.slot;
        let (rows, _) = input.dims();
        let mut thin = pool.take(rows * rank);
        let a = View::dense(self.a, rank, fan_in).transposed();
        matmul(&mut thin, rank, input, a, 1.0, Into::Replace, Threads::All);
        let b = View::dense(self.b, fan_out, rank).transposed();
        matmul(out, stride, View::dense(&thin, rows, rank), b, scale, Into::Add, Threads::All);
        thin
    }
}

//! What linear layers read on some text, under an adapter or none, for those who want its second moments.
//!
//! - In: blocks and their hidden states at the tap. Out: sums, added to.
//! - Padding is not seen. Layers that nobody asks about run without keeping anything.
//! - Wide inputs are cut into tiles, and what lies between two tiles is not summed.
//! - Never here: what the sums are for.

use super::{Engine, Group, Head, HeadError};
use crate::adapter::{Adapter, Module, Spec};
use crate::decoder::Part;
use crate::products::gemm::{Into, Threads, View, matmul};
use std::ops::Range;

/// Most inputs of a tile: 2.4 MB a sum.
const TILE: usize = 768;

/// Sums of `x xᵀ / |x|^2` over the rows that the adapted linear layers of some decoder layers read.
pub struct Seen {
    inputs: Vec<Input>,
}

/// One input: what the linear layers of a part read.
struct Input {
    layer: usize,
    part: Part,
    fan_in: usize,
    /// One sum a tile, `[n, n]`.
    tiles: Vec<Vec<f32>>,
}

/// The tiles of an input, as even as they can be.
pub(crate) fn tiles(fan_in: usize) -> impl Iterator<Item = Range<usize>> {
    let count = fan_in.div_ceil(TILE).max(1);
    (0..count).map(move |tile| tile * fan_in / count..(tile + 1) * fan_in / count)
}

/// What the modules of a spec read, each input once: decoder layer, part, width.
fn read(spec: &Spec) -> Vec<(usize, Part, usize)> {
    let inputs =
        spec.modules.iter().map(|module| (module.layer, Part::of(module.target), module.fan_in));
    let mut inputs: Vec<_> = inputs.collect();
    inputs.dedup();
    inputs
}

/// Bytes of the sums of what the modules of a spec read.
pub fn sum_bytes(spec: &Spec) -> u64 {
    let numbers = |fan_in| tiles(fan_in).map(|tile| tile.len() * tile.len()).sum::<usize>();
    let all: usize = read(spec).into_iter().map(|(_, _, fan_in)| numbers(fan_in)).sum();
    (all * size_of::<f32>()) as u64
}

impl Seen {
    /// Nothing seen yet of what the modules of `spec` read.
    pub fn new(spec: &Spec) -> Self {
        let zeros = |tile: Range<usize>| vec![0.0; tile.len() * tile.len()];
        let inputs = read(spec).into_iter().map(|(layer, part, fan_in)| {
            let tiles = tiles(fan_in).map(zeros).collect();
            Input { layer, part, fan_in, tiles }
        });
        Self { inputs: inputs.collect() }
    }

    /// The sums of every input's tiles, `[n, n]` each.
    pub(crate) fn sums(&self) -> impl Iterator<Item = &Vec<Vec<f32>>> {
        self.inputs.iter().map(|input| &input.tiles)
    }

    /// Which of the inputs a module reads, if it was wanted.
    pub(crate) fn index(&self, module: &Module) -> Option<usize> {
        let wanted = (module.layer, Part::of(module.target));
        self.inputs.iter().position(|input| (input.layer, input.part) == wanted)
    }

    /// Whether anything of decoder layer `layer` is wanted.
    pub(crate) fn wants(&self, layer: usize) -> bool {
        self.inputs.iter().any(|input| input.layer == layer)
    }

    /// Adds rows `[N, in]` that a part of decoder layer `layer` reads; nothing if it is not wanted.
    ///
    /// Every row weighs alike: the first token's may be a thousand times as long as the others.
    pub(crate) fn add(&mut self, layer: usize, part: Part, rows: &[f32]) {
        let mut inputs = self.inputs.iter_mut();
        let Some(input) = inputs.find(|input| (input.layer, input.part) == (layer, part)) else {
            return;
        };
        let fan_in = input.fan_in;
        let mut unit = rows.to_vec();
        for row in unit.chunks_exact_mut(fan_in) {
            let length = row.iter().map(|x| x * x).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
            row.iter_mut().for_each(|x| *x /= length);
        }
        let count = unit.len() / fan_in;
        for (tile, sum) in tiles(fan_in).zip(&mut input.tiles) {
            let (from, n) = (tile.start, tile.len());
            let own = View::new(&unit[from.min(unit.len())..], count, n, fan_in);
            matmul(sum, n, own.transposed(), own, 1.0, Into::Add, Threads::All);
        }
    }
}

impl Head {
    /// Adds what the linear layers read on `group` to `seen`: under `adapter`, or those of the bare base.
    ///
    /// # Errors
    /// [`HeadError::Length`] when a sequence is longer than the head was loaded for;
    /// [`HeadError::Adapter`] when the adapter does not fit.
    pub fn see(
        &self,
        group: &Group<'_>,
        adapter: Option<&Adapter>,
        seen: &mut Seen,
    ) -> Result<(), HeadError> {
        if !self.has_rows(group, adapter)? {
            return Ok(());
        }
        match &self.engine {
            Engine::Cpu(cpu) => cpu.see(group, adapter, seen),
            Engine::Candle(candle) => candle.see(group, adapter, seen)?,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_are_even_and_cover_every_input_once() {
        for fan_in in [1, 192, TILE, TILE + 1, 1_536, 8_192] {
            let tiles: Vec<Range<usize>> = tiles(fan_in).collect();
            let covered: Vec<usize> = tiles.iter().cloned().flatten().collect();
            assert!(covered.into_iter().eq(0..fan_in));
            let lengths = tiles.iter().map(Range::len);
            let (least, most) = (lengths.clone().min(), lengths.max());
            assert!(most <= Some(TILE) && most <= least.map(|least| least + 1), "{tiles:?}");
        }
    }
}

//! What the linear layers read on a group, and what leaves the layers, layer by layer, without padding.

use super::super::{Group, HeadError, Seen};
use super::{Candle, tensor3};
use crate::adapter::Adapter;
use crate::decoder::Part;

/// The real rows of `[B * T, width]`.
fn real(group: &Group<'_>, tokens: usize, rows: &[f32]) -> Vec<f32> {
    let width = rows.len() / (group.blocks.len() * tokens).max(1);
    let sequences = rows.chunks_exact((tokens * width).max(1)).zip(group.blocks);
    sequences.flat_map(|(rows, block)| &rows[..block.tokens.len() * width]).copied().collect()
}

impl Candle {
    /// [`super::super::Head::see`].
    pub(in crate::head) fn see(
        &self,
        group: &Group<'_>,
        adapter: Option<&Adapter>,
        seen: &mut Seen,
    ) -> Result<(), HeadError> {
        let (mut x, tokens) = (tensor3(group.hidden, &self.device)?, group.hidden.dim().1);
        let (factors, _) = self.factors(adapter, self.own(), false)?;
        let layers = self.layers.iter().zip(&factors.layers);
        for (index, (weights, (modules, values))) in layers.enumerate() {
            let ran = self.layer(weights, modules, values).run(&x, 0, None)?;
            if seen.wants(self.tap + index) {
                let read = [
                    (Part::Qkv, &ran.normed),
                    (Part::O, &ran.attended),
                    (Part::GateUp, &ran.normed_again),
                    (Part::Down, &ran.active),
                ];
                for (part, rows) in read {
                    let rows = rows.flatten_all()?.to_vec1()?;
                    seen.add(self.tap + index, part, &real(group, tokens, &rows));
                }
            }
            x = ran.out;
        }
        Ok(())
    }
    /// [`super::super::Head::outputs`].
    pub(in crate::head) fn each_layer(
        &self,
        group: &Group<'_>,
        adapter: Option<&Adapter>,
        each: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), HeadError> {
        let (mut x, tokens) = (tensor3(group.hidden, &self.device)?, group.hidden.dim().1);
        let (factors, _) = self.factors(adapter, self.own(), false)?;
        let layers = self.layers.iter().zip(&factors.layers);
        for (index, (weights, (modules, values))) in layers.enumerate() {
            x = self.layer(weights, modules, values).forward(&x, 0, None)?;
            let rows = x.flatten_all()?.to_vec1()?;
            each(self.tap + index, &real(group, tokens, &rows));
        }
        Ok(())
    }
}

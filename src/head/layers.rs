//! What leaves the decoder layers of the head, for those who compare how adapters see the same text.
//!
//! - In: blocks and their hidden states at the tap. Out: rows, layer by layer, without padding.
//! - Never here: what is made of them.

use super::{Engine, Group, Head, HeadError};
use crate::adapter::Adapter;

impl Head {
    /// Tells `each` of the residual stream after every decoder layer of the head, under `adapter` or of the
    /// bare base: the layer's index in the base, and rows `[N, D]`, block after block of the group.
    ///
    /// # Errors
    /// [`HeadError::Length`] when a sequence is longer than the head was loaded for;
    /// [`HeadError::Adapter`] when the adapter does not fit.
    pub fn each_layer(
        &self,
        group: &Group<'_>,
        adapter: Option<&Adapter>,
        each: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), HeadError> {
        if !self.has_rows(group, adapter)? {
            return Ok(());
        }
        match &self.engine {
            Engine::Cpu(cpu) => cpu.each_layer(group, adapter, each),
            Engine::Candle(candle) => candle.each_layer(group, adapter, each)?,
        }
        Ok(())
    }

    /// Whether a group, which fits the head as its adapter does, has a row at all.
    pub(super) fn has_rows(
        &self,
        group: &Group<'_>,
        adapter: Option<&Adapter>,
    ) -> Result<bool, HeadError> {
        let tokens = group.hidden.dim().1;
        adapter.map_or(Ok(()), |adapter| self.check(adapter))?;
        self.check_length(tokens)?;
        Ok(!group.blocks.is_empty() && tokens > 0)
    }
}

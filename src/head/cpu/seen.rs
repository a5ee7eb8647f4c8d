//! What the linear layers read on a group, and what leaves the layers, layer by layer.

use super::super::{Group, Seen};
use super::{Context, Cpu, sequences};
use crate::adapter::Adapter;

impl Cpu {
    /// [`super::super::Head::see`].
    pub(in crate::head) fn see(
        &self,
        group: &Group<'_>,
        adapter: Option<&Adapter>,
        seen: &mut Seen,
    ) {
        let sequences = sequences(&[group]);
        let mut x = self.rows(&[group], &sequences);
        for index in 0..self.layers.len() {
            let layer = self.layer(index, adapter, &sequences);
            match seen.wants(self.tap + index) {
                true => layer.inputs(&mut x, |part, rows| seen.add(self.tap + index, part, rows)),
                false => layer.forward(&mut x, None, Context::Whole),
            }
        }
        self.pool.give([x]);
        self.pool.settle();
    }

    /// [`super::super::Head::outputs`].
    pub(in crate::head) fn each_layer(
        &self,
        group: &Group<'_>,
        adapter: Option<&Adapter>,
        each: &mut dyn FnMut(usize, &[f32]),
    ) {
        let sequences = sequences(&[group]);
        let x = self.rows(&[group], &sequences);
        let x =
            self.stream(adapter, x, &sequences, None, |index, rows| each(self.tap + index, rows));
        self.pool.give([x]);
        self.pool.settle();
    }
}

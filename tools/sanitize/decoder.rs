//! The decoder's kernels, by path, and what they take of the rest of it.

#[path = "../../src/decoder/attention.rs"]
pub(crate) mod attention;
#[path = "../../src/decoder/kernels.rs"]
pub(crate) mod kernels;

/// Cosines and sines of every position, as the decoder has them.
pub(crate) struct Turns {
    pub(crate) cos: Vec<f32>,
    pub(crate) sin: Vec<f32>,
}

impl Turns {
    fn from(&self, first: usize) -> (&[f32], &[f32]) {
        (&self.cos[first..], &self.sin[first..])
    }
}

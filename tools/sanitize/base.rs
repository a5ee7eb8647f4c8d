//! What attention takes of a base.

pub(crate) struct Config {
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
}

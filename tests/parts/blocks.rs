//! Blocks that a small model learns in a few steps.

use sapwood::block::Block;

/// Blocks of `from, from + 1, ...`, each of another length and start: a rule that can be learned.
pub(crate) fn blocks(from: u32, count: usize) -> Vec<Block> {
    let block = |i: usize| {
        let length = 5 + i * 7 % 11;
        let tokens = (0..length).map(|t| from + ((i * 3 + t) % 20) as u32).collect();
        let learn = (0..length).map(|t| t > 0).collect();
        Block { tokens, learn, bytes: length as u32 - 1, domain: 0 }
    };
    (0..count).map(block).collect()
}

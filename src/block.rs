//! A block: one tokenised, masked sample of at most T tokens, the unit of learning and of replay.

/// One tokenised sample.
///
/// Position t predicts token t + 1; `learn[t]` says whether token t counts as a label, so the
/// first token never does and a masked prompt does not either.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Token ids, `[T]`, each below the vocabulary size; at least two.
    pub tokens: Vec<u32>,
    /// Whether the token at the same place is a label, `[T]`; `learn[0]` is false.
    pub learn: Vec<bool>,
    /// Bytes of UTF-8 text that the labelled tokens stand for: the divisor of bits per byte.
    pub bytes: u32,
    /// Which domain the sample came from; 0 when nobody said.
    pub domain: u32,
}

impl Block {
    /// How many tokens count as labels.
    pub fn labels(&self) -> usize {
        self.learn.iter().filter(|&&learn| learn).count()
    }
}

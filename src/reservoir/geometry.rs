//! The reservoir's fixed sizes, and what fits them.

use super::{ReservoirError, file};
use crate::block::Block;
use half::f16;
use rkyv::{Archive, Deserialize, Serialize};
use sapwood_protocol::limits::{
    HIDDEN_MAX, RESERVOIR_BLOCKS_MAX, RESERVOIR_BYTES_MAX, RESERVOIR_ROOM_MAX, SLOT_BYTES_MAX,
    TOKENS_MAX,
};
use std::fmt;

/// The sizes of a reservoir, fixed when its file is created.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Most blocks held, M.
    pub capacity: u32,
    /// Most tokens of a block, T.
    pub tokens_max: u32,
    /// Size of the vocabulary, V: up to 65,536 a token takes two bytes, above it four.
    pub vocab: u32,
    /// Width D of the hidden states kept beside the tokens, or none.
    pub hidden: Option<u32>,
    /// Places kept free for blocks accepted between two checkpoints; at least the blocks of a batch.
    pub room: u32,
}

impl fmt::Display for Geometry {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { capacity, tokens_max, vocab, .. } = self;
        let hidden = if self.hidden.is_some() { "with" } else { "without" };
        write!(to, "{capacity} blocks of {tokens_max} tokens below {vocab}, {hidden} hidden states")
    }
}

impl Geometry {
    /// Whether a reservoir of this geometry is what `wanted` asks for; its room may be another.
    pub fn serves(&self, wanted: &Self) -> bool {
        Self { room: wanted.room, ..*self } == *wanted
    }

    /// The most blocks that fit a file of `replay_bytes`.
    ///
    /// The file holds each block's place twice, since a replacement is staged beside the committed
    /// block, and the room.
    ///
    /// # Errors
    /// [`ReservoirError::Budget`] when not one fits; [`ReservoirError::Limit`].
    pub fn for_bytes(
        replay_bytes: u64,
        tokens_max: u32,
        vocab: u32,
        hidden: Option<u32>,
        room: u32,
    ) -> Result<Self, ReservoirError> {
        let one = Self { capacity: 1, tokens_max, vocab, hidden, room };
        one.check()?;
        let least = one.file_bytes();
        let more = replay_bytes
            .checked_sub(least)
            .ok_or(ReservoirError::Budget { least, got: replay_bytes })?
            / (2 * one.slot_bytes());
        let capacity = (more + 1).min(u64::from(RESERVOIR_BLOCKS_MAX)) as u32;
        let geometry = Self { capacity, ..one };
        geometry.check()?;
        Ok(geometry)
    }

    /// Whether every size lies within its limit.
    ///
    /// # Errors
    /// [`ReservoirError::Limit`] names the first that does not.
    pub fn check(&self) -> Result<(), ReservoirError> {
        let sizes: [(&'static str, u64, u64, u64); 5] = [
            ("blocks", 1, RESERVOIR_BLOCKS_MAX.into(), self.capacity.into()),
            ("tokens of a block", 2, TOKENS_MAX.into(), self.tokens_max.into()),
            ("vocabulary", 1, u32::MAX.into(), self.vocab.into()),
            ("hidden width", 1, HIDDEN_MAX.into(), self.hidden.unwrap_or(1).into()),
            ("room", 1, RESERVOIR_ROOM_MAX.into(), self.room.into()),
        ];
        for (what, least, limit, got) in sizes {
            if got < least || got > limit {
                return Err(ReservoirError::Limit { what, limit, got });
            }
        }
        let bytes = [
            ("bytes of a slot", SLOT_BYTES_MAX, self.slot_bytes()),
            ("bytes of the file", RESERVOIR_BYTES_MAX, self.file_bytes()),
        ];
        match bytes.into_iter().find(|(_, limit, got)| got > limit) {
            Some((what, limit, got)) => Err(ReservoirError::Limit { what, limit, got }),
            None => Ok(()),
        }
    }

    /// Bytes of one place in the file.
    pub fn slot_bytes(&self) -> u64 {
        file::slot_bytes(self)
    }

    /// Bytes of the whole file.
    pub fn file_bytes(&self) -> u64 {
        file::file_bytes(self)
    }

    /// Whether a block, and its hidden states `[T, D]`, can be kept as they are.
    ///
    /// # Errors
    /// [`ReservoirError::Block`] or [`ReservoirError::Hidden`] says what does not fit.
    pub fn fits(&self, block: &Block, hidden: Option<&[f16]>) -> Result<(), ReservoirError> {
        let (length, limit) = (block.tokens.len(), self.tokens_max as usize);
        let wrong = |what, expected, got| Err(ReservoirError::Block { what, expected, got });
        if length < 2 || length > limit {
            return wrong("tokens from 2 up to", limit, length);
        }
        if block.learn.len() != length {
            return wrong("a mask as long as its tokens,", length, block.learn.len());
        }
        if let Some(token) = block.tokens.iter().find(|token| **token >= self.vocab) {
            return wrong("tokens below the vocabulary size", self.vocab as usize, *token as usize);
        }
        let expected = self.hidden.map(|width| width as usize * length);
        if expected != hidden.map(<[f16]>::len) {
            return Err(ReservoirError::Hidden { expected, got: hidden.map(<[f16]>::len) });
        }
        Ok(())
    }

    /// Places in the file: every block committed, every block staged, and the room.
    pub(crate) fn places(&self) -> u32 {
        self.capacity.saturating_mul(2).saturating_add(self.room)
    }

    pub(crate) fn is_narrow(&self) -> bool {
        self.vocab <= 1 << 16
    }
}

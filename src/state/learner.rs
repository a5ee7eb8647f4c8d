//! What a learner must know to go on: everything but the base, the data and the reservoir.
//!
//! - Plain numbers in the adapter's fixed order; the shapes say which linear layer each belongs to.
//! - Invariant: fast, slow and both moments have as many numbers as the shapes make.

use super::manifest::limit;
use super::trial::{Global, Since};
use super::{StateError, earlier};
use crate::adapter::{Spec, Target};
use crate::block::Block;
use crate::reservoir::{RecordError, record};
use rkyv::{Archive, Deserialize, Serialize};
use sapwood_protocol::limits::COUNT_MAX;
use sapwood_protocol::record::Kind;
use std::fmt::{self, Display};

/// One adapted linear layer.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// Index of the decoder layer.
    pub layer: u32,
    /// Which linear layer of it: its place in [`Target::ALL`].
    pub target: u8,
    /// Rank r.
    pub rank: u32,
    /// alpha / rank.
    pub scale: f32,
    /// Width of the input.
    pub fan_in: u32,
    /// Width of the output.
    pub fan_out: u32,
}

/// Where a job stands in its data.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JobPosition {
    /// BLAKE3 of the data set.
    pub dataset: [u8; 32],
    /// Whole passes over it.
    pub epoch: u64,
    /// Blocks of this pass that were learned.
    pub position: u64,
    /// Optimiser steps of the job, which the learning rate's schedule follows.
    pub step: u64,
}

impl Display for Shape {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { layer, rank, scale, fan_in, fan_out, .. } = self;
        let target = Target::ALL.get(usize::from(self.target)).map_or("?", |target| target.name());
        write!(
            to,
            "{target} of layer {layer} with rank {rank}, scale {scale}, {fan_in} x {fan_out}"
        )
    }
}

/// A learner between two optimiser steps.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct LearnerRecord {
    /// The fast adapter's factors.
    pub fast: Vec<f32>,
    /// The slow adapter's factors.
    pub slow: Vec<f32>,
    /// AdamW's first moment of fast.
    pub first_moment: Vec<f32>,
    /// AdamW's second moment of fast.
    pub second_moment: Vec<f32>,
    /// Optimiser steps of the device's life, k.
    pub step: u64,
    /// Where the job stands, or stood when it ended.
    pub cursor: JobPosition,
    /// What the adapter changes.
    pub shapes: Vec<Shape>,
    /// Hash of the base.
    pub base: [u8; 32],
    /// Settings, by name, that must not change in the middle of a job.
    pub settings: Vec<(String, String)>,
    /// The domains met so far, the newest last; the oldest go where there are too many.
    pub domains: Vec<Domain>,
    /// Text of earlier domains that nobody learned, for the gate.
    pub held_out: Vec<HeldOutBlock>,
    /// The global adapter whose ranks come first in every layer, and never move.
    pub global: Option<Global>,
    /// What was learned since it was installed, or since the first step: the steps that AdamW counts.
    pub since: Since,
}

/// A block that is kept to judge by.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct HeldOutBlock {
    /// Token ids, `[T]`.
    pub tokens: Vec<u32>,
    /// Which of them are labels, `[T]`.
    pub learn: Vec<bool>,
    /// Bytes that the labels stand for.
    pub bytes: u32,
    /// The domain's number.
    pub domain: u32,
}

/// A domain that a device has met.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct Domain {
    /// Its number, from 1, never given twice.
    pub number: u32,
    /// What it is called.
    pub name: String,
    /// What makes it this one and no other: where its text came from, or the name that a user gave it;
    /// empty where an earlier version knew the name alone.
    pub key: String,
}

impl HeldOutBlock {
    /// The record of a block.
    pub fn of(block: &Block) -> Self {
        let Block { tokens, learn, bytes, domain } = block.clone();
        Self { tokens, learn, bytes, domain }
    }

    /// The block again.
    pub fn block(&self) -> Block {
        let Self { tokens, learn, bytes, domain } = self.clone();
        Block { tokens, learn, bytes, domain }
    }
}

/// The shapes of an adapter's spec.
pub fn shapes(spec: &Spec) -> Vec<Shape> {
    let target = |target| Target::ALL.iter().position(|other| *other == target).unwrap_or_default();
    spec.modules
        .iter()
        .map(|module| Shape {
            layer: module.layer as u32,
            target: target(module.target) as u8,
            rank: module.rank as u32,
            scale: module.scale,
            fan_in: module.fan_in as u32,
            fan_out: module.fan_out as u32,
        })
        .collect()
}

impl LearnerRecord {
    /// A record of any version.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        let header = record::header(Kind::Learner, bytes)?;
        earlier::learner(&header, bytes)
    }

    /// Whether the numbers belong together.
    ///
    /// # Errors
    /// [`StateError::Learner`] names the vector of another length; [`StateError::Limit`] a count that
    /// cannot be counted on; [`StateError::Ranks`] a layer that is all the global adapter's.
    pub fn check(&self) -> Result<(), StateError> {
        let JobPosition { epoch, position, step, .. } = self.cursor;
        for count in [self.step, epoch, position, step] {
            limit("steps of a learner", COUNT_MAX, count)?;
        }
        limit("steps since an install", self.step, self.since.steps)?;
        limit("tokens since an install", COUNT_MAX, self.since.tokens)?;
        if let Some(global) = &self.global {
            global.check()?;
            if let Some(shape) = self.shapes.iter().find(|shape| shape.rank <= global.ranks) {
                let &Shape { layer, rank, .. } = shape;
                return Err(StateError::Ranks { layer, rank, global: global.ranks });
            }
        }
        let one = |shape: &Shape| {
            u64::from(shape.rank) * (u64::from(shape.fan_in) + u64::from(shape.fan_out))
        };
        let sum = self.shapes.iter().try_fold(0_u64, |sum, shape| sum.checked_add(one(shape)));
        let expected = sum.and_then(|sum| usize::try_from(sum).ok()).unwrap_or(usize::MAX);
        let vectors = [
            ("fast", &self.fast),
            ("slow", &self.slow),
            ("the first moment", &self.first_moment),
            ("the second moment", &self.second_moment),
        ];
        if let Some(block) = self.held_out.iter().find(|b| b.learn.len() != b.tokens.len()) {
            let (expected, got) = (block.tokens.len(), block.learn.len());
            return Err(StateError::Learner { what: "a held-out block's labels", expected, got });
        }
        match vectors.into_iter().find(|(_, values)| values.len() != expected) {
            Some((what, values)) => Err(StateError::Learner { what, expected, got: values.len() }),
            None => Ok(()),
        }
    }

    /// Whether a learner of this base and this adapter can go on from here.
    ///
    /// # Errors
    /// [`StateError::Differs`] names what was changed.
    pub fn belongs_to(&self, base: &[u8; 32], spec: &Spec) -> Result<(), StateError> {
        if self.base != *base {
            return differs("base model", hex(&self.base), hex(base));
        }
        let now = shapes(spec);
        if self.shapes == now {
            return Ok(());
        }
        let ranks = self.global.map_or(0, |global| global.ranks);
        let own = |shape: &Shape| Shape { rank: shape.rank.saturating_sub(ranks), ..*shape };
        match self.shapes.iter().zip(&now).find(|(was, now)| was != now) {
            Some((was, now)) => differs("adapter", own(was), own(now)),
            None => differs("number of adapted layers", self.shapes.len(), now.len()),
        }
    }

    /// Whether an interrupted job may go on with these settings and this data.
    ///
    /// # Errors
    /// [`StateError::Differs`] names the first setting that was changed, or the data.
    pub fn may_resume(
        &self,
        dataset: &[u8; 32],
        settings: &[(String, String)],
    ) -> Result<(), StateError> {
        if self.cursor.dataset != *dataset {
            return differs("data set", hex(&self.cursor.dataset), hex(dataset));
        }
        for (name, was) in &self.settings {
            let now = settings.iter().find(|(other, _)| other == name).map(|(_, value)| value);
            if now != Some(was) {
                return differs(name, was, now.map_or("nothing", String::as_str));
            }
        }
        Ok(())
    }
}

fn differs(
    what: impl Into<String>,
    expected: impl Display,
    got: impl Display,
) -> Result<(), StateError> {
    let (expected, got) = (expected.to_string(), got.to_string());
    Err(StateError::Differs { what: what.into(), expected, got })
}

fn hex(hash: &[u8; 32]) -> String {
    hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

//! One job: learn from some blocks, be judged, commit or leave everything as it was.
//!
//! - In: loaded engines, a state folder, blocks to learn and blocks held out. Out: the verdict.
//! - Progress leaves as [`Event`]s; the listener may stop the job at any step, which checkpoints it.
//! - Invariant: until the commit, the state folder's generation in use does not change.

use super::course::{Course, Cursor, Report};
use super::engines::Engines;
use super::evaluate::HeldOut;
use super::events::{Event, Score, Text, Who};
use super::feed::Feed;
use super::memory::{HIDDEN_BYTES_MAX, Memory};
use super::{LearnError, spec};
use crate::adapter::Adapter;
use crate::adapter::peft::{self, Meta, Role};
use crate::block::Block;
use crate::gate::{Change, Direction, Judge, Scores, Verdict};
use crate::settings::Settings;
use crate::state::State;
use crate::train::Learners;
use std::ops::ControlFlow;

/// What a job learns from and is judged by.
#[derive(Clone, Debug, Default)]
pub struct Material {
    /// Name of the domain.
    pub name: String,
    /// BLAKE3 of the data, so that a resumed job is known to be the same.
    pub hash: [u8; 32],
    /// Blocks to learn.
    pub train: Vec<Block>,
    /// Blocks of the same domain that are not learned.
    pub valid: Vec<Block>,
    /// General text that no job learns; may be empty.
    pub general: Vec<Block>,
}

//! The anchor: text that the bare base wrote itself, on which fast is held to what the base says,
//! and which says what the inputs of A look like there.
//!
//! - In: the loaded base and how a text of it begins. Out: blocks, the same every time: the
//!   seed of each is its number; the whitening that they make.
//! - Nothing is stored, shipped or taken from the user: a base of any language brings its own.
//! - Never here: learning. What a block weighs is the settings' to say.
//!
//! Source: self-generated text keeps what was learned before, arXiv 2605.26097; forgetting follows the
//! divergence from the base, arXiv 2509.04259.

use super::LearnError;
use super::engines::Engines;
use super::evaluate::Pulse;
use super::feed::Feed;
use crate::adapter::Spec;
use crate::block::Block;
use crate::generate::Sampling;
use crate::head::{Group, Seen};
use crate::settings::Settings;
use crate::train::Whitening;
use std::sync::{Arc, PoisonError};

/// Tokens that a written text must have to be of use.
const TOKENS_MIN: usize = 16;
/// Texts tried for every block that is wanted: a base may end some at once.
const TRIES: u64 = 4;

/// Most texts that whitening looks at: more do not change what is learned.
const SEEN_MAX: usize = 64;

/// Most tokens of a text: what is longer costs more and shows the base little else.
pub(super) const TOKENS_MAX: usize = 128;

/// What is asked of a base: how its texts begin, how many, of how many tokens at most.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Wanted {
    start: Vec<u32>,
    count: usize,
    tokens: usize,
}

/// Up to `anchor_blocks` texts, written by the bare base after `start`; none without a start, or where
/// neither the anchor nor whitening has a use for them.
///
/// They are written once and kept with the engines: a device learns in many jobs. `pulse` is asked
/// before every token of texts abreast whether to go on.
/// # Errors
/// [`LearnError::Generate`] when the base cannot write; what `pulse` returns.
pub fn own_texts(
    engines: &Engines,
    start: &[u32],
    settings: &Settings,
    pulse: &mut Pulse<'_>,
) -> Result<Arc<Vec<Block>>, LearnError> {
    let count = if start.is_empty() { 0 } else { settings.own_texts() };
    let tokens = settings.max_seq_length.min(TOKENS_MAX);
    let wanted = Wanted { start: start.to_vec(), count, tokens };
    let mut own = engines.own.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, texts)) = own.as_ref().filter(|(known, _)| *known == wanted) {
        return Ok(texts.clone());
    }
    let texts = Arc::new(write(engines, &wanted, pulse)?);
    *own = Some((wanted, texts.clone()));
    Ok(texts)
}

/// What text of the base's own says of the inputs of A; none without such text or a strength.
///
/// It is made once and kept with the engines, as the texts are. `pulse` is asked before every text
/// whether to go on.
/// # Errors
/// [`LearnError::Head`], [`LearnError::Trunk`] when the base fails on them; what `pulse` returns.
pub fn whitening(
    engines: &Engines,
    own: &mut Feed<'_>,
    spec: &Spec,
    strength: f64,
    pulse: &mut Pulse<'_>,
) -> Result<Option<Arc<Whitening>>, LearnError> {
    let texts = own.blocks().len().min(SEEN_MAX);
    if texts == 0 || strength == 0.0 {
        return Ok(None);
    }
    let wanted = (own.blocks()[..texts].to_vec(), spec.clone(), strength);
    let mut kept = engines.whitening.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, whitening)) = kept.as_ref().filter(|(known, _)| *known == wanted) {
        return Ok(Some(whitening.clone()));
    }
    let mut seen = Seen::new(spec);
    for index in 0..texts {
        pulse()?;
        let (blocks, hidden) = own.batch(&[index])?;
        engines.head.see(&Group { blocks: &blocks, hidden: &hidden }, None, &mut seen)?;
    }
    pulse()?;
    let whitening = Arc::new(Whitening::new(spec, &seen, strength));
    *kept = Some((wanted, whitening.clone()));
    Ok(Some(whitening))
}

fn write(
    engines: &Engines,
    wanted: &Wanted,
    pulse: &mut Pulse<'_>,
) -> Result<Vec<Block>, LearnError> {
    let Wanted { start, count, tokens } = wanted;
    let mut blocks = Vec::with_capacity(*count);
    let more = tokens.saturating_sub(start.len());
    let generator = engines.generator();
    let mut seeds = 0..*count as u64 * TRIES;
    while blocks.len() < *count && !seeds.is_empty() {
        // Drawn from what the base thinks likely, in the order of their numbers.
        let sampling = |seed| Sampling { seed, ..Sampling::default() };
        let some = generator.abreast(count - blocks.len());
        let samplings: Vec<_> = seeds.by_ref().take(some).map(sampling).collect();
        let mut texts = generator.several(start, more, None, &samplings)?;
        pulse()?;
        while texts.next_tokens()? {
            pulse()?;
        }
        let texts = texts.into_ids().into_iter();
        let long = texts.filter(|text| start.len() + text.len() >= TOKENS_MIN.min(*tokens));
        blocks.extend(long.take(count - blocks.len()).map(|text| block(start, &text)));
    }
    Ok(blocks)
}

/// A text of the base's own, all of which is to be learned but for its start.
fn block(start: &[u32], text: &[u32]) -> Block {
    let tokens = [start, text].concat();
    let learn = (0..tokens.len()).map(|t| t >= start.len()).collect();
    Block { tokens, learn, bytes: 0, domain: 0 }
}

//! The anchor: text that the bare base wrote itself, on which fast is held to what the base says,
//! and which says what the inputs of A look like there.
//!
//! - In: the loaded base and how a text of it begins. Out: blocks, the same every time: the
//!   seed of each is its number; the whitening that they make.
//! - A state folder keeps them: they are written once in a device's life, and go on where a job was stopped.
//! - Nothing is shipped or taken from the user: a base of any language brings its own.
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
use crate::state::{Asked, State, Written};
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

impl Wanted {
    fn of(start: &[u32], settings: &Settings) -> Self {
        let count = if start.is_empty() { 0 } else { settings.own_texts() };
        let tokens = settings.max_seq_length.min(TOKENS_MAX);
        Self { start: start.to_vec(), count, tokens }
    }

    /// The same as a state folder is asked.
    fn asked(&self, engines: &Engines) -> Asked {
        let base = engines.base.hash();
        Asked { base, start: self.start.clone(), tokens: self.tokens as u32 }
    }

    /// The first seed that is not tried.
    fn seeds(&self) -> u64 {
        self.count as u64 * TRIES
    }
}

/// How many texts [`own_texts`] will have the base write: what neither the engines nor the state have.
///
/// # Errors
/// [`LearnError::State`] when the state cannot be read.
pub(super) fn missing(
    engines: &Engines,
    start: &[u32],
    settings: &Settings,
    state: &State,
) -> Result<usize, LearnError> {
    let wanted = Wanted::of(start, settings);
    let own = engines.own.lock().unwrap_or_else(PoisonError::into_inner);
    if own.as_ref().is_some_and(|(known, _)| *known == wanted) || wanted.count == 0 {
        return Ok(0);
    }
    let vocab = engines.base.config().vocab;
    let written = state.written(&wanted.asked(engines), vocab)?.unwrap_or_default();
    let is_tried = written.seed >= wanted.seeds();
    Ok(if is_tried { 0 } else { wanted.count.saturating_sub(written.texts.len()) })
}

/// Up to `anchor_blocks` texts, written by the bare base after `start`; none without a start, or where
/// neither the anchor nor whitening has a use for them.
///
/// They are kept with the engines and, where there is one, in the state folder. `pulse` is asked before every
/// token of texts abreast whether to go on.
/// # Errors
/// [`LearnError::Generate`] when the base cannot write; [`LearnError::State`] when they cannot be kept; what
/// `pulse` returns.
pub fn own_texts(
    engines: &Engines,
    start: &[u32],
    settings: &Settings,
    state: Option<&mut State>,
    pulse: &mut Pulse<'_>,
) -> Result<Arc<Vec<Block>>, LearnError> {
    let wanted = Wanted::of(start, settings);
    let mut own = engines.own.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, texts)) = own.as_ref().filter(|(known, _)| *known == wanted) {
        return Ok(texts.clone());
    }
    let texts = write(engines, &wanted, state, pulse)?;
    let blocks = texts.iter().take(wanted.count).map(|text| block(start.len(), text));
    let blocks = Arc::new(blocks.collect::<Vec<_>>());
    *own = Some((wanted, blocks.clone()));
    Ok(blocks)
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

/// At least so many texts as are wanted, unless the base ends too many at once: those that the state has, and
/// what is missing, which it then has.
fn write(
    engines: &Engines,
    wanted: &Wanted,
    mut state: Option<&mut State>,
    pulse: &mut Pulse<'_>,
) -> Result<Vec<Vec<u32>>, LearnError> {
    let Wanted { start, count, tokens } = wanted;
    if *count == 0 {
        return Ok(Vec::new());
    }
    let asked = wanted.asked(engines);
    let vocab = engines.base.config().vocab;
    let known = match &state {
        Some(state) => state.written(&asked, vocab)?,
        None => None,
    };
    let mut written = known.unwrap_or_else(|| Written { asked, seed: 0, texts: Vec::new() });
    let more = tokens.saturating_sub(start.len());
    let generator = engines.generator();
    let last = wanted.seeds();
    while written.texts.len() < *count && written.seed < last {
        // Drawn from what the base thinks likely, in the order of their numbers.
        let some = generator.abreast(count - written.texts.len()) as u64;
        let seeds = written.seed..last.min(written.seed + some.max(1));
        written.seed = seeds.end;
        let samplings: Vec<_> =
            seeds.map(|seed| Sampling { seed, ..Sampling::default() }).collect();
        let mut texts = generator.several(start, more, None, &samplings)?;
        pulse()?;
        while texts.next_tokens()? {
            pulse()?;
        }
        let whole = texts.into_ids().into_iter().map(|text| [start, &*text].concat());
        written.texts.extend(whole.filter(|text| text.len() >= TOKENS_MIN.min(*tokens)));
        if let Some(state) = &mut state {
            state.keep_written(&written)?;
        }
    }
    Ok(written.texts)
}

/// A text of the base's own, all of which is to be learned but for the `start` tokens that it begins with.
fn block(start: usize, text: &[u32]) -> Block {
    let learn = (0..text.len()).map(|t| t >= start).collect();
    Block { tokens: text.to_vec(), learn, bytes: 0, domain: 0 }
}

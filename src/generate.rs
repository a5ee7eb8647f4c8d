//! Text from a prompt: sampling token by token over the layers of trunk and head.
//!
//! - In: prompt ids, an adapter or none. Out: ids, one at a time, until an end token or the limit; of one
//!   text, or of several that go on in step.
//! - The engines are borrowed: the same weights learn meanwhile, and many texts are written at once.
//! - Never here: the tokenizer, the terminal, threads of its own.

mod sampling;
mod prompts;
mod scores;
mod shaping;

pub use prompts::{Prompts, Read};
pub use sampling::Sampling;
pub use scores::{Score, scores};
pub use shaping::Shaping;

use crate::adapter::Adapter;
use crate::base::Base;
use crate::constrain::{ConstrainError, Constraint};
use crate::head::{Backend, Below, Decoder, Head, HeadError, Keep, Session};
use crate::trunk::{Trunk, TrunkError};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;
use rayon::prelude::*;
use shaping::Shaper;
use std::borrow::Cow;
use std::ops::ControlFlow;

/// What can go wrong while generating.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// The head failed.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// The embedding failed: an id beyond the vocabulary.
    #[error(transparent)]
    Trunk(#[from] TrunkError),
    /// A prompt without tokens.
    #[error("the prompt has no tokens; expected at least one")]
    Empty,
    /// A prompt that leaves no room for an answer.
    #[error("the prompt has {tokens} tokens, expected fewer: the model's context is {context}")]
    Prompt {
        /// Of the prompt.
        tokens: usize,
        /// Most tokens of prompt and answer.
        context: usize,
    },
    /// A text that cannot go on within its constraint.
    #[error(transparent)]
    Constrain(#[from] ConstrainError),
    /// A choice of sampling that has no meaning.
    #[error("--{key}: expected {expected}, got {got}")]
    Sampling {
        /// The flag.
        key: &'static str,
        /// What it may be.
        expected: &'static str,
        /// What it was.
        got: f32,
    },
}

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The model chose an end token.
    Token,
    /// It has as many tokens as were asked for, or as the model's context holds.
    Length,
}

/// A base ready to write any number of texts, each with its adapter.
#[derive(Clone, Copy)]
pub struct Generator<'a> {
    trunk: &'a Trunk,
    decoder: Decoder<'a>,
}

/// The engines of a base that only writes, for [`Generator::new`]: all layers are the head's, kept as is said.
///
/// # Errors
/// [`GenerateError::Head`] or [`GenerateError::Trunk`] when the base cannot be loaded.
pub fn load(base: &Base, place: &Backend, keep: Keep) -> Result<(Trunk, Head), GenerateError> {
    let trunk = Trunk::load(base, 0, 1)?;
    // No block goes through this head: a text has its own positions.
    let head = Head::load_over(&trunk, base, place, 1, keep)?;
    Ok((trunk, head))
}

impl<'a> Generator<'a> {
    /// Over engines that may learn meanwhile; `below`: the layers under the tap, on a device that the
    /// trunk does not reach.
    pub fn new(trunk: &'a Trunk, below: Option<&'a Below>, head: &'a Head) -> Self {
        Self { trunk, decoder: Decoder::new(trunk, below, head) }
    }

    /// Most tokens of prompt and answer together.
    pub fn context(&self) -> usize {
        let config = self.decoder.config();
        config.sliding_window.unwrap_or(usize::MAX).min(config.positions())
    }

    /// Most bytes that a text of `tokens` tokens takes, prompt and answer together.
    pub fn session_bytes(&self, tokens: usize) -> u64 {
        self.decoder.session_bytes(tokens.min(self.context()))
    }

    /// How many texts to write at once where `wanted` more are needed, some of which may be of no use.
    pub fn abreast(&self, wanted: usize) -> usize {
        self.decoder.abreast(wanted)
    }

    /// Texts of at most `tokens_max` tokens after the same `prompt` `[T]`, one for each of `samplings`, of
    /// which there are as many as [`Generator::abreast`] says at most. Each is what [`Generator::start`]
    /// would write, but that products of many rows round in other places.
    ///
    /// # Errors
    /// As [`Generator::start`], and [`HeadError::Abreast`].
    pub fn several(
        &self,
        prompt: &[u32],
        tokens_max: usize,
        adapter: Option<&'a Adapter>,
        samplings: &[Sampling],
    ) -> Result<Several<'a>, GenerateError> {
        samplings.iter().try_for_each(Sampling::check)?;
        let (count, left) = (samplings.len(), self.room(prompt, tokens_max)?);
        let session = self.decoder.session_of(count, adapter, prompt.len() + left)?;
        let texts = samplings.iter().map(|&one| Draws::new(one)).collect();
        Ok(Several { generator: *self, session, texts, next: prompt.repeat(count), left })
    }

    /// Tokens that may follow a prompt.
    fn room(&self, prompt: &[u32], tokens_max: usize) -> Result<usize, GenerateError> {
        let context = self.context();
        if prompt.is_empty() {
            return Err(GenerateError::Empty);
        }
        if prompt.len() >= context {
            return Err(GenerateError::Prompt { tokens: prompt.len(), context });
        }
        Ok(tokens_max.min(context - prompt.len()))
    }

    /// Reads a text as if it wrote it: `each` is told every token after the first, with the logits `[V]`
    /// that it would have been drawn from, until it breaks off.
    ///
    /// # Errors
    /// As [`Generator::start`]; a text may fill the context.
    pub fn follow(
        &self,
        text: &[u32],
        adapter: Option<&'a Adapter>,
        each: &mut dyn FnMut(u32, &[f32]) -> ControlFlow<()>,
    ) -> Result<(), GenerateError> {
        let (tokens, context) = (text.len(), self.context());
        if tokens > context {
            return Err(GenerateError::Prompt { tokens, context });
        }
        let mut session = self.decoder.session(adapter, tokens)?;
        for (id, next) in text.iter().zip(text.iter().skip(1)) {
            self.decoder.advance(&mut session, &self.trunk.embedded(&[*id])?)?;
            if each(*next, &self.decoder.logits(&session)?).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Starts a text of at most `tokens_max` tokens after `prompt` `[T]`, and reads the prompt.
    ///
    /// It runs on the threads in force; memory for its keys and values is taken here.
    /// # Errors
    /// [`GenerateError::Empty`] without a prompt; [`GenerateError::Prompt`] when the context has no
    /// room for an answer; [`GenerateError::Sampling`]; those of trunk and head.
    pub fn start(
        &self,
        prompt: &[u32],
        tokens_max: usize,
        adapter: Option<&'a Adapter>,
        sampling: Sampling,
    ) -> Result<Text<'a>, GenerateError> {
        self.start_after(None, prompt, tokens_max, adapter, sampling)
    }

    /// The same, but what a prompt shares with the beginning of `read`, a text of these engines and this
    /// adapter, is taken from there. The rest is read in other parts than a whole prompt is, so that the
    /// last bits of its logits may differ; more than them where what was written there, and not read, is a
    /// part of the prompt now and products of many rows round.
    ///
    /// # Errors
    /// As [`Generator::start`].
    pub fn start_after(
        &self,
        read: Option<&Read>,
        prompt: &[u32],
        tokens_max: usize,
        adapter: Option<&'a Adapter>,
        sampling: Sampling,
    ) -> Result<Text<'a>, GenerateError> {
        sampling.check()?;
        let left = self.room(prompt, tokens_max)?;
        // The last token is always read: its logits are not kept.
        let shared = read.map_or(0, |read| read.shared(&prompt[..prompt.len() - 1]));
        let embedded = self.trunk.embedded(&prompt[shared..])?;
        let tokens_max = prompt.len() + left;
        let mut session = match read.filter(|_| shared > 0) {
            Some(read) => self.decoder.session_after((&read.kept, shared), adapter, tokens_max)?,
            None => self.decoder.session(adapter, tokens_max)?,
        };
        self.decoder.extend(&mut session, &embedded)?;
        let logits = self.decoder.logits(&session)?;
        let chance = ChaCha8Rng::seed_from_u64(sampling.seed);
        let end = (left == 0).then_some(End::Length);
        let (generator, last, ids) = (*self, None, prompt.to_vec());
        let (shaper, constraint) = (None, None);
        Ok(Text {
            generator,
            session,
            ids,
            shared,
            logits,
            last,
            sampling,
            shaper,
            constraint,
            chance,
            left,
            end,
        })
    }
}

/// Texts that go on together, token by token, until the last has ended.
pub struct Several<'a> {
    generator: Generator<'a>,
    /// Of the texts that go on.
    session: Session<'a>,
    texts: Vec<Draws>,
    /// What the layers have not seen yet of the texts that go on, `[texts, n]`.
    next: Vec<u32>,
    /// Tokens that may follow in each.
    left: usize,
}

impl Several<'_> {
    /// Draws the next token of every text that goes on; whether any of them goes on then.
    ///
    /// # Errors
    /// As [`Text::next_token`].
    pub fn next_tokens(&mut self) -> Result<bool, GenerateError> {
        let Self { generator: Generator { trunk, decoder }, session, texts, next, left } = self;
        if *left == 0 || next.is_empty() {
            return Ok(false);
        }
        let embedded = trunk.embedded(next)?;
        match session.seen() {
            0 => decoder.extend(session, &embedded)?,
            _ => decoder.advance(session, &embedded)?,
        }
        let (logits, config) = (decoder.logits(session)?, decoder.config());
        let mut open: Vec<_> = texts.iter_mut().filter(|text| !text.ended).collect();
        let draws = open.par_iter_mut().zip(logits.par_chunks_exact(config.vocab));
        draws.for_each(|(text, logits)| text.draw(logits, &config.eos));
        let stays: Vec<bool> = open.iter().map(|text| !text.ended).collect();
        next.clear();
        next.extend(open.iter().filter(|text| !text.ended).filter_map(|text| text.ids.last()));
        *left -= 1;
        let goes_on = *left > 0 && !next.is_empty();
        if goes_on && stays.contains(&false) {
            decoder.retain(session, &stays)?;
        }
        Ok(goes_on)
    }

    /// What was written, in the order of the samplings.
    pub fn into_ids(self) -> Vec<Vec<u32>> {
        self.texts.into_iter().map(|text| text.ids).collect()
    }
}

/// One of some texts that are written in step.
struct Draws {
    sampling: Sampling,
    chance: ChaCha8Rng,
    ids: Vec<u32>,
    ended: bool,
}

impl Draws {
    fn new(sampling: Sampling) -> Self {
        let chance = ChaCha8Rng::seed_from_u64(sampling.seed);
        Self { sampling, chance, ids: Vec::new(), ended: false }
    }

    /// Draws the next token; an end token ends the text.
    fn draw(&mut self, logits: &[f32], ends: &[u32]) {
        let id = self.sampling.draw(logits, &mut self.chance);
        self.ended = ends.contains(&id);
        self.ids.extend((!self.ended).then_some(id));
    }
}

/// A text being written.
pub struct Text<'a> {
    generator: Generator<'a>,
    session: Session<'a>,
    /// What the layers have seen.
    ids: Vec<u32>,
    /// Tokens of the prompt that were taken from another text.
    shared: usize,
    logits: Vec<f32>,
    /// The token that was given last, which the layers have not seen yet.
    last: Option<u32>,
    sampling: Sampling,
    shaper: Option<Shaper>,
    constraint: Option<Constraint>,
    chance: ChaCha8Rng,
    /// Tokens that may follow.
    left: usize,
    end: Option<End>,
}

impl Text<'_> {
    /// The same text, whose logits are `shaping`'s before a token is drawn from them.
    ///
    /// - `prompt`: what it goes on from.
    #[must_use]
    pub fn shaped(self, shaping: &Shaping, prompt: &[u32]) -> Self {
        Self { shaper: shaping.begin(prompt), ..self }
    }

    /// The same text, of which only what a constraint allows is drawn. It ends by itself when it fits
    /// and nothing can follow; cut short, it is the beginning of one that fits.
    #[must_use]
    pub fn constrained(self, constraint: Constraint) -> Self {
        Self { constraint: Some(constraint), ..self }
    }

    /// The next token, or none when the text has ended.
    ///
    /// # Errors
    /// [`GenerateError::Head`] when a device fails; [`GenerateError::Constrain`] where no token fits.
    pub fn next_token(&mut self) -> Result<Option<u32>, GenerateError> {
        if self.end.is_some() {
            return Ok(None);
        }
        if let Some(id) = self.last.take() {
            let Generator { trunk, decoder } = self.generator;
            decoder.advance(&mut self.session, &trunk.embedded(&[id])?)?;
            self.ids.push(id);
            self.logits = decoder.logits(&self.session)?;
        }
        let mut logits = match &self.shaper {
            Some(shaper) => Cow::Owned(shaper.shaped(&self.logits)),
            None => Cow::Borrowed(&self.logits),
        };
        if let Some(constraint) = &mut self.constraint {
            constraint.mask(logits.to_mut())?;
        }
        let id = self.sampling.draw(&logits, &mut self.chance);
        if self.generator.decoder.config().eos.contains(&id) {
            self.end = Some(End::Token);
            return Ok(None);
        }
        if let Some(shaper) = &mut self.shaper {
            shaper.take(id);
        }
        self.left -= 1;
        self.last = Some(id);
        self.end = (self.left == 0).then_some(End::Length);
        if let Some(constraint) = &mut self.constraint {
            constraint.take(id)?;
            self.end = if constraint.is_over() { Some(End::Token) } else { self.end };
        }
        Ok(Some(id))
    }

    /// Tokens of the prompt that were not read again.
    pub fn shared(&self) -> usize {
        self.shared
    }

    /// What the layers have seen so far, in memory of its own.
    pub fn read(&self) -> Read {
        Read { ids: self.ids.clone(), kept: self.generator.decoder.kept(&self.session) }
    }

    /// Bytes that [`Text::read`] takes.
    fn kept_bytes(&self) -> u64 {
        self.generator.decoder.kept_bytes(self.ids.len())
    }

    /// Why the text ended, or nothing while it goes on.
    pub fn end(&self) -> Option<End> {
        self.end
    }

    /// The logits `[V]` of the last token before they were shaped, or at first those after the prompt.
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }
}

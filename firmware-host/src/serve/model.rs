//! A model over the resident base: how its texts are read and written.
//!
//! - A text runs with the weights that learn, beside a job; it keeps the adapter that it began with.
//! - `forms` says what a text is held to, `retold` how a talk with tools is told to who knows none.

mod retold;
mod forms;

use super::{Draw, Given, Model, ModelError, Token, Written};
use crate::device::{Current, Served};
use crate::wire::{Form, How, Likely, Prompt, Scored};
use sapwood::constrain::Constraint;
use sapwood::generate::{GenerateError, Sampling, Score, Shaping, scores};
use sapwood::tokenise::{Spelling, TokeniseError};
use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock};

/// The base with what was in use when a text began.
pub(super) struct Snapshot {
    served: Arc<Served>,
    current: Arc<Current>,
    /// What the texts of the request are held to, and what holds them.
    form: OnceLock<(Form, Constraint)>,
}

impl Snapshot {
    pub(super) fn new(served: &Arc<Served>, current: Arc<Current>) -> Self {
        Self { served: served.clone(), current, form: OnceLock::new() }
    }

    fn likely(&self, score: Score) -> Result<Likely, ModelError> {
        let spellings = self.served.spellings().map_err(undecoded)?;
        let bytes = match spellings.get(score.id as usize) {
            Some(Spelling::Text(bytes)) => bytes.clone(),
            Some(Spelling::Special(name)) => name.clone().into_bytes(),
            Some(Spelling::None) | None => Vec::new(),
        };
        Ok(Likely { bytes, log: Some(score.log) })
    }

    /// What is told of token `id`, which was drawn from `logits`.
    fn scored(&self, logits: &[f32], id: u32, likeliest: usize) -> Result<Scored, ModelError> {
        let (own, first) = scores(logits, id, likeliest);
        let likeliest = first.into_iter().map(|one| self.likely(one));
        let likeliest = likeliest.collect::<Result<_, _>>()?;
        Ok(Scored { token: self.likely(own)?, likeliest, offset: 0 })
    }
}

impl Model for Snapshot {
    fn generation(&self) -> Option<u64> {
        self.current.generation
    }

    fn context(&self) -> usize {
        self.served.engines.generator().context()
    }

    fn admits(&self, how: &How) -> Result<(), ModelError> {
        self.constraint(how)?;
        let vocab = self.served.engines.base.config().vocab;
        match how.pushes.last() {
            Some((id, _)) if *id as usize >= vocab => {
                let (param, expected) = ("logit_bias", format!("token ids below {vocab}"));
                Err(ModelError::Wish { param, expected, got: id.to_string() })
            }
            _ => Ok(()),
        }
    }

    fn read(&self, prompt: &Prompt, how: &How) -> Result<Given, ModelError> {
        let tokeniser = &self.served.tokeniser;
        let text = |ids: &[u32]| tokeniser.decode(ids).map_err(unreadable);
        let given = match prompt {
            Prompt::Text(text) => {
                let ids = tokeniser.encode(text).map_err(unreadable)?;
                Given { ids, text: text.clone(), manner: None }
            }
            Prompt::Ids(ids) => {
                let vocab = self.served.engines.base.config().vocab;
                if let Some(id) = ids.iter().find(|&&id| id as usize >= vocab) {
                    let why = format!("expected token ids below {vocab}, got {id}");
                    return Err(ModelError::Prompt(why.into()));
                }
                Given { text: text(ids)?, ids: ids.clone(), manner: None }
            }
            Prompt::Messages(talk) => self.talk(talk, how)?,
        };
        if given.ids.is_empty() {
            return Err(ModelError::Prompt("it has no tokens, expected at least one".into()));
        }
        Ok(given)
    }

    fn follow(
        &self,
        ids: &[u32],
        likeliest: usize,
        each: &mut dyn FnMut(Scored) -> ControlFlow<()>,
    ) -> Result<(), ModelError> {
        let Some(&first) = ids.first() else { return Ok(()) };
        let token = Likely { log: None, ..self.likely(Score { id: first, log: 0.0 })? };
        if each(Scored { token, likeliest: Vec::new(), offset: 0 }).is_break() {
            return Ok(());
        }
        let mut problem = None;
        let mut one = |id: u32, logits: &[f32]| match self.scored(logits, id, likeliest) {
            Ok(scored) => each(scored),
            Err(error) => {
                problem = Some(error);
                ControlFlow::Break(())
            }
        };
        let adapter = self.current.adapter.as_ref();
        self.served.engines.generator().follow(ids, adapter, &mut one).map_err(failed)?;
        problem.map_or(Ok(()), Err)
    }

    fn write(
        &self,
        ids: &[u32],
        tokens: usize,
        draw: Draw<'_>,
        each: &mut dyn FnMut(Token<'_>) -> ControlFlow<()>,
    ) -> Result<Written, ModelError> {
        let Draw { how, seed, likeliest } = draw;
        let How { temperature, top_k, top_p, min_p, .. } = *how;
        let sampling = Sampling { temperature, top_k, top_p, min_p, seed };
        let shaping = Shaping {
            frequency: how.frequency,
            presence: how.presence,
            repetition: how.repetition,
            pushes: how.pushes.clone(),
        };
        let generator = self.served.engines.generator();
        let adapter = self.current.adapter.as_ref();
        let (served, whose) = (&self.served, self.current.whose);
        let read = how.caches.then(|| served.prompts.find(whose, ids)).flatten();
        let text = generator.start_after(read.as_deref(), ids, tokens, adapter, sampling);
        // It may go for another's sake while this text is written.
        drop(read);
        let mut text = text.map_err(failed)?.shaped(&shaping, ids);
        if let Some(constraint) = self.constraint(how)? {
            text = text.constrained(constraint);
        }
        let mut stream = self.served.tokeniser.stream(ids).map_err(undecoded)?;
        while let Some(id) = text.next_token().map_err(failed)? {
            let piece = stream.push(id).map_err(undecoded)?;
            let scored =
                likeliest.map(|count| self.scored(text.logits(), id, count)).transpose()?;
            if each(Token { text: piece.as_deref().unwrap_or_default(), scored }).is_break() {
                break;
            }
        }
        if how.caches && served.holds(whose) {
            served.prompts.keep(whose, &text);
        }
        let rest = stream.finish().map_err(undecoded)?.unwrap_or_default();
        // What stands for the bytes of a character that was not finished.
        let rest = rest.trim_end_matches(char::REPLACEMENT_CHARACTER).to_owned();
        Ok(Written { rest, cached: text.shared() })
    }
}

fn unreadable(error: TokeniseError) -> ModelError {
    ModelError::Prompt(Box::new(error))
}

fn undecoded(error: TokeniseError) -> ModelError {
    ModelError::Failed(Box::new(error))
}

fn failed(error: GenerateError) -> ModelError {
    ModelError::Failed(Box::new(error))
}

#[cfg(test)]
mod tests;

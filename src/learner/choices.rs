//! Accuracy over multiple choice, by the likelihood of each answer after the prompt.
//!
//! - In: prompts with choices and the index of the right one. Out: how many were answered right.
//! - The choice with the most likely text wins: its sum of nats, not divided by its length, as
//!   the likelihood of a label is defined; ties go to the first.

use super::LearnError;
use super::engines::Engines;
use super::feed::hidden;
use crate::adapter::Adapter;
use crate::block::Block;
use crate::head::Group;
use crate::intake::{Choice, Example};
use crate::settings::Settings;
use crate::tokenise::Tokeniser;

/// How many questions were answered right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    /// Right ones.
    pub right: usize,
    /// All.
    pub of: usize,
}

impl Answers {
    /// The part that is right; NaN without questions.
    pub fn accuracy(&self) -> f64 {
        self.right as f64 / self.of as f64
    }
}

/// Answers every choice among `examples` with the base or an adapter.
///
/// # Errors
/// [`LearnError::NoChoices`] when no example is a choice; the errors of tokeniser and head.
pub fn accuracy(
    engines: &Engines,
    tokeniser: &Tokeniser,
    examples: &[Example],
    settings: &Settings,
    adapter: Option<&Adapter>,
) -> Result<Answers, LearnError> {
    let mut answers = Answers::default();
    for example in examples {
        let Example::Choice(choice) = example else { continue };
        let nats = nats(engines, tokeniser, choice, settings, adapter)?;
        let likeliest = nats.iter().enumerate().min_by(|a, b| a.1.total_cmp(b.1));
        answers.of += 1;
        answers.right += usize::from(likeliest.is_some_and(|(index, _)| index == choice.answer));
    }
    if answers.of == 0 { Err(LearnError::NoChoices) } else { Ok(answers) }
}

/// Nats of every possible answer.
fn nats(
    engines: &Engines,
    tokeniser: &Tokeniser,
    choice: &Choice,
    settings: &Settings,
    adapter: Option<&Adapter>,
) -> Result<Vec<f64>, LearnError> {
    let blocks = tokeniser.choices(choice, settings.max_seq_length, 0)?;
    let blocks: Vec<&Block> = blocks.iter().collect();
    let hidden = hidden(&engines.trunk, &blocks)?;
    Ok(engines.head.nats(adapter, &Group { blocks: &blocks, hidden: &hidden })?)
}

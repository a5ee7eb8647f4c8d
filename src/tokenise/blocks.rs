//! Examples to blocks: packed, cut, masked, and counted in bytes.
//!
//! - A document fills one block after the other; a block ends after a line where one ends near. Each
//!   begins with BOS; without one, with the last token of the block before, which is no label there.
//!   So every token is a label exactly once, but the very first of a document without BOS.
//! - A completion, a conversation or a choice is one block; what is beyond T tokens is cut and counted.
//! - An end mark that is appended stands for no bytes; those of a chat template are text of its own.

use super::{Coded, Example, TokeniseError, Tokeniser};
use crate::block::Block;
use crate::intake::{Choice, Talk};
use std::fmt;
use std::ops::Range;

/// The blocks of some examples and what became of the rest.
#[derive(Clone, Debug, Default)]
pub struct Blocks {
    /// In the order of the examples.
    pub blocks: Vec<Block>,
    /// Counts.
    pub report: Report,
}

/// What tokenising did, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Examples read.
    pub examples: usize,
    /// Tokens in blocks.
    pub tokens: usize,
    /// Of them, labels.
    pub labels: usize,
    /// Bytes of text that the labels stand for.
    pub bytes: u64,
    /// Examples cut at T tokens.
    pub examples_cut: usize,
    /// Tokens that are in no block.
    pub tokens_dropped: usize,
    /// Examples without a label, left out.
    pub examples_unlabelled: usize,
    /// Turns of the assistant that the chat template leaves out, not learned.
    pub turns_lost: usize,
}

/// Something to tell the user that stops nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Warning {
    /// The model has ids that the tokenizer never makes.
    Vocabulary {
        /// Highest id of the tokenizer.
        highest: u32,
        /// Vocabulary size of the model.
        vocab: usize,
    },
    /// No token ends a text: what is learned from completions never stops by itself.
    NoEnd,
    /// Under 5 % of the tokens are labels.
    FewLabels {
        /// Labels.
        labels: usize,
        /// All tokens.
        tokens: usize,
    },
    /// Examples were cut.
    Cut {
        /// How many.
        examples: usize,
        /// Tokens lost.
        tokens: usize,
    },
    /// Examples were left out.
    Unlabelled {
        /// How many.
        examples: usize,
    },
    /// Turns were not learned.
    TurnsLost {
        /// How many.
        turns: usize,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vocabulary { highest, vocab } => {
                write!(to, "the model has {vocab} ids, the tokenizer makes those up to {highest}")
            }
            Self::NoEnd => write!(to, "the model folder names no eos token: answers have no end"),
            Self::FewLabels { labels, tokens } => {
                write!(to, "only {labels} of {tokens} tokens are learned, under 5 %")
            }
            Self::Cut { examples, tokens } => {
                write!(to, "too long examples: {examples}; cut from them: {tokens} tokens")
            }
            Self::Unlabelled { examples } => {
                write!(to, "examples with nothing to learn, which were left out: {examples}")
            }
            Self::TurnsLost { turns } => write!(
                to,
                "the chat template leaves turns out: {turns} of the assistant are not learned"
            ),
        }
    }
}

impl Report {
    /// What of it the user should know.
    pub fn warnings(&self) -> Vec<Warning> {
        let mut warnings = Vec::new();
        if self.labels * 20 < self.tokens {
            warnings.push(Warning::FewLabels { labels: self.labels, tokens: self.tokens });
        }
        if self.tokens_dropped > 0 {
            let (examples, tokens) = (self.examples_cut, self.tokens_dropped);
            warnings.push(Warning::Cut { examples, tokens });
        }
        if self.examples_unlabelled > 0 {
            warnings.push(Warning::Unlabelled { examples: self.examples_unlabelled });
        }
        if self.turns_lost > 0 {
            warnings.push(Warning::TurnsLost { turns: self.turns_lost });
        }
        warnings
    }
}

/// A piece of an example as a job sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its text, special tokens by their names.
    pub text: String,
    /// Whether its tokens are labels.
    pub is_learned: bool,
}

/// A sample before it is a block: tokens, whether each is a label, and the bytes it stands for.
#[derive(Default)]
struct Sample {
    tokens: Vec<u32>,
    learn: Vec<bool>,
    bytes: Vec<usize>,
}

impl Sample {
    fn push(&mut self, token: u32, learn: bool, bytes: usize) {
        self.tokens.push(token);
        self.learn.push(learn);
        self.bytes.push(bytes);
    }

    fn block(mut self, domain: u32) -> Block {
        if let Some(first) = self.learn.first_mut() {
            *first = false;
        }
        let labelled = self.learn.iter().zip(&self.bytes).filter(|(learn, _)| **learn);
        let bytes: usize = labelled.map(|(_, bytes)| bytes).sum();
        // Files are far below 4 GiB, see `settings`.
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        Block { tokens: self.tokens, learn: self.learn, bytes, domain }
    }
}

impl Coded {
    /// Bytes that the token at `at` stands for.
    fn bytes(&self, at: usize) -> usize {
        let end = |at: usize| self.ends.get(at).copied().unwrap_or_default();
        end(at) - at.checked_sub(1).map_or(0, end)
    }
}

impl Tokeniser {
    /// The blocks to learn from, each of at most `tokens_max` (T) tokens.
    ///
    /// - `mask_prompt`: of completions and conversations only the answers are labels.
    /// - `domain`: written into every block.
    ///
    /// # Errors
    /// [`TokeniseError::NothingTrainable`] when no block has a label, and what a text or a template brings.
    pub fn blocks(
        &self,
        examples: &[Example],
        tokens_max: usize,
        mask_prompt: bool,
        domain: u32,
    ) -> Result<Blocks, TokeniseError> {
        self.check_room(tokens_max)?;
        let mut made = Blocks::default();
        for (index, example) in examples.iter().enumerate() {
            match example {
                Example::Text(text) => self.document(text, tokens_max, domain, &mut made)?,
                Example::Completion { prompt, completion } => {
                    let sample = self.completion(prompt, completion, mask_prompt)?;
                    made.cut(sample, tokens_max, domain);
                }
                Example::Choice(Choice { prompt, choices, answer }) => {
                    let answer = choices.get(*answer).map_or("", String::as_str);
                    let sample = self.completion(prompt, answer, mask_prompt)?;
                    made.cut(sample, tokens_max, domain);
                }
                Example::Messages(talk) => {
                    let made_of = self.conversation(talk, mask_prompt);
                    let (sample, lost) = made_of.map_err(|source| match source {
                        TokeniseError::NoTemplate => source,
                        source => {
                            TokeniseError::Example { number: index + 1, source: source.into() }
                        }
                    })?;
                    made.report.turns_lost += lost;
                    made.cut(sample, tokens_max, domain);
                }
            }
        }
        made.report.examples = examples.len();
        if made.report.labels == 0 {
            let hint = match (examples.is_empty(), mask_prompt) {
                (true, _) => "the data is empty",
                (false, true) => {
                    "see --mask-prompt and --max-seq-length: prompts may fill the blocks"
                }
                (false, false) => "the texts may be too short",
            };
            return Err(TokeniseError::NothingTrainable { examples: examples.len(), hint });
        }
        Ok(made)
    }

    /// An example as its first block has it, in pieces of what is learned and what is not.
    ///
    /// # Errors
    /// As [`Tokeniser::blocks`], but that an example without a label is shown.
    pub fn pieces(
        &self,
        example: &Example,
        tokens_max: usize,
        mask_prompt: bool,
    ) -> Result<Vec<Piece>, TokeniseError> {
        let made = match self.blocks(std::slice::from_ref(example), tokens_max, mask_prompt, 0) {
            Err(TokeniseError::NothingTrainable { .. }) => {
                let made = self.blocks(std::slice::from_ref(example), tokens_max, false, 0)?;
                let blocks = made.blocks.into_iter();
                let silent =
                    blocks.map(|block| Block { learn: vec![false; block.learn.len()], ..block });
                Blocks { blocks: silent.collect(), ..Blocks::default() }
            }
            made => made?,
        };
        let Some(block) = made.blocks.first() else { return Ok(Vec::new()) };
        let decode = |ids: &[u32]| self.tokenizer.decode(ids, false).map_err(TokeniseError::Text);
        let (mut pieces, mut from, mut before) = (Vec::new(), 0, String::new());
        for run in block.learn.chunk_by(|one, next| one == next) {
            let to = from + run.len();
            // A decoder may write a token otherwise where a text begins: a piece is what it adds.
            let through = decode(&block.tokens[..to])?;
            let text = match through.strip_prefix(before.as_str()) {
                Some(text) => text.to_owned(),
                None => decode(&block.tokens[from..to])?,
            };
            pieces.push(Piece { text, is_learned: run.first().is_some_and(|learn| *learn) });
            (from, before) = (to, through);
        }
        Ok(pieces)
    }

    /// One block for each choice; only the choice itself is a label. Too long a prompt loses its start.
    ///
    /// # Errors
    /// [`TokeniseError`] when a text cannot be tokenised or T has no room.
    pub fn choices(
        &self,
        choice: &Choice,
        tokens_max: usize,
        domain: u32,
    ) -> Result<Vec<Block>, TokeniseError> {
        self.check_room(tokens_max)?;
        let room = tokens_max - self.prefix.len();
        let block = |ending: &String| {
            let coded = self.code(&format!("{}{ending}", choice.prompt))?;
            let mut sample = self.start();
            for at in coded.ids.len().saturating_sub(room)..coded.ids.len() {
                sample.push(coded.ids[at], coded.ends[at] > choice.prompt.len(), coded.bytes(at));
            }
            Ok(sample.block(domain))
        };
        choice.choices.iter().map(block).collect()
    }

    fn check_room(&self, tokens: usize) -> Result<(), TokeniseError> {
        let least = 2.max(self.prefix.len() + 1);
        if tokens < least {
            return Err(TokeniseError::Room { tokens, least });
        }
        Ok(())
    }

    /// A sample that holds what the tokenizer puts before a text.
    fn start(&self) -> Sample {
        let mut sample = Sample::default();
        self.prefix.iter().for_each(|&token| sample.push(token, false, 0));
        sample
    }

    fn document(
        &self,
        text: &str,
        tokens_max: usize,
        domain: u32,
        made: &mut Blocks,
    ) -> Result<(), TokeniseError> {
        let coded = self.code(text)?;
        let mut from = 0;
        while from < coded.ids.len() {
            let mut sample = self.start();
            if self.prefix.is_empty() && from > 0 {
                sample.push(coded.ids[from - 1], false, 0);
            }
            let to = line_end(text, &coded, from, tokens_max - sample.tokens.len());
            for at in from..to {
                sample.push(coded.ids[at], true, coded.bytes(at));
            }
            made.add(sample.block(domain));
            from = to;
        }
        Ok(())
    }

    fn completion(
        &self,
        prompt: &str,
        completion: &str,
        mask_prompt: bool,
    ) -> Result<Sample, TokeniseError> {
        let coded = self.code(&format!("{prompt}{completion}"))?;
        let mut sample = self.start();
        for (at, (&id, &end)) in coded.ids.iter().zip(&coded.ends).enumerate() {
            // A token across the seam belongs to the answer.
            sample.push(id, !mask_prompt || end > prompt.len(), coded.bytes(at));
        }
        if let Some(eos) = self.eos.filter(|_| !completion.is_empty()) {
            sample.push(eos, true, 0);
        }
        Ok(sample)
    }

    fn conversation(
        &self,
        talk: &Talk,
        mask_prompt: bool,
    ) -> Result<(Sample, usize), TokeniseError> {
        let chat = self.chat.as_ref().ok_or(TokeniseError::NoTemplate)?;
        let rendered = chat.answers(talk, mask_prompt)?;
        let coded = self.code(&rendered.text)?;
        let mut sample = Sample::default();
        let mut start = 0;
        for (at, (&id, &end)) in coded.ids.iter().zip(&coded.ends).enumerate() {
            let is_in = |span: &Range<usize>| start < span.end && end > span.start;
            let is_learned = match mask_prompt {
                true => rendered.answers.iter().any(is_in),
                false => !rendered.silent.iter().any(is_in),
            };
            sample.push(id, is_learned, coded.bytes(at));
            start = end;
        }
        Ok((sample, rendered.lost))
    }
}

impl Blocks {
    /// Takes the first T tokens of a sample as one block, if a label is among them.
    fn cut(&mut self, mut sample: Sample, tokens_max: usize, domain: u32) {
        if let Some(dropped) = sample.tokens.len().checked_sub(tokens_max).filter(|&more| more > 0)
        {
            self.report.examples_cut += 1;
            self.report.tokens_dropped += dropped;
            sample.tokens.truncate(tokens_max);
            sample.learn.truncate(tokens_max);
        }
        self.add(sample.block(domain));
    }

    fn add(&mut self, block: Block) {
        let labels = block.labels();
        if labels == 0 {
            self.report.examples_unlabelled += 1;
            return;
        }
        self.report.tokens += block.tokens.len();
        self.report.labels += labels;
        self.report.bytes += u64::from(block.bytes);
        self.blocks.push(block);
    }
}

/// Where a block of at most `room` tokens from `from` ends: after a line that ends in its last eighth.
fn line_end(text: &str, coded: &Coded, from: usize, room: usize) -> usize {
    let hard = from + room;
    if hard >= coded.ids.len() {
        return coded.ids.len();
    }
    let ends_line = |to: &usize| {
        let last = coded.ends.get(to - 1).and_then(|end| end.checked_sub(1));
        last.is_some_and(|last| text.as_bytes().get(last) == Some(&b'\n'))
    };
    (hard - room / 8..=hard).rev().find(ends_line).unwrap_or(hard)
}

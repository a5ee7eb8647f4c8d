//! The tokens that may follow, by the library's parser over our own token bytes.

use super::Schema;
use super::waits::Waits;
use crate::tokenise::Spelling;
use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{
    ApproximateTokEnv, InferenceCapabilities, SimpleVob, TokEnv, TokRxInfo, TokTrie,
};
use llguidance::{JsonCompileOptions, Matcher, ParserFactory};
use std::sync::Arc;

/// Bytes of a token that the library's tree takes; a longer one is never drawn.
const TOKEN_BYTES_MAX: usize = 512;
/// Between the tokens of JSON: a blank, or a line end with what is indented. Without a bound a model
/// that is unsure writes blanks until its tokens run out.
const BLANKS: &str = r"\x20|\x0A\x20{0,32}";
/// What is looked up of strings in one step for all tokens: most of them are allowed there.
const STRINGS: [&str; 3] =
    [r#"[^"\\\x00-\x1F\x7F]{1,10}"#, r#"[^"\\\x00-\x1F\x7F]{1,30}"#, r#"[^"\\\x00-\x1F\x7F]+"#];

/// Why tokens cannot be constrained.
#[derive(Debug, thiserror::Error)]
pub enum ConstrainError {
    /// A tokenizer or an end token that the library does not take.
    #[error("answers of this model cannot be held to a schema: {problem}")]
    Tokens {
        /// What the library said.
        problem: String,
    },
    /// A schema that asks for more than is compiled, or that nothing fits.
    #[error("the schema cannot be held to: {problem}")]
    Schema {
        /// What the library said.
        problem: String,
    },
    /// A text that came to a place where the work of one token has no end.
    #[error("the schema is too complex to go on from here: {problem}")]
    Text {
        /// What the library said.
        problem: String,
    },
}

/// What the library may spend: some 20 ms and 40 MB on a schema, some 20 ms on a token.
fn limits() -> ParserLimits {
    ParserLimits {
        max_items_in_row: 1_000,
        initial_lexer_fuel: 1_000_000,
        step_lexer_fuel: 200_000,
        step_max_items: 50_000,
        max_lexer_states: 20_000,
        max_grammar_size: 100_000,
        precompute_large_lexemes: false,
        verbose_errors: false,
    }
}

/// All that is known of a tokenizer; constraints of any number of texts are made of it.
pub struct Constrainer {
    factory: ParserFactory,
    tokens: TokEnv,
}

impl Constrainer {
    /// - `spellings`: what each token stands for, at most `vocab` of them. `ends`: the end tokens.
    ///
    /// # Errors
    /// [`ConstrainError::Tokens`].
    pub fn new(spellings: &[Spelling], vocab: usize, ends: &[u32]) -> Result<Self, ConstrainError> {
        let failed = |problem: &str| ConstrainError::Tokens { problem: problem.to_owned() };
        let size = u32::try_from(vocab).map_err(|_| failed("its vocabulary is too large"))?;
        let first = *ends.first().ok_or_else(|| failed("it has no end token"))?;
        if ends.iter().any(|&end| end >= size) {
            return Err(failed("an end token is beyond its vocabulary"));
        }
        let mut words: Vec<Vec<u8>> = spellings.iter().map(bytes).collect();
        words.resize(vocab, Vec::new());
        let trie = TokTrie::from(&TokRxInfo::new(size, first), &words).with_eos_tokens(ends);
        let tokens: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let strings = STRINGS.map(str::to_owned);
        let made = ParserFactory::new(&tokens, InferenceCapabilities::default(), &strings);
        let mut factory = made.map_err(|error| failed(&first_line(&error)))?;
        factory.quiet();
        *factory.limits_mut() = limits();
        Ok(Self { factory, tokens })
    }

    /// The constraint of a text that is to fit a schema.
    ///
    /// # Errors
    /// [`ConstrainError::Schema`].
    pub fn schema(&self, schema: &Schema) -> Result<Constraint, ConstrainError> {
        let mut schema = schema.value().clone();
        if schema.is_boolean() {
            schema = serde_json::json!({ "allOf": [schema] });
        }
        let options = JsonCompileOptions {
            whitespace_pattern: Some(BLANKS.to_owned()),
            ..Default::default()
        };
        options.apply_to(&mut schema);
        let failed = |problem| ConstrainError::Schema { problem };
        let parser = self.factory.create_parser(TopLevelGrammar::from_json_schema(schema));
        let parser = parser.map_err(|error| failed(first_line(&error)))?;
        let matcher = Matcher::new(Ok(parser));
        match matcher.get_error() {
            Some(problem) => Err(failed(problem)),
            None => Ok(Constraint {
                matcher,
                tokens: self.tokens.clone(),
                place: Place::Held,
                again: None,
            }),
        }
    }
}

/// The bytes by which the library knows a token; those of special ones begin with its marker.
fn bytes(spelling: &Spelling) -> Vec<u8> {
    match spelling {
        Spelling::Text(text) if text.len() <= TOKEN_BYTES_MAX => text.clone(),
        Spelling::Special(name) if name.len() < TOKEN_BYTES_MAX => {
            [&[TokTrie::SPECIAL_TOKEN_MARKER], name.as_bytes()].concat()
        }
        Spelling::Text(_) | Spelling::Special(_) | Spelling::None => Vec::new(),
    }
}

fn first_line(error: &impl ToString) -> String {
    let text = error.to_string();
    text.lines().next().unwrap_or_default().chars().take(300).collect()
}

/// Where a text stands in what it is to fit.
#[derive(Clone)]
pub struct Constraint {
    matcher: Matcher,
    tokens: TokEnv,
    place: Place,
    again: Option<Box<Again>>,
}

/// How a text goes on once it fits: free, and held anew.
#[derive(Clone)]
struct Again {
    matcher: Matcher,
    free: Place,
}

/// Whether a text is held.
#[derive(Clone)]
enum Place {
    /// Not before it says so; with the tokens that may say it.
    Free(Waits, Arc<[u32]>),
    /// From the next token on, before which blanks may come where none have come.
    Next {
        is_blank: bool,
    },
    Held,
}

impl Constraint {
    /// The same from where the text has said `marker`; without one, where the text is an object that begins
    /// with a name. What is before that is free, and may be all of the text.
    #[must_use]
    pub fn after(self, marker: &str) -> Self {
        Self { place: self.free(marker), ..self }
    }

    /// The same, but a text that fits does not end there: it is free again, and held anew from each `marker`
    /// that it says.
    #[must_use]
    pub fn again_after(self, marker: &str) -> Self {
        let again = Again { matcher: self.matcher.clone(), free: self.free(marker) };
        Self { again: Some(Box::new(again)), ..self }
    }

    /// In a text that is free until it says `marker`.
    fn free(&self, marker: &str) -> Place {
        let waits = Waits::new(marker);
        let trie = self.tokens.tok_trie();
        let ends = |id: &u32| trie.token(*id).contains(&waits.last());
        let ends = (0..trie.vocab_size() as u32).filter(ends).collect();
        Place::Free(waits, ends)
    }

    /// Leaves of `logits` `[V]` those of tokens with which the text still can become one that fits.
    ///
    /// # Errors
    /// [`ConstrainError::Text`].
    pub fn mask(&mut self, logits: &mut [f32]) -> Result<(), ConstrainError> {
        let is_blank = match &self.place {
            Place::Held => None,
            Place::Next { is_blank } => Some(*is_blank),
            Place::Free(waits, ends) => {
                let trie = self.tokens.tok_trie();
                // A token may say that a call begins, and how: in a way that does not fit it is none.
                for &id in ends.iter().filter(|_| waits.may_begin()) {
                    if let Some(held) = waits.held(trie.token(id))
                        && let held = trie.greedy_tokenize(held.trim_ascii_start())
                        && self.matcher.validate_tokens(&held).map_err(|error| failed(&error))?
                            < held.len()
                        && let Some(logit) = logits.get_mut(id as usize)
                    {
                        *logit = f32::NEG_INFINITY;
                    }
                }
                return Ok(());
            }
        };
        let allowed: SimpleVob =
            self.matcher.compute_mask_or_eos().map_err(|error| failed(&error))?;
        if allowed.is_zero() {
            return Err(ConstrainError::Text { problem: "no token of this model fits".to_owned() });
        }
        let led = if is_blank.is_some() { self.led()? } else { Vec::new() };
        let trie = self.tokens.tok_trie();
        for (id, logit) in logits.iter_mut().enumerate() {
            // Weights that lie beyond the vocabulary are none of a token.
            let fits = id < allowed.len() && allowed.get(id);
            let may_be_blank = is_blank == Some(false);
            let leads = || {
                led.binary_search(&(id as u32)).is_ok()
                    || may_be_blank && are_blanks(trie.token(id as u32))
            };
            if !(fits || leads()) {
                *logit = f32::NEG_INFINITY;
            }
        }
        Ok(())
    }

    /// Tokens of blanks and what a call may begin with, in order.
    fn led(&mut self) -> Result<Vec<u32>, ConstrainError> {
        let trie = self.tokens.tok_trie();
        let mut led = Vec::new();
        for id in 0..trie.vocab_size() as u32 {
            let Some(rest) = behind_blanks(trie.token(id)).filter(|rest| rest.starts_with(b"{"))
            else {
                continue;
            };
            let said = trie.greedy_tokenize(rest);
            let fitting = self.matcher.validate_tokens(&said).map_err(|error| failed(&error))?;
            if fitting == said.len() {
                led.push(id);
            }
        }
        Ok(led)
    }

    /// Takes in the next token of the text, one that was allowed.
    ///
    /// # Errors
    /// [`ConstrainError::Text`].
    pub fn take(&mut self, id: u32) -> Result<(), ConstrainError> {
        let trie = self.tokens.tok_trie();
        let bytes = trie.token(id);
        match &mut self.place {
            Place::Free(waits, _) => match waits.held(bytes) {
                None => waits.take(bytes),
                Some(held) => {
                    let said = trie.greedy_tokenize(held.trim_ascii_start());
                    self.place = match said.is_empty() {
                        true => Place::Next { is_blank: !held.is_empty() },
                        false => Place::Held,
                    };
                    self.matcher.consume_tokens(&said).map_err(|error| failed(&error))?;
                }
            },
            Place::Next { is_blank } if are_blanks(bytes) => *is_blank = true,
            Place::Next { .. } | Place::Held => {
                let is_next = matches!(self.place, Place::Next { .. });
                self.place = Place::Held;
                let taken = match behind_blanks(bytes).filter(|_| is_next) {
                    Some(rest) => self.matcher.consume_tokens(&trie.greedy_tokenize(rest)),
                    None => self.matcher.consume_token(id),
                };
                taken.map_err(|error| failed(&error))?;
            }
        }
        if let Some(again) = self.again.as_deref().filter(|_| self.is_over()) {
            (self.matcher, self.place) = (again.matcher.clone(), again.free.clone());
        }
        Ok(())
    }

    /// Whether the text fits and nothing can follow.
    pub fn is_over(&self) -> bool {
        matches!(self.place, Place::Held) && self.matcher.is_stopped()
    }
}

/// What of a token stands behind the blanks that it begins with; none where it begins with none.
fn behind_blanks(bytes: &[u8]) -> Option<&[u8]> {
    let rest = bytes.trim_ascii_start();
    (rest.len() < bytes.len()).then_some(rest)
}

fn are_blanks(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(u8::is_ascii_whitespace)
}

fn failed(error: &impl ToString) -> ConstrainError {
    ConstrainError::Text { problem: first_line(error) }
}

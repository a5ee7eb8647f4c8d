//! Tokenise: text to token ids and back, examples to blocks; the only door to the tokenizers crate.
//!
//! - In: the `tokenizer.json`, `tokenizer_config.json`, `special_tokens_map.json` and chat template of a
//!   model folder; [`Example`]s. Out: [`Block`]s of at most T tokens that know for how many bytes of text their labels stand.
//! - Never here: weights, chance, clocks. `strftime_now` of chat templates is a fixed day, so that the
//!   same data gives the same tokens in every job.
//! - Invariant: every id is below the vocabulary size that the tokeniser was opened with.
//!
//! [`Block`]: crate::block::Block

mod blocks;
mod chat;
mod spelling;
mod stream;

use crate::intake::{Example, Talk};
use crate::settings::SEGMENT_BYTES_MAX;
use chat::Chat;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::{error, fs, io};

pub use blocks::{Blocks, Piece, Report, Warning};
pub use chat::{Dialect, Tools};
pub use spelling::Spelling;
pub use stream::TextStream;

/// Why text cannot become blocks.
#[derive(Debug, thiserror::Error)]
pub enum TokeniseError {
    /// A file that cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Not a tokenizer.
    #[error("{path} is not a tokenizer that can be read: {source}")]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What the tokenizers library said.
        source: Box<dyn error::Error + Send + Sync>,
    },
    /// Not a configuration.
    #[error("{path} is not JSON: {source}")]
    Config {
        /// The file.
        path: PathBuf,
        /// Where it breaks.
        source: serde_json::Error,
    },
    /// The tokenizer of another model.
    #[error("tokenizer does not match the model: expected ids below {vocab}, got {highest}")]
    Vocabulary {
        /// Highest id of the tokenizer.
        highest: u32,
        /// Vocabulary size V of the model.
        vocab: usize,
    },
    /// The tokenizer failed on a text.
    #[error("cannot tokenise: {0}")]
    Text(#[source] Box<dyn error::Error + Send + Sync>),
    /// Conversations, but no template for them.
    #[error(
        "the data has conversations, but the model folder has no chat template: expected chat_template \
         in tokenizer_config.json, or chat_template.jinja"
    )]
    NoTemplate,
    /// The chat template cannot be read or refuses the conversation.
    #[error("chat template: {0}")]
    Template(#[from] minijinja::Error),
    /// The chat template has no word for something of the conversation.
    #[error(
        "chat template: it does not read {what}, which the conversation has: expected a template that does, \
         or data without it"
    )]
    Unread {
        /// What would be left out.
        what: &'static str,
    },
    /// What a turn says cannot be told from what stands around it.
    #[error(
        "chat template: turn {turn}, of role {role}, cannot be told from what stands around it in the \
         rendered text, so that what is learned of it would be a guess: expected a template that marks it with \
         {{% generation %}}, or data without --mask-prompt, weight and train"
    )]
    Hidden {
        /// Number of the turn, from 1.
        turn: usize,
        /// Whose it is.
        role: String,
    },
    /// A conversation with characters that mark places.
    #[error(
        "chat template: the conversation holds one of U+FDD0 to U+FDD4, which stand for no character and \
         here for the borders of turns"
    )]
    Reserved,
    /// A template that does something with the text in `generation`.
    #[error(
        "chat template: what it marks with {{% generation %}} is changed after it was marked, so that its \
         place is not known"
    )]
    Marked,
    /// An example that cannot become a block.
    #[error("example {number}: {source}")]
    Example {
        /// Number of it, from 1.
        number: usize,
        /// Why.
        source: Box<TokeniseError>,
    },
    /// A decoder of which nobody here knows what bytes a token stands for.
    #[error(
        "tokenizer: expected a decoder of bytes, got `{decoder}`: what its tokens stand for is unknown"
    )]
    Decoder {
        /// Its kind.
        decoder: String,
    },
    /// A block with no room for text.
    #[error("a block of {tokens} tokens has no room: expected at least {least}")]
    Room {
        /// T.
        tokens: usize,
        /// The least T.
        least: usize,
    },
    /// Nothing to learn from.
    #[error("no token is trainable in any of the examples ({examples}); {hint}")]
    NothingTrainable {
        /// Examples read.
        examples: usize,
        /// What to look at.
        hint: &'static str,
    },
}

/// The tokenizer of one model, its special tokens and its chat template.
pub struct Tokeniser {
    tokenizer: tokenizers::Tokenizer,
    /// What the post-processor puts before a text: BOS, or nothing.
    prefix: Vec<u32>,
    eos: Option<u32>,
    chat: Option<Chat>,
    warnings: Vec<Warning>,
}

/// A text as token ids, and for each how many bytes of the text are covered up to its end.
#[derive(Clone, Debug, Default)]
struct Coded {
    ids: Vec<u32>,
    ends: Vec<usize>,
}

impl Tokeniser {
    /// Opens the tokenizer of a model folder for a model of `vocab` ids.
    ///
    /// # Errors
    /// [`TokeniseError`] naming the file, or both sizes when the tokenizer is another model's.
    pub fn open(model_dir: &Path, vocab: usize) -> Result<Self, TokeniseError> {
        let path = model_dir.join("tokenizer.json");
        let bytes =
            fs::read(&path).map_err(|source| TokeniseError::Read { path: path.clone(), source })?;
        let mut tokenizer = tokenizers::Tokenizer::from_bytes(bytes)
            .map_err(|source| TokeniseError::Tokenizer { path, source })?;
        // A tokenizer file may ask for both; blocks are cut and padded elsewhere.
        tokenizer.with_padding(None).with_truncation(None).map_err(TokeniseError::Text)?;
        let highest = tokenizer.get_vocab(true).into_values().max().unwrap_or_default();
        if highest as usize >= vocab {
            return Err(TokeniseError::Vocabulary { highest, vocab });
        }
        let config = json(&model_dir.join("tokenizer_config.json"))?.unwrap_or_default();
        let config = with_special_tokens(config, json(&model_dir.join("special_tokens_map.json"))?);
        let chat = Chat::open(&model_dir.join("chat_template.jinja"), &config)?;
        let eos = eos(model_dir, &tokenizer, &config)?;
        let sample = tokenizer.encode("a", true).map_err(TokeniseError::Text)?;
        let special = sample.get_special_tokens_mask().iter().take_while(|&&special| special == 1);
        let prefix = sample.get_ids().iter().copied().take(special.count()).collect();
        let mut warnings = Vec::new();
        if highest as usize + 1 < vocab {
            warnings.push(Warning::Vocabulary { highest, vocab });
        }
        if eos.is_none() {
            warnings.push(Warning::NoEnd);
        }
        Ok(Self { tokenizer, prefix, eos, chat, warnings })
    }

    /// What each token stands for, by id.
    ///
    /// # Errors
    /// [`TokeniseError::Decoder`] for one whose tokens are no bytes of the text.
    pub fn spellings(&self) -> Result<Vec<Spelling>, TokeniseError> {
        spelling::of(&self.tokenizer)
    }

    /// What is odd about the model folder, though it works.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// The id that ends a text, if the folder names one.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// What a text begins with where nothing was said before: BOS as the tokenizer puts it, else the
    /// id that ended the text before; empty where the folder names neither.
    pub fn opening(&self) -> Vec<u32> {
        match self.prefix.is_empty() {
            true => self.eos.into_iter().collect(),
            false => self.prefix.clone(),
        }
    }

    /// A prompt as ids: BOS as the tokenizer puts it, then the text; no end.
    ///
    /// # Errors
    /// [`TokeniseError::Text`] when the tokenizer cannot.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokeniseError> {
        let mut ids = self.prefix.clone();
        ids.extend(self.code(text)?.ids);
        Ok(ids)
    }

    /// A conversation as a prompt for the assistant's next turn, of which `opening` is given.
    ///
    /// # Errors
    /// [`TokeniseError::NoTemplate`] without a chat template, [`TokeniseError::Template`] when it refuses,
    /// [`TokeniseError::Unread`] what it has no word for.
    pub fn encode_chat(&self, talk: &Talk, opening: &str) -> Result<Vec<u32>, TokeniseError> {
        let chat = self.chat.as_ref().ok_or(TokeniseError::NoTemplate)?;
        Ok(self.code(&(chat.render(talk, true)? + opening))?.ids)
    }

    /// What the chat template knows of tools; [`Tools::Unread`] without a template.
    pub fn tools(&self) -> Tools {
        self.chat.as_ref().map_or(Tools::Unread, Chat::tools)
    }

    /// Looks whether a conversation can be written as text to learn.
    ///
    /// # Errors
    /// As [`Tokeniser::blocks`] for it, without a mask.
    pub fn check_talk(&self, talk: &Talk) -> Result<(), TokeniseError> {
        let chat = self.chat.as_ref().ok_or(TokeniseError::NoTemplate)?;
        chat.answers(talk, false).map(|_| ())
    }

    /// Ids as text, special tokens left out.
    ///
    /// # Errors
    /// [`TokeniseError::Text`] when the decoder cannot.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TokeniseError> {
        self.tokenizer.decode(ids, true).map_err(TokeniseError::Text)
    }

    /// Decodes what follows `prompt` token by token.
    ///
    /// # Errors
    /// [`TokeniseError::Text`] when the decoder cannot.
    pub fn stream(&self, prompt: &[u32]) -> Result<TextStream<'_>, TokeniseError> {
        TextStream::after(&self.tokenizer, prompt)
    }

    /// Text without special tokens around it, in pieces that the tokenizer handles in bounded memory.
    fn code(&self, text: &str) -> Result<Coded, TokeniseError> {
        let mut coded = Coded::default();
        let mut start = 0;
        while start < text.len() {
            let end = segment_end(text, start);
            let piece = text.get(start..end).unwrap_or_default();
            let encoding = self.tokenizer.encode(piece, false).map_err(TokeniseError::Text)?;
            let mut covered = start;
            for (id, (_, stop)) in encoding.get_ids().iter().zip(encoding.get_offsets()) {
                // Tokens of one character share its offsets: the first of them stands for it.
                covered = covered.max(start + stop).min(end);
                coded.ids.push(*id);
                coded.ends.push(covered);
            }
            // What no offset reaches, such as blanks that a normaliser drops, goes to the last token.
            if let Some(last) = coded.ends.last_mut() {
                *last = end;
            }
            start = end;
        }
        Ok(coded)
    }
}

/// Where a piece of text that begins at `start` ends: before a line, else before a word.
fn segment_end(text: &str, start: usize) -> usize {
    let bytes = text.as_bytes();
    let hard = text.floor_char_boundary(start.saturating_add(SEGMENT_BYTES_MAX));
    if hard == text.len() {
        return hard;
    }
    let blank = |at: usize| bytes.get(at).is_none_or(u8::is_ascii_whitespace);
    let is = |at: usize, byte: u8| bytes.get(at) == Some(&byte);
    let half = start + SEGMENT_BYTES_MAX / 2;
    let line = (half..hard).rev().find(|&at| is(at - 1, b'\n') && !blank(at));
    let word = || (half..hard).rev().find(|&at| is(at, b' ') && !blank(at - 1));
    line.or_else(word).unwrap_or(hard)
}

fn eos(
    model_dir: &Path,
    tokenizer: &tokenizers::Tokenizer,
    config: &Value,
) -> Result<Option<u32>, TokeniseError> {
    if let Some(id) = chat::special(config, "eos_token").and_then(|eos| tokenizer.token_to_id(eos))
    {
        return Ok(Some(id));
    }
    for name in ["generation_config.json", "config.json"] {
        let config = json(&model_dir.join(name))?.unwrap_or_default();
        let id = match config.get("eos_token_id") {
            Some(Value::Array(ids)) => ids.first().and_then(Value::as_u64),
            Some(id) => id.as_u64(),
            None => None,
        };
        let id = id.and_then(|id| u32::try_from(id).ok());
        if let Some(id) = id.filter(|&id| tokenizer.id_to_token(id).is_some()) {
            return Ok(Some(id));
        }
    }
    Ok(None)
}

/// A tokenizer's configuration, and what only the map of older folders says of its special tokens.
fn with_special_tokens(mut config: Value, map: Option<Value>) -> Value {
    let Some(Value::Object(map)) = map else { return config };
    if config.is_null() {
        config = Value::Object(serde_json::Map::new());
    }
    if let Some(config) = config.as_object_mut() {
        for (name, token) in map {
            let own = config.entry(name).or_insert(Value::Null);
            if own.is_null() {
                *own = token;
            }
        }
    }
    config
}

/// A JSON file; none when it is not there.
fn json(path: &Path) -> Result<Option<Value>, TokeniseError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(TokeniseError::Read { path: path.to_owned(), source }),
    };
    let parsed = serde_json::from_str(&text);
    parsed.map(Some).map_err(|source| TokeniseError::Config { path: path.to_owned(), source })
}

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod tests;

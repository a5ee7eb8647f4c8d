//! Request and response bodies of the HTTP interface, as OpenAI's clients know them.
//!
//! - In: bytes of a body. Out: an [`Ask`] in which every value has its range, or a [`WireError`] that
//!   names the field; answers as JSON.
//! - What would change the meaning of an answer and cannot be honoured is refused by name; what only
//!   describes the caller passes.
//! - Never here: sockets, tokens, the model.
//!
//! Source of the shapes: OpenAI's API reference, completions and chat completions.

mod fields;
mod form;
mod how;
mod tools;
mod turns;
mod models;
mod orders;
mod ask;
mod reply;
#[cfg(test)]
mod tests;

pub use crate::config::{BASE, IN_USE, MODEL_BYTES_MAX, generation_of, kept};
pub use ask::{chat, completion};
pub use models::{Listed, model, models};
pub use orders::{Compare, compare, compared, rollback};
pub use reply::{
    Answer, Call, DONE, Finish, Likely, Meta, Scored, Usage, arguments, call, end, event, opening,
    piece, refusal, totals, whole,
};

use sapwood::constrain::{Schema, SchemaError};
use sapwood::intake::Talk;

/// Texts of one comparison.
pub const COMPARED_MAX: usize = 64;
/// Bytes of them, all together.
pub const COMPARED_BYTES_MAX: usize = 256 << 10;
/// Prompts of one request.
pub const PROMPTS_MAX: usize = 64;
/// Texts of one request, of all its prompts.
pub const TEXTS_MAX: usize = 64;
/// Likeliest tokens that are told beside each token.
pub const LIKELIEST_MAX: usize = 20;
/// Tokens whose logits one request may push.
pub const PUSHES_MAX: usize = 1024;
/// Strings that may end a text.
pub const STOPS_MAX: usize = 4;
/// Bytes of one of them.
pub const STOP_BYTES_MAX: usize = 256;
/// Functions that one request may offer.
pub const TOOLS_MAX: usize = 64;
/// Tokens of a completion when nothing is said.
pub const COMPLETION_TOKENS: usize = 16;

/// Why a body is refused; nothing was done.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Not text.
    #[error("the body is not UTF-8 in line {line}; expected JSON")]
    Utf8 {
        /// Line, from 1.
        line: usize,
    },
    /// Not JSON, or no object.
    #[error("the body is not a JSON object: {problem}")]
    Json {
        /// Where it breaks.
        problem: String,
    },
    /// A value out of its range.
    #[error("{param}: expected {expected}, got {got}")]
    Field {
        /// The field.
        param: String,
        /// What it may be.
        expected: &'static str,
        /// What it was, shortened.
        got: String,
    },
    /// A field that would change the answer and that this server does not know.
    #[error("{param} is not supported: leave it out; got {got}")]
    Unsupported {
        /// The field.
        param: String,
        /// What it was, shortened.
        got: String,
    },
    /// A schema that an answer cannot be held to.
    #[error("{param}: {source}")]
    Schema {
        /// The field.
        param: String,
        /// What is wrong with it.
        source: SchemaError,
    },
}

impl WireError {
    /// The field that is wrong.
    pub fn param(&self) -> Option<&str> {
        match self {
            Self::Utf8 { .. } | Self::Json { .. } => None,
            Self::Field { param, .. }
            | Self::Unsupported { param, .. }
            | Self::Schema { param, .. } => Some(param),
        }
    }
}

/// Which of the two interfaces a request came by, and its answer goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `/v1/completions`.
    Completion,
    /// `/v1/chat/completions`.
    Chat,
}

/// What a text begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// Text.
    Text(String),
    /// Token ids.
    Ids(Vec<u32>),
    /// A conversation, for the model's chat template, and the tools that it is shown.
    Messages(Talk),
}

/// What a text is held to.
#[derive(Clone, Debug, PartialEq)]
pub enum Form {
    /// All of it is JSON that fits.
    Json(Schema),
    /// It is a call of a function, or may become one.
    Calls(Calls),
}

impl Form {
    /// The field that asked for it.
    pub fn param(&self) -> &'static str {
        match self {
            Self::Json(_) => "response_format",
            Self::Calls(_) => "tools",
        }
    }
}

/// The functions that a text may call.
#[derive(Clone, Debug, PartialEq)]
pub struct Calls {
    /// At least one.
    pub functions: Vec<Function>,
    /// Whether it must call one of them.
    pub is_forced: bool,
    /// Whether it may make several calls.
    pub several: bool,
}

/// A function that may be called.
#[derive(Clone, Debug, PartialEq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// What its arguments fit.
    pub arguments: Schema,
}

/// How the answer is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sending {
    /// In one piece.
    Whole,
    /// As it is written, in server-sent events.
    Events {
        /// Whether the last event but one counts the tokens.
        usage: bool,
    },
}

/// How the tokens of a text are chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct How {
    /// 0 to 2; 0 takes the likeliest token.
    pub temperature: f32,
    /// Only so many of the likeliest tokens are drawn; 0 is all.
    pub top_k: usize,
    /// Above 0, at most 1: only the likeliest tokens that together reach it are drawn.
    pub top_p: f32,
    /// 0 to 1: only tokens of at least this part of the likeliest one's probability are drawn.
    pub min_p: f32,
    /// -2 to 2: taken from a logit for each time that the text has the token.
    pub frequency: f32,
    /// -2 to 2: taken from a logit where the text has the token.
    pub presence: f32,
    /// Above 0: divides a logit, or multiplies it below 0, where prompt or text have the token.
    pub repetition: f32,
    /// -100 to 100: added to the logits of these tokens; at most [`PUSHES_MAX`], each id once, in order.
    pub pushes: Vec<(u32, f32)>,
    /// Seed of the draws; any when none.
    pub seed: Option<u64>,
    /// What its text is held to; any text when none.
    pub form: Option<Form>,
    /// Whether what is known of earlier texts that began alike is taken, and this one kept for others.
    pub caches: bool,
}

/// A request for text.
#[derive(Clone, Debug, PartialEq)]
pub struct Ask {
    /// Where it came in.
    pub kind: Kind,
    /// The name of the model; the one in use when none.
    pub model: Option<String>,
    /// What to go on from; one text each, at most [`PROMPTS_MAX`].
    pub prompts: Vec<Prompt>,
    /// Texts after each prompt, at least one; at most [`TEXTS_MAX`] in all.
    pub each: usize,
    /// Most tokens of each text; what there is room for when none, or when there is less.
    pub tokens_max: Option<usize>,
    /// How its tokens are chosen.
    pub how: How,
    /// Strings that end a text and are not part of it.
    pub stops: Vec<String>,
    /// Whether the answer begins with the prompt.
    pub echo: bool,
    /// Of how many of the likeliest tokens it is told how likely they were, beside each token; nothing
    /// of the kind when none.
    pub likeliest: Option<usize>,
    /// How the answer is sent.
    pub sending: Sending,
}

/// Samples as JSON lines: the text of a body.
///
/// # Errors
/// [`WireError::Utf8`] with the line.
pub fn lines(body: &[u8]) -> Result<&str, WireError> {
    std::str::from_utf8(body).map_err(|error| {
        let before = body.get(..error.valid_up_to()).unwrap_or_default();
        WireError::Utf8 { line: 1 + before.iter().filter(|&&byte| byte == b'\n').count() }
    })
}

/// A value for a message: at most 60 characters of it.
fn short(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

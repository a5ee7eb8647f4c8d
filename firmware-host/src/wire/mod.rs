//! Request and response bodies of the HTTP interface, as OpenAI's clients know them.
//!
//! - In: bytes of a body. Out: an [`Ask`] in which every value has its range, or a [`WireError`] that
//!   names the field; answers as JSON.
//! - What would change the meaning of an answer and cannot be honoured is refused by name; what only
//!   describes the caller passes.
//! - Never here: sockets, tokens, the model.
//!
//! Source of the shapes: OpenAI's API reference, completions and chat completions.

mod ask;
mod reply;

pub use ask::{chat, completion, lines};
pub use reply::{
    Answer, DONE, Finish, Meta, Usage, end, event, model, models, opening, piece, refusal, totals,
    whole,
};

use sapwood::intake::Message;

/// Prompts of one request.
pub const PROMPTS_MAX: usize = 16;
/// Strings that may end a text.
pub const STOPS_MAX: usize = 4;
/// Bytes of one of them.
pub const STOP_BYTES_MAX: usize = 256;
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
    /// A model that is not here.
    #[error("the model {got} does not exist: expected `sapwood` (in use) or `base` (not adapted)")]
    Model {
        /// What was asked for, shortened.
        got: String,
    },
}

impl WireError {
    /// The field that is wrong.
    pub fn param(&self) -> Option<&str> {
        match self {
            Self::Utf8 { .. } | Self::Json { .. } => None,
            Self::Field { param, .. } | Self::Unsupported { param, .. } => Some(param),
            Self::Model { .. } => Some("model"),
        }
    }
}

/// Which model is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The base with the adapter of the generation in use.
    InUse,
    /// The base alone, to compare with.
    Base,
}

impl Which {
    /// Both, in the order in which they are listed.
    pub const ALL: [Self; 2] = [Self::InUse, Self::Base];

    /// Its name on the wire.
    pub fn id(self) -> &'static str {
        match self {
            Self::InUse => "sapwood",
            Self::Base => "base",
        }
    }

    /// The model of that name.
    ///
    /// # Errors
    /// [`WireError::Model`] for any other.
    pub fn named(id: &str) -> Result<Self, WireError> {
        let found = Self::ALL.into_iter().find(|which| which.id() == id);
        found.ok_or_else(|| WireError::Model { got: short(id) })
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
    /// A conversation, for the model's chat template.
    Messages(Vec<Message>),
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

/// A request for text.
#[derive(Clone, Debug, PartialEq)]
pub struct Ask {
    /// Where it came in.
    pub kind: Kind,
    /// The model.
    pub which: Which,
    /// What to go on from; one text each, at most [`PROMPTS_MAX`].
    pub prompts: Vec<Prompt>,
    /// Most tokens of each text; what there is room for when none.
    pub tokens_max: Option<usize>,
    /// 0 to 2.
    pub temperature: f32,
    /// Above 0, at most 1.
    pub top_p: f32,
    /// Seed of the draws; any when none.
    pub seed: Option<u64>,
    /// Strings that end a text and are not part of it.
    pub stops: Vec<String>,
    /// Whether the answer begins with the prompt.
    pub echo: bool,
    /// How the answer is sent.
    pub sending: Sending,
}

/// A value for a message: at most 60 characters of it.
fn short(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

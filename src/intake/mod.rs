//! Intake: files and lines of any origin become [`Example`]s, split into train, valid and test.
//!
//! A text file is one document; of JSON lines a line is an example, of a JSON array an item, of a table
//! (`.csv`, `.tsv`) a row, told apart by their keys.
//! - In: a folder with `train.*`, `valid.*` and `test.*`, any other folder of text files, one file, or a
//!   reader. Out: a [`Dataset`].
//! - Never here: tokens, network, writing. Files are only read.
//! - Invariant: the same files give the same examples in the same order, and the same hash. No text is
//!   lost: what is held out and what is learned add up to what was read.

mod json;
mod talk;

mod lines;
mod sample;

mod bytes;
mod formats;

mod files;
mod split;

use crate::settings::{FILE_BYTES_MAX, FILES_MAX, FOLDER_DEPTH_MAX, LINE_BYTES_MAX};
use files::Parts;
use std::borrow::Cow;
use std::io;
use std::path::PathBuf;

pub use files::{open, open_whole, read, read_whole};
pub use formats::Kind;
pub use json::{Json, Object};
pub use lines::examples as lines;
pub use sample::{Sample, samples};
pub use talk::{Talk, Turn};

/// One thing to learn from or to be judged by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Example {
    /// A document: every token is learned.
    Text(String),
    /// A prompt and how it goes on.
    Completion {
        /// What is given.
        prompt: String,
        /// What is to be said.
        completion: String,
    },
    /// A conversation, for the model's chat template.
    Messages(Talk),
    /// A prompt with several endings; the right one is learned, all are scored by `eval`.
    Choice(Choice),
}

/// One turn of a conversation that has nothing but text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user`, `assistant`, or what the chat template knows.
    pub role: String,
    /// What was said.
    pub content: String,
}

/// A question with its possible answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// What is given.
    pub prompt: String,
    /// How it may go on; at least two.
    pub choices: Vec<String>,
    /// Index of the right one.
    pub answer: usize,
}

/// Where the held-out examples come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeldOut {
    /// The data has a `valid` file.
    Given,
    /// The end of the training data was taken away from it.
    Split {
        /// Examples held out.
        examples: usize,
        /// Their UTF-8 bytes.
        bytes: usize,
    },
    /// There was only one example, or none, and it does not divide; or nothing was to be held out.
    None,
}

/// All examples of one source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    /// To learn from.
    pub train: Vec<Example>,
    /// Held out for the gate and for evaluation during a job.
    pub valid: Vec<Example>,
    /// Held out for the final word; empty when the data has none.
    pub test: Vec<Example>,
    /// Where `valid` comes from.
    pub held_out: HeldOut,
    /// What of a folder was passed over.
    pub skipped: Vec<Skipped>,
    /// What was read.
    pub sources: Vec<Source>,
    /// BLAKE3 of all examples in order: a job resumes on the data it began with.
    pub hash: [u8; 32],
}

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// To learn from.
    Train,
    /// Held out.
    Valid,
    /// Held out for the final word.
    Test,
}

impl Part {
    /// As it is named in reports.
    pub fn word(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Valid => "valid",
            Self::Test => "test",
        }
    }
}

/// A file that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Where it lies.
    pub path: PathBuf,
    /// What it is for.
    pub part: Part,
    /// What it holds.
    pub kind: Kind,
    /// How many examples.
    pub examples: usize,
}

/// A file or folder that was passed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Where it lies.
    pub path: PathBuf,
    /// Why.
    pub why: &'static str,
}

/// Why data is refused.
#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    /// A file or folder that cannot be read.
    #[error("cannot read data {name}: {source}")]
    Read {
        /// Path of it, or `standard input`.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// Nothing but blanks.
    #[error("data {name} is empty: expected text or JSON lines")]
    Empty {
        /// Path of it.
        name: String,
    },
    /// Not text.
    #[error("data {name} is binary: expected UTF-8 text, got a {got} in line {line}")]
    Binary {
        /// Path of it.
        name: String,
        /// Line of the first bad byte, from 1.
        line: usize,
        /// `NUL byte` or `byte that is not UTF-8`.
        got: &'static str,
    },
    /// A file above the limit.
    #[error("data {name} is too large: expected at most {FILE_BYTES_MAX} bytes")]
    TooLarge {
        /// Path of it.
        name: String,
    },
    /// A folder above the limits.
    #[error(
        "data folder {name} is too large: expected at most {FILES_MAX} files, \
         {FOLDER_DEPTH_MAX} folders deep and {FILE_BYTES_MAX} bytes together"
    )]
    TooMany {
        /// Path of it.
        name: String,
    },
    /// Two files for one split.
    #[error("data folder {name} has both {first} and {second}: expected one of them")]
    Twice {
        /// Path of the folder.
        name: String,
        /// One of the files.
        first: String,
        /// The other.
        second: String,
    },
    /// A file of columns.
    #[error(
        "data {name}: {ending} is not read: expected text, JSON lines, a JSON array or a table; pandas' \
         read_{ending} and to_json(orient=\"records\", lines=True) write JSON lines"
    )]
    Foreign {
        /// Path of it.
        name: String,
        /// Its ending.
        ending: String,
    },
    /// Not an array.
    #[error("data {name} is no JSON array of objects, no object and no JSON lines: {source}")]
    Array {
        /// Path of it.
        name: String,
        /// Where it breaks.
        source: serde_json::Error,
    },
    /// A broken item of an array.
    #[error("data {name}, item {item}: {problem}")]
    Item {
        /// Path of the file.
        name: String,
        /// Number of the item, from 1.
        item: usize,
        /// What is wrong with it.
        problem: LineProblem,
    },
    /// Not a table.
    #[error("data {name} is no table: {source}")]
    Table {
        /// Path of it.
        name: String,
        /// Where it breaks.
        source: csv::Error,
    },
    /// A broken line of a JSON-lines file.
    #[error("data {name}, line {line}: {problem}")]
    Line {
        /// Path of the file.
        name: String,
        /// Number of the line, from 1.
        line: usize,
        /// What is wrong with it.
        problem: LineProblem,
    },
}

/// What is wrong with a line.
#[derive(Debug, thiserror::Error)]
pub enum LineProblem {
    /// Not JSON.
    #[error("not a JSON object: {}", in_line(.0))]
    Json(#[from] serde_json::Error),
    /// JSON, but not of a known kind.
    #[error(
        "expected keys text; prompt, completion; prompt, choices, answer; messages; conversations; or \
         instruction, output; got {found}"
    )]
    Keys {
        /// The keys there are.
        found: String,
    },
    /// A field of the wrong type.
    #[error("{key}: expected {expected}, got {got}")]
    Field {
        /// Name of the field.
        key: &'static str,
        /// What it must be.
        expected: &'static str,
        /// What it is.
        got: String,
    },
    /// A line above the limit.
    #[error("expected at most {LINE_BYTES_MAX} bytes, got {bytes}")]
    Long {
        /// Its length.
        bytes: usize,
    },
}

/// What is wrong with a line as JSON; its number there is always 1, and only the column helps.
fn in_line(error: &serde_json::Error) -> String {
    error.to_string().replace(" at line 1 column ", " at column ")
}

impl Example {
    /// Its strings in a fixed order: what is hashed, and what counts as its size.
    fn parts(&self) -> Vec<Cow<'_, str>> {
        match self {
            Self::Text(text) => vec![text.into()],
            Self::Completion { prompt, completion } => vec![prompt.into(), completion.into()],
            Self::Messages(talk) => talk.parts(),
            Self::Choice(choice) => {
                std::iter::once(&choice.prompt).chain(&choice.choices).map(Cow::from).collect()
            }
        }
    }

    /// UTF-8 bytes of its strings.
    pub fn bytes(&self) -> usize {
        self.parts().iter().map(|part| part.len()).sum()
    }

    /// BLAKE3 of what it says: two examples that mean the same have the same.
    pub fn digest(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        self.hash(&mut hasher);
        hasher.finalize()
    }

    fn hash(&self, hasher: &mut blake3::Hasher) {
        let (kind, answer) = match self {
            Self::Text(_) => (0, 0),
            Self::Completion { .. } => (1, 0),
            Self::Messages(_) => (2, 0),
            Self::Choice(choice) => (3, choice.answer),
        };
        let parts = self.parts();
        for number in [kind, answer, parts.len()] {
            hasher.update(&(number as u64).to_le_bytes());
        }
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
    }
}

impl Dataset {
    /// What came from elsewhere than files: its end is held out.
    pub fn of_examples(examples: Vec<Example>) -> Self {
        Self::of(Parts { train: examples, ..Parts::default() })
    }

    /// Splits where no `valid` is given, and hashes.
    fn of(mut parts: Parts) -> Self {
        let held_out = match parts.valid.is_some() {
            true => HeldOut::Given,
            false => {
                let (valid, held_out) = split::hold_out(&mut parts.train);
                parts.valid = Some(valid);
                held_out
            }
        };
        Self::hashed(parts, held_out)
    }

    /// As it was read, and hashed.
    fn whole(parts: Parts) -> Self {
        let held_out = if parts.valid.is_some() { HeldOut::Given } else { HeldOut::None };
        Self::hashed(parts, held_out)
    }

    fn hashed(parts: Parts, held_out: HeldOut) -> Self {
        let Parts { train, valid, test, skipped, sources } = parts;
        let valid = valid.unwrap_or_default();
        let mut hasher = blake3::Hasher::new();
        for examples in [&train, &valid, &test] {
            hasher.update(&(examples.len() as u64).to_le_bytes());
            examples.iter().for_each(|example| example.hash(&mut hasher));
        }
        let hash = *hasher.finalize().as_bytes();
        Self { train, valid, test, held_out, skipped, sources, hash }
    }
}

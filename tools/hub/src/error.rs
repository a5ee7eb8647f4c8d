//! What can go wrong between the name of a model and its files.

use std::path::PathBuf;
use thiserror::Error;

/// Why there is no model of that name here.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HubError {
    /// No name of the hub.
    #[error(
        "hf:{text} is no name of the hub: {what}; expected hf:ORG/NAME, hf:ORG/NAME@REVISION or hf:ORG/NAME/FILE.gguf"
    )]
    Name {
        /// The name as it was given.
        text: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A variable of the surroundings with a value that means nothing.
    #[error("{variable}: expected {expected}, got {got:?}; nothing was asked")]
    Setting {
        /// Its name.
        variable: &'static str,
        /// What it may be.
        expected: &'static str,
        /// What it is.
        got: String,
    },
    /// No authorities by which a server could be known.
    #[error(
        "{problem}; expected a file of authorities in PEM, which SSL_CERT_FILE names; nothing was asked"
    )]
    Authorities {
        /// What was looked for.
        problem: String,
    },
    /// Nobody answered, or somebody else.
    #[error("cannot reach {host}: {problem}{hint}")]
    Unreachable {
        /// Whom.
        host: String,
        /// What came instead.
        problem: String,
        /// What there would be without the network.
        hint: &'static str,
    },
    /// The hub does not show the repository to whoever asks.
    #[error(
        "{host} shows no {repo} to one who asks without a token: expected a public name, or a token in HF_TOKEN; nothing was written"
    )]
    Unknown {
        /// The hub.
        host: String,
        /// The repository.
        repo: String,
    },
    /// The hub does not take the token.
    #[error(
        "{host} does not take the token for {repo}{said}: expected another one in HF_TOKEN, or none; nothing was written"
    )]
    Token {
        /// The hub.
        host: String,
        /// The repository.
        repo: String,
        /// The hub's own words.
        said: String,
    },
    /// The repository is for those who were let in.
    #[error(
        "{repo} is gated: ask for access on {host}/{repo}, then set HF_TOKEN to a token of the account that was let in; nothing was written"
    )]
    Gated {
        /// The hub.
        host: String,
        /// The repository.
        repo: String,
    },
    /// No such repository.
    #[error("{host} has no model {repo}; nothing was written")]
    NoRepo {
        /// The hub.
        host: String,
        /// The repository.
        repo: String,
    },
    /// No such branch, tag or commit.
    #[error(
        "{repo} has no revision {revision:?}: expected a branch, a tag or a commit; nothing was written"
    )]
    NoRevision {
        /// The repository.
        repo: String,
        /// The revision.
        revision: String,
    },
    /// Another answer than was asked for.
    #[error("{host} answers {status} for {what}{said}; expected 200")]
    Status {
        /// Who.
        host: String,
        /// Its status.
        status: u16,
        /// What was asked for.
        what: String,
        /// Its own words.
        said: String,
    },
    /// An answer that leads nowhere.
    #[error("{host} sends {what} elsewhere, to {to:?}: {problem}")]
    Redirect {
        /// Who.
        host: String,
        /// What was asked for.
        what: String,
        /// Where it leads.
        to: String,
        /// Why nobody goes there.
        problem: &'static str,
    },
    /// An answer that says nothing.
    #[error("what {of} says of {what} cannot be used: {problem}")]
    Answer {
        /// The hub, or the cache.
        of: String,
        /// What was asked for.
        what: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Several models in one repository.
    #[error(
        "{repo} holds several GGUF files and no safetensors; expected one of them, as hf:{repo}/FILE.gguf: {files}"
    )]
    Several {
        /// The repository.
        repo: String,
        /// Them, with their sizes.
        files: String,
    },
    /// Nothing in it that is read here.
    #[error("{repo}: {what}")]
    Unfit {
        /// The repository.
        repo: String,
        /// What was expected and what is there.
        what: String,
    },
    /// The cache does not have all of it, and nobody else can be asked.
    #[error("the cache {} has {what} of {repo} at {revision}, and {why}", cache.display())]
    NotCached {
        /// The cache.
        cache: PathBuf,
        /// What is missing: "no file X", "nothing".
        what: String,
        /// The repository.
        repo: String,
        /// The revision.
        revision: String,
        /// Why the hub is not asked.
        why: String,
    },
    /// There is no room for it.
    #[error("{needed} bytes are to be fetched into {}, where {free} are free; nothing was fetched", cache.display())]
    Full {
        /// The cache.
        cache: PathBuf,
        /// Bytes to fetch.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
    /// A file that ended before its end.
    #[error(
        "{file} ends after {got} of {size} bytes ({problem}); what came is kept, the next try goes on there"
    )]
    Short {
        /// The file.
        file: String,
        /// Bytes that came.
        got: u64,
        /// Bytes that it has.
        size: u64,
        /// What happened.
        problem: String,
    },
    /// A file that goes on after its end.
    #[error(
        "{file} is longer than the {size} bytes that the hub says it has; what came was thrown away"
    )]
    Long {
        /// The file.
        file: String,
        /// Bytes that it has.
        size: u64,
    },
    /// A file with other bytes than it should have.
    #[error("{file} has {kind} {got}, expected {expected} by the hub; {holds}")]
    Hash {
        /// The file.
        file: String,
        /// Which hash.
        kind: &'static str,
        /// What the hub says.
        expected: String,
        /// What it is.
        got: String,
        /// What became of the bytes.
        holds: String,
    },
    /// A file of the cache that cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file of the cache that cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// A stranger's words in one short line.
pub(crate) fn shown(text: &str) -> String {
    const MOST: usize = 120;
    let plain = text.chars().map(|letter| if letter.is_control() { ' ' } else { letter });
    let short: String = plain.take(MOST).collect();
    if text.chars().nth(MOST).is_some() { short + "..." } else { short }
}

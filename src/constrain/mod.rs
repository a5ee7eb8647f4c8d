//! Constrain: a JSON schema to the tokens that may follow at each place of a text; the only door to llguidance.
//!
//! - In: a schema from a stranger, the bytes that each token stands for. Out: for every place of a text
//!   the tokens with which it can still become an answer that fits.
//! - A schema is walked by ours first ([`Schema`]): its size, depth and every keyword are known before
//!   the library sees it. What the library spends on it, and on each token, is bounded by limits.
//! - Never here: logits and draws; what a text means.
//! - A text may be free until it says that it begins a call, and is held from there (`waits`).
//! - Invariant: a text that has ended by itself fits its schema. One that was cut short is the beginning
//!   of such a text.

mod refused;
mod references;
mod schema;
mod calls;
#[cfg(feature = "engine")]
mod waits;
#[cfg(feature = "engine")]
mod tokens;

pub use calls::NAME;
pub use refused::SchemaError;
pub use schema::Schema;
#[cfg(feature = "engine")]
pub use tokens::{ConstrainError, Constrainer, Constraint};

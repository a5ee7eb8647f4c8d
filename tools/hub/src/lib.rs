//! Models by their names on the Hugging Face hub: what is needed of them, into the hub's own cache.
//!
//! - In: `ORG/NAME[/FILE.gguf][@REVISION]`, and what `huggingface_hub` reads of its surroundings: cache,
//!   token, mirror, whether to ask at all. Out: a folder of the cache with configuration, tokenizer and
//!   safetensors, or a GGUF file.
//! - What the hub says is a stranger's: names stay inside the cache, sizes are held to, and a file has its
//!   name in the cache only once its hash fits.
//! - Never here: what is in a model, the clock. The network is `web.rs` alone, behind the feature `network`.
//! - Invariant: the token goes to the hub's own host and to no other; nothing comes by plain HTTP that was
//!   asked for by HTTPS.
//!
//! Source: the cache of `huggingface_hub`, <https://huggingface.co/docs/huggingface_hub/guides/manage-cache>.

pub mod error;
pub mod hash;
pub mod name;
pub mod listing;
pub mod choice;
pub mod settings;
#[cfg(feature = "network")]
pub mod digest;
#[cfg(feature = "network")]
mod shelf;
#[cfg(feature = "network")]
mod web;
#[cfg(feature = "network")]
mod download;
#[cfg(feature = "network")]
mod repo;

pub use error::HubError;
pub use name::Name;
#[cfg(feature = "network")]
pub use repo::{Event, Repo};
pub use settings::Settings;

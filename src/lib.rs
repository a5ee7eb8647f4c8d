//! Sapwood: a language model that keeps learning on the device it runs on, without forgetting.
//!
//! The modules below are the stages of the learner in the order of the data; a stage uses only the
//! stages above it, which `tests/tidy.rs` checks. `ARCHITECTURE.md` has the picture and the invariants.

pub mod ports; //     the doors to the world: disk, chance
pub mod settings; //  what a user may choose, and every limit
pub mod intake; //    files, lines            -> Example
pub mod inbox; //     acknowledged Examples that no job has learned yet
pub mod base; //      model folder            -> Config, weights; export from Hugging Face, GGUF
pub mod block; //     one tokenised, masked sample
#[cfg(feature = "engine")]
pub mod tokenise; //  Example                 -> Block [T]            tokenizers
pub mod constrain; // JSON schema, token bytes -> the tokens that may follow       llguidance
pub mod adapter; //   LoRA factors as plain numbers; PEFT folders
#[cfg(feature = "engine")]
pub mod products; //  rows x frozen matrix    -> rows                 AVX-512, AVX2, NEON, gemm
#[cfg(feature = "engine")]
pub mod decoder; //   Base, rows, LoRA        -> one layer on the CPU: forward, back, after a past
#[cfg(feature = "engine")]
pub mod trunk; //     Block [T]               -> hidden [B, T, D]     frozen, tract
pub mod reservoir; // Block                   -> a bounded memory of past blocks
#[cfg(feature = "engine")]
pub mod head; //      hidden, Block, Adapter  -> loss and gradient    candle
pub mod merge; //     fast, slow              -> the next slow adapter
#[cfg(feature = "engine")]
pub mod train; //     batches                 -> fast and slow adapter
pub mod gate; //      scores                  -> metrics, verdict
pub mod study; //     Adapters, scores        -> what lies between adapters, how alike they see
pub mod state; //     what survives a power cut
#[cfg(feature = "engine")]
pub mod generate; //  prompt                  -> text
#[cfg(feature = "engine")]
pub mod learner; //   one job, end to end; the only stage that knows all others

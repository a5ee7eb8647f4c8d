//! The families of models whose logits the oracle has.

/// Folders of `tests/golden/families`, which `tools/golden/families.py` made.
pub(crate) const FAMILIES: [&str; 11] = [
    "llama2",
    "llama3",
    "llama_biased",
    "llama_linear",
    "mistral",
    "phi3",
    "qwen2",
    "qwen3",
    "smollm2",
    "smollm2_own_head",
    "head_dim",
];

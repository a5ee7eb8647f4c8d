//! How byte-level tokenizers cut a text into words before they merge, by the name that a GGUF file gives.
//!
//! - In: `tokenizer.ggml.pre`. Out: a `pre_tokenizer` of the tokenizers crate, and two rules besides.
//! - Only names whose words are those of llama.cpp on odd text (`tools/golden/gguf.py`) are taken. The
//!   rules are llama.cpp's: where it took the letters of a contraction out of `(?i:...)`, they stay out,
//!   and no text is normalised first, as it never is there.
//!
//! Source: llama.cpp, `llama-vocab.cpp`, `llm_tokenizer_bpe`.

use serde_json::{Value, json};

/// GPT-2's words.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// Contractions in any case, letters with one sign before them.
const WORDS: &str =
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+";
/// Signs with their line ends, line ends, blanks.
const SIGNS: &str = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// How a text is cut into words.
pub(super) struct Split {
    /// Patterns, one after the other on what the one before left.
    patterns: Vec<String>,
    /// Whether a word that is a token is taken whole, whatever the merges say.
    pub(super) whole_words: bool,
    /// Whether a text begins with BOS where the file does not say.
    pub(super) bos: bool,
}

impl Split {
    /// The rules of a name; none for a name that is not known here.
    pub(super) fn named(name: Option<&str>) -> Option<Self> {
        let split = |patterns: &[&str]| Self {
            patterns: patterns.iter().map(|&pattern| pattern.to_owned()).collect(),
            whole_words: false,
            bos: false,
        };
        let words = |digits: &str| split(&[format!("{WORDS}|{digits}|{SIGNS}").as_str()]);
        Some(match name {
            None | Some("default") => {
                split(&[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"])
            }
            Some(
                "gpt-2" | "phi-2" | "gigachat" | "a.x-4.0" | "mellum" | "exaone4" | "mpt" | "olmo"
                | "jais" | "trillion" | "granite-docling",
            ) => split(&[GPT2]),
            Some(
                "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" | "exaone"
                | "minerva-7b",
            ) => split(&[r"\p{N}", GPT2]),
            Some("dbrx" | "smaug-bpe") => words(r"\p{N}{1,3}"),
            Some(
                "llama-bpe" | "llama3" | "llama-v3" | "falcon3" | "falcon-h1" | "pixtral"
                | "midm-2.0" | "lfm2",
            ) => Self { whole_words: true, bos: true, ..words(r"\p{N}{1,3}") },
            Some("qwen2" | "deepseek-r1-qwen" | "megrez" | "stablelm2" | "hunyuan" | "kormo") => {
                words(r"\p{N}")
            }
            Some(_) => return None,
        })
    }

    /// All names that are known here, for whoever has another.
    pub(super) const NAMES: &'static str = "a kind that is known here: default, gpt-2, smollm, \
         starcoder, refact, command-r, llama-bpe, qwen2 or one that splits as these do";

    /// As `tokenizer.json` has it.
    pub(super) fn pre_tokenizer(&self) -> Value {
        let cut = |pattern: &String| {
            json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated",
                "invert": false})
        };
        let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
            "use_regex": false});
        let steps: Vec<Value> = self.patterns.iter().map(cut).chain([bytes]).collect();
        json!({"type": "Sequence", "pretokenizers": steps})
    }
}

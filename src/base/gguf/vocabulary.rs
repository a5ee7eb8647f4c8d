//! The vocabulary of a GGUF file: its tokens, what kind each is, and which begin and end a text.
//!
//! - In: a header. Out: tokens as llama.cpp has them after loading, with what it corrects by their text.
//! - Invariant: every token is there once, every special id is below the number of tokens.
//!
//! Source: llama.cpp, `llama-vocab.cpp`, `llama_vocab::impl::load`.

use super::super::BaseError;
use super::facts::Facts;
use std::collections::{BTreeMap, BTreeSet};

/// Longest token: all ways to cut one in two are looked at.
const TOKEN_BYTES_MAX: usize = 1024;
/// Texts by which llama.cpp knows a token that ends what a model writes, whatever its kind.
const ENDS: [&str; 22] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<\u{ff5c}end\u{2581}of\u{2581}sentence\u{ff5c}>",
    "[e~[",
];
/// Texts by which it knows the tokens of text that is filled in.
const FILLS: [(&str, &[&str]); 6] = [
    (
        "fim_pre",
        &[
            "<|fim_prefix|>",
            "<fim-prefix>",
            "<fim_prefix>",
            "<PRE>",
            "\u{2581}<PRE>",
            "<|code_prefix|>",
        ],
    ),
    (
        "fim_suf",
        &[
            "<|fim_suffix|>",
            "<fim-suffix>",
            "<fim_suffix>",
            "<SUF>",
            "\u{2581}<SUF>",
            "<|code_suffix|>",
        ],
    ),
    (
        "fim_mid",
        &[
            "<|fim_middle|>",
            "<fim-middle>",
            "<fim_middle>",
            "<MID>",
            "\u{2581}<MID>",
            "<|code_middle|>",
        ],
    ),
    ("fim_pad", &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"]),
    ("fim_rep", &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"]),
    ("fim_sep", &["<|file_sep|>"]),
];

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

/// One token.
#[derive(Clone, Debug)]
pub(super) struct Token {
    pub(super) text: String,
    pub(super) kind: Kind,
}

/// The tokens by id, and the ids by text.
pub(super) struct Vocabulary {
    pub(super) tokens: Vec<Token>,
    pub(super) ids: BTreeMap<String, u32>,
}

/// Tokens with a meaning of their own.
#[derive(Clone, Debug, Default)]
pub(super) struct Specials {
    pub(super) bos: Option<u32>,
    pub(super) eos: Option<u32>,
    pub(super) unknown: Option<u32>,
    pub(super) pad: Option<u32>,
    /// All that end what a model writes, `eos` first.
    pub(super) ends: Vec<u32>,
}

impl Vocabulary {
    pub(super) fn new(facts: &Facts<'_>) -> Result<Self, BaseError> {
        let key = "tokenizer.ggml.tokens";
        let texts = facts.texts(key)?;
        let kinds = kinds(facts, texts.len())?;
        let (mut tokens, mut ids) = (Vec::with_capacity(texts.len()), BTreeMap::new());
        for (id, (text, kind)) in texts.into_iter().zip(kinds).enumerate() {
            if text.len() > TOKEN_BYTES_MAX {
                let expected =
                    format!("tokens of at most {TOKEN_BYTES_MAX} bytes ({id} has {})", text.len());
                return Err(facts.wrong(key, expected));
            }
            let text = match text {
                "" => format!("[EMPTY_{id}]"),
                text => text.to_owned(),
            };
            if let Some(first) = ids.insert(text.clone(), id as u32) {
                let expected = format!("tokens that differ ({text:?} is {first} and {id})");
                return Err(facts.wrong(key, expected));
            }
            tokens.push(Token { text, kind });
        }
        let mut vocabulary = Self { tokens, ids };
        vocabulary.correct(facts);
        Ok(vocabulary)
    }

    /// Tokens that look like control tokens are control tokens.
    fn correct(&mut self, facts: &Facts<'_>) {
        let absent = |name: &str| facts.get(&format!("tokenizer.ggml.{name}_token_id")).is_none();
        let fills = FILLS.iter().filter(|(name, _)| absent(name)).flat_map(|(_, texts)| *texts);
        for text in ENDS.iter().chain(fills) {
            if let Some(&id) = self.ids.get(*text)
                && let Some(token) = self.tokens.get_mut(id as usize)
            {
                token.kind = Kind::Control;
            }
        }
    }

    pub(super) fn text(&self, id: u32) -> Option<&str> {
        self.tokens.get(id as usize).map(|token| token.text.as_str())
    }

    /// Whether it is a mere filler up to the rows of the embedding, as `convert_hf_to_gguf.py` names them.
    pub(super) fn is_filler(&self, id: u32) -> bool {
        let filler =
            |token: &Token| token.kind == Kind::Unused && token.text == format!("[PAD{id}]");
        self.tokens.get(id as usize).is_some_and(filler)
    }
}

fn kinds(facts: &Facts<'_>, tokens: usize) -> Result<Vec<Kind>, BaseError> {
    let key = "tokenizer.ggml.token_type";
    let Some(value) = facts.get(key) else { return Ok(vec![Kind::Normal; tokens]) };
    let kinds = value.integers().filter(|kinds| kinds.len() >= tokens);
    let kinds = kinds.ok_or_else(|| facts.wrong(key, format!("{tokens} whole numbers")))?;
    let kind = |number| match number {
        2 => Kind::Unknown,
        3 => Kind::Control,
        4 => Kind::UserDefined,
        5 => Kind::Unused,
        6 => Kind::Byte,
        _ => Kind::Normal,
    };
    Ok(kinds.into_iter().take(tokens).map(kind).collect())
}

impl Specials {
    /// - `bos`, `eos`, `unknown`: what the kind of tokenizer has where the file is silent.
    pub(super) fn new(
        facts: &Facts<'_>,
        vocabulary: &Vocabulary,
        [bos, eos, unknown]: [Option<u32>; 3],
    ) -> Result<Self, BaseError> {
        let tokens = vocabulary.tokens.len();
        let id = |name: &str, default: Option<u32>| {
            let key = format!("tokenizer.ggml.{name}_token_id");
            match facts.whole(&key)? {
                Some(id) if (id as usize) < tokens => Ok(Some(id)),
                // A pad that the vocabulary does not have pads nothing here.
                Some(_) if name == "padding" => Ok(None),
                Some(_) => Err(facts.wrong(&key, format!("below {tokens}, the number of tokens"))),
                None => Ok(default.filter(|&id| (id as usize) < tokens)),
            }
        };
        let eos = id("eos", eos)?;
        let named = [eos, id("eot", None)?, id("eom", None)?];
        let looks = ENDS.iter().filter_map(|text| vocabulary.ids.get(*text).copied());
        let mut seen = BTreeSet::new();
        let ends = named.into_iter().flatten().chain(looks).filter(|id| seen.insert(*id)).collect();
        Ok(Self {
            bos: id("bos", bos)?,
            eos,
            unknown: id("unknown", unknown)?,
            pad: id("padding", None)?,
            ends,
        })
    }
}

//! The tokenizer of a GGUF file as a `tokenizer.json` that gives llama.cpp's ids, and the files beside it.
//!
//! - In: the metadata. Out: `tokenizer.json`, `tokenizer_config.json`, `generation_config.json`, and
//!   `chat_template.jinja` where the file has a template.
//! - Two kinds: `gpt2`, byte-level BPE with its merges; `llama`, SentencePiece's BPE, whose merges follow
//!   from the scores. Anything else is refused by its name.
//! - Invariant: every merge is of two tokens and makes a third; the vocabulary is the file's, but for fillers.
//!
//! Source: llama.cpp, `llama-vocab.cpp`; transformers, `generate_merges`.

use super::super::BaseError;
use super::facts::Facts;
use super::split::Split;
use super::vocabulary::{Kind, Specials, Token, Vocabulary};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// What SentencePiece writes for a blank.
const BLANK: &str = "\u{2581}";
const CHAT_TEMPLATE: &str = "tokenizer.chat_template";

/// The tokenizer that a file describes.
pub(super) struct Tokenizer {
    pub(super) specials: Specials,
    vocabulary: Vocabulary,
    model: Merged,
    normalizer: Value,
    pre_tokenizer: Value,
    decoder: Value,
    begins: bool,
    ends: bool,
}

/// The rules of merging.
struct Merged {
    merges: Vec<(String, String)>,
    whole_words: bool,
    fallback: bool,
}

impl Tokenizer {
    pub(super) fn new(facts: &Facts<'_>) -> Result<Self, BaseError> {
        let vocabulary = Vocabulary::new(facts)?;
        let mut tokenizer = match facts.text("tokenizer.ggml.model")? {
            Some("gpt2") => bytes(facts, vocabulary)?,
            Some("llama") => pieces(facts, vocabulary)?,
            _ => return Err(facts.wrong("tokenizer.ggml.model", "\"gpt2\" or \"llama\"")),
        };
        for (key, adds, token) in [
            ("tokenizer.ggml.add_bos_token", &mut tokenizer.begins, tokenizer.specials.bos),
            ("tokenizer.ggml.add_eos_token", &mut tokenizer.ends, tokenizer.specials.eos),
        ] {
            *adds = facts.flag(key)?.unwrap_or(*adds);
            if *adds && token.is_none() {
                return Err(facts.wrong(key, "false: the file does not say which token that is"));
            }
        }
        Ok(tokenizer)
    }

    /// The files of the tokenizer; `context` is the model's, in tokens.
    pub(super) fn files(
        &self,
        facts: &Facts<'_>,
        context: Option<u32>,
    ) -> Result<Vec<(&'static str, Vec<u8>)>, BaseError> {
        let mut files = vec![
            ("tokenizer.json", self.json().into_bytes()),
            ("tokenizer_config.json", text(&self.config(context)).into_bytes()),
            ("generation_config.json", self.generation().into_bytes()),
        ];
        if let Some(template) = facts.text(CHAT_TEMPLATE)? {
            files.push(("chat_template.jinja", template.as_bytes().to_vec()));
        }
        Ok(files)
    }

    /// The text of `generation_config.json`.
    pub(super) fn generation(&self) -> String {
        let Specials { bos, pad, ends, .. } = &self.specials;
        text(&json!({"bos_token_id": bos, "eos_token_id": ends, "pad_token_id": pad}))
    }

    fn config(&self, context: Option<u32>) -> Value {
        let Specials { bos, eos, unknown, pad, .. } = self.specials;
        let named = [("bos", bos), ("eos", eos), ("unk", unknown), ("pad", pad)];
        let mut config = Map::new();
        for (name, token) in named {
            if let Some(token) = token.and_then(|id| self.vocabulary.text(id)) {
                config.insert(format!("{name}_token"), json!(token));
            }
        }
        config.insert("add_bos_token".into(), json!(self.begins));
        config.insert("add_eos_token".into(), json!(self.ends));
        config.insert("clean_up_tokenization_spaces".into(), json!(false));
        config.insert("model_max_length".into(), json!(context));
        config.insert("tokenizer_class".into(), json!("PreTrainedTokenizerFast"));
        Value::Object(config)
    }

    fn json(&self) -> String {
        let Self { vocabulary, model, .. } = self;
        let kept = |id: &u32| !vocabulary.is_filler(*id);
        let tokens = || (0u32..).zip(&vocabulary.tokens).filter(move |(id, _)| kept(id));
        let unknown = self.specials.unknown.filter(|_| model.fallback);
        let document = Document {
            version: "1.0",
            truncation: None,
            padding: None,
            added_tokens: tokens().filter_map(added).collect(),
            normalizer: &self.normalizer,
            pre_tokenizer: &self.pre_tokenizer,
            post_processor: self.template(),
            decoder: &self.decoder,
            model: Model {
                kind: "BPE",
                dropout: None,
                unk_token: unknown.and_then(|id| vocabulary.text(id)),
                continuing_subword_prefix: None,
                end_of_word_suffix: None,
                fuse_unk: model.fallback,
                byte_fallback: model.fallback,
                ignore_merges: model.whole_words,
                vocab: ById(tokens().map(|(id, token)| (token.text.as_str(), id)).collect()),
                merges: &model.merges,
            },
        };
        // A map of texts and numbers cannot fail to be written.
        serde_json::to_string_pretty(&document).unwrap_or_default()
    }

    /// What stands around a text.
    fn template(&self) -> Value {
        let Self { specials, vocabulary, .. } = self;
        let named = |adds: bool, id: Option<u32>| {
            let id = id.filter(|_| adds)?;
            Some((vocabulary.text(id)?, id))
        };
        let (begin, end) = (named(self.begins, specials.bos), named(self.ends, specials.eos));
        let special = |kind: u8| move |(text, _): (&str, u32)| json!({"SpecialToken": {"id": text, "type_id": kind}});
        let around = |name: &str, kind: u8| {
            let middle = json!({"Sequence": {"id": name, "type_id": kind}});
            let steps = begin.map(special(kind)).into_iter().chain([middle]);
            steps.chain(end.map(special(kind))).collect::<Vec<Value>>()
        };
        let used: Map<String, Value> = begin
            .into_iter()
            .chain(end)
            .map(|(text, id)| (text.to_owned(), json!({"id": text, "ids": [id], "tokens": [text]})))
            .collect();
        let pair = [around("A", 0), around("B", 1)].concat();
        json!({"type": "TemplateProcessing", "single": around("A", 0), "pair": pair,
            "special_tokens": used})
    }
}

/// Byte-level BPE.
fn bytes(facts: &Facts<'_>, vocabulary: Vocabulary) -> Result<Tokenizer, BaseError> {
    let key = "tokenizer.ggml.pre";
    let split = Split::named(facts.text(key)?).ok_or_else(|| facts.wrong(key, Split::NAMES))?;
    let merges = merges(facts, &vocabulary)?;
    let specials = Specials::new(facts, &vocabulary, [None; 3])?;
    Ok(Tokenizer {
        specials,
        vocabulary,
        model: Merged { merges, whole_words: split.whole_words, fallback: false },
        normalizer: Value::Null,
        pre_tokenizer: split.pre_tokenizer(),
        decoder: json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true,
            "use_regex": true}),
        begins: split.bos,
        ends: false,
    })
}

/// The merges that the file lists, in order, the first of several alike.
fn merges(facts: &Facts<'_>, vocabulary: &Vocabulary) -> Result<Vec<(String, String)>, BaseError> {
    let key = "tokenizer.ggml.merges";
    let (mut merges, mut seen) = (Vec::new(), BTreeSet::new());
    for (at, merge) in facts.texts(key)?.into_iter().enumerate() {
        // The first part may be a blank itself, as llama.cpp reads it.
        let first = merge.chars().next().map_or(0, char::len_utf8);
        let parts = merge.get(first..).and_then(|rest| rest.find(' ')).map(|cut| first + cut);
        let parts = parts.map(|cut| (&merge[..cut], &merge[cut + 1..]));
        let is_token = |text: &str| vocabulary.ids.contains_key(text);
        let sound = |(left, right): &(&str, &str)| {
            is_token(left) && is_token(right) && is_token(&format!("{left}{right}"))
        };
        let Some((left, right)) = parts.filter(sound) else {
            let expected = format!("pairs of tokens that make a token (merge {at} is {merge:?})");
            return Err(facts.wrong(key, expected));
        };
        if seen.insert((left, right)) {
            merges.push((left.to_owned(), right.to_owned()));
        }
    }
    Ok(merges)
}

/// SentencePiece's BPE: what is no token falls back to its bytes.
fn pieces(facts: &Facts<'_>, vocabulary: Vocabulary) -> Result<Tokenizer, BaseError> {
    let byte = |byte: u8| format!("<0x{byte:02X}>");
    if let Some(missing) = (0..=255).map(byte).find(|text| !vocabulary.ids.contains_key(text)) {
        let expected = format!("a vocabulary with a token for every byte ({missing} is not there)");
        return Err(facts.wrong("tokenizer.ggml.tokens", expected));
    }
    let merges = scored(facts, &vocabulary)?;
    let specials = Specials::new(facts, &vocabulary, [Some(1), Some(2), Some(0)])?;
    let prefix = facts.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": BLANK});
    let prepend = json!({"type": "Prepend", "prepend": BLANK});
    let strip = json!({"type": "Strip", "content": " ", "start": 1, "stop": 0});
    let back = json!({"type": "Replace", "pattern": {"String": BLANK}, "content": " "});
    let steps = [Some(back), Some(json!({"type": "ByteFallback"})), Some(json!({"type": "Fuse"}))];
    let steps: Vec<Value> = steps.into_iter().chain([prefix.then_some(strip)]).flatten().collect();
    let normalizers: Vec<Value> = prefix.then_some(prepend).into_iter().chain([replace]).collect();
    Ok(Tokenizer {
        specials,
        vocabulary,
        model: Merged { merges, whole_words: false, fallback: true },
        normalizer: json!({"type": "Sequence", "normalizers": normalizers}),
        pre_tokenizer: Value::Null,
        decoder: json!({"type": "Sequence", "decoders": steps}),
        begins: true,
        ends: false,
    })
}

/// Every way in which two tokens make a third, the third of the highest score first.
fn scored(facts: &Facts<'_>, vocabulary: &Vocabulary) -> Result<Vec<(String, String)>, BaseError> {
    let key = "tokenizer.ggml.scores";
    let count = vocabulary.tokens.len();
    let scores = facts.get(key).and_then(|value| value.floats());
    let scores = scores.filter(|scores| scores.len() >= count);
    let scores = scores.ok_or_else(|| facts.wrong(key, format!("{count} numbers")))?;
    let mut merges = Vec::new();
    let mut ranks: Vec<f64> = Vec::new();
    for (token, &score) in vocabulary.tokens.iter().zip(&scores) {
        let text = token.text.as_str();
        let cuts = text.char_indices().skip(1).map(|(at, _)| text.split_at(at));
        let is_token = |text: &str| vocabulary.ids.contains_key(text);
        let before = merges.len();
        merges.extend(
            cuts.filter(|(left, right)| is_token(left) && is_token(right))
                .map(|(left, right)| (score, left, right)),
        );
        if merges.len() > before && token.kind == Kind::Normal {
            ranks.push(score);
        }
    }
    // Published vocabularies have a few pairs of one score, such as two and four blanks; a converter that
    // had no scores gives all tokens the same, and then nothing says what is merged first.
    let made = ranks.len();
    ranks.sort_by(f64::total_cmp);
    ranks.dedup();
    if ranks.len() < made / 2 {
        let expected = format!("scores that differ ({made} tokens are made by {})", ranks.len());
        return Err(facts.wrong(key, expected));
    }
    // Of two ways to the same token the one with more on its left: in a run of blanks, the leftmost.
    let width = |text: &str| text.chars().count();
    merges.sort_by(|(a, left, _), (b, other, _)| {
        b.total_cmp(a).then_with(|| width(other).cmp(&width(left)))
    });
    let owned = |(_, left, right): (f64, &str, &str)| (left.to_owned(), right.to_owned());
    Ok(merges.into_iter().map(owned).collect())
}

/// A token that is found in a text before anything is merged.
fn added((id, token): (u32, &Token)) -> Option<Added<'_>> {
    let special = match token.kind {
        Kind::Control | Kind::Unknown => true,
        Kind::UserDefined => false,
        Kind::Normal | Kind::Unused | Kind::Byte => return None,
    };
    Some(Added {
        id,
        content: &token.text,
        single_word: false,
        lstrip: false,
        rstrip: false,
        normalized: false,
        special,
    })
}

/// JSON as people read it.
fn text(value: &Value) -> String {
    format!("{value:#}\n")
}

#[derive(Serialize)]
struct Document<'a> {
    version: &'static str,
    truncation: Option<()>,
    padding: Option<()>,
    added_tokens: Vec<Added<'a>>,
    normalizer: &'a Value,
    pre_tokenizer: &'a Value,
    post_processor: Value,
    decoder: &'a Value,
    model: Model<'a>,
}

#[derive(Serialize)]
struct Added<'a> {
    id: u32,
    content: &'a str,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    normalized: bool,
    special: bool,
}

#[derive(Serialize)]
struct Model<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    dropout: Option<f32>,
    unk_token: Option<&'a str>,
    continuing_subword_prefix: Option<&'a str>,
    end_of_word_suffix: Option<&'a str>,
    fuse_unk: bool,
    byte_fallback: bool,
    ignore_merges: bool,
    vocab: ById<'a>,
    merges: &'a [(String, String)],
}

/// Tokens in the order of their ids.
struct ById<'a>(Vec<(&'a str, u32)>);

impl Serialize for ById<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().copied())
    }
}

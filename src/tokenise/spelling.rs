//! What each token stands for in a text, in bytes.

use super::TokeniseError;
use serde_json::Value;
use std::collections::BTreeMap;
use tokenizers::Tokenizer;

/// What a token stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spelling {
    /// Bytes of a text; a character may need those of several tokens.
    Text(Vec<u8>),
    /// No text: a mark of this name.
    Special(String),
    /// Nothing: no token has this id.
    None,
}

/// How a decoder makes bytes of the names of tokens.
enum Kind {
    /// Every byte is a character of its own: GPT-2's table.
    Bytes(BTreeMap<char, u8>),
    /// Names are text, but `<0xE9>` is a byte and this character a blank.
    Text { blank: Option<char> },
}

/// The spellings of a tokenizer by id.
pub(super) fn of(tokenizer: &Tokenizer) -> Result<Vec<Spelling>, TokeniseError> {
    let kind = kind(tokenizer)?;
    let vocab: BTreeMap<String, u32> = tokenizer.get_vocab(true).into_iter().collect();
    let count = vocab.values().max().map_or(0, |highest| *highest as usize + 1);
    let added = tokenizer.get_added_tokens_decoder();
    let mut spellings = vec![Spelling::None; count];
    for (name, id) in vocab {
        let spelling = match added.get(&id) {
            Some(token) if token.special => Spelling::Special(token.content.clone()),
            Some(token) => Spelling::Text(token.content.clone().into_bytes()),
            None => Spelling::Text(kind.bytes(&name)),
        };
        if let Some(place) = spellings.get_mut(id as usize) {
            *place = spelling;
        }
    }
    Ok(spellings)
}

impl Kind {
    fn bytes(&self, name: &str) -> Vec<u8> {
        match self {
            Self::Bytes(table) => {
                let known: Option<Vec<u8>> = name.chars().map(|c| table.get(&c).copied()).collect();
                known.unwrap_or_else(|| name.as_bytes().to_vec())
            }
            Self::Text { blank } => {
                let hex = name.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
                let byte = hex.filter(|hex| hex.len() == 2).map(|hex| u8::from_str_radix(hex, 16));
                match (byte, blank) {
                    (Some(Ok(byte)), _) => vec![byte],
                    (_, Some(blank)) => name.replace(*blank, " ").into_bytes(),
                    (_, None) => name.as_bytes().to_vec(),
                }
            }
        }
    }
}

/// Read off the decoder's own description, since its parts are closed.
fn kind(tokenizer: &Tokenizer) -> Result<Kind, TokeniseError> {
    let decoder = tokenizer.get_decoder().map(serde_json::to_value);
    let decoder = decoder.and_then(Result::ok).unwrap_or_default();
    let parts: Vec<&Value> = match decoder.get("decoders").and_then(Value::as_array) {
        Some(parts) => parts.iter().collect(),
        None => vec![&decoder],
    };
    let is = |part: &&Value, kind: &str| part.get("type").is_some_and(|found| found == kind);
    let find = |kind: &str| parts.iter().find(|part| is(part, kind));
    if find("ByteLevel").is_some() {
        return Ok(Kind::Bytes(table()));
    }
    let known = ["ByteFallback", "Fuse", "Replace", "Metaspace", "Strip"];
    let spelled = find("ByteFallback").or(find("Metaspace"));
    let other = parts.iter().find(|part| !known.iter().any(|kind| is(part, kind)));
    if let (Some(_), None) = (spelled, other) {
        let replaced = find("Replace").filter(|part| part["content"] == " ");
        let blank = replaced.map(|part| &part["pattern"]["String"]);
        let blank = blank.or(find("Metaspace").map(|part| &part["replacement"]));
        return Ok(Kind::Text {
            blank: blank.and_then(Value::as_str).and_then(|s| s.chars().next()),
        });
    }
    let name = other.and_then(|part| part.get("type")).and_then(Value::as_str).unwrap_or("none");
    Err(TokeniseError::Decoder { decoder: name.to_owned() })
}

/// GPT-2's characters for bytes: those that can be seen for themselves, the others from U+0100 on.
fn table() -> BTreeMap<char, u8> {
    let (mut table, mut next) = (BTreeMap::new(), 0x100);
    for byte in 0..=255u8 {
        let seen = matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
        let letter = if seen { Some(char::from(byte)) } else { char::from_u32(next) };
        next += u32::from(!seen);
        table.extend(letter.map(|letter| (letter, byte)));
    }
    table
}

//! A value of a GGUF file's metadata: as many bytes as in the file, decoded when it is asked for.
//!
//! - Invariant: the bytes are as many as the kind needs, texts are UTF-8, flags are 0 or 1.

use super::cursor::{Cursor, Fault};
use std::fmt;
use std::io::Read;

/// What a value is made of, by GGUF's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Flag,
    Text,
    Array,
    U64,
    I64,
    F64,
}

const KINDS: [Kind; 13] = [
    Kind::U8,
    Kind::I8,
    Kind::U16,
    Kind::I16,
    Kind::U32,
    Kind::I32,
    Kind::F32,
    Kind::Flag,
    Kind::Text,
    Kind::Array,
    Kind::U64,
    Kind::I64,
    Kind::F64,
];

impl Kind {
    /// Bytes of a number; of a text, those of its length, which it has at least.
    fn bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Flag => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 | Self::Array => 4,
            Self::U64 | Self::I64 | Self::F64 | Self::Text => 8,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::F32 | Self::F64 => "numbers",
            Self::Flag => "flags",
            Self::Text => "texts",
            _ => "whole numbers",
        }
    }

    /// A whole number of this kind.
    fn integer(self, bytes: &[u8]) -> Option<i128> {
        let mut eight = [0; 8];
        eight.get_mut(..bytes.len())?.copy_from_slice(bytes);
        let unsigned = u64::from_le_bytes(eight);
        match self {
            Self::U8 | Self::U16 | Self::U32 | Self::U64 => Some(i128::from(unsigned)),
            Self::I8 => Some(i128::from(unsigned as i8)),
            Self::I16 => Some(i128::from(unsigned as i16)),
            Self::I32 => Some(i128::from(unsigned as i32)),
            Self::I64 => Some(i128::from(unsigned as i64)),
            _ => None,
        }
    }

    /// A number with a fraction.
    fn float(self, bytes: &[u8]) -> Option<f64> {
        match self {
            // The shortest decimal of the f32, which is what its writer meant: 1e-5, not 9.99e-6.
            Self::F32 => f32::from_le_bytes(bytes.try_into().ok()?).to_string().parse().ok(),
            Self::F64 => Some(f64::from_le_bytes(bytes.try_into().ok()?)),
            _ => None,
        }
    }
}

/// One value, or an array of them.
#[derive(Clone, Debug)]
pub struct Value {
    kind: Kind,
    /// Elements of an array; none for a single value.
    count: Option<u64>,
    bytes: Vec<u8>,
}

impl Value {
    /// The next value of a header.
    pub(super) fn read<R: Read>(cursor: &mut Cursor<R>) -> Result<Self, Fault> {
        let kind = kind(cursor)?;
        let (kind, count) = match kind {
            Kind::Array => {
                let at = cursor.at();
                let element = self::kind(cursor)?;
                if element == Kind::Array {
                    return cursor.lie(at, "an array of arrays, which no reader takes");
                }
                (element, Some(cursor.eight("an array's length")?))
            }
            single => (single, None),
        };
        let (at, elements) = (cursor.at(), count.unwrap_or(1));
        cursor.room(elements, kind.bytes() as u64, "an array")?;
        let bytes = match kind {
            Kind::Text => texts(cursor, elements)?,
            _ => cursor.take(elements * kind.bytes() as u64, "a value")?,
        };
        if kind == Kind::Flag && bytes.iter().any(|&byte| byte > 1) {
            return cursor.lie(at, "a flag that is neither 0 nor 1");
        }
        Ok(Self { kind, count, bytes })
    }

    /// A single text, for a header that is made here.
    pub fn from_text(text: &str) -> Self {
        let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
        bytes.extend(text.as_bytes());
        Self { kind: Kind::Text, count: None, bytes }
    }

    /// A single flag, for a header that is made here.
    pub fn from_flag(flag: bool) -> Self {
        Self { kind: Kind::Flag, count: None, bytes: vec![u8::from(flag)] }
    }

    /// A single whole number.
    pub fn integer(&self) -> Option<i128> {
        self.single().and_then(|bytes| self.kind.integer(bytes))
    }

    /// A single number, whole or not.
    pub fn float(&self) -> Option<f64> {
        let bytes = self.single()?;
        self.kind.float(bytes).or_else(|| self.kind.integer(bytes).map(|whole| whole as f64))
    }

    /// A single flag.
    pub fn flag(&self) -> Option<bool> {
        self.single().filter(|_| self.kind == Kind::Flag).map(|bytes| bytes == [1])
    }

    /// A single text.
    pub fn text(&self) -> Option<&str> {
        self.single().filter(|_| self.kind == Kind::Text)?;
        Texts(&self.bytes).next()
    }

    /// An array of texts.
    pub fn texts(&self) -> Option<impl Iterator<Item = &str>> {
        (self.count.is_some() && self.kind == Kind::Text).then(|| Texts(&self.bytes))
    }

    /// An array of whole numbers.
    pub fn integers(&self) -> Option<Vec<i128>> {
        self.numbers(Kind::integer)
    }

    /// An array of numbers, whole or not.
    pub fn floats(&self) -> Option<Vec<f64>> {
        self.numbers(|kind, bytes| {
            kind.float(bytes).or_else(|| kind.integer(bytes).map(|whole| whole as f64))
        })
    }

    fn numbers<N>(&self, decode: impl Fn(Kind, &[u8]) -> Option<N>) -> Option<Vec<N>> {
        self.count.filter(|_| self.kind != Kind::Text)?;
        self.bytes.chunks(self.kind.bytes()).map(|bytes| decode(self.kind, bytes)).collect()
    }

    fn single(&self) -> Option<&[u8]> {
        self.count.is_none().then_some(&self.bytes)
    }
}

impl fmt::Display for Value {
    /// In a few words, whatever it holds.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(count) = self.count {
            return write!(formatter, "a list of {count} {}", self.kind.word());
        }
        if let Some(text) = self.text() {
            let short: String = text.chars().take(60).collect();
            return write!(formatter, "{short:?}{}", if short == text { "" } else { "..." });
        }
        match (self.flag(), self.integer(), self.float()) {
            (Some(flag), ..) => write!(formatter, "{flag}"),
            (_, Some(whole), _) => write!(formatter, "{whole}"),
            (.., number) => write!(formatter, "{}", number.unwrap_or(f64::NAN)),
        }
    }
}

/// Texts one after the other, each behind its length.
struct Texts<'a>(&'a [u8]);

impl<'a> Iterator for Texts<'a> {
    type Item = &'a str;
    fn next(&mut self) -> Option<&'a str> {
        let (length, rest) = self.0.split_first_chunk::<8>()?;
        let (text, rest) = rest.split_at_checked(u64::from_le_bytes(*length) as usize)?;
        self.0 = rest;
        std::str::from_utf8(text).ok()
    }
}

fn kind<R: Read>(cursor: &mut Cursor<R>) -> Result<Kind, Fault> {
    let at = cursor.at();
    let number = cursor.four("a value's type")?;
    match KINDS.get(number as usize) {
        Some(kind) => Ok(*kind),
        None => cursor.lie(at, format!("a value of type {number}, expected 0 to 12")),
    }
}

/// `count` texts, each with its length, as they lie.
fn texts<R: Read>(cursor: &mut Cursor<R>, count: u64) -> Result<Vec<u8>, Fault> {
    let mut bytes = Vec::new();
    for _ in 0..count {
        let at = cursor.at();
        let length = cursor.eight("a text's length")?;
        let text = cursor.take(length, "a text")?;
        if std::str::from_utf8(&text).is_err() {
            return cursor.lie(at, "a text that is not UTF-8");
        }
        bytes.extend(length.to_le_bytes());
        bytes.extend(text);
    }
    Ok(bytes)
}

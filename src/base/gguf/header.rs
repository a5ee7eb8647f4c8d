//! The header of a GGUF file: its metadata, and which tensor lies where.
//!
//! - In: a reader and the length of its file. Out: [`Header`], or [`Fault`] with the byte and the reason.
//! - Versions 2 and 3, little endian; every other is refused by its name.
//! - Invariant: keys and names are there once; each tensor is of an [`Encoding`], whole, aligned, inside
//!   the file, and shares no byte with another.
//!
//! Source: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use super::cursor::{Cursor, Fault};
use super::encoding::Encoding;
use super::value::Value;
use std::collections::BTreeMap;
use std::io::Read;

/// Most keys of the metadata.
const KEYS_MAX: u64 = 1 << 16;
/// Most tensors.
const TENSORS_MAX: u64 = 1 << 17;
/// Longest key, as the format has it.
const KEY_BYTES_MAX: u64 = u16::MAX as u64;
/// Longest name of a tensor, as llama.cpp has it.
const NAME_BYTES_MAX: u64 = 64;
/// Axes of a tensor, as llama.cpp has them.
const AXES_MAX: u32 = 4;
/// Largest alignment, far above any that is used.
const ALIGNMENT_MAX: u64 = 1 << 20;
/// Where tensors begin unless the metadata says otherwise.
const ALIGNMENT: u64 = 32;

/// A tensor in the file.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Sizes of the axes, innermost first, as the file has them.
    pub shape: Vec<usize>,
    /// How its numbers are written.
    pub encoding: Encoding,
    /// First byte in the file.
    pub offset: u64,
    /// Bytes in the file.
    pub bytes: u64,
}

/// What a GGUF file says before its numbers.
#[derive(Clone, Debug)]
pub struct Header {
    /// The metadata by key.
    pub values: BTreeMap<String, Value>,
    /// The tensors by name.
    pub tensors: BTreeMap<String, Tensor>,
}

impl Header {
    /// Reads a header from the beginning of a file of `length` bytes.
    /// # Errors
    /// [`Fault`].
    pub fn read<R: Read>(source: R, length: u64) -> Result<Self, Fault> {
        let mut cursor = Cursor::new(source, length);
        version(&mut cursor)?;
        let tensors = cursor.eight("the number of tensors")?;
        let keys = cursor.eight("the number of keys")?;
        if tensors > TENSORS_MAX || keys > KEYS_MAX {
            let what = format!(
                "{tensors} tensors and {keys} keys, expected at most {TENSORS_MAX} and {KEYS_MAX}"
            );
            return cursor.lie(8, what);
        }
        let mut values = BTreeMap::new();
        for _ in 0..keys {
            let at = cursor.at();
            let key = cursor.text(KEY_BYTES_MAX, "a key")?;
            let value = Value::read(&mut cursor)?;
            if values.insert(key.clone(), value).is_some() {
                return cursor.lie(at, format!("the key {key:?} a second time"));
            }
        }
        let alignment = alignment(&cursor, values.get("general.alignment"))?;
        let tensors = self::tensors(&mut cursor, tensors, alignment)?;
        Ok(Self { values, tensors: placed(&cursor, tensors, alignment, length)? })
    }
}

fn version<R: Read>(cursor: &mut Cursor<R>) -> Result<(), Fault> {
    let magic = cursor.four("the word GGUF")?.to_le_bytes();
    if &magic != b"GGUF" {
        let found = String::from_utf8_lossy(&magic).into_owned();
        return cursor.lie(0, format!("it begins with {found:?}, expected \"GGUF\""));
    }
    match cursor.four("the version")? {
        2 | 3 => Ok(()),
        big if matches!(big.swap_bytes(), 1..=3) => cursor
            .lie(4, format!("version {} in big endian, expected little endian", big.swap_bytes())),
        other => cursor.lie(4, format!("version {other}, expected 2 or 3")),
    }
}

fn alignment<R: Read>(cursor: &Cursor<R>, said: Option<&Value>) -> Result<u64, Fault> {
    let Some(said) = said else { return Ok(ALIGNMENT) };
    let fits = |&number: &u64| number.is_power_of_two() && number <= ALIGNMENT_MAX;
    match said.integer().and_then(|number| u64::try_from(number).ok()).filter(fits) {
        Some(number) => Ok(number),
        None => {
            let expected = format!("a power of two of at most {ALIGNMENT_MAX}");
            cursor.lie(cursor.at(), format!("`general.alignment` of {said}, expected {expected}"))
        }
    }
}

/// The tensors as they are listed, their offsets from the beginning of the data.
fn tensors<R: Read>(
    cursor: &mut Cursor<R>,
    count: u64,
    alignment: u64,
) -> Result<BTreeMap<String, (u64, Tensor)>, Fault> {
    let mut tensors = BTreeMap::new();
    for _ in 0..count {
        let at = cursor.at();
        let name = cursor.text(NAME_BYTES_MAX, "a tensor's name")?;
        let shape = shape(cursor, &name)?;
        let number = cursor.four("a tensor's type")?;
        let encoding = match Encoding::numbered(number) {
            Ok(encoding) => encoding,
            Err(other) => {
                let expected = Encoding::names();
                return cursor.lie(at, format!("tensor {name:?} is {other}, expected {expected}"));
            }
        };
        let Some(bytes) = encoding.bytes(&shape) else {
            let what = format!(
                "tensor {name:?} of shape {shape:?} is not made of whole blocks of {} or too large",
                encoding.name()
            );
            return cursor.lie(at, what);
        };
        let offset = cursor.eight("a tensor's offset")?;
        if !offset.is_multiple_of(alignment) {
            let what = format!("tensor {name:?} at {offset}, expected a multiple of {alignment}");
            return cursor.lie(at, what);
        }
        let tensor = Tensor { shape, encoding, offset, bytes };
        if tensors.insert(name.clone(), (at, tensor)).is_some() {
            return cursor.lie(at, format!("tensor {name:?} a second time"));
        }
    }
    Ok(tensors)
}

fn shape<R: Read>(cursor: &mut Cursor<R>, name: &str) -> Result<Vec<usize>, Fault> {
    let at = cursor.at();
    let axes = cursor.four("a tensor's axes")?;
    if !(1..=AXES_MAX).contains(&axes) {
        return cursor
            .lie(at, format!("tensor {name:?} with {axes} axes, expected 1 to {AXES_MAX}"));
    }
    let mut shape = Vec::new();
    for _ in 0..axes {
        let width = cursor.eight("an axis")?;
        match usize::try_from(width) {
            Ok(width) if width > 0 => shape.push(width),
            _ => return cursor.lie(at, format!("tensor {name:?} with an axis of {width}")),
        }
    }
    Ok(shape)
}

/// The tensors with their places in the file, each inside it and apart from the others.
fn placed<R: Read>(
    cursor: &Cursor<R>,
    mut tensors: BTreeMap<String, (u64, Tensor)>,
    alignment: u64,
    length: u64,
) -> Result<BTreeMap<String, Tensor>, Fault> {
    let start = cursor.at().next_multiple_of(alignment);
    for (name, (at, tensor)) in &mut tensors {
        let end = start.checked_add(tensor.offset).and_then(|from| from.checked_add(tensor.bytes));
        if end.is_none_or(|end| end > length) {
            let Tensor { offset, bytes, .. } = tensor;
            let what = format!(
                "tensor {name:?} needs {bytes} bytes from {start} + {offset}, the file has {length}; it is cut off"
            );
            return cursor.lie(*at, what);
        }
        tensor.offset += start;
    }
    let mut order: Vec<_> = tensors.iter().collect();
    order.sort_by_key(|(_, (_, tensor))| tensor.offset);
    for pair in order.windows(2) {
        let [(first, (_, before)), (second, (at, after))] = pair else { continue };
        if before.offset + before.bytes > after.offset {
            return cursor.lie(*at, format!("tensors {first:?} and {second:?} share bytes"));
        }
    }
    Ok(tensors.into_iter().map(|(name, (_, tensor))| (name, tensor)).collect())
}

//! Bytes that must be text.

use super::IntakeError;
use crate::settings::FILE_BYTES_MAX;
use std::io::Read;
use std::path::Path;

/// All bytes as text: not empty, not binary, within the limit, without a byte-order mark.
pub(super) fn text_of(reader: impl Read, name: &str) -> Result<String, IntakeError> {
    let mut bytes = Vec::new();
    let source = reader.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes);
    source.map_err(|source| IntakeError::Read { name: name.to_owned(), source })?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(IntakeError::TooLarge { name: name.to_owned() });
    }
    let nul = bytes.iter().position(|&byte| byte == 0).map(|at| (at, "NUL byte"));
    let foreign = std::str::from_utf8(&bytes).err();
    let foreign = foreign.map(|error| (error.valid_up_to(), "byte that is not UTF-8"));
    if let Some((at, got)) = nul.into_iter().chain(foreign).min() {
        let line = 1 + bytes.iter().take(at).filter(|&&byte| byte == b'\n').count();
        return Err(IntakeError::Binary { name: name.to_owned(), line, got });
    }
    let mut text = String::from_utf8(bytes).unwrap_or_default();
    if text.starts_with('\u{feff}') {
        text.remove(0);
    }
    if text.trim().is_empty() {
        return Err(IntakeError::Empty { name: name.to_owned() });
    }
    Ok(text)
}

pub(super) fn unreadable(path: &Path, source: std::io::Error) -> IntakeError {
    IntakeError::Read { name: path.display().to_string(), source }
}

//! What a file of the fleet's folder is wrapped in: a line in front that says what it is.
//!
//! ```text
//! sapwood-fleet KIND VERSION BYTES BLAKE3\n  then so many bytes
//! ```
//! - In: bytes as they were found. Out: the bytes behind the line, when kind, version, length and
//!   checksum hold; a later version is refused by a line with both.

use super::error::StoreError;
use sapwood_protocol::fleet::id::Hash;

const MAGIC: &str = "sapwood-fleet";
/// Bytes of the line, at most.
const LINE_BYTES_MAX: usize = 160;

/// What a file is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    /// Its name, and the file's.
    pub(super) name: &'static str,
    /// The version that this program writes, and the only one that it reads.
    pub(super) version: u32,
    /// Most bytes behind the line.
    pub(super) bytes_max: usize,
}

impl Kind {
    /// The bytes of a file.
    pub(super) fn seal(self, body: &[u8]) -> Vec<u8> {
        let (Self { name, version, .. }, hash) = (self, Hash::of(body));
        let line = format!("{MAGIC} {name} {version} {} {hash}\n", body.len());
        [line.as_bytes(), body].concat()
    }

    /// What lies behind the line.
    pub(super) fn open(self, bytes: &[u8]) -> Result<&[u8], StoreError> {
        let file = self.name;
        let damaged = |problem| StoreError::Damaged { file, problem };
        let head = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
        let end = head.iter().position(|byte| *byte == b'\n');
        let end = end.ok_or_else(|| damaged("expected a line that says what it is"))?;
        let line = std::str::from_utf8(&bytes[..end]);
        let words: Vec<&str> = line.unwrap_or_default().split(' ').collect();
        let &[magic, name, version, length, hash] = words.as_slice() else {
            return Err(damaged("expected its name, version, length and hash"));
        };
        if (magic, name) != (MAGIC, file) {
            return Err(damaged("it is another file"));
        }
        match version.parse::<u32>() {
            Ok(version) if version == self.version => {}
            _ => {
                let got = version.chars().take(16).collect();
                return Err(StoreError::Version { file, expected: self.version, got });
            }
        }
        let body = &bytes[end + 1..];
        if length.parse() != Ok(body.len()) || body.len() > self.bytes_max {
            return Err(damaged("it has another length"));
        }
        match hash.parse::<Hash>() == Ok(Hash::of(body)) {
            true => Ok(body),
            false => Err(damaged("its bytes have another hash")),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    const KIND: Kind = Kind { name: "book", version: 1, bytes_max: 100 };

    #[test]
    fn what_was_sealed_is_opened_and_every_changed_byte_is_found() {
        let sealed = KIND.seal(b"{\"a\":1}");
        assert_eq!(KIND.open(&sealed).unwrap(), b"{\"a\":1}");
        for at in 0..sealed.len() {
            let mut other = sealed.clone();
            other[at] ^= 1;
            assert!(KIND.open(&other).is_err(), "byte {at}");
            assert!(KIND.open(&sealed[..at]).is_err(), "cut at {at}");
        }
        assert!(KIND.open(&[&sealed[..], b" "].concat()).is_err());
        assert!(KIND.open(&KIND.seal(&[b'x'; 101])).is_err());
    }

    #[test]
    fn a_later_version_is_refused_by_a_line_with_both() {
        let later = Kind { version: 2, ..KIND }.seal(b"{}");
        let said = KIND.open(&later).unwrap_err().to_string();
        assert!(said.contains("version 2, expected 1"), "{said}");
    }
}

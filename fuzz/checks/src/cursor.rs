//! Choices taken from a fuzzer's bytes: the same bytes are always the same choices.
//!
//! - In: bytes. Out: numbers below a bound, and parts; zeros once the bytes are used up.

/// What stands between the files of an input with several of them.
pub const BETWEEN: &[u8] = b"\n%%\n";

/// Bytes that are read from the front.
pub struct Cursor<'a>(pub &'a [u8]);

impl<'a> Cursor<'a> {
    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// The next four bytes as a number.
    pub fn number(&mut self) -> u32 {
        u32::from_le_bytes([self.byte(), self.byte(), self.byte(), self.byte()])
    }

    /// A number below `bound`, of two bytes; 0 when there is none.
    pub fn below(&mut self, bound: usize) -> usize {
        let number = usize::from(u16::from_le_bytes([self.byte(), self.byte()]));
        number.checked_rem(bound).unwrap_or(0)
    }

    /// Up to `length` of the next bytes.
    pub fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Whether all bytes are used up.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The first `count - 1` parts between [`BETWEEN`], and all the rest as the last; missing ones are empty.
pub fn parts<const COUNT: usize>(bytes: &[u8]) -> [&[u8]; COUNT] {
    let mut parts = [&[][..]; COUNT];
    let mut rest = bytes;
    for (at, part) in parts.iter_mut().enumerate() {
        let end = rest.windows(BETWEEN.len()).position(|window| window == BETWEEN);
        match end.filter(|_| at + 1 < COUNT) {
            Some(end) => (*part, rest) = (&rest[..end], &rest[end + BETWEEN.len()..]),
            None => (*part, rest) = (rest, &[]),
        }
    }
    parts
}

/// Parts as one input.
pub fn joined(parts: &[&[u8]]) -> Vec<u8> {
    parts.join(BETWEEN)
}

/// Changes bytes as the cursor says: written over, copied, cut, made longer; at most 64 times.
pub fn edit(bytes: &mut Vec<u8>, cursor: &mut Cursor<'_>, length_max: usize) {
    for _ in 0..64 {
        if cursor.is_empty() || bytes.is_empty() {
            return;
        }
        let (kind, at) = (cursor.byte(), cursor.number() as usize % bytes.len());
        let rest = bytes.len() - at;
        match kind % 5 {
            0 => bytes[at] ^= cursor.byte(),
            1 => {
                let length = usize::from(cursor.byte() % 16).min(rest);
                let new = cursor.take(length);
                bytes[at..at + new.len()].copy_from_slice(new);
            }
            2 => {
                let (from, length) = (cursor.below(bytes.len()), usize::from(cursor.byte()));
                let length = length.min(rest).min(bytes.len() - from);
                bytes.copy_within(from..from + length, at);
            }
            3 => bytes.truncate(at),
            _ => bytes.resize((bytes.len() + cursor.below(4096)).min(length_max), 0),
        }
    }
}

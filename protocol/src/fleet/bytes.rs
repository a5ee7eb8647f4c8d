//! Fields one after the other, little-endian.
//!
//! - In: bytes whose length was compared before. Out: their fields in order.

/// Bytes that are read from the front; fields beyond the end are zeros.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl Fields<'_> {
    pub(super) fn take<const N: usize>(&mut self) -> [u8; N] {
        let (field, rest) = self.0.split_at(N.min(self.0.len()));
        self.0 = rest;
        let mut bytes = [0; N];
        bytes[..field.len()].copy_from_slice(field);
        bytes
    }

    pub(super) fn byte(&mut self) -> u8 {
        self.take::<1>()[0]
    }

    pub(super) fn short(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    pub(super) fn long(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
}

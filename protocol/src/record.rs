//! The header in front of every record we write: magic, version, kind, generation, length, digest.
//!
//! - In: 64 bytes that may come from anywhere. Out: a [`Header`] whose own checksum holds.
//! - Two checks: CRC-32C covers the header itself; the digest in it, BLAKE3 of the payload, is made
//!   and compared by whoever owns the payload, so that this crate needs no hash of its own.
//! - Invariant: a [`Header`] read back was written whole, by a version that this one understands.

use crate::limits::RECORD_HEADER_BYTES;

/// First bytes of every record.
pub const MAGIC: [u8; 8] = *b"SAPWOOD\n";
const CHECKED_BYTES: usize = RECORD_HEADER_BYTES - 4;

/// What a record holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Kind {
    /// The geometry at the head of a reservoir's file.
    Reservoir = 1,
    /// One block in a reservoir's file.
    Slot = 2,
    /// What is current in a state folder.
    Manifest = 3,
    /// What a learner must know to go on from a commit.
    Learner = 4,
    /// The same in the middle of a job, with the reservoir's staged blocks.
    Checkpoint = 5,
    /// Samples that were acknowledged together.
    Batch = 6,
    /// Hashes of the last samples.
    Seen = 7,
    /// Which samples a job under way learns.
    Job = 8,
    /// A sample that was set aside, and why.
    Aside = 9,
    /// Texts that a base wrote itself.
    OwnTexts = 10,
}

impl Kind {
    const ALL: [Self; 10] = [
        Self::Reservoir,
        Self::Slot,
        Self::Manifest,
        Self::Learner,
        Self::Checkpoint,
        Self::Batch,
        Self::Seen,
        Self::Job,
        Self::Aside,
        Self::OwnTexts,
    ];

    fn of(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u16 == number)
    }

    /// The version of its format that this program writes; it reads this one and all before.
    pub const fn version(self) -> u16 {
        match self {
            Self::Manifest => 7,
            Self::Checkpoint => 5,
            Self::Learner => 4,
            Self::Slot => 3,
            Self::Reservoir | Self::Job => 2,
            _ => 1,
        }
    }
}

/// The head of a record, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the record holds.
    pub kind: Kind,
    /// Version of its format, from 1.
    pub version: u16,
    /// The commit, or the job that leads to it, that the record belongs to.
    pub generation: u64,
    /// Bytes of the payload that follows.
    pub length: u64,
    /// BLAKE3 of the payload.
    pub digest: [u8; 32],
}

/// Why 64 bytes are not the head of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Too few bytes for a header.
    #[error("record ends inside its header: expected {RECORD_HEADER_BYTES} bytes, got {got}")]
    Short {
        /// How many bytes there were.
        got: usize,
    },
    /// Not a file of ours.
    #[error("not a Sapwood record: expected magic {MAGIC:02x?}, got {got:02x?}")]
    Magic {
        /// The first eight bytes.
        got: [u8; 8],
    },
    /// Damaged, or written in part.
    #[error("record header is damaged: expected checksum {expected:08x}, got {got:08x}")]
    Checksum {
        /// What the header's bytes give.
        expected: u32,
        /// What the header says.
        got: u32,
    },
    /// From a version that this one does not know.
    #[error("record has format version {got}; this program reads versions 1 to {newest}")]
    Version {
        /// The version in the header.
        got: u16,
        /// The newest that is known.
        newest: u16,
    },
    /// A number that stands for no kind.
    #[error("record is of unknown kind {got}")]
    UnknownKind {
        /// The number in the header.
        got: u16,
    },
    /// A sound record of another kind.
    #[error("record is of another kind: expected {expected:?}, got {got:?}")]
    Kind {
        /// The kind that was asked for.
        expected: Kind,
        /// The kind in the header.
        got: Kind,
    },
}

impl HeaderError {
    /// Whether a later version of this program wrote the record: it is sound, and not ours to change.
    pub fn is_newer(&self) -> bool {
        match *self {
            Self::Version { got, newest } => got > newest,
            Self::UnknownKind { .. } => true,
            _ => false,
        }
    }
}

/// A header as read: nothing about it is known.
#[derive(Clone, Copy, Debug)]
pub struct UncheckedHeader([u8; RECORD_HEADER_BYTES]);

impl UncheckedHeader {
    /// The first 64 bytes of a record.
    ///
    /// # Errors
    /// [`HeaderError::Short`] when there are fewer.
    pub fn read(bytes: &[u8]) -> Result<Self, HeaderError> {
        bytes
            .first_chunk::<RECORD_HEADER_BYTES>()
            .map(|head| Self(*head))
            .ok_or(HeaderError::Short { got: bytes.len() })
    }

    /// The only way to a [`Header`]: magic, checksum, version and kind all hold.
    ///
    /// # Errors
    /// [`HeaderError`] says which of them does not.
    pub fn check(self, expected: Kind) -> Result<Header, HeaderError> {
        let magic = self.field::<8>(0);
        if magic != MAGIC {
            return Err(HeaderError::Magic { got: magic });
        }
        let got = u32::from_le_bytes(self.field(CHECKED_BYTES));
        let sum = crc32c(&self.0[..CHECKED_BYTES]);
        if got != sum {
            return Err(HeaderError::Checksum { expected: sum, got });
        }
        let number = u16::from_le_bytes(self.field(10));
        let kind = Kind::of(number).ok_or(HeaderError::UnknownKind { got: number })?;
        let version = u16::from_le_bytes(self.field(8));
        if !(1..=kind.version()).contains(&version) {
            return Err(HeaderError::Version { got: version, newest: kind.version() });
        }
        if kind != expected {
            return Err(HeaderError::Kind { expected, got: kind });
        }
        Ok(Header {
            kind,
            version,
            generation: u64::from_le_bytes(self.field(12)),
            length: u64::from_le_bytes(self.field(20)),
            digest: self.field(28),
        })
    }

    /// `N` bytes from `at`; every caller's range lies inside the header.
    fn field<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.0[at..at + N]);
        bytes
    }
}

impl Header {
    /// The header's bytes, little-endian, its checksum last.
    pub fn encode(&self) -> [u8; RECORD_HEADER_BYTES] {
        let mut bytes = [0; RECORD_HEADER_BYTES];
        bytes[0..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&self.version.to_le_bytes());
        bytes[10..12].copy_from_slice(&(self.kind as u16).to_le_bytes());
        bytes[12..20].copy_from_slice(&self.generation.to_le_bytes());
        bytes[20..28].copy_from_slice(&self.length.to_le_bytes());
        bytes[28..CHECKED_BYTES].copy_from_slice(&self.digest);
        let sum = crc32c(&bytes[..CHECKED_BYTES]);
        bytes[CHECKED_BYTES..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }
}

const CRC32C: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut sum, mut bit) = (byte as u32, 0);
        while bit < 8 {
            sum = if sum & 1 == 1 { (sum >> 1) ^ 0x82f6_3b78 } else { sum >> 1 };
            bit += 1;
        }
        table[byte] = sum;
        byte += 1;
    }
    table
};

/// CRC-32C (Castagnoli) of some bytes. Source: RFC 3720, section 12.1.
pub fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(CRC32C_START, |sum, &byte| crc32c_step(sum, byte))
}

/// The state of a checksum that no byte has entered; its complement at the end is the checksum.
pub(crate) const CRC32C_START: u32 = !0;

/// The state of a checksum after one more byte.
pub(crate) fn crc32c_step(sum: u32, byte: u8) -> u32 {
    CRC32C[((sum ^ u32::from(byte)) & 0xff) as usize] ^ (sum >> 8)
}

const _: () = assert!(28 + 32 == CHECKED_BYTES, "the digest ends where the checksum begins");

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Header =
        Header { kind: Kind::Slot, version: 1, generation: 7, length: 300, digest: [9; 32] };

    /// Oracle: the check value of CRC-32C/iSCSI and the 32 zero bytes of RFC 3720, appendix B.4.
    #[test]
    fn the_checksum_is_castagnoli() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    }

    #[test]
    fn a_header_comes_back_as_it_was() {
        let read = UncheckedHeader::read(&HEADER.encode()).and_then(|head| head.check(Kind::Slot));
        assert_eq!(read, Ok(HEADER));
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        for bit in 0..RECORD_HEADER_BYTES * 8 {
            let mut bytes = HEADER.encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let read = UncheckedHeader::read(&bytes).and_then(|head| head.check(Kind::Slot));
            assert!(read.is_err(), "bit {bit}");
        }
    }

    #[test]
    fn short_later_and_foreign_records_are_refused_by_name() {
        assert_eq!(UncheckedHeader::read(&[0; 63]).err(), Some(HeaderError::Short { got: 63 }));
        let read =
            UncheckedHeader::read(&HEADER.encode()).and_then(|head| head.check(Kind::Learner));
        assert_eq!(read, Err(HeaderError::Kind { expected: Kind::Learner, got: Kind::Slot }));
        let mut later = HEADER.encode();
        let newest = Kind::Slot.version();
        later[8] = newest as u8 + 1;
        let sum = crc32c(&later[..CHECKED_BYTES]);
        later[CHECKED_BYTES..].copy_from_slice(&sum.to_le_bytes());
        let read = UncheckedHeader::read(&later).and_then(|head| head.check(Kind::Slot));
        assert_eq!(read, Err(HeaderError::Version { got: newest + 1, newest }));
    }
}

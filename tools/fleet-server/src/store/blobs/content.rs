//! The content of a blob that somebody reads: a file, or bytes where no disk takes them.

use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::sync::Arc;

/// The content of a blob, which is its own however long it is read.
#[derive(Debug)]
pub struct Content {
    from: From,
    bytes: u64,
}

#[derive(Debug)]
enum From {
    File(File),
    Memory(Cursor<Arc<[u8]>>),
}

impl Content {
    pub(super) fn of_file(file: File) -> io::Result<Self> {
        let bytes = file.metadata()?.len();
        Ok(Self { from: From::File(file), bytes })
    }

    pub(super) fn of_memory(bytes: Arc<[u8]>) -> Self {
        let length = bytes.len() as u64;
        Self { from: From::Memory(Cursor::new(bytes)), bytes: length }
    }

    /// It, and how many bytes it has.
    pub(super) fn measured(self) -> (Self, u64) {
        let bytes = self.bytes;
        (self, bytes)
    }
}

impl Read for Content {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        match &mut self.from {
            From::File(file) => file.read(to),
            From::Memory(bytes) => bytes.read(to),
        }
    }
}

impl Seek for Content {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match &mut self.from {
            From::File(file) => file.seek(to),
            From::Memory(bytes) => bytes.seek(to),
        }
    }
}

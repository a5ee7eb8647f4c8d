//! Hashes of files as they come: the door to ring's digests.

use crate::hash::Hash;
use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Bytes that are read at a time.
const SOME: usize = 1 << 18;

/// A hash on its way.
#[derive(Clone)]
pub(crate) struct Digest(Context);

impl Digest {
    /// Of the kind of `like`, for a file of `size` bytes: git hashes the length too.
    pub(crate) fn like(like: &Hash, size: u64) -> Self {
        if !like.is_git() {
            return Self(Context::new(&SHA256));
        }
        let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
        context.update(format!("blob {size}\0").as_bytes());
        Self(context)
    }

    /// Goes on with these bytes.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Goes on with a file; how many bytes it had.
    pub(crate) fn update_from(&mut self, path: &Path) -> io::Result<u64> {
        let (mut file, mut buffer, mut all) = (File::open(path)?, vec![0; SOME], 0);
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(all),
                got => {
                    self.update(&buffer[..got]);
                    all += got as u64;
                }
            }
        }
    }

    /// The digits.
    pub(crate) fn finish(self) -> String {
        self.0.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The hash of some bytes as the hub tells it: git's, or SHA-256 of a `large` file.
pub fn of(bytes: &[u8], large: bool) -> String {
    let context = match large {
        true => Context::new(&SHA256),
        false => {
            let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
            context.update(format!("blob {}\0", bytes.len()).as_bytes());
            context
        }
    };
    let mut digest = Digest(context);
    digest.update(bytes);
    digest.finish()
}

#[cfg(test)]
mod tests {
    use super::of;

    /// Oracles: `printf 'hello\n' | git hash-object --stdin` and `| sha256sum`.
    #[test]
    fn hashes_are_those_of_git_and_of_sha256sum() {
        assert_eq!(of(b"hello\n", false), "ce013625030ba8dba906f756967f9e9ca394464a");
        let large = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        assert_eq!(of(b"hello\n", true), large);
    }
}

//! An adapter on its way: hashed, checked and written while it comes.
//!
//! - In: bytes in pieces of any size. Out: nothing, or the first thing that is wrong.
//! - Nothing of it is kept before its last byte was looked at.

use crate::store::blobs::{BlobError, Blobs, Draft};
use sapwood_protocol::fleet::id::Hash;
use sapwood_protocol::fleet::update::{Finite, Header, UpdateError, header_bytes};

/// Bytes in front of the header.
const PREFIX_BYTES: usize = 8;

/// Why a file is not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum IncomingError {
    /// It is no adapter of the cohort.
    #[error(transparent)]
    Update(#[from] UpdateError),
    /// It is not kept.
    #[error(transparent)]
    Blob(#[from] BlobError),
}

/// A file that is coming in.
pub(super) struct Incoming {
    draft: Draft,
    hasher: blake3::Hasher,
    file_bytes: u64,
    /// Bytes up to the end of the header, until it is read.
    head: Vec<u8>,
    checked: Option<(Header, Finite)>,
}

impl Incoming {
    /// Before the first byte of a file of so many.
    ///
    /// # Errors
    /// [`IncomingError`] when it is longer than any adapter, or there is no place for it.
    pub(super) fn new(blobs: &Blobs, file_bytes: u64) -> Result<Self, IncomingError> {
        // With the shortest header there is: only the file's own length can be wrong.
        header_bytes(2_u64.to_le_bytes(), file_bytes)?;
        let (draft, hasher) = (blobs.draft()?, blake3::Hasher::new());
        Ok(Self { draft, hasher, file_bytes, head: Vec::new(), checked: None })
    }

    /// The next bytes. `fits`: whether a header is what was expected.
    ///
    /// # Errors
    /// [`IncomingError`].
    pub(super) fn feed(
        &mut self,
        bytes: &[u8],
        fits: impl Fn(&Header) -> Result<(), UpdateError>,
    ) -> Result<(), IncomingError> {
        self.hasher.update(bytes);
        self.draft.write(bytes)?;
        match &mut self.checked {
            Some((_, finite)) => Ok(finite.feed(bytes)?),
            None => self.head(bytes, fits),
        }
    }

    /// Bytes of which some may be of the header.
    fn head(
        &mut self,
        bytes: &[u8],
        fits: impl Fn(&Header) -> Result<(), UpdateError>,
    ) -> Result<(), IncomingError> {
        self.head.extend_from_slice(bytes);
        let Some(prefix) = self.head.first_chunk::<PREFIX_BYTES>() else { return Ok(()) };
        let end = PREFIX_BYTES + header_bytes(*prefix, self.file_bytes)?;
        let Some(json) = self.head.get(PREFIX_BYTES..end) else { return Ok(()) };
        let header = Header::read(json, self.file_bytes)?;
        fits(&header)?;
        let mut finite = Finite::new(&header);
        finite.feed(&self.head[end..])?;
        self.head = Vec::new();
        self.checked = Some((header, finite));
        Ok(())
    }

    /// After the last byte: the file and its hash.
    ///
    /// # Errors
    /// [`IncomingError`] when it ended early.
    pub(super) fn end(self) -> Result<(Draft, Hash, Header), IncomingError> {
        let got = self.head.len() as u64;
        let Some((header, finite)) = self.checked else {
            let max = self.file_bytes;
            return Err(UpdateError::HeaderBytes { got, max }.into());
        };
        finite.end()?;
        Ok((self.draft, Hash(*self.hasher.finalize().as_bytes()), header))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;
    use sapwood::adapter::{Adapter, Spec, Strength, Target, wire};
    use sapwood_protocol::fleet::id::CohortId;
    use sapwood_protocol::fleet::update::{Kind, Meta};

    /// However the bytes are cut: with the header, behind it, one by one.
    #[test]
    fn a_number_that_is_none_ends_a_file_in_whichever_piece_it_comes() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(folder.path()).unwrap();
        let spec = Spec::placed(0..1, |_, target| {
            let strength = Strength { rank: 1, alpha: 1.0 };
            (target == Target::Q).then_some((strength, (4, 4)))
        });
        let hash = Hash([0; 32]);
        let kind = Kind::Update;
        let cohort = CohortId([1; 32]);
        let meta =
            Meta { kind, base: hash, cohort, from: hash, generation: 1, steps: 1, tokens: 1 };
        let values = vec![0.5; spec.len()];
        let good = wire::encode(&Adapter { spec, values }, &meta).unwrap();
        let mut bad = good.clone();
        let last = bad.len() - 2;
        bad[last..].copy_from_slice(&[0, 0x7c]);
        let fed = |file: &[u8], piece: usize| {
            let mut incoming = Incoming::new(&blobs, file.len() as u64).unwrap();
            file.chunks(piece).try_for_each(|piece| incoming.feed(piece, |_| Ok(())))?;
            incoming.end().map(|(_, hash, _)| hash)
        };
        for piece in [1, 7, 100, good.len() - 2, good.len()] {
            assert_eq!(fed(&good, piece).unwrap(), Hash::of(&good), "{piece}");
            let error = fed(&bad, piece).unwrap_err();
            assert!(matches!(error, IncomingError::Update(_)), "{piece}: {error}");
            let mut incoming = Incoming::new(&blobs, bad.len() as u64).unwrap();
            let fed = bad.chunks(piece).try_for_each(|piece| incoming.feed(piece, |_| Ok(())));
            assert!(fed.is_err(), "{piece}: before its end is asked for");
        }
    }
}

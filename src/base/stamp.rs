//! What was found out about a model folder once and holds as long as its bytes do: a file beside them.
//!
//! - In: the bytes of the model, read once and hashed. Out: the base's hash, how narrow its weights may
//!   be, and what programs proved of it. A stamp of other bytes, or one that is damaged, is none.
//! - It is a convenience: where it cannot be written, everything is found out again.
//! - Never here: what a proof is; a proof says itself which program and processor it holds for.
//!
//! Layout: a line `sapwood stamp 2 BLAKE3`, the hash of what follows it, then JSON. Version 1, which knew
//! no kinds of narrow numbers but their bytes, is none.

use super::Narrowest;
use super::onnx::OnnxFile;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::thread;

/// Its name in a model folder.
const FILE: &str = "stamp";
const HEAD: &str = "sapwood stamp 2 ";
/// Most proofs that are kept, the newest.
const PROOFS_MAX: usize = 64;
/// Most bytes of a file that is looked at.
const BYTES_MAX: u64 = 1 << 24;
/// Bytes that are hashed by themselves, so that several threads can.
const SPAN: u64 = 8 << 20;
/// Most threads that hash.
const THREADS_MAX: usize = 8;

/// What is known of some bytes.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Stamp {
    /// The hash of the bytes.
    bytes: String,
    /// The base's hash.
    hash: String,
    /// How narrow the numbers of each weight may be.
    pub(super) narrowest: BTreeMap<String, Narrowest>,
    /// What was proved of it, the oldest first.
    proofs: Vec<String>,
}

impl Stamp {
    /// The stamp of a folder, if it is of these bytes.
    pub(super) fn read(dir: &Path, bytes: &str) -> Option<Self> {
        let file = File::open(dir.join(FILE)).ok()?;
        let mut text = String::new();
        file.take(BYTES_MAX).read_to_string(&mut text).ok()?;
        let (check, body) = text.strip_prefix(HEAD)?.split_once('\n')?;
        let is_whole = blake3::hash(body.as_bytes()).to_hex().as_str() == check;
        let stamp: Self = is_whole.then(|| serde_json::from_str(body).ok())??;
        (stamp.bytes == bytes).then_some(stamp)
    }

    /// What is known of bytes that nobody looked at before.
    pub(super) fn new(bytes: &str, hash: [u8; 32], narrowest: BTreeMap<String, Narrowest>) -> Self {
        let hash = blake3::Hash::from(hash).to_hex().to_string();
        Self { bytes: bytes.to_owned(), hash, narrowest, proofs: Vec::new() }
    }

    /// The base's hash.
    pub(super) fn hash(&self) -> Option<[u8; 32]> {
        blake3::Hash::from_hex(&self.hash).ok().map(Into::into)
    }

    /// Whether something was proved.
    pub(super) fn has(&self, proof: &str) -> bool {
        self.proofs.iter().any(|own| own == proof)
    }

    /// Notes a proof.
    pub(super) fn note(&mut self, proof: &str) {
        self.proofs.retain(|own| own != proof);
        let over = (self.proofs.len() + 1).saturating_sub(PROOFS_MAX);
        self.proofs.drain(..over);
        self.proofs.push(proof.to_owned());
    }

    /// Writes it, if that is possible: a reader sees the old one or the new one.
    pub(super) fn write(&self, dir: &Path) {
        let Ok(body) = serde_json::to_string(self) else { return };
        let check = blake3::hash(body.as_bytes()).to_hex();
        // One name for all: a killed program leaves one file behind and not one each, and what two write
        // at once does not fit its hash.
        let partial = dir.join(format!("{FILE}.partial"));
        // A folder that others own, or a full disk: the next start finds everything out again.
        let written = fs::write(&partial, format!("{HEAD}{check}\n{body}"))
            .and_then(|()| fs::rename(&partial, dir.join(FILE)));
        if written.is_err() {
            let _ = fs::remove_file(&partial);
        }
    }
}

/// A hash over everything that the base's numbers follow from; none where a file cannot be read.
pub(super) fn bytes(file: &OnnxFile, identity: &str) -> Option<String> {
    let own = [file.path().to_owned()];
    let all: BTreeSet<PathBuf> = own.into_iter().chain(file.external_files()).collect();
    let mut hasher = blake3::Hasher::new();
    hasher.update(identity.as_bytes());
    for path in all {
        let hashes = of_file(&path).ok()?;
        hasher.update(&(hashes.len() as u64).to_le_bytes());
        for hash in hashes {
            hasher.update(hash.as_bytes());
        }
    }
    Some(hasher.finalize().to_hex().to_string())
}

/// The hash of each span of a file.
fn of_file(path: &Path) -> std::io::Result<Vec<blake3::Hash>> {
    let spans = fs::metadata(path)?.len().div_ceil(SPAN);
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get).min(THREADS_MAX);
    let threads = (threads as u64).min(spans.max(1));
    let some = |first: u64| -> std::io::Result<Vec<(u64, blake3::Hash)>> {
        let (mut file, mut buffer) = (File::open(path)?, vec![0; 1 << 18]);
        let hash = |span: u64| {
            file.seek(SeekFrom::Start(span * SPAN))?;
            let (mut hasher, mut left) = (blake3::Hasher::new(), SPAN);
            while left > 0 {
                let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                let got = file.read(&mut buffer[..most])?;
                if got == 0 {
                    break;
                }
                hasher.update(&buffer[..got]);
                left -= got as u64;
            }
            Ok((span, hasher.finalize()))
        };
        (first..spans).step_by(threads as usize).map(hash).collect()
    };
    let mut all = thread::scope(|scope| {
        let tasks: Vec<_> = (0..threads).map(|first| scope.spawn(move || some(first))).collect();
        let ended = tasks.into_iter().map(|task| {
            task.join().unwrap_or_else(|_| Err(std::io::Error::other("a thread that hashes ended")))
        });
        ended.collect::<Result<Vec<_>, _>>()
    })?
    .concat();
    all.sort_unstable_by_key(|(span, _)| *span);
    Ok(all.into_iter().map(|(_, hash)| hash).collect())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_of_other_bytes_or_a_damaged_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Stamp::read(dir.path(), "a").is_none());
        let mut stamp =
            Stamp::new("a", [7; 32], BTreeMap::from([("w".to_owned(), Narrowest::F16)]));
        stamp.note("proved");
        stamp.write(dir.path());
        let found = Stamp::read(dir.path(), "a").unwrap();
        assert!(found.has("proved") && !found.has("prove"));
        assert_eq!((found.hash, found.narrowest), (stamp.hash, stamp.narrowest));
        assert!(Stamp::read(dir.path(), "b").is_none());
        let path = dir.path().join(FILE);
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            fs::write(&path, &bytes).unwrap();
            assert!(Stamp::read(dir.path(), "a").is_none(), "bit of byte {at}");
        }
        let first = String::from_utf8(whole.clone()).unwrap().replacen("stamp 2", "stamp 1", 1);
        fs::write(&path, first).unwrap();
        assert!(Stamp::read(dir.path(), "a").is_none(), "another version");
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            assert!(Stamp::read(dir.path(), "a").is_none(), "{length} bytes");
        }
    }

    #[test]
    fn the_oldest_proofs_are_forgotten() {
        let mut stamp = Stamp::default();
        for proof in 0..2 * PROOFS_MAX {
            stamp.note(&proof.to_string());
            stamp.note("again");
        }
        assert_eq!(stamp.proofs.len(), PROOFS_MAX);
        assert!(stamp.has("again") && stamp.has("127") && !stamp.has("1"));
    }

    #[test]
    fn every_byte_of_a_long_file_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        let mut bytes = vec![1; SPAN as usize + 3];
        let mut seen = BTreeSet::new();
        for at in [0, SPAN as usize - 1, SPAN as usize, SPAN as usize + 2] {
            bytes[at] ^= 2;
            fs::write(&path, &bytes).unwrap();
            let hashes = of_file(&path).unwrap();
            assert_eq!(hashes.len(), 2);
            let hex = hashes.iter().map(|hash| hash.to_hex().to_string());
            assert!(seen.insert(hex.collect::<String>()), "byte {at} does not count");
        }
    }
}

//! Whether a server can do its work: what it needs is looked at, not remembered.
//!
//! - In: the folder, and whether the server judges. Out: a line for each thing that does not hold; none when
//!   all does.
//! - A server is not ready when something fails for which a device's call is refused, or work of its roles is
//!   not done: there another server may do better. What an operator's order alone would miss is told as well,
//!   and the server is ready.
//! - Nothing is changed by a look, and nothing is mended.

use crate::home::Home;
use crate::rollout::{self, Release};
use crate::store::blobs::BlobError;
use crate::store::{Book, Statement};

/// Bytes that a disk must have room for, at least.
const ROOM_BYTES: usize = 64 << 10;

/// What does not hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// What keeps the server from its work.
    pub grave: Vec<String>,
    /// What keeps orders from theirs.
    pub other: Vec<String>,
}

/// Looks. `judges`: whether this server makes candidates.
pub fn faults(home: &Home, judges: bool) -> Faults {
    let (mut faults, mut other) = (Vec::new(), Vec::new());
    if let Err(error) = room(home).and_then(|()| home.blobs.reach()) {
        faults.push(format!("no file is kept: {error}"));
    }
    let row = "select version from meta";
    if let Err(error) = home.book.read(row, &[]) {
        // A database that is away is waited for at each question: one is enough.
        faults.push(format!("the book is not read: {error}"));
        return Faults { grave: faults, other };
    }
    // A write that changes nothing is a write all the same.
    let write = Statement::one("update meta set version = version", []);
    if let Err(error) = home.book.write(vec![write]) {
        faults.push(format!("the book is not written: {error}"));
    }
    if let Err(error) = home.online() {
        // Who judges elsewhere, or approves, has the key there.
        let lines = if judges { &mut faults } else { &mut other };
        lines.push(format!("nothing can be made a candidate: {error}"));
    }
    match rollout::unended(&home.book) {
        Ok(all) => faults.extend(all.iter().filter_map(|release| gone(home, release))),
        Err(error) => faults.push(format!("the book is not read: {error}")),
    }
    Faults { grave: faults, other }
}

impl Faults {
    /// What is told: a first line that says whether the server is ready, and one for each fault.
    pub fn text(&self) -> String {
        let first = if self.is_ready() { "ready" } else { "not ready" };
        let grave = self.grave.iter().map(|fault| format!("{fault}\n"));
        let other = self.other.iter().map(|fault| format!("an order would fail: {fault}\n"));
        format!("{first}\n{}", grave.chain(other).collect::<String>())
    }

    /// Whether the server can do its work.
    pub fn is_ready(&self) -> bool {
        self.grave.is_empty()
    }
}

/// Whether there is room for a file.
fn room(home: &Home) -> Result<(), BlobError> {
    home.blobs.draft()?.write(&vec![0; ROOM_BYTES])
}

/// What is wrong with the file of a release that devices are offered, or may be again.
fn gone(home: &Home, release: &Release) -> Option<String> {
    let problem = match home.blobs.open_blob(release.artifact) {
        Ok(Some((_, bytes))) if bytes == release.bytes => return None,
        Ok(Some((_, bytes))) => format!("has {bytes} bytes, expected {}", release.bytes),
        Ok(None) => "is not there: put it back from a copy".to_owned(),
        Err(error) => error.to_string(),
    };
    let Release { cohort, sequence, artifact, .. } = release;
    Some(format!(
        "devices cannot fetch sequence {sequence} of cohort {cohort}: {artifact} {problem}"
    ))
}

/// What does not hold, in the log of a server that begins.
pub fn tell(home: &Home, judges: bool) {
    let faults = faults(home, judges);
    faults.grave.iter().for_each(|fault| tracing::error!("not ready: {fault}"));
    faults.other.iter().for_each(|fault| tracing::warn!("an order would fail: {fault}"));
}

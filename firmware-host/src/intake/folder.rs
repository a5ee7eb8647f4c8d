//! A watched folder: files that other programs drop in become samples, then move aside.
//!
//! ```text
//! FOLDER/report.txt       taken when its size and time did not change between two looks
//! FOLDER/taken/           files whose samples are durable; the oldest beyond the bound are removed
//! FOLDER/refused/         files that were not, or not wholly, taken, each with a NAME.why
//! ```
//! - In: `.jsonl` and `.ndjson`, one sample a line; any other UTF-8 text, cut at paragraphs to pieces
//!   of about a block, so that a job's least number of samples means what it is worth. No text is lost.
//! - Left alone: hidden names, folders, empty files, and `.part`, `.tmp`, `.partial`, `.crdownload`: a
//!   program that writes slowly uses such a name and renames at the end.
//! - A bad line costs itself alone: the others are taken in, and the file goes to `refused/` with the
//!   number of the line. Mended and dropped in again, what was taken before is known and not taken twice.
//! - While the inbox is full, a file stays and goes on later where it stopped. After a cut between
//!   durable and moved it is offered once more, and the inbox drops what it has.
//! - Links are not followed: a program must not have another file read in its place.

mod pieces;
mod shelf;
#[cfg(test)]
mod tests;

use super::{BATCH_BYTES, BATCH_SAMPLES_MAX, Context, Outcome, count, offer};
use pieces::{Refusals, Samples};
use rustix::fs::OFlags;
use sapwood::inbox::{InboxError, Receipt};
use sapwood_protocol::limits::INBOX_BATCH_BYTES_MAX;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

/// Bytes of one file.
pub const FILE_BYTES_MAX: u64 = INBOX_BATCH_BYTES_MAX;
/// Names that are looked at in one look; others come when these have moved.
const NAMES_MAX: usize = 4096;
/// Least wait before what found no room is offered again.
const FULL: Duration = Duration::from_secs(5);
/// Endings of names that are being written.
const UNDER_WAY: [&str; 4] = ["part", "tmp", "partial", "crdownload"];

/// Starts watching a folder, which is made where it is missing, at intervals of `every`. Text is cut to
/// pieces of at most `piece_bytes`; four times the tokens of a block is about a block.
///
/// # Errors
/// The system's, when it gives no thread. A folder that cannot be read is no error: it is tried again.
pub fn start<F>(
    folder: PathBuf,
    every: Duration,
    piece_bytes: usize,
    context: Context,
    mut sink: F,
) -> io::Result<JoinHandle<Option<()>>>
where
    F: FnMut(&str) -> Result<Receipt, InboxError> + Send + 'static,
{
    let supervisor = context.supervisor.clone();
    let run = move || {
        let mut watch = Watch::new(folder, piece_bytes);
        while !context.stopped() {
            let full = match watch.look(&context, &mut sink) {
                Ok(full) => full,
                Err(error) => {
                    let folder = watch.folder.display();
                    tracing::warn!(%folder, %error, "cannot look at the watched folder");
                    false
                }
            };
            context.pause(if full { every.max(FULL) } else { every });
        }
    };
    supervisor.start("folder", run)
}

/// By what a file is told to be the same and unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    file: (u64, u64),
    bytes: u64,
    modified: (i64, i64),
}

impl Mark {
    fn of(metadata: &Metadata) -> Self {
        Self {
            file: (metadata.dev(), metadata.ino()),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

/// How far a file has got.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    /// Seen; not known to be complete.
    Seen,
    /// There was no room for the rest of it.
    Begun(Progress),
    /// Done with, but it could not be moved.
    Stuck,
}

/// What became of a file's samples so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Progress {
    /// Samples that are durable or refused.
    done: usize,
    refusals: Refusals,
}

/// What is known of a folder between two looks.
struct Watch {
    folder: PathBuf,
    piece_bytes: usize,
    known: BTreeMap<OsString, (Mark, Stage)>,
}

/// The end of one try to take a file in.
enum Tried {
    Taken,
    Refused(String),
    /// No room for what follows.
    Full(Progress),
    /// Gone, or changed after all.
    Not,
}

impl Watch {
    fn new(folder: PathBuf, piece_bytes: usize) -> Self {
        Self { folder, piece_bytes, known: BTreeMap::new() }
    }

    /// Takes in what is complete, oldest first; whether the inbox was full before the end.
    fn look(
        &mut self,
        context: &Context,
        sink: &mut impl FnMut(&str) -> Result<Receipt, InboxError>,
    ) -> io::Result<bool> {
        fs::create_dir_all(&self.folder)?;
        let found = self.found()?;
        let before = std::mem::take(&mut self.known);
        let mut full = false;
        for (name, mark, file) in found {
            let same = before
                .get(&name)
                .filter(|(known, _)| *known == mark)
                .map(|(_, stage)| stage.clone());
            let stage = match same {
                None => Stage::Seen,
                Some(Stage::Stuck) => Stage::Stuck,
                Some(stage) if full || context.stopped() => stage,
                Some(stage) => {
                    let progress = if let Stage::Begun(progress) = stage {
                        progress
                    } else {
                        Progress::default()
                    };
                    let tried = if file {
                        self.take_in(&name, (mark, progress), context, sink)
                    } else {
                        Tried::Refused("expected a file, got a link or a device".into())
                    };
                    full = matches!(tried, Tried::Full(_));
                    let Some(stage) = self.put_away(&name, tried, context) else { continue };
                    stage
                }
            };
            self.known.insert(name, (mark, stage));
        }
        Ok(full)
    }

    /// Names that may be samples, oldest first, with whether they are files.
    fn found(&self) -> io::Result<Vec<(OsString, Mark, bool)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let name = entry?.file_name();
            if under_way(&name) || found.len() >= NAMES_MAX {
                continue;
            }
            // It may have vanished since.
            let Ok(metadata) = fs::symlink_metadata(self.folder.join(&name)) else { continue };
            let empty = metadata.is_file() && metadata.len() == 0;
            if !metadata.is_dir() && !empty {
                found.push((name, Mark::of(&metadata), metadata.is_file()));
            }
        }
        found.sort_by(|a, b| (a.1.modified, &a.0).cmp(&(b.1.modified, &b.0)));
        Ok(found)
    }

    fn take_in(
        &self,
        name: &OsStr,
        (mark, progress): (Mark, Progress),
        context: &Context,
        sink: &mut impl FnMut(&str) -> Result<Receipt, InboxError>,
    ) -> Tried {
        let path = self.folder.join(name);
        if mark.bytes > FILE_BYTES_MAX {
            let got = mark.bytes;
            return Tried::Refused(format!("expected at most {FILE_BYTES_MAX} bytes, got {got}"));
        }
        let bytes = match read(&path, mark) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Tried::Not,
            Err(error) if error.kind() == ErrorKind::NotFound => return Tried::Not,
            Err(error) => return Tried::Refused(format!("cannot read it: {error}")),
        };
        let samples = match pieces::samples(name, bytes, self.piece_bytes) {
            Ok(samples) => samples,
            Err(why) => return Tried::Refused(why),
        };
        offer_all(&samples, progress, context, sink)
    }

    /// Moves a file that is done with; what is left to know of one that stays.
    fn put_away(&self, name: &OsStr, tried: Tried, context: &Context) -> Option<Stage> {
        let (shelf, why) = match tried {
            Tried::Full(progress) => return Some(Stage::Begun(progress)),
            Tried::Not => return Some(Stage::Seen),
            Tried::Taken => {
                count(&context.counters.files_taken, 1);
                (shelf::TAKEN, None)
            }
            Tried::Refused(why) => {
                count(&context.counters.files_refused, 1);
                (shelf::REFUSED, Some(why))
            }
        };
        match shelf::put(&self.folder, name, shelf, why.as_deref()) {
            Ok(()) => {
                tracing::info!(file = %name.display(), to = shelf, why, "file put away");
                None
            }
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(file = %name.display(), to = shelf, %error, "cannot move a file; it is left");
                Some(Stage::Stuck)
            }
        }
    }
}

/// Hidden, or named as one that is being written.
fn under_way(name: &OsStr) -> bool {
    let hidden =
        name.as_encoded_bytes().starts_with(b".") || name.as_encoded_bytes().ends_with(b"~");
    let ending = Path::new(name).extension();
    hidden
        || ending
            .is_some_and(|ending| UNDER_WAY.iter().any(|part| ending.eq_ignore_ascii_case(part)))
}

/// All bytes of a file; none when it is not, or no longer, the one that was looked at.
fn read(path: &Path, mark: Mark) -> io::Result<Option<Vec<u8>>> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let mut file = OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path)?;
    let mut bytes = Vec::new();
    file.by_ref().take(mark.bytes + 1).read_to_end(&mut bytes)?;
    let same = Mark::of(&file.metadata()?) == mark && bytes.len() as u64 == mark.bytes;
    Ok(same.then_some(bytes))
}

/// Offers the samples from where the last try stopped, in batches.
fn offer_all(
    samples: &Samples,
    mut progress: Progress,
    context: &Context,
    sink: &mut impl FnMut(&str) -> Result<Receipt, InboxError>,
) -> Tried {
    while progress.done < samples.lines.len() {
        if context.stopped() {
            return Tried::Full(progress);
        }
        let (mut batch, mut bytes) = (Vec::new(), 0);
        for (_, line) in &samples.lines[progress.done..] {
            if batch.len() >= BATCH_SAMPLES_MAX || bytes >= BATCH_BYTES {
                break;
            }
            bytes += line.len();
            batch.push(line.as_str());
        }
        for outcome in offer(&batch, sink) {
            match outcome {
                Outcome::Full => return Tried::Full(progress),
                Outcome::Durable => {}
                Outcome::Refused(why) => {
                    let (number, _) = samples.lines[progress.done];
                    progress.refusals.add(format!("line {number}: {why}"));
                }
            }
            progress.done += 1;
        }
    }
    let mut refusals = samples.refusals.clone();
    refusals.join(progress.refusals);
    count(&context.counters.refused, refusals.count as u64);
    match refusals.first {
        None => Tried::Taken,
        Some(first) => {
            let all = samples.lines.len() + samples.refusals.count;
            let taken = all - refusals.count;
            Tried::Refused(format!("{first}; {taken} of its {all} samples are taken in"))
        }
    }
}

//! A watched folder: files that other programs drop in become samples, then move aside.
//!
//! ```text
//! FOLDER/report.txt       taken when it has not changed for the quiet time, and between two looks
//! FOLDER/log.jsonl        its whole lines are taken as they come, and it moves when it is quiet
//! FOLDER/taken/           files whose samples are durable
//! FOLDER/refused/         files that were not, or not wholly, taken, each with a NAME.why
//! ```
//! - In: JSON lines by name (`.jsonl`, `.ndjson`) or by their first line, one sample a line; any other
//!   UTF-8 text, cut at paragraphs to pieces of about a block, so that a job's least number of samples
//!   means what it is worth. No text is lost. JSON that is not one object a line is refused.
//! - Left alone: hidden names, folders, empty files, and `.part`, `.tmp`, `.partial`, `.crdownload`: a
//!   program that writes slowly uses such a name and renames at the end.
//! - A bad line costs itself alone: the others are taken in, and the file goes to `refused/` with the
//!   number of the line. Mended and dropped in again, what was taken before is known and not taken twice.
//! - A file is known by device and inode: one that is renamed goes on where it was, one that is cut short
//!   begins anew. One that has moved is followed on for as long as the program runs.
//! - How far files of lines are taken in is on disk (`offsets`): the program goes on where it ended, with
//!   files that have moved too.
//! - While the inbox is full, a file stays and goes on later where it stopped. After a cut between
//!   durable and moved it is offered once more, and the inbox drops what it has.
//! - Links are not followed, and the folder and its shelves are used through handles: nobody can have
//!   another file read, written or moved in their place. What cannot be read now is tried again.

mod pieces;
mod shelf;
mod follow;
mod offsets;
#[cfg(test)]
mod tests;

use super::{BATCH_BYTES, BATCH_SAMPLES_MAX, Context, Outcome, count, offer};
use follow::{Follower, Lines};
pub use offsets::FILE as OFFSETS_FILE;
use offsets::Offsets;
use pieces::Refusals;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, openat, statat};
use rustix::io::Errno;
use sapwood::inbox::{InboxError, Receipt};
use sapwood::intake::Sample;
use sapwood::ports::Storage;
use sapwood_protocol::limits::INBOX_BATCH_BYTES_MAX;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// Bytes of one file of text; JSON lines are read piece by piece and may be longer.
pub const FILE_BYTES_MAX: u64 = INBOX_BATCH_BYTES_MAX;
/// Names that are looked at in one look; others come when these have moved.
const NAMES_MAX: usize = 4096;
/// Least wait before what found no room is offered again.
const FULL: Duration = Duration::from_secs(5);
/// Waits before a file that cannot be read is tried again: the first, and the longest.
const AGAIN: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(3_600)];
/// Endings of names that are being written.
const UNDER_WAY: [&str; 4] = ["part", "tmp", "partial", "crdownload"];

/// How a folder is watched.
#[derive(Clone, Debug)]
pub struct Manner {
    /// The folder, which is made where it is missing.
    pub folder: PathBuf,
    /// Time between two looks.
    pub every: Duration,
    /// How long a file must not have changed to be done with.
    pub quiet: Duration,
    /// Files that stay on each shelf; none for all.
    pub kept: Option<usize>,
    /// Most bytes of a piece of text; four times the tokens of a block is about a block.
    pub piece_bytes: usize,
}

/// Starts watching a folder; `storage` is the state folder, which remembers how far files are taken in.
///
/// # Errors
/// The system's, when it gives no thread. A folder that cannot be read is no error: it is tried again.
pub fn start<F>(
    manner: Manner,
    storage: Arc<dyn Storage>,
    context: Context,
    mut sink: F,
) -> io::Result<JoinHandle<Option<()>>>
where
    F: FnMut(&[&Sample]) -> Result<Receipt, InboxError> + Send + 'static,
{
    let supervisor = context.supervisor.clone();
    let run = move || {
        let every = manner.every;
        let mut watch = Watch::new(manner, storage);
        while !context.stopped() {
            let full = match watch.look(&context, &mut sink) {
                Ok(full) => full,
                Err(error) => {
                    let folder = watch.manner.folder.display();
                    tracing::warn!(%folder, %error, "cannot look at the watched folder");
                    false
                }
            };
            context.pause(if full { every.max(FULL) } else { every });
        }
    };
    supervisor.start("folder", run)
}

/// By what a file is told to be the same.
type Inode = (u64, u64);

/// By what it is told to be unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    inode: Inode,
    bytes: u64,
    modified: (i64, i64),
}

impl Mark {
    fn of(stat: &Stat) -> Self {
        Self {
            inode: (stat.st_dev, stat.st_ino),
            bytes: u64::try_from(stat.st_size).unwrap_or(0),
            modified: (stat.st_mtime, stat.st_mtime_nsec as i64),
        }
    }
}

/// How far a file has got.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    /// Seen; not known to be complete.
    Seen,
    /// Text, and there was no room for the rest of it.
    Begun(Progress),
    /// JSON lines, taken in up to here.
    Follows(Lines),
    /// It could not be read: not before this moment, and after a longer wait the next time.
    Later(Duration, Duration),
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

/// What is known of a file between two looks.
#[derive(Clone, Debug)]
struct Known {
    name: OsString,
    mark: Mark,
    /// When it was seen to change last.
    changed: Duration,
    stage: Stage,
}

/// What is known of a folder between two looks.
struct Watch {
    manner: Manner,
    known: BTreeMap<Inode, Known>,
    follower: Follower,
    offsets: Offsets,
    /// Whether files that were put away before this start have been looked for.
    found_moved: bool,
}

/// A file at this look.
struct Found {
    name: OsString,
    mark: Mark,
    is_file: bool,
}

/// The end of one try to take a file in.
enum Tried {
    Taken(Option<Lines>),
    /// With how far it is taken in, where it is one of lines: whoever writes it may go on.
    Refused(String, Option<Lines>),
    /// No room for what follows.
    Full(Stage),
    /// Not whole yet.
    Waits(Stage),
    /// It cannot be read now.
    Unread(io::Error),
    /// Gone, or changed after all.
    Not,
}

impl Watch {
    fn new(manner: Manner, storage: Arc<dyn Storage>) -> Self {
        let (known, follower) = (BTreeMap::new(), Follower::default());
        let offsets = Offsets::read(storage);
        Self { manner, known, follower, offsets, found_moved: false }
    }

    /// Takes in what is complete, oldest first; whether the inbox was full before the end.
    fn look(
        &mut self,
        context: &Context,
        sink: &mut impl FnMut(&[&Sample]) -> Result<Receipt, InboxError>,
    ) -> io::Result<bool> {
        fs::create_dir_all(&self.manner.folder)?;
        let folder = OwnedFd::from(File::open(&self.manner.folder)?);
        let found = found(&folder)?;
        let before = std::mem::take(&mut self.known);
        let now = context.clock.elapsed();
        if !std::mem::replace(&mut self.found_moved, true) {
            for (name, file, lines) in self.offsets.moved(&folder) {
                self.follower.add(name, file, lines, now);
            }
        }
        let mut full = self.follower.look(now, context, sink);
        for Found { name, mark, is_file } in found {
            let known = before.get(&mark.inode);
            let changed = known.filter(|known| known.mark == mark).map(|known| known.changed);
            let quiet = changed.is_some_and(|since| now.saturating_sub(since) >= self.manner.quiet);
            let stage = match known.map(|known| known.stage.clone()) {
                None => Stage::Seen,
                Some(Stage::Stuck) if changed.is_some() => Stage::Stuck,
                Some(stage @ Stage::Later(until, _)) if now < until => stage,
                Some(stage) if full || context.stopped() => stage,
                Some(stage) => {
                    let file = (&*name, mark, quiet);
                    let wait = if let Stage::Later(_, wait) = stage { wait } else { AGAIN[0] };
                    let tried = if is_file {
                        self.take_in(&folder, file, stage, context, sink)
                    } else {
                        Tried::Refused("expected a file, got a link or a device".into(), None)
                    };
                    full = matches!(tried, Tried::Full(_));
                    let tried = self.put_away(&folder, file, tried, context);
                    let Some(stage) = tried.unwrap_or_else(|error| later(&name, &error, now, wait))
                    else {
                        continue;
                    };
                    stage
                }
            };
            let changed = changed.unwrap_or(now);
            self.known.insert(mark.inode, Known { name, mark, changed, stage });
        }
        self.keep(&folder);
        Ok(full)
    }

    fn take_in(
        &self,
        folder: &OwnedFd,
        (name, mark, quiet): (&OsStr, Mark, bool),
        stage: Stage,
        context: &Context,
        sink: &mut impl FnMut(&[&Sample]) -> Result<Receipt, InboxError>,
    ) -> Tried {
        let mut file = match open(folder, name, mark) {
            Ok(Some(file)) => file,
            Ok(None) => return Tried::Not,
            Err(error) => return Tried::Unread(error),
        };
        let mut lines = match &stage {
            Stage::Follows(lines) => Some(lines.clone()),
            Stage::Begun(_) => None,
            _ => match follow::is_lines(name, &file) {
                Ok(is_lines) => {
                    is_lines.then(|| self.offsets.of(mark.inode, &file).unwrap_or_default())
                }
                Err(error) => return Tried::Unread(error),
            },
        };
        if let Some(lines) = &mut lines {
            return match lines.take(&file, quiet, context, sink) {
                Err(error) => Tried::Unread(error),
                Ok(follow::End::Full) => Tried::Full(Stage::Follows(lines.clone())),
                Ok(follow::End::Endless(why)) => Tried::Refused(why, None),
                Ok(_) if !quiet => Tried::Waits(Stage::Follows(lines.clone())),
                Ok(_) => lines.verdict(),
            };
        }
        if !quiet {
            return Tried::Waits(Stage::Seen);
        }
        if mark.bytes > FILE_BYTES_MAX {
            let got = mark.bytes;
            let why = format!("expected at most {FILE_BYTES_MAX} bytes, got {got}");
            return Tried::Refused(why, None);
        }
        let bytes = match read(&mut file, mark) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Tried::Not,
            Err(error) => return Tried::Unread(error),
        };
        let progress =
            if let Stage::Begun(progress) = stage { progress } else { Progress::default() };
        let is_json =
            Path::new(name).extension().is_some_and(|end| end.eq_ignore_ascii_case("json"));
        match pieces::pieces(bytes, self.manner.piece_bytes, is_json) {
            Ok(pieces) => offer_all(&pieces, progress, context, sink),
            Err(why) => Tried::Refused(why, None),
        }
    }

    /// Makes durable how far files of lines are taken in.
    fn keep(&mut self, folder: &OwnedFd) {
        let inode = |file: &File| {
            let stat = rustix::fs::fstat(file).ok()?;
            Some((stat.st_dev, stat.st_ino))
        };
        let here = self.known.iter().filter_map(|(inode, known)| match &known.stage {
            Stage::Follows(lines) => Some((*inode, lines, false)),
            _ => None,
        });
        let moved = self.follower.files();
        let moved = moved.filter_map(|(file, lines)| Some((inode(file)?, lines, true)));
        let reopen = |wanted| match self.known.get(&wanted) {
            Some(known) => open(folder, &known.name, known.mark).ok().flatten(),
            None => {
                let mut moved = self.follower.files().map(|(file, _)| file);
                moved.find(|file| inode(file) == Some(wanted))?.try_clone().ok()
            }
        };
        let is_open = |inode| {
            let known = self.known.get(&inode);
            known.is_some_and(|known| matches!(known.stage, Stage::Seen | Stage::Later(..)))
        };
        self.offsets.keep(here.chain(moved), reopen, is_open);
    }

    /// Moves a file that is done with; what is left to know of one that stays.
    ///
    /// # Errors
    /// What keeps a file from being read.
    fn put_away(
        &mut self,
        folder: &OwnedFd,
        (name, mark, _): (&OsStr, Mark, bool),
        tried: Tried,
        context: &Context,
    ) -> io::Result<Option<Stage>> {
        let (shelf, why, lines) = match tried {
            Tried::Full(stage) | Tried::Waits(stage) => return Ok(Some(stage)),
            Tried::Not => return Ok(Some(Stage::Seen)),
            Tried::Unread(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Tried::Unread(error) => return Err(error),
            Tried::Taken(lines) => {
                count(&context.counters.files_taken, 1);
                (shelf::TAKEN, None, lines)
            }
            Tried::Refused(why, lines) => {
                count(&context.counters.files_refused, 1);
                (shelf::REFUSED, Some(why), lines)
            }
        };
        let followed = lines.zip(open(folder, name, mark).ok().flatten());
        match shelf::put(folder, name, shelf, why.as_deref(), self.manner.kept) {
            Ok(()) => {
                tracing::info!(file = %name.display(), to = shelf, why, "file put away");
                if let Some((lines, file)) = followed {
                    self.follower.add(name.to_owned(), file, lines, context.clock.elapsed());
                }
                Ok(None)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => {
                tracing::warn!(file = %name.display(), to = shelf, %error, "cannot move a file; it is left");
                Ok(Some(Stage::Stuck))
            }
        }
    }
}

/// A file that cannot be read is tried again, later and later.
fn later(name: &OsStr, error: &io::Error, now: Duration, wait: Duration) -> Option<Stage> {
    let again_seconds = wait.as_secs_f64();
    tracing::warn!(file = %name.display(), %error, again_seconds, "cannot read a file; it waits");
    Some(Stage::Later(now + wait, (2 * wait).min(AGAIN[1])))
}

/// What may be samples, oldest first.
fn found(folder: &OwnedFd) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    for entry in Dir::read_from(folder)? {
        let name = OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned();
        if under_way(&name) || found.len() >= NAMES_MAX {
            continue;
        }
        // It may have vanished since.
        let Ok(stat) = statat(folder, &name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        let kind = FileType::from_raw_mode(stat.st_mode);
        let is_file = kind == FileType::RegularFile;
        if kind != FileType::Directory && !(is_file && stat.st_size == 0) {
            found.push(Found { name, mark: Mark::of(&stat), is_file });
        }
    }
    found.sort_by(|a, b| (a.mark.modified, &a.name).cmp(&(b.mark.modified, &b.name)));
    Ok(found)
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

/// A file of the folder, itself and no link; none when it is not the one that was looked at.
fn open(folder: &OwnedFd, name: &OsStr, mark: Mark) -> io::Result<Option<File>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match openat(folder, name, flags, Mode::empty()) {
        Err(Errno::LOOP) => return Ok(None),
        opened => opened?,
    };
    let same = Mark::of(&rustix::fs::fstat(&file)?).inode == mark.inode;
    Ok(same.then(|| File::from(file)))
}

/// All bytes of a file; none when it has changed since it was looked at.
fn read(file: &mut File, mark: Mark) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    file.take(mark.bytes + 1).read_to_end(&mut bytes)?;
    let same = Mark::of(&rustix::fs::fstat(&*file)?) == mark && bytes.len() as u64 == mark.bytes;
    Ok(same.then_some(bytes))
}

/// Offers the samples from where the last try stopped, in batches.
fn offer_all(
    pieces: &[(usize, String)],
    mut progress: Progress,
    context: &Context,
    sink: &mut impl FnMut(&[&Sample]) -> Result<Receipt, InboxError>,
) -> Tried {
    while progress.done < pieces.len() {
        if context.stopped() {
            return Tried::Full(Stage::Begun(progress));
        }
        let batch = gather(pieces, &mut progress);
        for outcome in offer(&batch.iter().collect::<Vec<_>>(), sink) {
            match outcome {
                Outcome::Full => return Tried::Full(Stage::Begun(progress)),
                Outcome::Durable => {}
                Outcome::Refused(why) => {
                    let (number, _) = pieces[progress.done];
                    progress.refusals.add(format!("line {number}: {why}"));
                }
            }
            progress.done += 1;
        }
    }
    let refusals = progress.refusals;
    count(&context.counters.refused, refusals.count as u64);
    match refusals.first {
        None => Tried::Taken(None),
        Some(first) => {
            let all = pieces.len();
            let taken = all - refusals.count;
            let why = format!("{first}; {taken} of its {all} samples are taken in");
            Tried::Refused(why, None)
        }
    }
}

/// The pieces that are offered together next. One that is no sample, for its length, is done with.
fn gather(pieces: &[(usize, String)], progress: &mut Progress) -> Vec<Sample> {
    let (mut batch, mut bytes) = (Vec::new(), 0);
    for (number, piece) in &pieces[progress.done..] {
        if batch.len() >= BATCH_SAMPLES_MAX || bytes >= BATCH_BYTES {
            break;
        }
        match Sample::text(piece) {
            Ok(sample) => {
                bytes += sample.line().len();
                batch.push(sample);
            }
            // Its turn comes after those before it.
            Err(_) if !batch.is_empty() => break,
            Err(problem) => {
                progress.refusals.add(format!("line {number}: {problem}"));
                progress.done += 1;
            }
        }
    }
    batch
}

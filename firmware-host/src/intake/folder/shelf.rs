//! Where files go when they are done with.
//!
//! - A shelf is a folder of the watched one, made or found through a handle of it: a link in its place is
//!   no shelf, and whoever exchanges folders meanwhile changes nothing elsewhere.
//! - Never overwrites: a second `a.txt` becomes `a.txt.2`.
//! - Files are their owner's: none is removed unless a number to keep was chosen.

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, mkdirat, openat, renameat, statat, unlinkat,
};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

/// Files whose samples are all durable.
pub(super) const TAKEN: &str = "taken";
/// Files that were refused, or lines of them.
pub(super) const REFUSED: &str = "refused";

const NAMESAKES_MAX: usize = 10_000;

/// Moves a file of the folder to one of its shelves, with the reason beside it where there is one; of the
/// shelf's files the newest `kept` stay, all without a number.
pub(super) fn put(
    folder: &OwnedFd,
    name: &OsStr,
    shelf: &str,
    why: Option<&str>,
    kept: Option<usize>,
) -> io::Result<()> {
    let place = open(folder, shelf)?;
    let target = free(&place, name)?;
    renameat(folder, name, &place, &target)?;
    if let Some(why) = why
        && let Err(error) = note(&place, &beside(&target), why)
    {
        tracing::warn!(file = %target.display(), %error, "cannot write why a file was refused");
    }
    if let Some(kept) = kept
        && let Err(error) = clear(&place, kept)
    {
        tracing::warn!(shelf, %error, "cannot remove the oldest files");
    }
    Ok(())
}

/// The shelf itself, to look at; none is an error.
pub(super) fn look(folder: &OwnedFd, shelf: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(folder, shelf, flags, Mode::empty())?)
}

/// The shelf itself, which is made where it is missing.
fn open(folder: &OwnedFd, shelf: &str) -> io::Result<OwnedFd> {
    match mkdirat(folder, shelf, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(folder, shelf, flags, Mode::empty()).map_err(|error| match error {
        Errno::LOOP | Errno::NOTDIR => {
            let expected = format!("{shelf} is a link or a file: expected a folder");
            io::Error::new(ErrorKind::NotADirectory, expected)
        }
        other => other.into(),
    })
}

fn beside(name: &OsStr) -> OsString {
    let mut beside = name.to_owned();
    beside.push(".why");
    beside
}

fn note(shelf: &OwnedFd, name: &OsStr, why: &str) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(shelf, name, flags, Mode::from_raw_mode(0o644))?;
    writeln!(File::from(file), "{why}")
}

/// The first of `name`, `name.2`, `name.3` that is not there, nor a reason beside it.
fn free(shelf: &OwnedFd, name: &OsStr) -> io::Result<OsString> {
    for number in 1..=NAMESAKES_MAX {
        let mut next = OsString::from(name);
        if number > 1 {
            next.push(format!(".{number}"));
        }
        if !there(shelf, &next)? && !there(shelf, &beside(&next))? {
            return Ok(next);
        }
    }
    Err(ErrorKind::AlreadyExists.into())
}

fn there(shelf: &OwnedFd, name: &OsStr) -> io::Result<bool> {
    match statat(shelf, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Removes the oldest files beyond the bound, by when they were put there, with their reasons.
fn clear(shelf: &OwnedFd, kept: usize) -> io::Result<()> {
    let mut found = Vec::new();
    for entry in Dir::read_from(shelf)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes()).to_owned();
        let stat = statat(shelf, &name, AtFlags::SYMLINK_NOFOLLOW)?;
        let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        if is_file && !name.as_encoded_bytes().ends_with(b".why") {
            // A move changes this time and leaves the file's own as it was.
            found.push(((stat.st_ctime, stat.st_ctime_nsec), name));
        }
    }
    found.sort();
    let spare = found.len().saturating_sub(kept);
    for (_, name) in found.into_iter().take(spare) {
        unlinkat(shelf, &name, AtFlags::empty())?;
        tracing::info!(file = %name.display(), kept, "an old file is removed from its shelf");
        match unlinkat(shelf, beside(&name), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;
    use std::fs;
    use std::path::Path;

    fn names(folder: &Path) -> Vec<String> {
        let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string();
        let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|e| name(e).unwrap()).collect();
        names.sort();
        names
    }

    fn put_away(
        folder: &Path,
        name: &str,
        why: Option<&str>,
        kept: Option<usize>,
    ) -> io::Result<()> {
        let handle = OwnedFd::from(File::open(folder).unwrap());
        let shelf = if why.is_some() { REFUSED } else { TAKEN };
        put(&handle, OsStr::new(name), shelf, why, kept)
    }

    #[test]
    fn namesakes_stand_side_by_side_and_none_goes_unless_that_was_chosen() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path();
        for (round, kept) in [None, None, None, Some(2)].into_iter().enumerate() {
            fs::write(folder.join("a.txt"), vec![b'x'; 100 + round]).unwrap();
            put_away(folder, "a.txt", None, kept).unwrap();
            if kept.is_none() {
                assert_eq!(names(&folder.join(TAKEN)).len(), round + 1);
            }
            // File systems count time in steps of a few milliseconds.
            std::thread::park_timeout(std::time::Duration::from_millis(20));
        }
        assert_eq!(names(&folder.join(TAKEN)), ["a.txt.3", "a.txt.4"]);
    }

    #[test]
    fn a_link_is_no_shelf_and_no_reason_is_written_through_one() {
        let home = tempfile::tempdir().unwrap();
        let [folder, victim] = ["drop", "victim"].map(|name| home.path().join(name));
        fs::create_dir(&folder).unwrap();
        fs::create_dir(&victim).unwrap();
        fs::write(victim.join("precious"), "mine").unwrap();
        std::os::unix::fs::symlink(&victim, folder.join(TAKEN)).unwrap();
        fs::create_dir(folder.join(REFUSED)).unwrap();
        let why = folder.join(REFUSED).join("a.txt.why");
        std::os::unix::fs::symlink(victim.join("precious"), &why).unwrap();
        fs::write(folder.join("a.txt"), "text").unwrap();
        let said = put_away(&folder, "a.txt", None, Some(0)).unwrap_err().to_string();
        assert!(said.contains("taken is a link or a file: expected a folder"), "{said}");
        put_away(&folder, "a.txt", Some("no text"), None).unwrap();
        let shelf = names(&folder.join(REFUSED));
        assert_eq!(shelf, ["a.txt.2", "a.txt.2.why", "a.txt.why"]);
        assert_eq!(fs::read(victim.join("precious")).unwrap(), b"mine");
        assert_eq!(names(&victim), ["precious"]);
    }
}

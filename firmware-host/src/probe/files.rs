//! Reads small files that a kernel, a container or anybody else may have written.
//!
//! - In: a path. Out: what it says, or `None` for everything else: absent, a folder, too long, no text.
//! - Invariant: no call reads more than [`TABLE_BYTES_MAX`], and none waits on a pipe.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Most bytes of a file that holds one value; sysfs gives at most a page.
const VALUE_BYTES_MAX: usize = 4_096;
/// Most bytes that are read of a table such as `/proc/meminfo`.
const TABLE_BYTES_MAX: usize = 65_536;
/// Most entries of a folder that are looked at.
const ENTRIES_MAX: usize = 1_024;

/// The first `limit` bytes of a regular file.
fn bytes(path: &Path, limit: usize) -> Option<Vec<u8>> {
    // Opening a pipe would wait for its writer.
    if !fs::metadata(path).ok()?.is_file() {
        return None;
    }
    let mut found = Vec::new();
    File::open(path).ok()?.take(limit as u64).read_to_end(&mut found).ok()?;
    Some(found)
}

/// The one value that a file holds, without the space around it; none when it is empty.
pub(super) fn value(path: &Path) -> Option<String> {
    let found = bytes(path, VALUE_BYTES_MAX + 1)?;
    // Part of a number is another number.
    if found.len() > VALUE_BYTES_MAX {
        return None;
    }
    let text = String::from_utf8(found).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// The beginning of a table of lines; a line that was cut off is left out.
pub(super) fn table(path: &Path) -> Option<String> {
    let mut found = bytes(path, TABLE_BYTES_MAX)?;
    if found.len() == TABLE_BYTES_MAX {
        found.truncate(found.iter().rposition(|&byte| byte == b'\n')?);
    }
    String::from_utf8(found).ok()
}

/// A whole number.
pub(super) fn whole(path: &Path) -> Option<i64> {
    value(path)?.parse().ok()
}

/// What is in a folder under a name that begins with `prefix`, in order of name, shorter names first:
/// `zone2` comes before `zone10`.
pub(super) fn entries(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let Ok(all) = fs::read_dir(folder) else { return Vec::new() };
    let named = all.take(ENTRIES_MAX).flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        name.starts_with(prefix).then_some(name)
    });
    let mut names: Vec<String> = named.collect();
    names.sort_by(|one, other| (one.len(), one).cmp(&(other.len(), other)));
    names.into_iter().map(|name| folder.join(name)).collect()
}

/// The part of a path after its last `/`.
pub(super) fn name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

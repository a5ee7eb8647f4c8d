//! What the kernel says of load, memory and waiting, and the limits of our own control group.
//!
//! - In: `/proc/{loadavg,stat,meminfo,pressure,self/cgroup}`, `fs/cgroup` of sysfs.
//! - Free memory is the least of what the kernel has and what each control group above us has left:
//!   under systemd's `MemoryMax` or in a container the machine's own figure is of no use.
//! - Invariant: a path from `/proc/self/cgroup` never leaves the control groups.
//! - Source: the kernel's `admin-guide/cgroup-v2`, `accounting/psi`, `filesystems/proc`.

use super::files;
use std::path::{Component, Path, PathBuf};

/// More is a damaged file.
const LOAD_MAX: f32 = 100_000.0;

/// Load a core over the last minute.
pub(super) fn load(sys: &Path, proc: &Path) -> Option<f32> {
    let table = files::table(&proc.join("loadavg"))?;
    let load: f32 = table.split_whitespace().next()?.parse().ok()?;
    let cores = cores(sys, proc)? as f32;
    (0.0..=LOAD_MAX).contains(&load).then_some(load / cores)
}

/// Cores that are switched on: a Jetson's power mode may leave some off.
fn cores(sys: &Path, proc: &Path) -> Option<u32> {
    let online = files::value(&sys.join("devices/system/cpu/online"));
    online.and_then(|list| listed(&list)).or_else(|| {
        let table = files::table(&proc.join("stat"))?;
        let core = |line: &&str| {
            line.strip_prefix("cpu").is_some_and(|rest| rest.starts_with(|c: char| c.is_numeric()))
        };
        u32::try_from(table.lines().filter(core).count()).ok().filter(|&cores| cores > 0)
    })
}

/// How many numbers a list such as `0-3,6` names.
fn listed(list: &str) -> Option<u32> {
    let mut count = 0u32;
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let [first, last]: [u32; 2] = [first.trim().parse().ok()?, last.trim().parse().ok()?];
        count = count.checked_add(last.checked_sub(first)?.checked_add(1)?)?;
    }
    Some(count)
}

/// Part of the last 10 s that some task waited for `what`, in percent.
pub(super) fn stall_percent(proc: &Path, what: &str) -> Option<f32> {
    let table = files::table(&proc.join("pressure").join(what))?;
    let some = table.lines().find_map(|line| line.strip_prefix("some "))?;
    let percent: f32 =
        some.split_whitespace().find_map(|word| word.strip_prefix("avg10="))?.parse().ok()?;
    (0.0..=100.0).contains(&percent).then_some(percent)
}

/// Bytes of memory that can be had, and what sets the bound.
pub(super) fn memory(sys: &Path, proc: &Path) -> Option<(u64, String)> {
    let meminfo = proc.join("meminfo");
    let machine = files::table(&meminfo)
        .and_then(|table| field(&table, "MemAvailable:")?.checked_mul(1_024))
        .map(|bytes| (bytes, meminfo.display().to_string()));
    let groups = groups(sys, proc).into_iter();
    let left = groups.filter_map(|group| Some((group.left()?, group.folder.display().to_string())));
    machine.into_iter().chain(left).min_by_key(|(bytes, _)| *bytes)
}

/// All memory of the machine, in bytes.
pub(super) fn machine(proc: &Path) -> Option<u64> {
    field(&files::table(&proc.join("meminfo"))?, "MemTotal:")?.checked_mul(1_024)
}

/// Resident memory of this process, in bytes.
pub(super) fn resident(proc: &Path) -> Option<u64> {
    field(&files::table(&proc.join("self/status"))?, "VmRSS:")?.checked_mul(1_024)
}

/// The number in the line of a table that begins with `name`.
fn field(table: &str, name: &str) -> Option<u64> {
    let rest = table.lines().find_map(|line| {
        line.strip_prefix(name).filter(|rest| name.ends_with(':') || rest.starts_with(' '))
    })?;
    rest.split_whitespace().next()?.parse().ok()
}

/// A control group of memory and the names of its files.
struct Group {
    folder: PathBuf,
    limits: &'static [&'static str],
    usage: &'static str,
    cache: &'static str,
}

impl Group {
    /// What may still be taken; none without a limit. Cached files that nobody uses are given back
    /// before anybody is refused, so they count as free.
    fn left(&self) -> Option<u64> {
        let read = |name: &&str| u64::try_from(files::whole(&self.folder.join(name))?).ok();
        // "max", no limit, is no number.
        let limit = self.limits.iter().filter_map(read).min()?;
        let usage = read(&self.usage)?;
        let table = files::table(&self.folder.join("memory.stat")).unwrap_or_default();
        let cache = field(&table, self.cache).unwrap_or(0);
        Some(limit.saturating_sub(usage.saturating_sub(cache)))
    }
}

/// Our control groups, each with those above it; in a container its path is the host's, and only
/// the root is there to be read.
fn groups(sys: &Path, proc: &Path) -> Vec<Group> {
    let table = files::table(&proc.join("self/cgroup")).unwrap_or_default();
    let mut found = Vec::new();
    for line in table.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (root, limits, usage, cache): (_, &[&str], _, _) = if controllers.is_empty() {
            (
                sys.join("fs/cgroup"),
                &["memory.max", "memory.high"],
                "memory.current",
                "inactive_file",
            )
        } else if controllers.split(',').any(|name| name == "memory") {
            let root = sys.join("fs/cgroup/memory");
            (root, &["memory.limit_in_bytes"], "memory.usage_in_bytes", "total_inactive_file")
        } else {
            continue;
        };
        let inside: PathBuf = Path::new(path)
            .components()
            .filter(|part| matches!(part, Component::Normal(_)))
            .collect();
        let folders = inside.ancestors().map(|above| root.join(above));
        found.extend(folders.map(|folder| Group { folder, limits, usage, cache }));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_cores_is_counted_and_a_damaged_one_is_none() {
        assert_eq!([listed("0"), listed("0-5"), listed("0-3,6,8-9")], [Some(1), Some(6), Some(7)]);
        for damaged in ["", "x", "5-2", "0-", "0-4294967295", "1-3,0-4294967294"] {
            assert_eq!(listed(damaged), None, "{damaged:?}");
        }
    }

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let table = "inactive_file_dirty 1\ninactive_file 4096\nMemAvailable:  12 kB\n";
        assert_eq!(field(table, "inactive_file"), Some(4_096));
        assert_eq!(field(table, "MemAvailable:"), Some(12));
        assert_eq!(field(table, "active_file"), None);
        assert_eq!(field("MemAvailable: 99999999999999999999 kB", "MemAvailable:"), None);
    }
}

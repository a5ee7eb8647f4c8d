//! How many files the process may have open, and so how many connections.
//!
//! - Where a socket cannot be opened for want of files, no connection that says nothing leaves for
//!   another: there must be room for fewer than that.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files beside the connections: the book, blobs on their way, what listens.
const OTHERS: u64 = 128;

/// Asks for as many files as the system lets this process have, and says for how many connections they are.
pub(super) fn connections(most: usize) -> usize {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // Where it is not granted, what was granted before holds.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let found = room(getrlimit(Resource::Nofile).current, most);
    if found < most {
        tracing::warn!(
            connections = found,
            asked = most,
            "the system lets the server open too few files for all connections: ulimit -n, LimitNOFILE"
        );
    }
    found
}

fn room(files: Option<u64>, most: usize) -> usize {
    let Some(files) = files else { return most };
    // With few files, half of them.
    let room = files.saturating_sub(OTHERS).max(files / 2).max(1);
    most.min(usize::try_from(room).unwrap_or(most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_files_for_the_rest() {
        for (files, most, expected) in [
            (None, 16_384, 16_384),
            (Some(1 << 20), 16_384, 16_384),
            (Some(1024), 16_384, 1024 - 128),
            (Some(200), 16_384, 100),
            (Some(1024), 10, 10),
            (Some(1), 10, 1),
            (Some(u64::MAX), 10, 10),
        ] {
            assert_eq!(room(files, most), expected, "{files:?} {most}");
        }
    }
}

//! The doors to the world: the only way of the learner to the disk.
//!
//! - A path is a name relative to the state folder, parts separated by `/`, never `..`.
//! - What was written is durable only after [`Storage::sync`] of the file **and**
//!   [`Storage::sync_dir`] of the folder that got its name; until then a power cut may lose it, keep
//!   it in part, or keep a later write without an earlier one.
//! - An error of a sync is final: what the system still holds is unknown, the job must end.
//! - Never here: what the bytes mean.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
#[cfg(unix)]
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

#[cfg(any(test, feature = "faults"))]
pub mod cut_disk;
mod memory;

pub use memory::Memory;

/// Bytes of zeros written at once when a file is allocated.
const ZEROS_BYTES: usize = 1 << 20;
/// What the owner alone may do with a file, and with a folder.
#[cfg(unix)]
const PRIVATE_FILE: u32 = 0o600;
#[cfg(unix)]
const PRIVATE_FOLDER: u32 = 0o700;
/// What everybody else could do.
#[cfg(unix)]
const OTHERS: u32 = 0o077;
/// The raw number of EIO, which has no [`ErrorKind`] of its own.
const EIO: i32 = 5;

/// Why the disk did not do what it was asked; everything that was committed before still stands.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The system refused or failed.
    #[error("cannot {operation} {path}: {source}; what was committed before is unchanged")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// Another process works on the folder.
    #[error(
        "{path} is in use by another process: end it first, two programs would overwrite each other"
    )]
    Locked {
        /// The state folder.
        path: String,
    },
    /// A path that leaves the folder.
    #[error(
        "{path:?} is no name inside the state folder: expected parts without '..', separated by '/'"
    )]
    Name {
        /// The path as given.
        path: String,
    },
}

impl StorageError {
    /// Whether the thing asked for is not there.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == ErrorKind::NotFound)
    }

    /// Whether the medium holds less than it should or cannot be read: the bytes are lost for good.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Io { source, .. }
            if source.kind() == ErrorKind::UnexpectedEof || source.raw_os_error() == Some(EIO))
    }

    /// Whether the disk is full, or the quota used up.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Io { source, .. }
            if matches!(source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded))
    }
}

/// What [`Storage`] answers.
pub type StorageResult<T> = Result<T, StorageError>;

/// A folder on a disk that may lose power at any moment.
pub trait Storage: Send + Sync {
    /// Makes a folder and those above it; one that exists is fine.
    ///
    /// # Errors
    /// [`StorageError`], as every method here.
    fn create_dir_all(&self, path: &str) -> StorageResult<()>;
    /// All bytes of a file.
    fn read(&self, path: &str) -> StorageResult<Vec<u8>>;
    /// `into.len()` bytes from `offset`; fewer are an error for which `is_damage` holds.
    fn read_at(&self, path: &str, offset: u64, into: &mut [u8]) -> StorageResult<()>;
    /// Makes the file, or empties it, and writes `bytes`.
    fn write(&self, path: &str, bytes: &[u8]) -> StorageResult<()>;
    /// Overwrites bytes of a file that exists; those behind its end make it longer.
    fn write_at(&self, path: &str, offset: u64, bytes: &[u8]) -> StorageResult<()>;
    /// Makes a file of `length` zero bytes, really written, so that a full disk is met now.
    fn allocate(&self, path: &str, length: u64) -> StorageResult<()>;
    /// Makes the bytes and the length of a file durable.
    fn sync(&self, path: &str) -> StorageResult<()>;
    /// Makes the names in a folder durable; `""` is the root.
    fn sync_dir(&self, path: &str) -> StorageResult<()>;
    /// Gives a file or a folder another name at once; a file at that name is replaced.
    fn rename(&self, from: &str, to: &str) -> StorageResult<()>;
    /// Removes a file.
    fn remove(&self, path: &str) -> StorageResult<()>;
    /// Removes a folder and all in it, not at once.
    fn remove_dir_all(&self, path: &str) -> StorageResult<()>;
    /// The names in a folder, sorted; none when there is no such folder.
    fn list(&self, path: &str) -> StorageResult<Vec<String>>;
    /// Bytes of a file, or `None` when there is no such file.
    fn len(&self, path: &str) -> StorageResult<Option<u64>>;
}

/// Who else may read a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nobody.
    Private,
    /// Nobody any more: others could until it was opened.
    Closed,
    /// Others: the system lets nobody change that, as on a file system without owners.
    Open,
}

impl Access {
    /// What an operator should know of it, if anything.
    pub fn notice(self) -> Option<&'static str> {
        match self {
            Self::Private => None,
            Self::Closed => {
                Some("others could read the state folder: from now on its owner alone can")
            }
            Self::Open => Some("others can read the state folder, and it cannot be closed to them"),
        }
    }
}

/// A real folder, that nobody else may read: what a device learns from is its user's.
#[derive(Debug)]
pub struct Disk {
    root: PathBuf,
    access: Access,
    /// Held open for as long as nobody else may change the folder; without it nothing is changed.
    lock: Option<File>,
}

impl Disk {
    /// Makes the folder if need be and takes it for this process alone.
    ///
    /// The lock ends with the process, however it ends. A folder that others could read is closed to
    /// them: see [`Disk::access`].
    ///
    /// # Errors
    /// [`StorageError::Locked`] when another process has it; [`StorageError::Io`].
    pub fn exclusive(root: &Path) -> StorageResult<Self> {
        let path = || root.display().to_string();
        let io = |operation| move |source| StorageError::Io { operation, path: path(), source };
        make_private(root).map_err(io("create"))?;
        let lock = private().truncate(false).open(root.join("lock"));
        let lock = lock.map_err(io("open the lock of"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StorageError::Locked { path: path() }),
            Err(TryLockError::Error(source)) => return Err(io("lock")(source)),
        }
        let access = close(root).map_err(io("look at"))?;
        Ok(Self { root: root.to_path_buf(), access, lock: Some(lock) })
    }

    /// Who else may read the folder, and whether that was so before.
    pub fn access(&self) -> Access {
        self.access
    }

    /// The folder for reading only, without a lock: to look at one that another process may be using.
    ///
    /// # Errors
    /// [`StorageError::Io`] when there is no such folder.
    pub fn look(root: &Path) -> StorageResult<Self> {
        fs::read_dir(root).map_err(|source| StorageError::Io {
            operation: "open the folder",
            path: root.display().to_string(),
            source,
        })?;
        Ok(Self { root: root.to_path_buf(), access: Access::Private, lock: None })
    }

    fn full(&self, path: &str) -> StorageResult<PathBuf> {
        let inside = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
        if inside {
            Ok(self.root.join(path))
        } else {
            Err(StorageError::Name { path: path.into() })
        }
    }

    /// As [`Self::door`], for what changes the folder: refused to one who only looks.
    fn change<T>(
        &self,
        operation: &'static str,
        path: &str,
        work: impl FnOnce(&Path) -> io::Result<T>,
    ) -> StorageResult<T> {
        let held = self.lock.is_some();
        self.door(operation, path, |full| {
            if held { work(full) } else { Err(ErrorKind::ReadOnlyFilesystem.into()) }
        })
    }

    /// Does `work` on the full path and puts the operation and the path into its error.
    fn door<T>(
        &self,
        operation: &'static str,
        path: &str,
        work: impl FnOnce(&Path) -> io::Result<T>,
    ) -> StorageResult<T> {
        let full = self.full(path)?;
        work(&full).map_err(|source| StorageError::Io {
            operation,
            path: full.display().to_string(),
            source,
        })
    }
}

/// Makes a folder and those above it, each name durable in the folder that holds it.
fn make_durable(folder: &Path) -> io::Result<()> {
    make(folder, &DirBuilder::new())
}

/// The same, but the last one is for nobody else.
fn make_private(folder: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    builder.mode(PRIVATE_FOLDER);
    make(folder, &builder)
}

fn make(folder: &Path, builder: &DirBuilder) -> io::Result<()> {
    if folder.as_os_str().is_empty() || folder.is_dir() {
        return Ok(());
    }
    let above = folder.parent().unwrap_or(Path::new(""));
    make_durable(above)?;
    builder.create(folder)?;
    let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
    File::open(above)?.sync_all()
}

/// For writing a file that is made if need be, for nobody else to read.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.create(true).write(true);
    #[cfg(unix)]
    options.mode(PRIVATE_FILE);
    options
}

/// Takes the folder from everybody but its owner.
fn close(folder: &Path) -> io::Result<Access> {
    #[cfg(unix)]
    {
        let mode = fs::metadata(folder)?.permissions().mode();
        if mode & OTHERS != 0 {
            let private = fs::Permissions::from_mode(mode & !OTHERS);
            let closed = fs::set_permissions(folder, private).is_ok()
                && fs::metadata(folder)?.permissions().mode() & OTHERS == 0;
            return Ok(if closed { Access::Closed } else { Access::Open });
        }
    }
    Ok(Access::Private)
}

impl Storage for Disk {
    fn create_dir_all(&self, path: &str) -> StorageResult<()> {
        self.change("create folder", path, |full| {
            let mut builder = DirBuilder::new();
            #[cfg(unix)]
            builder.mode(PRIVATE_FOLDER);
            builder.recursive(true).create(full)
        })
    }

    fn read(&self, path: &str) -> StorageResult<Vec<u8>> {
        self.door("read", path, |full| fs::read(full))
    }

    fn read_at(&self, path: &str, offset: u64, into: &mut [u8]) -> StorageResult<()> {
        self.door("read", path, |full| {
            let mut file = File::open(full)?;
            file.seek(SeekFrom::Start(offset))?;
            file.read_exact(into)
        })
    }

    fn write(&self, path: &str, bytes: &[u8]) -> StorageResult<()> {
        self.change("write", path, |full| private().truncate(true).open(full)?.write_all(bytes))
    }

    fn write_at(&self, path: &str, offset: u64, bytes: &[u8]) -> StorageResult<()> {
        self.change("write", path, |full| {
            let mut file = OpenOptions::new().write(true).open(full)?;
            file.seek(SeekFrom::Start(offset))?;
            file.write_all(bytes)
        })
    }

    fn allocate(&self, path: &str, length: u64) -> StorageResult<()> {
        self.change("reserve space for", path, |full| {
            let mut file = private().truncate(true).open(full)?;
            let zeros = vec![0; ZEROS_BYTES];
            let mut left = length;
            while left > 0 {
                let now = left.min(ZEROS_BYTES as u64);
                file.write_all(&zeros[..now as usize])?;
                left -= now;
            }
            // A full disk may show itself only when the blocks are really written.
            file.sync_all()
        })
    }

    fn sync(&self, path: &str) -> StorageResult<()> {
        self.door("sync", path, |full| File::open(full)?.sync_all())
    }

    fn sync_dir(&self, path: &str) -> StorageResult<()> {
        self.door("sync folder", path, |full| File::open(full)?.sync_all())
    }

    fn rename(&self, from: &str, to: &str) -> StorageResult<()> {
        let target = self.full(to)?;
        self.change("rename", from, |full| fs::rename(full, target))
    }

    fn remove(&self, path: &str) -> StorageResult<()> {
        self.change("remove", path, |full| fs::remove_file(full))
    }

    fn remove_dir_all(&self, path: &str) -> StorageResult<()> {
        self.change("remove folder", path, |full| fs::remove_dir_all(full))
    }

    fn list(&self, path: &str) -> StorageResult<Vec<String>> {
        self.door("list", path, |full| {
            let entries = match fs::read_dir(full) {
                Ok(entries) => entries,
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
                Err(error) => return Err(error),
            };
            let mut names = entries
                .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                .collect::<io::Result<Vec<_>>>()?;
            names.sort();
            Ok(names)
        })
    }

    fn len(&self, path: &str) -> StorageResult<Option<u64>> {
        self.door("look at", path, |full| match fs::metadata(full) {
            Ok(found) => Ok(Some(found.len())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use super::*;

    #[test]
    fn a_second_opener_is_refused_until_the_first_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("a/b");
        let first = Disk::exclusive(&root).unwrap();
        assert!(matches!(Disk::exclusive(&root), Err(StorageError::Locked { .. })));
        let looker = Disk::look(&root).unwrap();
        assert!(looker.write("x", b"").is_err(), "who only looks changes nothing");
        drop(first);
        assert!(Disk::exclusive(&root).is_ok());
    }

    #[test]
    fn what_was_written_is_read_and_listed_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::exclusive(folder.path()).unwrap();
        disk.create_dir_all("a/b").unwrap();
        disk.allocate("a/z", 3_000_000).unwrap();
        disk.write_at("a/z", 2_999_999, b"!").unwrap();
        disk.write("a/new", b"one").unwrap();
        disk.rename("a/new", "a/y").unwrap();
        disk.sync("a/y").unwrap();
        disk.sync_dir("").unwrap();
        assert_eq!(disk.list("a").unwrap(), ["b", "y", "z"]);
        assert_eq!(disk.len("a/z").unwrap(), Some(3_000_000));
        let mut end = [7; 2];
        disk.read_at("a/z", 2_999_998, &mut end).unwrap();
        assert_eq!(end, [0, b'!']);
        assert!(disk.read_at("a/z", 2_999_999, &mut end).unwrap_err().is_damage());
        assert!(disk.read("a/new").unwrap_err().is_missing());
        assert_eq!((disk.len("x").unwrap(), disk.list("x").unwrap().len()), (None, 0));
    }

    #[cfg(unix)]
    #[test]
    fn nobody_else_may_read_it_whatever_the_umask_allows() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("state");
        let mode = |path: &str| fs::metadata(root.join(path)).unwrap().permissions().mode() & 0o777;
        let disk = Disk::exclusive(&root).unwrap();
        disk.create_dir_all("a/b").unwrap();
        disk.write("a/x", b"mine").unwrap();
        disk.allocate("y", 1).unwrap();
        assert_eq!([mode(""), mode("a"), mode("a/b")], [0o700; 3]);
        assert_eq!([mode("lock"), mode("a/x"), mode("y")], [0o600; 3]);
        assert_eq!(disk.access(), Access::Private);
        drop(disk);
        // As an older version left it.
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(Disk::exclusive(&root).unwrap().access(), Access::Closed);
        assert_eq!(mode(""), 0o700);
    }

    #[test]
    fn no_path_leaves_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::exclusive(folder.path()).unwrap();
        for path in ["../x", "/etc/passwd", "a/../../x"] {
            assert!(matches!(disk.write(path, b""), Err(StorageError::Name { .. })), "{path}");
        }
    }

    #[test]
    fn an_error_names_the_operation_and_the_path() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::exclusive(folder.path()).unwrap();
        let said = disk.write_at("absent", 0, b"x").unwrap_err().to_string();
        assert!(said.starts_with("cannot write ") && said.contains("absent"), "{said}");
    }
}

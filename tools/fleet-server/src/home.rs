//! The folder of a fleet: keys, certificate, book, blobs.
//!
//! ```text
//! fleet.db   blobs/   keys/{online,root,release}.key   keys/online-EPOCH.key   tls/{cert,key}.pem
//! ```
//! - `stores.toml` instead of `fleet.db` or `blobs/`, or beside them, where those are kept elsewhere.
//! - `root.key` and `release.key` are meant to be moved away: a server needs neither.
//! - The online key is the one that the newest trust statement names, in whichever file it lies.
//! - In: a path. Out: a new folder, there whole or not at all; or what an older one holds.
//! - Keys are seeds in hexadecimal digits, in files that nobody else may read.

mod stores; // where book and blobs are
mod keys; //   files that nobody else may read
mod lock; //   one server a folder
mod moved; //  a book elsewhere, or of a newer version
mod carried; // blobs elsewhere

pub use carried::carry;
pub use keys::{keep_key, keep_own_key, key, new_key, seed, token};
pub use lock::locked;
pub use moved::{Moved, relocate, upgrade};
pub use stores::{STORES, Stores, StoresError};

use crate::ports::{Chance, ChanceError, draw};
use crate::store::blobs::{BlobError, Blobs, Credentials, Place};
use crate::store::postgres::Postgres;
use crate::store::sqlite::Sqlite;
use crate::store::{Book, BookError, Columns, OpenError, Statement, schema};
use keys::{TOKEN_BYTES_MIN, certificate, disk, private, secret};
use rcgen::{KeyPair, PublicKeyData};
use sapwood_protocol::fleet::id::{FleetId, Hash, PublicKey};
use sapwood_protocol::fleet::key::SecretKey;
use sapwood_protocol::fleet::name::is_hidden;
use sapwood_protocol::fleet::signatures::Signatures;
use sapwood_protocol::fleet::trust::Trust;
use sapwood_protocol::limits::FLEET_NAME_BYTES_MAX;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How long the first trust statement holds, in seconds: five years.
const TRUST_S: u64 = 5 * 365 * 24 * 3600;
/// Where the book lies.
const BOOK: &str = "fleet.db";

/// What a new fleet is told.
#[derive(Clone, Debug)]
pub struct Wish<'a> {
    /// The folder, which must not be there.
    pub folder: &'a Path,
    /// What people call the fleet.
    pub name: &'a str,
    /// Names and addresses of a certificate of its own; none when it has another, or none.
    pub tls: Option<&'a [String]>,
    /// Milliseconds since 1970.
    pub now_ms: u64,
}

/// A fleet's folder, open.
#[derive(Debug)]
pub struct Home {
    /// Where it lies.
    pub folder: PathBuf,
    /// The fleet.
    pub fleet: FleetId,
    /// What people call it.
    pub name: String,
    /// Its rows.
    pub book: Arc<dyn Book>,
    /// Its files.
    pub blobs: Blobs,
}

/// Why a folder is not made, or not opened; what is there stays as it is.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// Something lies there.
    #[error("{path} exists, expected nothing there; it is unchanged", path = path.display())]
    Exists {
        /// The path.
        path: PathBuf,
    },
    /// Not one of ours.
    #[error("{path} is no fleet's folder: expected {BOOK} in it, which `fleet-server init` makes", path = path.display())]
    Foreign {
        /// The path.
        path: PathBuf,
    },
    /// A name that nobody can read.
    #[error(
        "a fleet's name has {got} bytes, expected 1 to {FLEET_NAME_BYTES_MAX} in characters that are seen"
    )]
    Name {
        /// Bytes of the name.
        got: usize,
    },
    /// A certificate for what is no host.
    #[error("a certificate for {got:?}: expected names of hosts and addresses; nothing was made")]
    HostName {
        /// What it is.
        got: String,
    },
    /// A key's file that others may read.
    #[error("others may read {path}: expected mode 600, got {mode:o}", path = path.display())]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Not a key.
    #[error("{path} is no key: expected 64 lower-case hexadecimal digits", path = path.display())]
    Key {
        /// The file.
        path: PathBuf,
    },
    /// No file has the key that the server signs with.
    #[error("no file in {path} has the online key of epoch {epoch}, {key}", path = path.display())]
    Online {
        /// The folder of keys.
        path: PathBuf,
        /// The newest epoch.
        epoch: u64,
        /// Its online key.
        key: PublicKey,
    },
    /// Not a token.
    #[error("{path}: expected one word of at least {TOKEN_BYTES_MIN} visible ASCII characters", path = path.display())]
    Token {
        /// The file.
        path: PathBuf,
    },
    /// The disk.
    #[error("{path}: {source}", path = path.display())]
    Disk {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No certificate was made, or it is none.
    #[error("the certificate: {0}")]
    Tls(#[from] rcgen::Error),
    /// What the first trust statement says.
    #[error(transparent)]
    Trust(#[from] sapwood_protocol::fleet::trust::TrustError),
    /// How it is signed.
    #[error(transparent)]
    Signatures(#[from] sapwood_protocol::fleet::signatures::SignaturesError),
    /// The book's file.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The book.
    #[error(transparent)]
    Book(#[from] BookError),
    /// The blobs.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// No chance.
    #[error(transparent)]
    Chance(#[from] ChanceError),
    /// Where book and blobs are kept.
    #[error("{path}: {source}", path = path.display())]
    Stores {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: StoresError,
    },
    /// Another server has the folder.
    #[error("{path} is served by another process, expected to be the only one", path = path.display())]
    Taken {
        /// The folder.
        path: PathBuf,
    },
    /// Something is where a book should go.
    #[error(
        "{place} is not empty, expected nothing there; it is unchanged, and the fleet is where it was"
    )]
    Full {
        /// The place.
        place: String,
    },
    /// A copy that is none.
    #[error(
        "of table {table} {arrived} rows arrived, expected the {sent} that were sent, each as it was; the fleet is where it was"
    )]
    Copied {
        /// The table.
        table: &'static str,
        /// Rows that were sent.
        sent: u64,
        /// Rows that arrived.
        arrived: u64,
    },
}

/// Makes a fleet's folder: first beside its place, then renamed to it.
///
/// # Errors
/// [`HomeError`]; nothing lies at the path then that did not before.
pub fn init(wish: &Wish<'_>, chance: &dyn Chance) -> Result<FleetId, HomeError> {
    init_with(wish, &Stores::default(), chance)
}

/// The same, with book or blobs elsewhere.
///
/// # Errors
/// [`HomeError`]; nothing lies at the path then that did not before.
pub fn init_with(
    wish: &Wish<'_>,
    stores: &Stores,
    chance: &dyn Chance,
) -> Result<FleetId, HomeError> {
    let path = wish.folder;
    let got = wish.name.len();
    if !(1..=FLEET_NAME_BYTES_MAX).contains(&got) || wish.name.chars().any(is_hidden) {
        return Err(HomeError::Name { got });
    }
    if fs::symlink_metadata(path).is_ok() {
        return Err(HomeError::Exists { path: path.to_owned() });
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    let partial = parent.join(format!(".{name}.partial-{}", std::process::id()));
    let made = fill(&partial, wish, stores, chance).and_then(|fleet| {
        // Over an empty folder that came in between a rename would go; a folder with anything is safe.
        fs::rename(&partial, path).map_err(disk(path))?;
        File::open(parent).and_then(|parent| parent.sync_all()).map_err(disk(parent))?;
        Ok(fleet)
    });
    if made.is_err() {
        // Best effort: the error that matters is the one above.
        let _ = fs::remove_dir_all(&partial);
    }
    made
}

fn fill(
    folder: &Path,
    wish: &Wish<'_>,
    stores: &Stores,
    chance: &dyn Chance,
) -> Result<FleetId, HomeError> {
    for part in ["", "keys", "tls", "blobs"] {
        let path = folder.join(part);
        fs::DirBuilder::new().mode(0o700).create(&path).map_err(disk(&path))?;
    }
    let fleet = FleetId(draw(chance)?);
    let [online, root, release] = ["online", "root", "release"]
        .map(|name| new_key(&folder.join("keys").join(format!("{name}.key")), chance));
    let (online, root, release) = (online?, root?, release?);
    let trust = Trust {
        fleet,
        epoch: 1,
        expires_s: wish.now_ms / 1000 + TRUST_S,
        online: online.public(),
        root: vec![root.public()],
        root_threshold: 1,
        release: vec![release.public()],
        release_threshold: 1,
    };
    let statement = trust.encode()?;
    let mut signatures = Signatures::default();
    signatures.sign(&root, &statement)?;
    if let Some(names) = wish.tls {
        certificate(folder, names)?;
    }
    if !stores.is_folder() {
        secret(&folder.join(STORES), &stores.write())?;
    }
    blobs(folder, stores)?.probe()?;
    let first = [
        Statement::one(
            "insert into meta(version, fleet, name, created) values ($1, $2, $3, $4)",
            [schema::VERSION.into(), fleet.0.to_vec().into(), wish.name.into(), wish.now_ms.into()],
        ),
        Statement::one(
            "insert into trust(epoch, statement, signatures) values (1, $1, $2)",
            [statement.into(), signatures.encode().into()],
        ),
    ];
    // Last: what is in a database is not undone with the folder.
    match &stores.database {
        Some(address) => Postgres::create(address, &first)?,
        None => Sqlite::create(&folder.join(BOOK), &first)?,
    }
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(disk(folder))?;
    Ok(fleet)
}

/// Where a folder says that its book and its blobs are.
fn stores(folder: &Path) -> Result<Stores, HomeError> {
    let path = folder.join(STORES);
    if fs::symlink_metadata(&path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Ok(Stores::default());
    }
    let text = private(&path)?;
    Stores::read(&text).map_err(|source| HomeError::Stores { path, source })
}

/// The book of a folder.
fn book(folder: &Path, stores: &Stores) -> Result<Arc<dyn Book>, HomeError> {
    let path = folder.join(BOOK);
    if let Some(address) = &stores.database {
        return Ok(Arc::new(Postgres::open(address)?));
    }
    match fs::metadata(&path) {
        Ok(found) if found.is_file() => Ok(Arc::new(Sqlite::open(&path)?)),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(disk(&path)(error)),
        _ => Err(HomeError::Foreign { path: folder.to_owned() }),
    }
}

/// Where the blobs are.
fn blobs(folder: &Path, stores: &Stores) -> Result<Blobs, HomeError> {
    let root = folder.join("blobs");
    let Some(address) = &stores.blobs else { return Ok(Blobs::open(&root)?) };
    let place = Place::read(address).map_err(BlobError::Place)?;
    let credentials = Credentials::of_environment().map_err(BlobError::Place)?;
    Ok(Blobs::in_bucket(&root, place, &credentials)?)
}

impl Home {
    /// Opens a fleet's folder.
    ///
    /// # Errors
    /// [`HomeError`]; nothing was changed.
    pub fn open(folder: &Path) -> Result<Self, HomeError> {
        let stores = stores(folder)?;
        let book = book(folder, &stores)?;
        let rows = book.read("select fleet, name from meta", &[])?;
        let mut columns = Columns::of(rows.into_iter().next().unwrap_or_default());
        let (fleet, name) = (FleetId(columns.array()?), columns.text()?);
        let blobs = blobs(folder, &stores)?;
        Ok(Self { folder: folder.to_owned(), fleet, name, book, blobs })
    }

    /// The newest trust statement.
    ///
    /// # Errors
    /// [`HomeError`].
    pub fn trust(&self) -> Result<Trust, HomeError> {
        let rows =
            self.book.read("select statement from trust order by epoch desc limit 1", &[])?;
        let statement = Columns::of(rows.into_iter().next().unwrap_or_default()).bytes()?;
        Ok(Trust::decode(&statement)?)
    }

    /// Where the online key of an epoch lies that has one of its own.
    pub fn online_path(&self, epoch: u64) -> PathBuf {
        let name = if epoch > 1 { format!("online-{epoch}.key") } else { "online.key".to_owned() };
        self.folder.join("keys").join(name)
    }

    /// The key that signs candidates.
    ///
    /// # Errors
    /// [`HomeError`].
    pub fn online(&self) -> Result<SecretKey, HomeError> {
        let trust = self.trust()?;
        for path in (1..=trust.epoch).rev().map(|epoch| self.online_path(epoch)) {
            if path.exists() {
                let key = key(&path)?;
                if key.public() == trust.online {
                    return Ok(key);
                }
            }
        }
        let path = self.folder.join("keys");
        Err(HomeError::Online { path, epoch: trust.epoch, key: trust.online })
    }

    /// Certificate and key in PEM.
    ///
    /// # Errors
    /// [`HomeError`].
    pub fn tls(&self) -> Result<[String; 2], HomeError> {
        let certificate = self.folder.join("tls/cert.pem");
        let certificate = fs::read_to_string(&certificate).map_err(disk(&certificate))?;
        Ok([certificate, private(&self.folder.join("tls/key.pem"))?])
    }

    /// BLAKE3 of the server's public key, by which devices know it.
    ///
    /// # Errors
    /// [`HomeError`].
    pub fn pin(&self) -> Result<Hash, HomeError> {
        let key = KeyPair::from_pem(&private(&self.folder.join("tls/key.pem"))?)?;
        Ok(Hash::of(&key.subject_public_key_info()))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;
    use crate::ports::SystemChance;
    use std::os::unix::fs::PermissionsExt;

    fn wish<'a>(folder: &'a Path, tls: Option<&'a [String]>) -> Wish<'a> {
        Wish { folder, name: "valves", tls, now_ms: 1_764_100_000_000 }
    }

    #[test]
    fn a_fleet_is_made_whole_and_never_over_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fleet");
        let names = ["localhost".to_owned()];
        let fleet = init(&wish(&path, Some(&names)), &SystemChance).unwrap();
        let home = Home::open(&path).unwrap();
        assert_eq!((home.fleet, home.name.as_str()), (fleet, "valves"));
        for name in ["keys/online.key", "keys/root.key", "keys/release.key", "tls/key.pem"] {
            let mode = fs::metadata(path.join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        let rows = home.book.read("select statement, signatures from trust", &[]).unwrap();
        let mut columns = Columns::of(rows[0].clone());
        let (statement, signatures) = (columns.bytes().unwrap(), columns.bytes().unwrap());
        let signatures = Signatures::decode(&signatures).unwrap();
        let trust = Trust::first(&statement, &signatures, fleet, Hash::of(&statement)).unwrap();
        assert_eq!(trust.online, home.online().unwrap().public());
        home.pin().unwrap();
        let before = fs::read(path.join("keys/root.key")).unwrap();
        let error = init(&wish(&path, None), &SystemChance).unwrap_err().to_string();
        assert!(error.contains("exists, expected nothing there"), "{error}");
        assert_eq!(fs::read(path.join("keys/root.key")).unwrap(), before);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "and nothing beside it");
    }

    #[test]
    fn what_is_no_fleets_folder_is_said_to_be_none_and_left() {
        let folder = tempfile::tempdir().unwrap();
        let error = Home::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("is no fleet's folder"), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        for name in ["", "a\nb", &"long".repeat(20)] {
            let path = folder.path().join("fleet");
            let wish = Wish { name, ..wish(&path, None) };
            assert!(matches!(init(&wish, &SystemChance), Err(HomeError::Name { .. })), "{name}");
        }
    }
}

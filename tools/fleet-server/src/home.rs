//! The folder of a fleet: keys, certificate, book, blobs.
//!
//! ```text
//! fleet.db   blobs/   keys/{online,root,release}.key   keys/online-EPOCH.key   tls/{cert,key}.pem
//! ```
//! - `root.key` and `release.key` are meant to be moved away: a server needs neither.
//! - The online key is the one that the newest trust statement names, in whichever file it lies.
//! - In: a path. Out: a new folder, there whole or not at all; or what an older one holds.
//! - Keys are seeds in hexadecimal digits, in files that nobody else may read.

use crate::ports::{Chance, ChanceError, draw};
use crate::store::blobs::{BlobError, Blobs};
use crate::store::sqlite::{OpenError, Sqlite};
use crate::store::{Book, BookError, Columns, Statement, schema};
use rcgen::{CertificateParams, KeyPair, PublicKeyData};
use sapwood_protocol::fleet::id::{FleetId, Hash, PublicKey};
use sapwood_protocol::fleet::key::SecretKey;
use sapwood_protocol::fleet::signatures::Signatures;
use sapwood_protocol::fleet::trust::Trust;
use sapwood_protocol::limits::FLEET_NAME_BYTES_MAX;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// How long the first trust statement holds, in seconds: five years.
const TRUST_S: u64 = 5 * 365 * 24 * 3600;
/// Bytes of a key's file.
const KEY_BYTES_MAX: u64 = 256;
/// Fewest bytes of a token: 16 letters at random are more than anybody tries.
const TOKEN_BYTES_MIN: usize = 16;
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
    pub book: Sqlite,
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
        "a fleet's name has {got} bytes, expected 1 to {FLEET_NAME_BYTES_MAX} without control characters"
    )]
    Name {
        /// Bytes of the name.
        got: usize,
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
}

fn disk(path: &Path) -> impl Fn(io::Error) -> HomeError + '_ {
    move |source| HomeError::Disk { path: path.to_owned(), source }
}

/// Makes a fleet's folder: first beside its place, then renamed to it.
///
/// # Errors
/// [`HomeError`]; nothing lies at the path then that did not before.
pub fn init(wish: &Wish<'_>, chance: &dyn Chance) -> Result<FleetId, HomeError> {
    let path = wish.folder;
    let got = wish.name.len();
    if !(1..=FLEET_NAME_BYTES_MAX).contains(&got) || wish.name.chars().any(char::is_control) {
        return Err(HomeError::Name { got });
    }
    if fs::symlink_metadata(path).is_ok() {
        return Err(HomeError::Exists { path: path.to_owned() });
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    let partial = parent.join(format!(".{name}.partial-{}", std::process::id()));
    let made = fill(&partial, wish, chance).and_then(|fleet| {
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

fn fill(folder: &Path, wish: &Wish<'_>, chance: &dyn Chance) -> Result<FleetId, HomeError> {
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
    Blobs::open(&folder.join("blobs"))?;
    let book = folder.join(BOOK);
    Sqlite::create(
        &book,
        &[
            Statement::one(
                "insert into meta(version, fleet, name, created) values ($1, $2, $3, $4)",
                [
                    schema::VERSION.into(),
                    fleet.0.to_vec().into(),
                    wish.name.into(),
                    wish.now_ms.into(),
                ],
            ),
            Statement::one(
                "insert into trust(epoch, statement, signatures) values (1, $1, $2)",
                [statement.into(), signatures.encode().into()],
            ),
        ],
    )?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(disk(folder))?;
    Ok(fleet)
}

/// A certificate that nobody else speaks for: devices know it by its key.
fn certificate(folder: &Path, names: &[String]) -> Result<(), HomeError> {
    let key = KeyPair::generate()?;
    let mut certificate = CertificateParams::new(names)?;
    // A device that knows a server by its key does not ask a calendar; others may.
    certificate.not_before = rcgen::date_time_ymd(1970, 1, 1);
    certificate.not_after = rcgen::date_time_ymd(2100, 1, 1);
    let certificate = certificate.self_signed(&key)?;
    secret(&folder.join("tls/key.pem"), &key.serialize_pem())?;
    secret(&folder.join("tls/cert.pem"), &certificate.pem())
}

/// Writes a file that only its owner may read.
fn secret(path: &Path, text: &str) -> Result<(), HomeError> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(disk(path))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(disk(path))
}

/// The text of a file that nobody else may read.
fn private(path: &Path) -> Result<String, HomeError> {
    let found = fs::metadata(path).map_err(disk(path))?;
    let mode = found.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(HomeError::Mode { path: path.to_owned(), mode });
    }
    if !found.is_file() || found.len() > KEY_BYTES_MAX.max(64 << 10) {
        return Err(HomeError::Key { path: path.to_owned() });
    }
    fs::read_to_string(path).map_err(disk(path))
}

/// The seed of the key in a file.
///
/// # Errors
/// [`HomeError::Mode`], [`HomeError::Key`], [`HomeError::Disk`].
pub fn seed(path: &Path) -> Result<[u8; 32], HomeError> {
    let seed: Result<Hash, _> = private(path)?.trim().parse();
    seed.map(|seed| seed.0).map_err(|_| HomeError::Key { path: path.to_owned() })
}

/// The key in a file.
///
/// # Errors
/// As [`seed`].
pub fn key(path: &Path) -> Result<SecretKey, HomeError> {
    Ok(SecretKey::from_seed(&seed(path)?))
}

/// Keeps the seed of a key in a file that is not there yet.
///
/// # Errors
/// [`HomeError::Disk`]; what lies there is as it was.
pub fn keep_key(path: &Path, seed: &[u8; 32]) -> Result<(), HomeError> {
    secret(path, &format!("{}\n", Hash(*seed)))
}

/// Makes a key in a file that is not there yet.
///
/// # Errors
/// [`HomeError`]; what lies there is as it was.
pub fn new_key(path: &Path, chance: &dyn Chance) -> Result<SecretKey, HomeError> {
    let seed = draw(chance)?;
    keep_key(path, &seed)?;
    Ok(SecretKey::from_seed(&seed))
}

/// The token in a file that nobody else may read.
///
/// # Errors
/// [`HomeError::Mode`], [`HomeError::Token`], [`HomeError::Disk`].
pub fn token(path: &Path) -> Result<String, HomeError> {
    let text = private(path)?;
    let token = text.trim();
    let plain = token.bytes().all(|byte| byte.is_ascii_graphic());
    match token.len() >= TOKEN_BYTES_MIN && plain {
        true => Ok(token.to_owned()),
        false => Err(HomeError::Token { path: path.to_owned() }),
    }
}

impl Home {
    /// Opens a fleet's folder.
    ///
    /// # Errors
    /// [`HomeError`]; nothing was changed.
    pub fn open(folder: &Path) -> Result<Self, HomeError> {
        let book = folder.join(BOOK);
        if !book.is_file() {
            return Err(HomeError::Foreign { path: folder.to_owned() });
        }
        let book = Sqlite::open(&book)?;
        let rows = book.read("select fleet, name from meta", &[])?;
        let mut columns = Columns::of(rows.into_iter().next().unwrap_or_default());
        let (fleet, name) = (FleetId(columns.array()?), columns.text()?);
        let blobs = Blobs::open(&folder.join("blobs"))?;
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

    #[test]
    fn a_key_that_others_may_read_or_that_is_none_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.key");
        fs::write(&path, "ab".repeat(32)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(key(&path), Err(HomeError::Mode { mode: 0o644, .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(key(&path).unwrap().public(), SecretKey::from_seed(&[0xab; 32]).public());
        fs::write(&path, "AB".repeat(32)).unwrap();
        assert!(matches!(key(&path), Err(HomeError::Key { .. })));
    }
}

//! The address of a database: host, name, user, and how TLS is meant.
//!
//! - In: `postgres://USER@HOST:PORT/NAME?sslmode=...&sslrootcert=...`, a password in it or in PGPASSWORD.
//! - Out: what to connect to. A host that begins with `/` is a folder with a socket.
//! - Never here: a password in an error; what is wrong with an address is told without quoting it.

use crate::store::{has_password, shown};
use sapwood_connections::{Known, TlsError};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};

/// Options that the library heeds.
const HEEDED: [&str; 7] =
    ["host", "port", "user", "password", "dbname", "options", "channel_binding"];
/// What a password in an address needs.
const PASSWORD: &str = "; in its password write % @ : / ? # as %25 %40 %3A %2F %3F %23";
/// The port where none is said.
const PORT: u16 = 5432;

/// Why an address is not taken.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// Not an address.
    #[error(
        "{shown} is no address of a database, expected postgres://USER@HOST:PORT/NAME?sslmode=...{hint}"
    )]
    Wrong {
        /// The address without what is secret.
        shown: String,
        /// What may be wrong with what is not shown.
        hint: &'static str,
    },
    /// Something that would be passed over.
    #[error(
        "an address of a database has no option {got:?} here, expected sslmode, sslrootcert, host, port, user, password, dbname, options or channel_binding"
    )]
    Option {
        /// Its name.
        got: String,
    },
    /// A way of TLS that is not had.
    #[error(
        "sslmode={got} {with} sslrootcert is not had here, expected disable, prefer or require without it, or verify-full with sslrootcert=FILE"
    )]
    Mode {
        /// What was asked for.
        got: String,
        /// Whether with a file of authorities.
        with: &'static str,
    },
    /// The certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Where a machine is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// By its name or number.
    Tcp(String, u16),
    /// On this one.
    Unix(PathBuf),
}

/// The address of a database.
#[derive(Clone, Debug)]
pub(super) struct Address {
    /// Without what is secret.
    pub(super) shown: String,
    /// Where to go, one after the other.
    pub(super) places: Vec<Place>,
    /// Who to be there.
    pub(super) config: Config,
    /// Who the database must be.
    pub(super) known: Known,
}

/// The options of an address that are ours to read: how TLS is meant, and the authorities' file.
struct Meant {
    mode: Option<String>,
    authorities: Option<PathBuf>,
    rest: String,
}

/// Reads the options of an address. What the library would take and nobody here heed is refused: a server that
/// is asked for as one to write to, and is a copy.
fn meant(address: &str) -> Result<Meant, AddressError> {
    let (place, options) = address.split_once('?').unwrap_or((address, ""));
    let mut meant = Meant { mode: None, authorities: None, rest: place.to_owned() };
    let mut before = '?';
    for option in options.split('&').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some(("sslmode", mode)) => meant.mode = Some(mode.to_owned()),
            Some(("sslrootcert", file)) => {
                meant.authorities = Some(PathBuf::from(file.replace("%2F", "/")));
            }
            // A password that nobody encoded may hold a `?`: then no option begins there.
            Some((name, _)) if !HEEDED.contains(&name) && !options.contains('@') => {
                let plain = |letter: &char| letter.is_ascii_alphanumeric() || *letter == '_';
                let got = name.chars().filter(plain).take(30).collect();
                return Err(AddressError::Option { got });
            }
            _ => {
                meant.rest.push(before);
                meant.rest.push_str(option);
                before = '&';
            }
        }
    }
    Ok(meant)
}

impl Address {
    /// Reads an address; the password of one without comes from PGPASSWORD.
    ///
    /// # Errors
    /// [`AddressError`].
    #[expect(clippy::disallowed_methods, reason = "the door to the password of a database")]
    pub(super) fn read(address: &str) -> Result<Self, AddressError> {
        Self::with(address, std::env::var("PGPASSWORD").ok().as_deref())
    }

    fn with(address: &str, password: Option<&str>) -> Result<Self, AddressError> {
        let shown = shown(address);
        let hint = if has_password(address) { PASSWORD } else { "" };
        let wrong = || AddressError::Wrong { shown: shown.clone(), hint };
        let Meant { mode, authorities, rest } = meant(address)?;
        let mut config = Config::from_str(&rest).map_err(|_| wrong())?;
        let (ssl, known) = match (mode.as_deref(), authorities) {
            (Some("disable"), None) => (SslMode::Disable, Known::anyone()?),
            (None | Some("prefer"), None) => (SslMode::Prefer, Known::anyone()?),
            (Some("require"), None) => (SslMode::Require, Known::anyone()?),
            (Some("verify-full"), Some(file)) => (SslMode::Require, Known::by_authorities(&file)?),
            (mode, file) => {
                let got = mode.unwrap_or("prefer").chars().take(20).collect();
                let with = if file.is_some() { "with" } else { "without" };
                return Err(AddressError::Mode { got, with });
            }
        };
        // Half of a password that holds an @ stands where the host should.
        let is_torn = |host: &Host| matches!(host, Host::Tcp(name) if name.contains('@'));
        let is_torn = config.get_hosts().iter().any(is_torn);
        if is_torn || config.get_user().is_none() || config.get_dbname().is_none() {
            return Err(wrong());
        }
        if let (None, Some(password)) = (config.get_password(), password) {
            config.password(password);
        }
        config.ssl_mode(ssl).application_name("fleet-server");
        let places = places(&config);
        match places.is_empty() {
            true => Err(wrong()),
            false => Ok(Self { shown, places, config, known }),
        }
    }
}

fn places(config: &Config) -> Vec<Place> {
    let ports = config.get_ports();
    let port = |at: usize| ports.get(at).or(ports.first()).copied().unwrap_or(PORT);
    let socket = |folder: &Path, port| Place::Unix(folder.join(format!(".s.PGSQL.{port}")));
    let place = |(at, host): (usize, &Host)| match host {
        Host::Tcp(name) => Place::Tcp(name.clone(), port(at)),
        Host::Unix(folder) => socket(folder, port(at)),
    };
    config.get_hosts().iter().enumerate().map(place).collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    #[test]
    fn an_address_says_where_who_and_how() {
        let read = |address: &str| Address::with(address, Some("from outside")).unwrap();
        let tcp = read("postgres://fleet:in%20it@db:5433/valves?sslmode=require");
        assert_eq!(tcp.places, [Place::Tcp("db".into(), 5433)]);
        assert_eq!(tcp.config.get_password(), Some(b"in it".as_slice()));
        assert_eq!(tcp.config.get_ssl_mode(), SslMode::Require);
        let unix = read("postgresql://fleet@%2Frun%2Fpg/valves");
        assert_eq!(unix.places, [Place::Unix("/run/pg/.s.PGSQL.5432".into())]);
        assert_eq!(unix.config.get_password(), Some(b"from outside".as_slice()));
        assert_eq!(unix.config.get_ssl_mode(), SslMode::Prefer);
        let two = read("postgres://fleet@one:1,two:2/valves?options=-c%20a.b%3D1&sslmode=disable");
        assert_eq!(two.places, [Place::Tcp("one".into(), 1), Place::Tcp("two".into(), 2)]);
    }

    #[test]
    fn what_is_no_address_is_refused_without_its_secret() {
        for (address, expected) in [
            (
                "postgres://fleet:secret@db/valves?sslmode=verify-ca",
                "sslmode=verify-ca without sslrootcert is not had",
            ),
            ("postgres://fleet:secret@db/valves?sslmode=verify-full", "with sslrootcert=FILE"),
            (
                "postgres://fleet:sec?ret@db/valves?sslmode=verify-full",
                "is no address of a database",
            ),
            ("postgres://fleet:secret@db:port/valves", "is no address of a database"),
            ("postgres://db/valves", "is no address of a database"),
            ("postgres://fleet:secret@db", "is no address of a database"),
            ("postgres://fleet:sec@ret@db/valves", "in its password write % @ : / ? #"),
            // What nobody heeds is not passed over: a server to write to, a time, a file.
            (
                "postgres://fleet@a,b/valves?target_session_attrs=read-write",
                "\"target_session_attrs\"",
            ),
            ("postgres://fleet@db/valves?sslmod=require", "no option \"sslmod\""),
            ("postgres://fleet@db/valves?connect_timeout=3", "no option \"connect_timeout\""),
            ("postgres://fleet@db/valves?sslrootcert=/none", "sslmode=prefer with sslrootcert"),
            (
                "postgres://fleet@db/valves?sslmode=require&sslrootcert=/none",
                "sslmode=require with",
            ),
            ("postgres://fleet:secret@db/valves?sslmode=verify-full&sslrootcert=/none", "/none: "),
        ] {
            let error = Address::with(address, None).unwrap_err().to_string();
            assert!(error.contains(expected), "{address}: {error}");
            assert!(!error.contains("secret") && !error.contains("ret@"), "{error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }
}

//! Where the book and the blobs of a fleet are kept, when it is not in its folder.
//!
//! ```text
//! database = "postgres://user@host/name?sslmode=verify-full"
//! blobs = "s3://bucket/prefix?endpoint=https://...&region=..."
//! ```
//! - In: the text of `stores.toml`, in a file that nobody else may read. Out: two addresses.
//! - A line that is not there: `fleet.db`, `blobs/`.
//! - Never here: what an address means; that the store behind it says. A password is shown to nobody.

use crate::store::shown;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The file, in the fleet's folder.
pub const STORES: &str = "stores.toml";

/// Where rows and files are kept; none: in the fleet's folder.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stores {
    /// The database that has the book.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// The bucket that has the blobs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blobs: Option<String>,
}

/// Why addresses are not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoresError {
    /// Not the text of two addresses.
    #[error(
        "line {line}: {problem}, expected `database = \"postgres://...\"`, `blobs = \"s3://...\"`, or one of them"
    )]
    Text {
        /// Which line, from 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// An address of something else.
    #[error("`{what}` is an address of {got:?}, expected {expected}")]
    Scheme {
        /// Which of the two.
        what: &'static str,
        /// What stands before `://`.
        got: String,
        /// What should.
        expected: &'static str,
    },
}

impl Stores {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// [`StoresError`].
    pub fn read(text: &str) -> Result<Self, StoresError> {
        let stores: Self = toml::from_str(text).map_err(|error| {
            // The error's own text quotes the line, and with it a password.
            let at = error.span().map_or(0, |span| span.start);
            let line = 1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count();
            StoresError::Text { line, problem: error.message().lines().take(1).collect() }
        })?;
        stores.checked()
    }

    /// The same, if each address is of its kind.
    ///
    /// # Errors
    /// [`StoresError::Scheme`].
    pub fn checked(self) -> Result<Self, StoresError> {
        let kinds: [(_, _, &[&str], _); 2] = [
            ("database", &self.database, &["postgres", "postgresql"], "postgres://..."),
            ("blobs", &self.blobs, &["s3"], "s3://..."),
        ];
        for (what, address, schemes, expected) in kinds {
            let Some(address) = address else { continue };
            let scheme = address.split_once("://").map_or("", |(scheme, _)| scheme);
            if !schemes.contains(&scheme) {
                let got = scheme.chars().take(20).collect();
                return Err(StoresError::Scheme { what, got, expected });
            }
        }
        Ok(self)
    }

    /// The text of a file.
    pub fn write(&self) -> String {
        let line = |name: &str, address: &Option<String>| {
            let text = address.as_ref().map(|address| toml::Value::String(address.clone()));
            text.map_or_else(String::new, |text| format!("{name} = {text}\n"))
        };
        line("database", &self.database) + &line("blobs", &self.blobs)
    }

    /// Whether both are in the folder.
    pub fn is_folder(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Debug for Stores {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [database, blobs] =
            [&self.database, &self.blobs].map(|address| address.as_deref().map(shown));
        to.debug_struct("Stores").field("database", &database).field("blobs", &blobs).finish()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    #[test]
    fn what_is_written_is_read_and_anything_else_is_refused_by_its_line() {
        let database = Some("postgres://fleet:a\"b@db/fleet".to_owned());
        let both = Stores { database, blobs: Some("s3://bucket/prefix?region=r".to_owned()) };
        let one = Stores { blobs: None, ..both.clone() };
        for stores in [both, one, Stores::default()] {
            assert_eq!(Stores::read(&stores.write()), Ok(stores));
        }
        for (text, expected) in [
            ("database = \"mysql://host/db\"", "`database` is an address of \"mysql\""),
            ("blobs = \"/srv/blobs\"", "`blobs` is an address of \"\", expected s3://..."),
            ("# one\nbase = 1", "line 2: unknown field"),
            ("database = \"postgres://a:secret@b/c", "line 1: "),
            ("database = [\"postgres://a:secret@b/c\"]", "line 1: invalid type"),
        ] {
            let error = Stores::read(text).unwrap_err().to_string();
            assert!(error.contains(expected) && !error.contains("secret"), "{error}");
        }
    }
}

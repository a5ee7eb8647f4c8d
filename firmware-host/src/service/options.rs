//! What an operator may choose about the service itself, and what these choices ask of one another.
//!
//! - Never here: what a unit or a property list makes of them.

use super::size::Size;
use super::{ServiceError, absolute};
use crate::config::ConfigError;
use std::path::PathBuf;

/// Shortest time that a watchdog may grant. The worker gives a sign every second however long
/// `poll-seconds` is, the notifier looks four times as often as it must.
pub const WATCHDOG_SECONDS_MIN: u32 = 10;
const _: () = assert!(
    WATCHDOG_SECONDS_MIN as u64 >= 4 * crate::status::BEAT.as_secs(),
    "a worker that waits must not look like one that hangs"
);

/// What an operator may choose about the service itself.
#[derive(Clone, Debug)]
pub struct Options {
    /// The program, an absolute path.
    pub program: PathBuf,
    /// What it is called with, paths absolute.
    pub arguments: Vec<String>,
    /// The configuration file among them, an absolute path.
    pub config: Option<PathBuf>,
    /// A service of one user's session rather than of the machine.
    pub user: bool,
    /// The account that a service of the machine runs under; none is one made for it alone.
    pub account: Option<String>,
    /// Memory above which the program is slowed down: `60%`, `1500M`.
    pub memory_high: String,
    /// Memory above which it is killed and started again.
    pub memory_max: String,
    /// Seconds without progress after which it is killed and started again.
    pub watchdog_seconds: u32,
}

impl Options {
    /// Each for itself.
    ///
    /// # Errors
    /// [`ServiceError::Choice`], [`ServiceError::Path`].
    pub(super) fn check(&self) -> Result<(), ServiceError> {
        absolute(&self.program)?;
        for (name, got) in
            [("--memory-high", &self.memory_high), ("--memory-max", &self.memory_max)]
        {
            if Size::read(got).is_none() {
                let expected = "bytes with K, M, G or T, a percentage up to 100%, or `infinity`";
                return Err(ServiceError::Choice { name, expected, got: got.clone() });
            }
        }
        let (name, seconds) = ("--watchdog-seconds", self.watchdog_seconds);
        if !(WATCHDOG_SECONDS_MIN..=86_400).contains(&seconds) {
            let expected = "10 to 86400";
            return Err(ServiceError::Choice { name, expected, got: seconds.to_string() });
        }
        let plain = |letter: char| letter.is_ascii_alphanumeric() || "_-".contains(letter);
        match &self.account {
            Some(name) if name.is_empty() || name.starts_with('-') || !name.chars().all(plain) => {
                let (flag, expected) =
                    ("--account", "the name of an account: letters, digits, - and _");
                Err(ServiceError::Choice { name: flag, expected, got: name.clone() })
            }
            _ => Ok(()),
        }
    }

    /// What they ask of one another.
    ///
    /// - `memory_bytes`: of the machine that it is to run on, where that is known.
    ///
    /// # Errors
    /// [`ConfigError::Range`] by the name of a flag.
    pub fn check_together(&self, memory_bytes: Option<u64>) -> Result<(), ConfigError> {
        if let Some(account) = self.account.as_ref().filter(|_| self.user) {
            let expected = "no account: a service of --user is that user's own";
            return Err(ConfigError::range("--account", expected, account));
        }
        let sizes = [&self.memory_high, &self.memory_max].map(|text| Size::read(text));
        let [Some(high), Some(max)] = sizes else { return Ok(()) };
        if high.exceeds(max, memory_bytes) {
            let expected =
                format!("at most --memory-max ({}): it is killed there", self.memory_max);
            return Err(ConfigError::range("--memory-high", expected, &self.memory_high));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    fn options(high: &str, max: &str) -> Options {
        Options {
            program: "/usr/local/bin/firmware-host".into(),
            arguments: Vec::new(),
            config: None,
            user: false,
            account: None,
            memory_high: high.into(),
            memory_max: max.into(),
            watchdog_seconds: 300,
        }
    }

    #[test]
    fn memory_is_slowed_down_before_it_is_taken() {
        let gib = Some(1 << 30);
        for (high, max, memory, holds) in [
            ("60%", "75%", None, true),
            ("75%", "75%", None, true),
            ("76%", "75%", None, false),
            ("2G", "1500M", None, false),
            ("1G", "1048576K", None, true),
            ("infinity", "75%", gib, true),
            ("60%", "infinity", gib, true),
            ("60%", "500M", None, true),
            ("60%", "500M", gib, false),
            ("700M", "50%", gib, false),
            ("500M", "50%", gib, true),
            ("99999999999999T", "1G", None, false),
        ] {
            let checked = options(high, max).check_together(memory);
            assert_eq!(checked.is_ok(), holds, "{high} and {max} of {memory:?}");
            if let Err(error) = checked {
                assert!(
                    error.to_string().starts_with("--memory-high: expected at most"),
                    "{error}"
                );
            }
        }
        let user = Options { user: true, account: Some("ann".into()), ..options("60%", "75%") };
        assert!(user.check_together(None).unwrap_err().to_string().contains("--account"));
    }
}

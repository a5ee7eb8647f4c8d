//! A time of day from one minute to another: `22:00-06:00`.
//!
//! - Local time as a clock on the wall shows it: in the night that the clock is put forward a window
//!   inside the hour that is left out does not occur, in the other one it occurs twice.
//! - Invariant: it begins and ends at different minutes, so that no window is empty by accident.

use jiff::civil::Time;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Minutes of a day.
const DAY: u16 = 24 * 60;

/// A time of day, its first minute included and its last one not; it may span midnight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Window {
    /// Minutes after midnight, below [`DAY`].
    from: u16,
    /// Minutes after midnight, at most [`DAY`].
    to: u16,
}

/// Why a text is no window.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected two different times of day such as 22:00-06:00, got {got:?}")]
pub struct WindowError {
    /// What it was.
    got: String,
}

impl Window {
    /// Whether a time of day lies in it.
    pub fn contains(&self, time: Time) -> bool {
        let minute = time.hour() as u16 * 60 + time.minute() as u16;
        if self.from < self.to {
            (self.from..self.to).contains(&minute)
        } else {
            minute >= self.from || minute < self.to
        }
    }
}

impl FromStr for Window {
    type Err = WindowError;

    fn from_str(text: &str) -> Result<Self, WindowError> {
        let window = text.split_once('-').and_then(|(from, to)| {
            let (from, to) = (minute(from)?, minute(to)?);
            (from < DAY && from != to).then_some(Self { from, to })
        });
        window.ok_or_else(|| WindowError { got: text.to_owned() })
    }
}

/// `HH:MM`, at most `24:00`.
fn minute(text: &str) -> Option<u16> {
    let (hours, minutes) = text.trim().split_once(':')?;
    let two = |digits: &str| digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
    if !two(hours) || !two(minutes) {
        return None;
    }
    let [hours, minutes]: [u16; 2] = [hours.parse().ok()?, minutes.parse().ok()?];
    (minutes < 60 && hours * 60 + minutes <= DAY).then_some(hours * 60 + minutes)
}

impl fmt::Display for Window {
    fn fmt(&self, into: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, to } = self;
        write!(into, "{:02}:{:02}-{:02}:{:02}", from / 60, from % 60, to / 60, to % 60)
    }
}

impl TryFrom<String> for Window {
    type Error = WindowError;

    fn try_from(text: String) -> Result<Self, WindowError> {
        text.parse()
    }
}

impl From<Window> for String {
    fn from(window: Window) -> Self {
        window.to_string()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use super::*;

    fn holds(window: &str, hour: i8, minute: i8) -> bool {
        window.parse::<Window>().unwrap().contains(Time::constant(hour, minute, 59, 0))
    }

    #[test]
    fn a_window_holds_its_first_minute_and_not_its_last_and_may_span_midnight() {
        let table = [
            ("22:00-06:00", 21, 59, false),
            ("22:00-06:00", 22, 0, true),
            ("22:00-06:00", 0, 0, true),
            ("22:00-06:00", 5, 59, true),
            ("22:00-06:00", 6, 0, false),
            ("01:30-02:00", 1, 29, false),
            ("01:30-02:00", 1, 59, true),
            ("01:30-02:00", 2, 0, false),
            ("20:00-24:00", 23, 59, true),
            ("20:00-24:00", 0, 0, false),
            ("00:00-24:00", 12, 0, true),
        ];
        for (window, hour, minute, expected) in table {
            assert_eq!(holds(window, hour, minute), expected, "{window} at {hour}:{minute}");
        }
    }

    #[test]
    fn what_is_no_window_is_refused_and_a_window_is_written_as_it_was_read() {
        let wrong =
            ["", "22:00", "22-06", "25:00-06:00", "22:60-06:00", "24:00-06:00", "06:00-06:00"];
        for text in
            wrong.into_iter().chain(["2:00-6:00", "-1:00-06:00", "22:00-06:00-07:00", "a:b-c:d"])
        {
            assert!(text.parse::<Window>().unwrap_err().to_string().contains(text), "{text:?}");
        }
        assert_eq!("22:00-06:00".parse::<Window>().unwrap().to_string(), "22:00-06:00");
    }
}

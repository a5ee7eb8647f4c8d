//! Bounds of memory as systemd reads them: `60%`, `1500M`, `infinity`.

/// A bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    /// Parts of a hundred of the machine's memory, 1 to 100.
    Percent(u64),
    /// Bytes, at least one.
    Bytes(u64),
    /// No bound.
    Infinity,
}

impl Size {
    /// Reads one; none for what is none.
    pub(super) fn read(text: &str) -> Option<Self> {
        if text == "infinity" {
            return Some(Self::Infinity);
        }
        let digits = text.trim_end_matches(|letter: char| !letter.is_ascii_digit());
        let unit = text.get(digits.len()..)?;
        if !digits.bytes().all(|letter| letter.is_ascii_digit()) {
            return None;
        }
        let number = digits.parse::<u64>().ok().filter(|&number| number > 0)?;
        let shift = match unit {
            "%" => return Some(Self::Percent(number)).filter(|_| number <= 100),
            "" => 0,
            "K" => 10,
            "M" => 20,
            "G" => 30,
            "T" => 40,
            _ => return None,
        };
        Some(Self::Bytes(number.saturating_mul(1 << shift)))
    }

    /// Whether it is surely the larger bound of the two; no bound is none to exceed another with.
    ///
    /// - `memory_bytes`: of the machine; without it parts and bytes cannot be compared.
    pub(super) fn exceeds(self, other: Self, memory_bytes: Option<u64>) -> bool {
        let bytes = |size| match size {
            Self::Bytes(bytes) => Some(bytes),
            Self::Percent(percent) => memory_bytes.map(|all| all / 100 * percent),
            Self::Infinity => None,
        };
        match (self, other) {
            (Self::Percent(high), Self::Percent(max)) => high > max,
            _ => bytes(self).zip(bytes(other)).is_some_and(|(high, max)| high > max),
        }
    }
}

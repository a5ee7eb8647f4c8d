//! Where a state lies in the campaign: one line that makes it again.

use std::fmt;
use std::str::FromStr;

/// A state of the campaign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Of a life, cut after so many steps, with so much luck; and cut again in recovery.
    Cut {
        /// Seed of the life.
        life: u64,
        /// Steps before the cut.
        cut: usize,
        /// Which of the legal disks.
        luck: u64,
        /// Steps of recovery before the second cut, and its luck.
        again: Option<(usize, u64)>,
    },
    /// Of a life, a failure of this kind at this operation.
    Error {
        /// Seed of the life.
        life: u64,
        /// Which kind of failure.
        kind: usize,
        /// At which operation.
        at: usize,
    },
    /// Of a life in a fleet, cut after so many steps, with so much luck.
    Fleet {
        /// Seed of the life.
        life: u64,
        /// Steps before the cut.
        cut: usize,
        /// Which of the legal disks.
        luck: u64,
    },
    /// Of a life in a fleet, a failure of this kind at this operation.
    FleetError {
        /// Seed of the life.
        life: u64,
        /// Which kind of failure.
        kind: usize,
        /// At which operation.
        at: usize,
    },
    /// Damage of that number.
    Flip {
        /// Seed of the life.
        life: u64,
        /// Which damage.
        flip: u64,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cut { life, cut, luck, again } => {
                write!(to, "life:{life}:cut:{cut}:luck:{luck}")?;
                again.map_or(Ok(()), |(cut, luck)| write!(to, ":again:{cut}:luck:{luck}"))
            }
            Self::Error { life, kind, at } => write!(to, "life:{life}:error:{kind}:at:{at}"),
            Self::Fleet { life, cut, luck } => write!(to, "fleet:{life}:cut:{cut}:luck:{luck}"),
            Self::FleetError { life, kind, at } => write!(to, "fleet:{life}:error:{kind}:at:{at}"),
            Self::Flip { life, flip } => write!(to, "life:{life}:flip:{flip}"),
        }
    }
}

/// Text that is no place.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0:?} is no state of the campaign: expected life:N:cut:N:luck:N, with :again:N:luck:N after \
     it or not, life:N:error:N:at:N, life:N:flip:N, fleet:N:cut:N:luck:N, or fleet:N:error:N:at:N"
)]
pub struct PlaceError(String);

impl FromStr for Place {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, PlaceError> {
        let refused = || PlaceError(text.to_owned());
        let parts: Vec<&str> = text.split(':').collect();
        let (pairs, odd) = parts.as_chunks::<2>();
        let named = pairs.iter().map(|[name, number]| Some((*name, number.parse().ok()?)));
        let named: Vec<(&str, u64)> = named.collect::<Option<_>>().ok_or_else(refused)?;
        if !odd.is_empty() {
            return Err(refused());
        }
        match *named.as_slice() {
            [("life", life), ("cut", cut), ("luck", luck)] => {
                Ok(Self::Cut { life, cut: cut as usize, luck, again: None })
            }
            [("life", life), ("cut", cut), ("luck", luck), ("again", again), ("luck", second)] => {
                let again = Some((again as usize, second));
                Ok(Self::Cut { life, cut: cut as usize, luck, again })
            }
            [("life", life), ("error", kind), ("at", at)] => {
                Ok(Self::Error { life, kind: kind as usize, at: at as usize })
            }
            [("fleet", life), ("cut", cut), ("luck", luck)] => {
                Ok(Self::Fleet { life, cut: cut as usize, luck })
            }
            [("fleet", life), ("error", kind), ("at", at)] => {
                Ok(Self::FleetError { life, kind: kind as usize, at: at as usize })
            }
            [("life", life), ("flip", flip)] => Ok(Self::Flip { life, flip }),
            _ => Err(refused()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_as_it_is_written() -> Result<(), PlaceError> {
        let places = [
            Place::Cut { life: 1, cut: 2, luck: 3, again: None },
            Place::Cut { life: 1, cut: 2, luck: 3, again: Some((4, 5)) },
            Place::Error { life: 1, kind: 2, at: 3 },
            Place::Flip { life: 1, flip: 2 },
            Place::Fleet { life: 1, cut: 2, luck: 3 },
            Place::FleetError { life: 1, kind: 2, at: 3 },
        ];
        for place in places {
            assert_eq!(place.to_string().parse::<Place>()?, place);
        }
        assert!("life:1:cut".parse::<Place>().is_err() && "flip:1".parse::<Place>().is_err());
        Ok(())
    }
}

//! What a check-in is decided from beside the device's own row: its cohort, what is offered there, the
//! round that is open, and the fleet's keys.
//!
//! - One statement: one way to the book and back, and all of it as it was at one moment.
//! - Nothing of it is kept for the next call, so what an operator says holds from the next check-in on, on
//!   every server.

use crate::cohorts::{self, Cohort, cohort_columns};
use crate::rollout::{self, Release, release_columns};
use crate::rounds::{self, Round, Upload, round_columns, upload_columns};
use crate::store::{Book, BookError, Columns};
use sapwood_protocol::fleet::id::{CohortId, DeviceId};

/// A row for each release that may be offered, the newest first, or one without; nothing below the last
/// complete one is ever offered. A cohort has one open round at most.
const READ: &str = concat!(
    "select (select max(epoch) from trust)",
    ", ",
    cohort_columns!(),
    ", ",
    round_columns!(),
    ", ",
    upload_columns!(),
    ", ",
    release_columns!(),
    " from (select 1 as one) as here
    left join cohort on cohort.id = $1
    left join round on round.cohort = $1 and round.state = 1
    left join upload on upload.round = round.id and upload.device = $2
    left join release on release.cohort = $1 and release.state in (2, 4) and release.sequence >= coalesce(
        (select max(complete.sequence) from release as complete where complete.cohort = $1 and complete.state = 4), 0)
    order by release.sequence desc limit 8"
);

/// What holds for a device.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Situation {
    /// The newest statement of trust; none before the first.
    pub trust_epoch: Option<u64>,
    /// The cohort, if it is there.
    pub cohort: Option<Cohort>,
    /// Its releases that may be offered, the newest first.
    pub releases: Vec<Release>,
    /// Its open round.
    pub round: Option<Round>,
    /// What that round asked of the device, and what came.
    pub asked: Option<Upload>,
}

impl Situation {
    /// The situation of a device in a cohort, or in none yet.
    ///
    /// # Errors
    /// [`BookError`].
    pub fn read(
        book: &dyn Book,
        device: DeviceId,
        cohort: Option<CohortId>,
    ) -> Result<Self, BookError> {
        let mut situation = Self::default();
        for row in book.read(READ, &[cohort.into(), device.into()])? {
            let mut columns = Columns::of(row);
            situation.trust_epoch = columns.maybe_number()?;
            situation.cohort = columns.joined(cohorts::COLUMNS).map(cohorts::read).transpose()?;
            situation.round = columns.joined(rounds::COLUMNS).map(rounds::read).transpose()?;
            let asked = columns.joined(rounds::UPLOAD_COLUMNS);
            situation.asked = asked.map(rounds::read_upload).transpose()?;
            let release = columns.joined(rollout::COLUMNS).map(rollout::read).transpose()?;
            situation.releases.extend(release);
        }
        Ok(situation)
    }
}

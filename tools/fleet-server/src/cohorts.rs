//! Cohorts: devices whose adapters add up, and what the operator wants of them.
//!
//! - A cohort comes to be with its first device: base, first layer and targets are the device's facts,
//!   the label is the operator's.
//! - Its shape, which modules of which widths, is what most uploads of its first round have.

use crate::aggregate::{ROBUST_UPDATES_MAX, Rule};
use crate::store::{Book, BookError, Columns, Row, Statement};
use sapwood_protocol::fleet::id::{CohortId, Hash};
use sapwood_protocol::fleet::message::Facts;
use sapwood_protocol::fleet::update::{Header, MODULES, Shape, UpdateError};
use sapwood_protocol::limits::{
    FLEET_CHECK_IN_S_MAX, FLEET_CHECK_IN_S_MIN, FLEET_COHORTS_MAX, FLEET_RANK_MAX,
    FLEET_UPLOADS_MAX,
};
use serde::{Deserialize, Serialize};

/// Bytes of a shape in a row.
pub const SHAPE_BYTES: usize = 2 + 2 + 1 + MODULES.len() * 2 * 4;

/// What the operator wants of a cohort; what is not said is the default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Rank R of the global adapter.
    pub rank: u32,
    /// Highest rank of an update.
    pub rank_max: u32,
    /// How the updates of a round are weighed.
    pub merge: Rule,
    /// Fewest uploads of a round that are merged.
    pub min_devices: u64,
    /// Uploads at which a round closes.
    pub quota: u64,
    /// Hours after which it closes with who came.
    pub deadline_h: u64,
    /// Seconds between two check-ins.
    pub check_in_s: u64,
    /// Hours of a stage, at least.
    pub stage_h: u64,
    /// Outcomes of a stage, at least; fewer where it has fewer devices.
    pub outcomes: u64,
    /// Hours before an offer without an answer counts again.
    pub offer_h: u64,
    /// Days for which a statement holds.
    pub statement_days: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            rank: 16,
            rank_max: FLEET_RANK_MAX,
            merge: Rule::Mean,
            min_devices: 10,
            quota: 100,
            deadline_h: 24,
            check_in_s: 900,
            stage_h: 24,
            outcomes: 20,
            offer_h: 24,
            statement_days: 90,
        }
    }
}

/// Why a policy is none; the one that was stays.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Not JSON of this form.
    #[error("a policy is JSON with any of its fields: {0}; the one that was stays")]
    Json(String),
    /// A number outside its range.
    #[error("policy: {field} is {got}, expected {min} to {max}; the one that was stays")]
    Number {
        /// Which field.
        field: &'static str,
        /// Smallest.
        min: u64,
        /// Largest.
        max: u64,
        /// The number.
        got: u64,
    },
}

impl Policy {
    /// Reads a policy, every number in its range.
    ///
    /// # Errors
    /// [`PolicyError`].
    pub fn read(json: &str) -> Result<Self, PolicyError> {
        let wrong = |error: serde_json::Error| PolicyError::Json(error.to_string());
        // A list would do for serde, number by number; nobody could say what it meant.
        let fields: serde_json::Map<_, _> = serde_json::from_str(json).map_err(wrong)?;
        let policy: Self = serde_json::from_value(fields.into()).map_err(wrong)?;
        let rank = u64::from(FLEET_RANK_MAX);
        let uploads = match policy.merge {
            Rule::Mean => FLEET_UPLOADS_MAX,
            Rule::Robust => ROBUST_UPDATES_MAX as u64,
        };
        for (field, got, min, max) in [
            ("rank", policy.rank.into(), 1, rank),
            ("rank_max", policy.rank_max.into(), 1, rank),
            ("min_devices", policy.min_devices, 1, uploads),
            ("quota", policy.quota, policy.min_devices, uploads),
            ("deadline_h", policy.deadline_h, 1, 24 * 365),
            ("check_in_s", policy.check_in_s, FLEET_CHECK_IN_S_MIN, FLEET_CHECK_IN_S_MAX),
            ("stage_h", policy.stage_h, 0, 24 * 365),
            ("outcomes", policy.outcomes, 1, 1_000_000),
            ("offer_h", policy.offer_h, 0, 24 * 365),
            ("statement_days", policy.statement_days, 1, 3650),
        ] {
            if !(min..=max).contains(&got) {
                return Err(PolicyError::Number { field, min, max, got });
            }
        }
        Ok(policy)
    }

    /// Its JSON.
    pub fn write(&self) -> String {
        serde_json::json!(self).to_string()
    }
}

/// A cohort's row.
#[derive(Clone, Debug, PartialEq)]
pub struct Cohort {
    /// Its name.
    pub id: CohortId,
    /// BLAKE3 of the base.
    pub base: Hash,
    /// The first adapted layer.
    pub first_layer: u16,
    /// The adapted linear layers, a bit each.
    pub targets: u8,
    /// The operator's label.
    pub label: String,
    /// The highest sequence of its statements, 0 before the first.
    pub sequence: u64,
    /// Its modules, once they are known.
    pub shape: Option<Shape>,
    /// What the operator wants.
    pub policy: Policy,
}

/// The columns of a cohort, for [`read`].
macro_rules! cohort_columns {
    () => {
        "cohort.id, cohort.base, cohort.first_layer, cohort.targets, cohort.label, cohort.sequence,
        cohort.shape, cohort.policy"
    };
}
pub(crate) use cohort_columns;

/// How many they are.
pub(crate) const COLUMNS: usize = 8;

const FIND: &str = concat!("select ", cohort_columns!(), " from cohort where id = $1");
const ALL: &str = concat!("select ", cohort_columns!(), " from cohort order by id");

/// The cohort of that name.
///
/// # Errors
/// [`BookError`].
pub fn find(book: &dyn Book, id: CohortId) -> Result<Option<Cohort>, BookError> {
    book.read(FIND, &[id.into()])?.into_iter().next().map(read).transpose()
}

/// Every cohort, by name.
///
/// # Errors
/// [`BookError`].
pub fn all(book: &dyn Book) -> Result<Vec<Cohort>, BookError> {
    book.read(ALL, &[])?.into_iter().map(read).collect()
}

/// A cohort in its columns.
///
/// # Errors
/// [`BookError::Field`].
pub(crate) fn read(row: Row) -> Result<Cohort, BookError> {
    let mut columns = Columns::of(row);
    Ok(Cohort {
        id: CohortId(columns.array()?),
        base: Hash(columns.array()?),
        first_layer: columns.number()? as u16,
        targets: columns.number()? as u8,
        label: columns.text()?,
        sequence: columns.number()?,
        shape: columns.maybe_array()?.map(shape),
        policy: policy(&columns.text()?)?,
    })
}

fn policy(json: &str) -> Result<Policy, BookError> {
    let wrong =
        |error: PolicyError| BookError::Field { expected: "a policy", got: error.to_string() };
    Policy::read(json).map_err(wrong)
}

/// Makes a cohort, if there is none of its name and still room for one.
pub fn make(id: CohortId, facts: &Facts, label: &str) -> Statement {
    let sql = "insert into cohort(id, base, first_layer, targets, label, sequence, policy)
        select $1, $2, $3, $4, $5, 0, $6 where (select count(*) from cohort) < $7
        on conflict do nothing";
    Statement::any(
        sql,
        [
            id.into(),
            facts.base.into(),
            u64::from(facts.first_layer).into(),
            u64::from(facts.targets).into(),
            label.into(),
            Policy::default().write().into(),
            (FLEET_COHORTS_MAX as u64).into(),
        ],
    )
}

/// Whether an adapter's modules could be the cohort's, as long as those are not known.
///
/// # Errors
/// [`UpdateError::Other`].
pub fn could_have(cohort: &Cohort, header: &Header) -> Result<(), UpdateError> {
    let shape = &header.shape;
    for (key, expected, got) in [
        ("first layer", u64::from(cohort.first_layer), u64::from(shape.first_layer)),
        ("targets", u64::from(cohort.targets), u64::from(shape.targets)),
    ] {
        if expected != got {
            let (expected, got) = (expected.to_string(), got.to_string());
            return Err(UpdateError::Other { key, expected, got });
        }
    }
    Ok(())
}

/// The bytes of a shape in a row: first layer, layers, targets, then both widths of each module.
pub fn shape_bytes(shape: &Shape) -> Vec<u8> {
    let mut bytes = shape.first_layer.to_le_bytes().to_vec();
    bytes.extend(shape.layers.to_le_bytes());
    bytes.push(shape.targets);
    shape.fans.as_flattened().iter().for_each(|width| bytes.extend(width.to_le_bytes()));
    bytes
}

/// The shape of a row.
pub fn shape(bytes: [u8; SHAPE_BYTES]) -> Shape {
    let short = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let mut fans = [[0; 2]; MODULES.len()];
    for (width, four) in fans.as_flattened_mut().iter_mut().zip(bytes[5..].as_chunks().0) {
        *width = u32::from_le_bytes(*four);
    }
    Shape { first_layer: short(0), layers: short(2), targets: bytes[4], fans }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    #[test]
    fn a_policy_says_what_it_changes_and_no_more() {
        let policy = Policy::read("{\"quota\": 200}").unwrap();
        assert_eq!(policy, Policy { quota: 200, ..Policy::default() });
        assert_eq!(Policy::read(&policy.write()).unwrap(), policy);
        let robust = Policy::read("{\"merge\": \"robust\", \"quota\": 4096}").unwrap();
        assert_eq!((robust.merge, policy.merge), (Rule::Robust, Rule::Mean));
        assert!(Policy::read("{\"quota\": 20000}").is_ok(), "the mean takes them all");
        for wrong in [
            "",
            "[]",
            "{\"quorum\": 3}",
            "{\"quota\": 3}",
            "{\"rank\": 129}",
            "{\"check_in_s\": 1}",
            "{\"merge\": \"median\"}",
            "{\"merge\": \"robust\", \"quota\": 4097}",
        ] {
            assert!(Policy::read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_shape_comes_back_as_it_was() {
        let mut fans = [[0; 2]; 7];
        fans.as_flattened_mut().iter_mut().zip(1..).for_each(|(width, n)| *width = n * 70_001);
        let full = Shape { first_layer: 12, layers: 4, targets: 0b101, fans };
        assert_eq!(shape(shape_bytes(&full).try_into().unwrap()), full);
    }
}

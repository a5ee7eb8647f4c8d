//! Devices: who takes part, and which state follows from which.
//!
//! ```text
//! pending -> accepted <-> suspended -> retired        pending -> rejected
//! ```
//! - Every arrow is one guarded statement; whoever loses reads again.
//! - A counter that runs back is a copied key or a copied folder: the device is suspended until an
//!   operator has it go on. What a network replays has an older time and changes nothing.
//! - Never here: sockets, clocks, chance.

use crate::cohorts;
use crate::door::Refused;
use crate::store::{Book, BookError, Columns, Row, Statement, Value};
use sapwood_protocol::fleet::code::Code;
use sapwood_protocol::fleet::id::{CohortId, DeviceId, Hash, IdError, PublicKey};
use sapwood_protocol::fleet::message::{DeviceState, Enroll, Facts, Installed};

/// Devices without a token that may wait at the same time: nobody fills the book with keys.
pub const PENDING_MAX: u64 = 10_000;
/// How often a device that lost to another is tried again.
const TRIES: u32 = 4;
/// Seconds after which there may be room.
const ROOM_S: u64 = 3600;

/// Of the lab, and takes no candidates: the number in the column `lab`, which is 1 for the others of it.
const REFUSES: u64 = 2;

/// A device's row.
#[derive(Clone, Debug, PartialEq)]
pub struct Device {
    /// Its name.
    pub id: DeviceId,
    /// The key that it signs with.
    pub key: PublicKey,
    /// Its cohort, once it has a label.
    pub cohort: Option<CohortId>,
    /// Whether it may take part.
    pub state: DeviceState,
    /// For the operator.
    pub name: String,
    /// Its program.
    pub agent: String,
    /// The operator's label.
    pub label: Option<String>,
    /// Whether it is of the lab, by the operator's word.
    pub lab: bool,
    /// Whether one of the lab takes candidates, by its own word; one that says nothing does.
    pub candidates: bool,
    /// What it adapts.
    pub facts: Facts,
    /// When it enrolled, and when it last checked in.
    pub enrolled_ms: u64,
    /// When it last checked in.
    pub seen_ms: u64,
    /// The counter of its last check-in.
    pub counter: u64,
    /// When that was signed.
    pub told_ms: u64,
    /// What is installed: sequence 0 and zeros before the first.
    pub installed: Installed,
    /// Whether that is on trial.
    pub trial: bool,
    /// Number of its last commit.
    pub generation: u64,
    /// The sequence that was offered last, and how.
    pub offer: Offered,
}

/// What a device was offered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offered {
    /// The statement's sequence, 0 before the first.
    pub sequence: u64,
    /// How often it counted.
    pub times: u64,
    /// When it first was.
    pub first_ms: u64,
    /// When it last counted.
    pub last_ms: u64,
}

/// The number of a state in a row.
pub fn number(state: DeviceState) -> u64 {
    match state {
        DeviceState::Pending => 0,
        DeviceState::Accepted => 1,
        DeviceState::Suspended => 2,
        DeviceState::Rejected => 3,
        DeviceState::Retired => 4,
    }
}

/// The state of a number in a row.
///
/// # Errors
/// [`BookError::Field`].
pub fn state(number: u64) -> Result<DeviceState, BookError> {
    Ok(match number {
        0 => DeviceState::Pending,
        1 => DeviceState::Accepted,
        2 => DeviceState::Suspended,
        3 => DeviceState::Rejected,
        4 => DeviceState::Retired,
        got => {
            return Err(BookError::Field { expected: "a device's state", got: got.to_string() });
        }
    })
}

macro_rules! device_rows {
    ($rest:literal) => {
        concat!(
            "select id, key, cohort, state, name, agent, label, lab, base, first_layer, targets, rank, enrolled,
            seen, counter, told, sequence, artifact, trial, generation, offered, offers, offered_first,
            offered_last from device ",
            $rest
        )
    };
}

fn read(row: Row) -> Result<Device, BookError> {
    let mut columns = Columns::of(row);
    let columns = &mut columns;
    let place;
    Ok(Device {
        id: DeviceId(columns.array()?),
        key: PublicKey(columns.array()?),
        cohort: columns.maybe_array()?.map(CohortId),
        state: state(columns.number()?)?,
        name: columns.text()?,
        agent: columns.text()?,
        label: columns.maybe_text()?,
        lab: {
            place = columns.number()?;
            place != 0
        },
        candidates: place != REFUSES,
        facts: Facts {
            base: Hash(columns.array()?),
            first_layer: columns.number()? as u16,
            targets: columns.number()? as u8,
            rank: columns.number()? as u32,
        },
        enrolled_ms: columns.number()?,
        seen_ms: columns.number()?,
        counter: columns.number()?,
        told_ms: columns.number()?,
        installed: Installed { sequence: columns.number()?, artifact: Hash(columns.array()?) },
        trial: columns.number()? == 1,
        generation: columns.number()?,
        offer: Offered {
            sequence: columns.number()?,
            times: columns.number()?,
            first_ms: columns.number()?,
            last_ms: columns.number()?,
        },
    })
}

/// The number in the column `lab` of a device.
pub fn place(device: &Device) -> u64 {
    match (device.lab, device.candidates) {
        (false, _) => 0,
        (true, true) => 1,
        (true, false) => REFUSES,
    }
}

/// The device of that name.
///
/// # Errors
/// [`BookError`].
pub fn find(book: &dyn Book, id: DeviceId) -> Result<Option<Device>, BookError> {
    let rows = book.read(device_rows!("where id = $1"), &[id.into()])?;
    rows.into_iter().next().map(read).transpose()
}

/// Devices in the order of their enrolment, of one state or of all.
///
/// # Errors
/// [`BookError`].
pub fn all(book: &dyn Book, only: Option<DeviceState>) -> Result<Vec<Device>, BookError> {
    let rows = match only {
        Some(state) => book
            .read(device_rows!("where state = $1 order by enrolled, id"), &[number(state).into()]),
        None => book.read(device_rows!("order by enrolled, id"), &[]),
    };
    rows?.into_iter().map(read).collect()
}

/// What lets devices in without an operator's word for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// BLAKE3 of its text.
    pub hash: Hash,
    /// The label that devices get.
    pub label: String,
    /// How many may still come.
    pub uses: u64,
    /// Whether they are accepted at once.
    pub auto: bool,
    /// Whether they take candidates.
    pub lab: bool,
    /// From when on it lets nobody in, ms since 1970.
    pub expires_ms: u64,
}

/// The token of that hash.
///
/// # Errors
/// [`BookError`].
pub fn token(book: &dyn Book, hash: Hash) -> Result<Option<Token>, BookError> {
    let sql = "select label, uses, auto, lab, expires from token where hash = $1";
    let Some(row) = book.read(sql, &[hash.into()])?.into_iter().next() else { return Ok(None) };
    let mut columns = Columns::of(row);
    Ok(Some(Token {
        hash,
        label: columns.text()?,
        uses: columns.number()?,
        auto: columns.number()? == 1,
        lab: columns.number()? == 1,
        expires_ms: columns.number()?,
    }))
}

/// Keeps a token.
pub fn keep_token(token: &Token) -> Statement {
    Statement::one(
        "insert into token(hash, label, uses, auto, lab, expires) values ($1, $2, $3, $4, $5, $6)",
        [
            token.hash.into(),
            token.label.as_str().into(),
            token.uses.into(),
            token.auto.into(),
            token.lab.into(),
            token.expires_ms.into(),
        ],
    )
}

/// How a new device begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Pending or accepted.
    pub state: DeviceState,
    /// Its label, if its token has one.
    pub label: Option<String>,
    /// Whether it takes candidates.
    pub lab: bool,
}

/// Whether a new device comes in, by the token that it gave, if it gave one.
///
/// # Errors
/// [`Refused`]: the token lets nobody in. Whoever has none waits for an operator.
pub fn admit(given: bool, token: Option<&Token>, now_ms: u64) -> Result<Admission, Refused> {
    let Some(token) = token else {
        return match given {
            false => Ok(Admission { state: DeviceState::Pending, label: None, lab: false }),
            true => Err(Refused::new(Code::Rejected, "the token is none of this fleet's")),
        };
    };
    if now_ms >= token.expires_ms {
        return Err(Refused::new(Code::Rejected, "the token has expired; ask for a new link"));
    }
    if token.uses == 0 {
        return Err(Refused::new(Code::Rejected, "the token was used as often as it may be"));
    }
    let state = if token.auto { DeviceState::Accepted } else { DeviceState::Pending };
    Ok(Admission { state, label: Some(token.label.clone()), lab: token.lab })
}

/// The statements that let a new device in.
///
/// # Errors
/// [`IdError`] for a label that is none.
pub fn enrolment(
    asks: &Enroll,
    token: Option<&Token>,
    admission: &Admission,
    now_ms: u64,
) -> Result<Vec<Statement>, IdError> {
    let (facts, id) = (&asks.facts, asks.public_key.device());
    let mut statements = Vec::new();
    if let Some(token) = token {
        let sql = "update token set uses = uses - 1 where hash = $1 and uses > 0 and expires > $2";
        statements.push(Statement::one(sql, [token.hash.into(), now_ms.into()]));
    }
    let mut cohort = Value::Null;
    if let Some(label) = &admission.label {
        let id = facts.cohort(label)?;
        statements.push(cohorts::make(id, facts, label));
        cohort = id.into();
    }
    // A cohort for which there is no more room is not there, and nobody is in it.
    let sql = "insert into device(id, key, cohort, state, name, agent, label, lab, base, first_layer, targets,
        rank, enrolled, seen, counter, told, sequence, artifact, trial, generation, offered, offers, offered_first,
        offered_last)
        select $1, $2, $3, $4, $5, '', $6, $7, $8, $9, $10, $11, $12, 0, 0, 0, 0, $13, 0, 0, 0, 0, 0, 0
        where (cast($6 as text) is null and (select count(*) from device where state = 0) < $14)
           or (cast($6 as text) is not null and exists(select 1 from cohort where id = $3))";
    statements.push(Statement::one(
        sql,
        [
            id.into(),
            asks.public_key.into(),
            cohort,
            number(admission.state).into(),
            asks.name.as_str().into(),
            admission.label.clone().into(),
            admission.lab.into(),
            facts.base.into(),
            u64::from(facts.first_layer).into(),
            u64::from(facts.targets).into(),
            u64::from(facts.rank).into(),
            now_ms.into(),
            Hash([0; 32]).into(),
            PENDING_MAX.into(),
        ],
    ));
    Ok(statements)
}

/// Lets a device in, or finds it: the same key gets the same answer.
///
/// # Errors
/// [`Refused`]: its token lets nobody in, its key is not its own any more, or there is no room.
pub fn enrol(book: &dyn Book, asks: &Enroll, now_ms: u64) -> Result<Device, Refused> {
    let id = asks.public_key.device();
    for _ in 0..TRIES {
        if let Some(device) = find(book, id)? {
            let message = "the device signs with another key since then, expected that one";
            let same = device.key == asks.public_key;
            return if same { Ok(device) } else { Err(Refused::new(Code::Signature, message)) };
        }
        let of_key =
            book.read("select id from device where key = $1", &[asks.public_key.into()])?;
        if !of_key.is_empty() {
            let message = "the key is another device's, expected one of its own";
            return Err(Refused::new(Code::Signature, message));
        }
        let hash = asks.token.as_ref().map(|token| Hash::of(token.as_bytes()));
        let token = hash.map(|hash| token(book, hash)).transpose()?.flatten();
        let admission = admit(asks.token.is_some(), token.as_ref(), now_ms)?;
        let label = |error: IdError| Refused::new(Code::Malformed, error.to_string());
        match book.write(enrolment(asks, token.as_ref(), &admission, now_ms).map_err(label)?) {
            Ok(_) => {}
            Err(error) if error.is_lost() => {}
            Err(error) => return Err(error.into()),
        }
    }
    let message = "there is no room for another device that waits, or for another cohort";
    Err(Refused::new(Code::Unavailable, message).after(ROOM_S))
}

/// What a check-in's counter says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// It goes on.
    New,
    /// It was there before: it changes nothing.
    Old,
    /// It was signed after the last one and counts less: two have the key.
    Back,
}

/// What the counter of a check-in that was signed at a time says of its device.
pub fn count(device: &Device, counter: u64, told_ms: u64) -> Count {
    if told_ms <= device.told_ms && counter <= device.counter {
        Count::Old
    } else if counter < device.counter {
        Count::Back
    } else {
        Count::New
    }
}

/// Moves a device from one of some states to another; `counter`: whether it counts anew.
pub fn moved(id: DeviceId, from: DeviceState, to: DeviceState, counter: bool) -> Statement {
    let sql = match counter {
        false => "update device set state = $3 where id = $1 and state = $2",
        true => "update device set state = $3, counter = 0 where id = $1 and state = $2",
    };
    Statement::one(sql, [id.into(), number(from).into(), number(to).into()])
}

/// Gives a device that waits a label, a cohort, and a place.
///
/// # Errors
/// [`IdError`] for a label that is none.
pub fn accepted(device: &Device, label: &str, lab: bool) -> Result<[Statement; 2], IdError> {
    let cohort = device.facts.cohort(label)?;
    let sql =
        "update device set state = 1, label = $2, cohort = $3, lab = $4 where id = $1 and state = 0
        and exists(select 1 from cohort where id = $3)";
    let device_row = [device.id.into(), label.into(), cohort.into(), lab.into()];
    Ok([cohorts::make(cohort, &device.facts, label), Statement::one(sql, device_row)])
}

/// A line of the audit log.
pub fn audit(now_ms: u64, who: &str, what: &str, detail: impl Into<String>) -> Statement {
    let sql = "insert into audit(at, who, what, detail) values ($1, $2, $3, $4)";
    Statement::one(sql, [now_ms.into(), who.into(), what.into(), detail.into().into()])
}

#[cfg(test)]
pub(crate) mod tests;

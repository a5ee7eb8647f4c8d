//! How a device comes in, changes its key, and learns whom to trust.

use super::answer::{self, Answer};
use super::body::Coming;
use super::routes::Asked;
use super::shared::Shared;
use crate::devices::{self, Device};
use crate::door::Refused;
use crate::store::{Book, BookError, Columns, Statement};
use hyper::StatusCode;
use sapwood_protocol::fleet::code::Code;
use sapwood_protocol::fleet::id::{Bytes, Hash, PublicKey};
use sapwood_protocol::fleet::key::replacement;
use sapwood_protocol::fleet::message::{
    self, DeviceState, Enroll, Enrolled, Rekey, Rekeyed, Signed, TrustAnswer,
};
use sapwood_protocol::limits::{FLEET_BODY_BYTES_MAX, FLEET_INTEGER_MAX, FLEET_TRUST_MAX};
use std::sync::Arc;

/// `POST /v1/enroll`. The key is in the body: this body alone is read before its signature is checked.
pub(super) async fn enrol(
    shared: &Arc<Shared>,
    asked: &Asked,
    body: &mut Coming,
) -> Result<Answer, Refused> {
    let claim = asked.claim()?;
    let bytes = body.small(FLEET_BODY_BYTES_MAX).await?;
    let call = asked.call(shared.home.fleet);
    claim.covers(&call, bytes.len() as u64, Hash::of(&bytes))?;
    let asks: Enroll = message::read(&bytes)?;
    claim.enrols(&asks.public_key)?;
    let now_ms = shared.now_ms();
    claim.verify(&call, &asks.public_key, now_ms)?;
    let enrolled = shared.blocking(move |shared| {
        let book = &shared.home.book;
        let device = devices::enrol(book, &asks, now_ms)?;
        let trust = trusted(book, 0)?.pop();
        let missing = || Refused::new(Code::Unavailable, "the server has no trust statement");
        Ok(Enrolled {
            device: device.id,
            state: device.state,
            fleet: shared.home.fleet,
            label: device.label,
            trust: trust.ok_or_else(missing)?,
            time: now_ms,
            check_in_s: FIRST_CHECK_IN_S,
        })
    });
    answer::message(StatusCode::OK, &enrolled.await?)
}

/// Soon: a device that was just accepted has an offer to hear of.
const FIRST_CHECK_IN_S: u64 = 60;

/// Trust statements of later epochs, the oldest first. All of them fit one answer only at first.
fn trusted(book: &dyn Book, after: u64) -> Result<Vec<Signed>, BookError> {
    let sql = "select statement, signatures from trust where epoch > $1 order by epoch";
    let signed = |row| {
        let mut columns = Columns::of(row);
        Ok(Signed { statement: Bytes(columns.bytes()?), signatures: Bytes(columns.bytes()?) })
    };
    book.read(sql, &[after.into()])?.into_iter().map(signed).collect()
}

/// `GET /v1/trust?after=E`. Nothing of it is a secret: it needs no signature, and so no clock.
pub(super) async fn trust(shared: &Arc<Shared>, query: Option<&str>) -> Result<Answer, Refused> {
    let after = match query {
        None => 0,
        Some(query) => query
            .strip_prefix("after=")
            .filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|number| number.parse().ok())
            .filter(|number| *number <= FLEET_INTEGER_MAX)
            .ok_or_else(|| {
                Refused::new(Code::Malformed, "expected ?after=EPOCH, a number below 2^53")
            })?,
    };
    let trust = shared.blocking(move |shared| {
        let mut trust = trusted(&shared.home.book, after)?;
        trust.truncate(FLEET_TRUST_MAX);
        Ok(trust)
    });
    answer::message(StatusCode::OK, &TrustAnswer { trust: trust.await? })
}

/// `POST /v1/key`: the old key signs the request, the new one the proof.
pub(super) async fn rekey(
    shared: &Arc<Shared>,
    asked: &Asked,
    device: Device,
    body: &mut Coming,
) -> Result<Answer, Refused> {
    let bytes = body.small(FLEET_BODY_BYTES_MAX).await?;
    asked.covers(shared, &bytes)?;
    let Rekey { new_public_key, proof } = message::read(&bytes)?;
    let proven = replacement(shared.home.fleet, device.id, &new_public_key);
    if !new_public_key.verifies(&proven, &proof) {
        let message = "the new key did not sign the proof; the old key stays";
        return Err(Refused::new(Code::Signature, message));
    }
    if let Some(refused) = may_rekey(device.state) {
        return Err(refused);
    }
    let (now_ms, state) = (shared.now_ms(), device.state);
    if device.key != new_public_key {
        shared.blocking(move |shared| replace(shared, &device, new_public_key, now_ms)).await?;
    }
    answer::message(StatusCode::OK, &Rekeyed { state })
}

/// Whoever is refused or taken out has no key to change.
fn may_rekey(state: DeviceState) -> Option<Refused> {
    match state {
        DeviceState::Pending | DeviceState::Accepted => None,
        other => Refused::of_state(other),
    }
}

fn replace(shared: &Shared, device: &Device, new: PublicKey, now_ms: u64) -> Result<(), Refused> {
    let sql = "update device set key = $3 where id = $1 and key = $2
        and not exists(select 1 from device where id = $4)";
    let values = [device.id.into(), device.key.into(), new.into(), new.device().into()];
    let who = device.id.to_string();
    let audit = devices::audit(now_ms, &who, "key", new.to_string());
    match shared.home.book.write(vec![Statement::one(sql, values), audit]) {
        Ok(_) => Ok(()),
        Err(error) if error.is_lost() => {
            let message = "the new key is another device's, or was put in place by another call; \
                the old key stays";
            Err(Refused::new(Code::Signature, message))
        }
        Err(error) => Err(error.into()),
    }
}

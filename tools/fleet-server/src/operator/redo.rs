//! The order to merge a round again: what it takes back, and what it cannot.
//!
//! - In: a round that is closed or later, devices to leave out. Out: the round waits for its merge, and what
//!   it made before is offered to nobody.
//! - What a failed round let go of comes back, but for what counts in another round since.
//! - Never here: releases. What was promoted stands until an operator takes it back.

use super::rounds::{round, wrong_state};
use super::{OrderError, WHO};
use crate::devices;
use crate::home::Home;
use crate::rollout;
use crate::rounds::{self, FREED, Sent, State, Upload, UploadState};
use crate::store::{Book, Statement};
use crate::work;
use sapwood_protocol::fleet::id::DeviceId;
use sapwood_protocol::fleet::statement::Role;
use std::collections::BTreeSet;

/// What came of the order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redone {
    /// Candidates that are offered no more.
    pub withdrawn: Vec<u64>,
    /// Releases that were promoted from one of them, and stand.
    pub released: Vec<u64>,
    /// Devices whose update counts in another round since.
    pub elsewhere: Vec<DeviceId>,
}

/// Has a round be merged again from what is kept of it, without some devices.
///
/// # Errors
/// [`OrderError`]; above all [`OrderError::Missing`] and [`OrderError::Gone`] for files that are not there.
pub fn redo(home: &Home, id: u64, without: &[DeviceId], now_ms: u64) -> Result<Redone, OrderError> {
    let book = &home.book;
    let round = round(book, id)?;
    if round.state == State::Open {
        return Err(wrong_state(&round, "closed, or later"));
    }
    let without: BTreeSet<DeviceId> = without.iter().copied().collect();
    let uploads = rounds::uploads(book, id)?;
    let own: Vec<(&Upload, &Sent)> = uploads.iter().filter_map(own).collect();
    if let Some(device) =
        without.iter().find(|device| own.iter().all(|(own, _)| own.device != **device))
    {
        let name = format!("{device} in the merge of round {id}");
        return Err(OrderError::Unknown { what: "device", name });
    }
    let (mut redone, mut stored) = (Redone::default(), 0_u64);
    for (upload, file) in own.iter().filter(|(upload, _)| !without.contains(&upload.device)) {
        if upload.state == UploadState::Dropped
            && rounds::given(book, upload.device, upload.artifact)?.is_some()
        {
            redone.elsewhere.push(upload.device);
            continue;
        }
        there(home, id, upload.device, file)?;
        stored += 1;
    }
    let mut all: Vec<Statement> = without.iter().map(|device| left_out(id, *device)).collect();
    let free = "update upload set state = 2, why = null
        where round = $1 and (state = 3 or (state = 4 and why = $2)) and not exists(select 1 from upload other
        where other.device = upload.device and other.artifact = upload.artifact and other.round <> $1
        and other.state in (2, 3))";
    let begin =
        "update round set state = 2, stored = $3, result = null, bytes = null, report = null
        where id = $1 and state = $2";
    all.push(Statement::any(free, [id.into(), FREED.into()]));
    all.push(Statement::one(begin, [id.into(), (round.state as u64).into(), stored.into()]));
    all.push(work::again(id));
    for release in rollout::all(book, round.cohort)? {
        let is_its = release.round == Some(id) && release.state.is_offered();
        match release.role {
            Role::Candidate if is_its => {
                let why = Some("its round is merged again");
                all.push(rollout::moved(&release, rollout::State::Aborted, why));
                redone.withdrawn.push(release.sequence);
            }
            Role::Release if is_its => redone.released.push(release.sequence),
            _ => {}
        }
    }
    let names: Vec<String> = without.iter().map(DeviceId::to_string).collect();
    let detail = format!("{id} without [{}]; withdrawn {:?}", names.join(" "), redone.withdrawn);
    all.push(devices::audit(now_ms, WHO, "round redo", detail));
    book.write(all)?;
    Ok(redone)
}

/// What a round has, or had before it failed.
fn own(upload: &Upload) -> Option<(&Upload, &Sent)> {
    let has = match upload.state {
        UploadState::Stored | UploadState::Counted => true,
        UploadState::Dropped => upload.why.as_deref() == Some(FREED),
        UploadState::Invited => false,
    };
    upload.file.as_ref().filter(|_| has).map(|file| (upload, file))
}

/// Whether an upload's file is there; what is in it the merge sees.
fn there(home: &Home, round: u64, device: DeviceId, file: &Sent) -> Result<(), OrderError> {
    if file.bytes == 0 {
        return Err(OrderError::Gone { round });
    }
    match home.blobs.has(file.hash)? {
        true => Ok(()),
        false => Err(OrderError::Missing { round, device, hash: file.hash }),
    }
}

fn left_out(round: u64, device: DeviceId) -> Statement {
    let sql = "update upload set state = 4, why = 'an operator left it out' where round = $1
        and device = $2 and state in (2, 3, 4)";
    Statement::one(sql, [round.into(), device.into()])
}

//! `PUT /v1/rounds/N/upload`: the update of a device that was invited.
//!
//! - What it is allowed to be is known before its first byte: length, hash, rank, modules, artifact.
//! - The file is kept first, then its row; the same again is thanked for, another is refused.

use super::answer::{self, Answer};
use super::body::Coming;
use super::incoming::{Incoming, IncomingError};
use super::places::Place;
use super::routes::Asked;
use super::shared::Shared;
use crate::aggregate;
use crate::cohorts::{self, Cohort, shape_bytes};
use crate::devices::Device;
use crate::door::Refused;
use crate::rounds::{self, Receive, Sent, Upload};
use crate::store::{Book, BookError};
use hyper::StatusCode;
use sapwood::adapter::wire;
use sapwood_protocol::fleet::code::Code;
use sapwood_protocol::fleet::id::Hash;
use sapwood_protocol::fleet::message::Receipt;
use sapwood_protocol::fleet::request::{Claim, RequestError};
use sapwood_protocol::fleet::update::{Expected, Header, Kind, Shape};
use sapwood_protocol::limits::{FLEET_ADAPTER_BYTES_MAX, FLEET_INTEGER_MAX};
use std::sync::{Arc, PoisonError};

/// Bytes that are gathered before they are checked and written.
const PIECE_BYTES: usize = 256 << 10;

/// What an upload is against.
struct Wanted {
    cohort: Cohort,
    artifact: Hash,
}

impl Wanted {
    /// What the file must be. Before the cohort's modules are known, its own are those.
    fn expected<'a>(&'a self, shape: &'a Shape) -> Expected<'a> {
        Expected {
            kind: Kind::Update,
            base: self.cohort.base,
            cohort: self.cohort.id,
            from: Some(self.artifact),
            shape: self.cohort.shape.as_ref().unwrap_or(shape),
            rank_max: self.cohort.policy.rank_max,
        }
    }
}

pub(super) async fn upload(
    shared: &Arc<Shared>,
    asked: &Asked,
    device: &Device,
    round: &str,
    body: &mut Coming,
) -> Result<Answer, Refused> {
    if let Some(refused) = Refused::of_state(device.state) {
        return Err(refused);
    }
    let claim = asked.claim()?;
    if asked.body_bytes > FLEET_ADAPTER_BYTES_MAX {
        let message = format!(
            "the file has {} bytes, expected at most {FLEET_ADAPTER_BYTES_MAX}",
            asked.body_bytes
        );
        return Err(Refused::new(Code::TooLarge, message));
    }
    let number = number(round)?;
    let (id, digest) = (device.id, claim.digest);
    let looked = shared.blocking(move |shared| {
        let book = &shared.home.book;
        let now_ms = shared.now_ms();
        let none = || Refused::new(Code::NotFound, format!("there is no round {number}"));
        let round = rounds::find(book, number)?.ok_or_else(none)?;
        let asked = rounds::upload(book, number, id)?;
        let given = match &asked {
            Some(asked) => rounds::given(book, id, asked.artifact)?,
            None => None,
        };
        let receive = rounds::receive(&round, asked.as_ref(), given.as_ref(), digest, now_ms)?;
        let receive = match (receive, &asked) {
            (Receive::There, Some(row)) if is_lost(shared, digest, [&asked, &given])? => {
                Receive::Take(row.artifact)
            }
            (receive, _) => receive,
        };
        let cohort = cohorts::find(book, round.cohort)?.ok_or_else(none)?;
        Ok((receive, cohort))
    });
    let (receive, cohort) = looked.await?;
    let Receive::Take(artifact) = receive else {
        return answer::message(StatusCode::OK, &Receipt { receipt: digest });
    };
    let place = shared.place(id)?;
    let wanted = Arc::new(Wanted { cohort, artifact });
    let incoming = received(shared, asked.body_bytes, &wanted, body, &place).await?;
    let (body_bytes, device) = (asked.body_bytes, device.clone());
    let kept = shared.blocking(move |shared| {
        let (draft, hash, header) = incoming.end().map_err(refused)?;
        if hash != claim.digest {
            return Err(other_file(&claim, body_bytes, hash).into());
        }
        let one = shared.whole.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = looked_at(&draft.read()?, &wanted, &header, hash, body_bytes)?;
        drop(one);
        shared.home.blobs.keep(&draft, hash)?;
        let stored = rounds::stored(number, device.id, &sent, shared.now_ms());
        let lost = match shared.home.book.write(stored) {
            Ok(_) => {
                // Where it lay for long without a row, a sweep may have passed in between.
                if !shared.home.blobs.has(hash)? {
                    shared.home.blobs.keep(&draft, hash)?;
                }
                return Ok(true);
            }
            Err(error) if error.is_lost() => error,
            Err(error) => return Err(error.into()),
        };
        lost_to(shared, number, &device, hash, &lost)
    });
    let is_new = kept.await?;
    drop(place);
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    answer::message(status, &Receipt { receipt: digest })
}

/// Whether a row needs a file that is gone: a sweep passed, and the store failed when it was looked for.
fn is_lost(shared: &Shared, hash: Hash, rows: [&Option<Upload>; 2]) -> Result<bool, Refused> {
    let mut files = rows.into_iter().flatten().filter_map(|row| row.file.as_ref());
    let is_needed = files.any(|file| file.hash == hash && file.bytes > 0);
    Ok(is_needed && !shared.home.blobs.has(hash)?)
}

/// A file that is not the one that was signed; as many bytes came.
fn other_file(claim: &Claim, bytes: u64, got: Hash) -> RequestError {
    let (expected, expected_bytes, got_bytes) = (claim.digest, bytes, bytes);
    RequestError::Body { expected, expected_bytes, got, got_bytes }
}

/// Somebody was faster: the same upload twice at once, the last of the quota, an operator's word.
fn lost_to(
    shared: &Shared,
    number: u64,
    device: &Device,
    hash: Hash,
    lost: &BookError,
) -> Result<bool, Refused> {
    let book = &shared.home.book;
    let none = || Refused::new(Code::NotFound, format!("there is no round {number}"));
    let round = rounds::find(book, number)?.ok_or_else(none)?;
    let asked = rounds::upload(book, number, device.id)?;
    let given = match &asked {
        Some(asked) => rounds::given(book, device.id, asked.artifact)?,
        None => None,
    };
    let now_ms = shared.now_ms();
    match rounds::receive(&round, asked.as_ref(), given.as_ref(), hash, now_ms)? {
        Receive::There => Ok(false),
        Receive::Take(_) => Err(Refused::new(Code::Unavailable, format!("{lost}; send it again"))),
    }
}

/// The number of a round in a path.
fn number(text: &str) -> Result<u64, Refused> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|number| plain && *number <= FLEET_INTEGER_MAX);
    number.ok_or_else(|| Refused::new(Code::NotFound, "a round is a number, expected its digits"))
}

/// The file as it came, every byte of it looked at.
async fn received(
    shared: &Arc<Shared>,
    file_bytes: u64,
    wanted: &Arc<Wanted>,
    body: &mut Coming,
    place: &Place,
) -> Result<Incoming, Refused> {
    let mut incoming = Incoming::new(&shared.home.blobs, file_bytes).map_err(refused)?;
    let mut piece = Vec::new();
    loop {
        let next = tokio::select! {
            next = body.next() => next?,
            refused = place.given_away() => return Err(refused),
        };
        let is_end = next.is_none();
        let bytes = next.unwrap_or_default();
        place.gets_on(bytes.len() as u64);
        piece.extend_from_slice(&bytes);
        if piece.len() >= PIECE_BYTES || is_end {
            let (bytes, wanted) = (std::mem::take(&mut piece), wanted.clone());
            incoming = shared
                .blocking(move |_| {
                    feed(&mut incoming, &bytes, &wanted)?;
                    Ok(incoming)
                })
                .await?;
        }
        if is_end {
            return Ok(incoming);
        }
    }
}

fn feed(incoming: &mut Incoming, bytes: &[u8], wanted: &Wanted) -> Result<(), Refused> {
    let cohort = &wanted.cohort;
    let fits = |header: &Header| {
        header.fits(&wanted.expected(&header.shape))?;
        cohorts::could_have(cohort, header)
    };
    incoming.feed(bytes, fits).map_err(refused)
}

fn refused(error: IncomingError) -> Refused {
    match error {
        IncomingError::Update(error) => error.into(),
        IncomingError::Blob(error) => error.into(),
    }
}

/// What the merge will want to know of an update, so that it is read once less.
fn looked_at(
    bytes: &[u8],
    wanted: &Wanted,
    header: &Header,
    hash: Hash,
    file_bytes: u64,
) -> Result<Sent, Refused> {
    let wrong = |error: String| Refused::new(Code::Adapter, error);
    let (adapter, header) = wire::decode(bytes, &wanted.expected(&header.shape))
        .map_err(|error| wrong(error.to_string()))?;
    let norm = aggregate::norm(&adapter).map_err(|error| wrong(error.to_string()))?;
    Ok(Sent {
        hash,
        bytes: file_bytes,
        tokens: header.meta.tokens,
        rank: header.rank.into(),
        norm,
        shape: shape_bytes(&header.shape),
    })
}

//! `GET /v1/artifacts/HASH`: a global adapter, whole or from a byte on.
//!
//! - A name that no statement offers is not found, whatever lies under it: uploads are nobody's to read.

use super::answer::Answer;
use super::routes::Asked;
use super::shared::Shared;
use crate::devices::Device;
use crate::door::Refused;
use crate::store::Book;
use crate::store::blobs::{BlobError, Content};
use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderValue, IF_RANGE, RANGE,
};
use hyper::{Response, StatusCode};
use sapwood_protocol::fleet::code::Code;
use sapwood_protocol::fleet::id::Hash;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::task::{JoinHandle, spawn_blocking};

/// Bytes that are read at once.
const PIECE_BYTES: u64 = 256 << 10;

pub(super) async fn artifact(
    shared: &Arc<Shared>,
    asked: &Asked,
    device: &Device,
    name: &str,
) -> Result<Answer, Refused> {
    if let Some(refused) = Refused::of_state(device.state) {
        return Err(refused);
    }
    let hash: Hash =
        name.parse().map_err(|error| Refused::new(Code::NotFound, format!("{error}")))?;
    let unknown = || Refused::new(Code::NotFound, format!("there is no artifact {hash}"));
    let cohort = device.cohort.ok_or_else(unknown)?;
    let fetching = shared.fetching().await?;
    let found = shared.blocking(move |shared| {
        let sql = "select 1 from release where cohort = $1 and artifact = $2 limit 1";
        let rows = shared.home.book.read(sql, &[cohort.into(), hash.into()])?;
        if rows.is_empty() {
            return Ok(None);
        }
        // What is offered should be there: the device asks again, and an operator is told.
        let gone = || BlobError::Gone { name: hash };
        Ok(Some(shared.home.blobs.open_blob(hash)?.ok_or_else(gone)?))
    });
    let found = found.await?;
    drop(fetching);
    let (file, bytes) = found.ok_or_else(unknown)?;
    let header = |name| asked.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let tag = format!("\"{hash}\"");
    // Another file than the one that was begun is sent whole.
    let goes_on = header(IF_RANGE).is_none_or(|begun| begun == tag);
    let part = header(RANGE).filter(|_| goes_on).map(|range| part(range, bytes));
    let (status, range) = match part {
        None | Some(Part::Whole) => (StatusCode::OK, 0..bytes),
        Some(Part::Of(range)) => (StatusCode::PARTIAL_CONTENT, range),
        Some(Part::Beyond) => {
            let message = format!("the artifact has {bytes} bytes, expected a range within");
            return Err(Refused::new(Code::Malformed, message));
        }
    };
    let mut answer = Response::new(Pieces::of(file, range.clone()).boxed());
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(range.end - range.start));
    headers.extend(HeaderValue::from_str(&tag).map(|tag| (ETAG, tag)));
    if status == StatusCode::PARTIAL_CONTENT {
        let said = format!("bytes {}-{}/{bytes}", range.start, range.end - 1);
        headers.extend(HeaderValue::from_str(&said).map(|said| (CONTENT_RANGE, said)));
    }
    Ok(answer)
}

/// What a range asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Whole,
    Of(Range<u64>),
    Beyond,
}

/// `bytes=A-`, `bytes=A-B`, `bytes=-N`; anything else is passed over, as HTTP has it.
fn part(header: &str, bytes: u64) -> Part {
    let Some((first, last)) = header.strip_prefix("bytes=").and_then(|range| range.split_once('-'))
    else {
        return Part::Whole;
    };
    let number = |text: &str| {
        let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        plain.then(|| text.parse().unwrap_or(u64::MAX))
    };
    let range = match (number(first), number(last)) {
        (Some(first), None) if last.is_empty() => first..bytes,
        (Some(first), Some(last)) if first <= last => first..last.saturating_add(1).min(bytes),
        (None, Some(count)) if first.is_empty() => bytes.saturating_sub(count)..bytes,
        _ => return Part::Whole,
    };
    if range.start < range.end { Part::Of(range) } else { Part::Beyond }
}

/// A blob's bytes, piece by piece, read on blocking threads.
struct Pieces {
    left: u64,
    state: State,
}

enum State {
    Ready(Content),
    Reading(JoinHandle<io::Result<(Content, Bytes)>>),
    Over,
}

impl Pieces {
    fn of(mut file: Content, range: Range<u64>) -> Self {
        let state = match file.seek(SeekFrom::Start(range.start)) {
            Ok(_) => State::Ready(file),
            Err(_) => State::Over,
        };
        Self { left: range.end - range.start, state }
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        loop {
            match std::mem::replace(&mut self.state, State::Over) {
                State::Ready(file) if self.left > 0 => {
                    self.state = State::Reading(read(file, self.left.min(PIECE_BYTES) as usize));
                }
                State::Ready(_) | State::Over => return Poll::Ready(None),
                State::Reading(mut task) => match Pin::new(&mut task).poll(context) {
                    Poll::Pending => {
                        self.state = State::Reading(task);
                        return Poll::Pending;
                    }
                    Poll::Ready(Ok(Ok((file, bytes)))) => {
                        self.left -= bytes.len() as u64;
                        self.state = State::Ready(file);
                        return Poll::Ready(Some(Ok(Frame::data(bytes))));
                    }
                    // Less came than was promised: the connection is cut, and the client sees it.
                    Poll::Ready(Ok(Err(error))) => return Poll::Ready(Some(Err(error))),
                    Poll::Ready(Err(error)) => {
                        return Poll::Ready(Some(Err(io::Error::other(error))));
                    }
                },
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

fn read(mut file: Content, count: usize) -> JoinHandle<io::Result<(Content, Bytes)>> {
    spawn_blocking(move || {
        let mut bytes = vec![0; count];
        file.read_exact(&mut bytes)?;
        Ok((file, Bytes::from(bytes)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: RFC 9110, section 14.1.2, with its own examples of 10,000 bytes.
    #[test]
    fn ranges_are_read_as_http_has_them() {
        for (header, expected) in [
            ("bytes=0-499", Part::Of(0..500)),
            ("bytes=500-999", Part::Of(500..1000)),
            ("bytes=-500", Part::Of(9500..10_000)),
            ("bytes=9500-", Part::Of(9500..10_000)),
            ("bytes=9999-20000", Part::Of(9999..10_000)),
            ("bytes=-20000", Part::Of(0..10_000)),
            ("bytes=10000-", Part::Beyond),
            ("bytes=-0", Part::Beyond),
            ("bytes=99999999999999999999-", Part::Beyond),
            ("bytes=5-4", Part::Whole),
            ("bytes=0-1,5-6", Part::Whole),
            ("bytes=a-b", Part::Whole),
            ("bytes=-", Part::Whole),
            ("rows=0-1", Part::Whole),
        ] {
            assert_eq!(part(header, 10_000), expected, "{header}");
        }
    }
}

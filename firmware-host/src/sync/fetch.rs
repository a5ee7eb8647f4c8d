//! A download: an artifact from wherever it lies, from the byte at which the last try ended.
//!
//! - In: an address and how much is there already. Out: bytes at their offsets, up to the artifact's
//!   length; whether they are right is told by their hash, elsewhere.
//! - The own server is asked with a signature, others without: they learn nothing of the device.
//! - A redirect leads to `https` and nowhere else, and at most three times.

use super::error::ExchangeError;
use super::exchange::{Ask, Exchange, Signer, causes, within};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::{Response, StatusCode, header};
use sapwood::ports::StorageResult;
use sapwood_protocol::limits::FLEET_PATH_BYTES_MAX;

/// Redirects that are followed.
const REDIRECTS_MAX: usize = 3;
/// Bytes that are gathered before they go to the disk.
const PIECE_BYTES: usize = 256 << 10;

/// Where bytes go: offset and bytes; an offset of 0 begins anew.
pub(super) type Sink<'a> = dyn FnMut(u64, &[u8]) -> StorageResult<()> + Send + 'a;

/// What is fetched.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    /// A path of the server, or an address elsewhere.
    pub(super) url: &'a str,
    /// Bytes that are there.
    pub(super) have: u64,
    /// All of its bytes.
    pub(super) total: u64,
}

/// Where an address leads.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    Own(String),
    Other { host: String, path: String },
}

impl Place {
    fn of(url: &str) -> Result<Self, ExchangeError> {
        let wrong = || ExchangeError::Status {
            status: 302,
            told: url.chars().take(64).filter(|letter| !letter.is_control()).collect(),
            expected: "an address that begins with https://, or a path of the server",
        };
        if url.len() > FLEET_PATH_BYTES_MAX {
            return Err(wrong());
        }
        if url.starts_with('/') && !url.starts_with("//") {
            return Ok(Self::Own(url.to_owned()));
        }
        let rest = url.strip_prefix("https://").ok_or_else(wrong)?;
        let at = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (host, path) = rest.split_at(at);
        match path.starts_with('/') {
            true => Ok(Self::Other { host: host.to_owned(), path: path.to_owned() }),
            false => Err(wrong()),
        }
    }
}

impl Exchange {
    /// Fetches what is missing of an artifact; the number of bytes that came.
    ///
    /// # Errors
    /// [`ExchangeError`]: what came until then went to the sink.
    pub(super) async fn fetch(
        &self,
        signer: Signer<'_>,
        wanted: Wanted<'_>,
        sink: &mut Sink<'_>,
        came: &mut u64,
    ) -> Result<(), ExchangeError> {
        let limit = self.patience.long(wanted.total - wanted.have.min(wanted.total));
        let limit = limit.min(self.patience.turn);
        within(limit, "the download", async {
            let limit = self.patience.call;
            let opened = self.open(signer, wanted);
            let (answer, offset) = within(limit, "the answer to a download", opened).await?;
            self.pour(answer, offset, wanted.total, sink, came).await
        })
        .await
    }

    /// The answer that has the bytes, and where it begins.
    async fn open(
        &self,
        signer: Signer<'_>,
        wanted: Wanted<'_>,
    ) -> Result<(Response<Incoming>, u64), ExchangeError> {
        let mut place = Place::of(wanted.url)?;
        for _ in 0..=REDIRECTS_MAX {
            let answer = match &place {
                Place::Own(path) => {
                    let ask = Ask { from: Some(wanted.have), ..Ask::get(path) };
                    self.signed(signer, &ask).await?
                }
                Place::Other { host, path } => {
                    let ask = Ask { from: Some(wanted.have), ..Ask::get(path) };
                    self.elsewhere(host, &ask).await?
                }
            };
            if !answer.status().is_redirection() {
                let offset = begins_at(&answer, wanted)?;
                return Ok((answer, offset));
            }
            let to = answer.headers().get(header::LOCATION);
            place = Place::of(to.and_then(|to| to.to_str().ok()).unwrap_or_default())?;
        }
        let told = format!("after {REDIRECTS_MAX} others");
        Err(ExchangeError::Status { status: 302, told, expected: "the artifact" })
    }

    /// Pours an answer's bytes into the sink.
    async fn pour(
        &self,
        answer: Response<Incoming>,
        mut offset: u64,
        total: u64,
        sink: &mut Sink<'_>,
        came: &mut u64,
    ) -> Result<(), ExchangeError> {
        let (mut body, mut piece) = (answer.into_body(), Vec::with_capacity(PIECE_BYTES));
        if offset == 0 {
            sink(0, &[])?;
        }
        loop {
            let next = within(self.patience.silence, "the next bytes of a download", async {
                Ok(body.frame().await)
            });
            let next = match next.await {
                Ok(Some(Ok(frame))) => Ok(Some(frame)),
                Ok(Some(Err(error))) => Err(ExchangeError::Broke { problem: causes(&error) }),
                Ok(None) => Ok(None),
                Err(error) => Err(error),
            };
            let data = match &next {
                Ok(Some(frame)) => frame.data_ref().map_or(&[][..], |data| data),
                _ => &[],
            };
            *came += data.len() as u64;
            if offset + piece.len() as u64 + data.len() as u64 > total {
                return Err(ExchangeError::Long { max: total });
            }
            piece.extend_from_slice(data);
            // What came before an error is kept: the next try goes on behind it.
            if piece.len() >= PIECE_BYTES || !matches!(next, Ok(Some(_))) && !piece.is_empty() {
                sink(offset, &piece)?;
                offset += piece.len() as u64;
                piece.clear();
            }
            match next {
                Ok(Some(_)) => {}
                Ok(None) if offset == total => return Ok(()),
                Ok(None) => {
                    let problem = format!("{offset} of {total} bytes came");
                    return Err(ExchangeError::Broke { problem });
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Where the bytes of an answer begin: where they were asked for, or at the front.
fn begins_at(answer: &Response<Incoming>, wanted: Wanted<'_>) -> Result<u64, ExchangeError> {
    let status = answer.status();
    if status != StatusCode::PARTIAL_CONTENT {
        return Ok(0);
    }
    let range = answer.headers().get(header::CONTENT_RANGE).and_then(|range| range.to_str().ok());
    let Wanted { have, total, .. } = wanted;
    let right = |range: &str| {
        let (span, of) = range.strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = span.split_once('-')?;
        let is_right = first.parse() == Ok(have)
            && last.parse::<u64>().is_ok_and(|last| last < total)
            && (of == "*" || of.parse() == Ok(total));
        is_right.then_some(have)
    };
    range.and_then(right).ok_or_else(|| ExchangeError::Status {
        status: status.as_u16(),
        told: range.unwrap_or("without a range").chars().take(64).collect(),
        expected: "the bytes that were asked for",
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    #[test]
    fn an_address_is_a_path_of_the_server_or_https() {
        let own = |path: &str| Place::Own(path.to_owned());
        assert_eq!(Place::of("/v1/artifacts/00").unwrap(), own("/v1/artifacts/00"));
        let other = Place::Other { host: "cdn.example:8443".into(), path: "/a?b=c".into() };
        assert_eq!(Place::of("https://cdn.example:8443/a?b=c").unwrap(), other);
        let long = format!("/{}", "x".repeat(FLEET_PATH_BYTES_MAX));
        for url in ["http://cdn.example/a", "//cdn/a", "", "ftp://x/", "https://x", "a", &long] {
            assert!(Place::of(url).is_err(), "{url}");
        }
    }
}

//! Bodies: how much of one may come, how slowly, and that it is read on when it is refused.
//!
//! - Its length is known before its first byte.
//! - A body that does not move for [`SILENCE`] ends, as does one slower than [`PACE`] in the long run.

use crate::door::Refused;
use http_body_util::BodyExt;
use hyper::body::{Body as _, Bytes, Incoming};
use sapwood_connections::Guest;
use sapwood_protocol::fleet::code::Code;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// Time without a byte.
const SILENCE: Duration = Duration::from_secs(20);
/// Bytes a second, from half a minute on.
const PACE: u64 = 512;
/// Before that nobody counts.
const GRACE: Duration = Duration::from_secs(30);
/// How long a refused body is read on.
const HEARD: Duration = Duration::from_secs(60);

/// Bytes with which a body has got on.
const STRIDE_BYTES: u64 = 16 << 10;

/// A request's body on its way.
pub(crate) struct Coming {
    body: Incoming,
    guest: Arc<Guest>,
    begun: Option<Instant>,
    /// It was too slow, or broke off: nothing more of it is waited for.
    is_over: bool,
    length: u64,
    read: u64,
}

impl Coming {
    /// The body of a guest's request, whose length its headers say.
    ///
    /// # Errors
    /// [`Refused`] for one in chunks.
    pub(crate) fn new(body: Incoming, guest: Arc<Guest>) -> (Self, Result<u64, Refused>) {
        let said = body.size_hint().exact();
        let length = said.unwrap_or(u64::MAX);
        let coming = Self { body, guest, begun: None, is_over: false, length, read: 0 };
        let message = "the request has no Content-Length, expected it before a body";
        (coming, said.ok_or_else(|| Refused::new(Code::Malformed, message)))
    }

    /// The next bytes; none at the end.
    ///
    /// # Errors
    /// [`Refused`] when it breaks off or does not move.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Refused> {
        let next = self.try_next().await;
        self.is_over |= next.is_err();
        next
    }

    async fn try_next(&mut self) -> Result<Option<Bytes>, Refused> {
        let begun = *self.begun.get_or_insert_with(Instant::now);
        loop {
            let slow = || {
                let message = "the body does not move: nothing was done, send it again";
                Refused::new(Code::Malformed, message)
            };
            let passed = begun.elapsed();
            if passed > GRACE && self.read < PACE * (passed - GRACE).as_secs() {
                return Err(slow());
            }
            let frame = timeout(SILENCE, self.body.frame()).await.map_err(|_| slow())?;
            match frame {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.has_read(data.len() as u64);
                        return Ok(Some(data));
                    }
                }
                Some(Err(_)) => {
                    let message = "the body broke off: nothing was done, send it again";
                    return Err(Refused::new(Code::Malformed, message));
                }
            }
        }
    }

    /// Counts bytes; whoever has room for connections hears how far they are.
    fn has_read(&mut self, bytes: u64) {
        let strides = self.read / STRIDE_BYTES;
        self.read += bytes;
        if self.read >= self.length {
            self.guest.has_asked();
        } else if self.read / STRIDE_BYTES > strides {
            self.guest.gets_on();
        }
    }

    /// All of a small body.
    ///
    /// # Errors
    /// [`Refused`] when it is longer than `bytes_max`, breaks off, or does not move.
    pub(crate) async fn small(&mut self, bytes_max: usize) -> Result<Vec<u8>, Refused> {
        let mut all = Vec::new();
        if self.length > bytes_max as u64 {
            let message =
                format!("the body has {} bytes, expected at most {bytes_max}", self.length);
            return Err(Refused::new(Code::TooLarge, message));
        }
        while let Some(bytes) = self.next().await? {
            all.extend_from_slice(&bytes);
        }
        Ok(all)
    }

    /// Reads a body that was refused on, up to so many bytes; whether it came to its end.
    pub(crate) async fn heard(&mut self, bytes_max: u64) -> bool {
        let to_the_end = async {
            while !self.is_over && self.read < self.length.min(bytes_max) {
                match self.next().await {
                    Ok(Some(_)) => {}
                    _ => return false,
                }
            }
            self.read >= self.length
        };
        timeout(HEARD, to_the_end).await.unwrap_or(false)
    }
}

//! Who is let in: what a call claims, how often an address may ask, and what is answered instead.
//!
//! - In: headers, an address, a time. Out: a claim that is still to be verified; or a [`Refused`].
//! - Invariant: every refusal is one of the protocol's codes and one clear line.

use crate::store::BookError;
use crate::store::blobs::BlobError;
use sapwood_protocol::fleet::code::Code;
use sapwood_protocol::fleet::message::{DeviceState, MessageError, Refusal, one_line};
use sapwood_protocol::fleet::request::{Claim, HEADERS, RequestError};
use sapwood_protocol::fleet::update::UpdateError;
use sapwood_protocol::limits::FLEET_MESSAGE_BYTES_MAX;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Seconds after which to ask again when something passes soon.
const SOON_S: u64 = 5;
/// Addresses that are remembered; whoever is not is as good as new.
const ADDRESSES_MAX: usize = 1 << 16;

/// What is told of where no part of the server failed: there is much to do at once.
pub(crate) const BUSY: &str = "calls";

/// A call that is not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    told: Box<Refusal>,
    cause: Option<Box<Cause>>,
}

/// What of the server itself failed, for its log: it may name folders, which are nobody else's business.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// Which part of it.
    pub part: &'static str,
    /// What it said.
    pub problem: String,
}

impl Refused {
    /// A refusal with its line.
    pub fn new(code: Code, message: impl AsRef<str>) -> Self {
        let message = one_line(message.as_ref(), FLEET_MESSAGE_BYTES_MAX);
        let retry_after_s = code.waits().then_some(SOON_S);
        let told = Box::new(Refusal { error: code, message, retry_after_s, time: None });
        Self { told, cause: None }
    }

    /// The same, to be asked again after so many seconds.
    pub fn after(mut self, seconds: u64) -> Self {
        self.told.retry_after_s = Some(seconds.max(1));
        self
    }

    /// The same with the server's time.
    pub fn at(mut self, now_ms: u64) -> Self {
        self.told.time = Some(now_ms);
        self
    }

    /// What is sent.
    pub fn refusal(&self) -> &Refusal {
        &self.told
    }

    /// Its code.
    pub fn code(&self) -> Code {
        self.told.error
    }

    /// The same, because a part of the server failed.
    pub fn because(mut self, part: &'static str, problem: &impl ToString) -> Self {
        self.cause = Some(Box::new(Cause { part, problem: problem.to_string() }));
        self
    }

    /// What of the server itself failed, where something did: never what a call was.
    pub fn cause(&self) -> Option<Cause> {
        let passes = || Cause { part: BUSY, problem: self.told.message.clone() };
        (self.told.error == Code::Unavailable)
            .then(|| self.cause.as_deref().cloned().unwrap_or_else(passes))
    }

    /// A device that may not take part; none when it may.
    pub fn of_state(state: DeviceState) -> Option<Self> {
        let (code, message) = match state {
            DeviceState::Accepted => return None,
            DeviceState::Pending => (Code::Pending, "the device waits for an operator's word"),
            DeviceState::Suspended => {
                (Code::Suspended, "the device is stopped until an operator has it go on")
            }
            DeviceState::Rejected => (Code::Rejected, "an operator has refused the device"),
            DeviceState::Retired => (Code::Retired, "the device was taken out of the fleet"),
        };
        Some(Self::new(code, message))
    }
}

impl From<RequestError> for Refused {
    fn from(error: RequestError) -> Self {
        let refused = Self::new(error.code(), error.to_string());
        match error {
            RequestError::Clock { now_ms, .. } => refused.at(now_ms),
            _ => refused,
        }
    }
}

impl From<MessageError> for Refused {
    fn from(error: MessageError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

impl From<UpdateError> for Refused {
    fn from(error: UpdateError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

impl From<BookError> for Refused {
    fn from(error: BookError) -> Self {
        if error.is_lost() {
            return Self::new(Code::Unavailable, error.to_string());
        }
        // What a database says is nobody's business but the operator's.
        Self::new(Code::Unavailable, "the server's book failed; send it again")
            .because("book", &error)
    }
}

impl From<BlobError> for Refused {
    fn from(error: BlobError) -> Self {
        // What a store says may name folders of the server, which are nobody's business.
        let message =
            if error.is_full() { "the server has no room" } else { "the server's store failed" };
        Self::new(Code::Unavailable, format!("{message}; nothing was kept"))
            .because("blobs", &error)
    }
}

/// What the headers of a call claim.
///
/// - `values`: of a header, all that there are.
/// # Errors
/// [`RequestError`]: a header is missing, twice, or wrong.
pub fn claim<'a>(
    mut values: impl FnMut(&'static str) -> Vec<Option<&'a str>>,
) -> Result<Claim, RequestError> {
    let one = |name| match values(name)[..] {
        [value] => value,
        _ => None,
    };
    Claim::read(HEADERS.map(one))
}

/// How often an address may ask.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Calls a second, in the long run.
    pub per_s: f64,
    /// Calls at once after a pause.
    pub burst: f64,
}

impl Default for Rate {
    fn default() -> Self {
        Self { per_s: 50.0, burst: 500.0 }
    }
}

/// A bucket of tokens for each address: full at first, one taken a call, filled up with time.
#[derive(Debug, Default)]
pub struct Buckets(BTreeMap<IpAddr, Bucket>);

#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    at_ms: u64,
}

impl Buckets {
    /// Takes a token; or the seconds after which there is one.
    ///
    /// # Errors
    /// [`Refused`] with `too-many`.
    pub fn take(&mut self, address: IpAddr, rate: Rate, now_ms: u64) -> Result<(), Refused> {
        if self.0.len() >= ADDRESSES_MAX && !self.0.contains_key(&address) {
            self.forget(rate, now_ms);
        }
        let full = Bucket { tokens: rate.burst, at_ms: now_ms };
        let bucket = self.0.entry(network(address)).or_insert(full);
        *bucket = Bucket { tokens: bucket.now(rate, now_ms), at_ms: now_ms };
        if bucket.tokens >= 1.0 {
            bucket.tokens -= 1.0;
            return Ok(());
        }
        let wait_s = ((1.0 - bucket.tokens) / rate.per_s.max(1e-3)).ceil();
        let message = format!(
            "{address} asks too often, expected at most {} calls a second in the long run",
            rate.per_s
        );
        Err(Refused::new(Code::TooMany, message).after(wait_s as u64))
    }

    /// Lets go of the full ones, which say nothing; of all when none is.
    fn forget(&mut self, rate: Rate, now_ms: u64) {
        self.0.retain(|_, bucket| bucket.now(rate, now_ms) < rate.burst);
        if self.0.len() >= ADDRESSES_MAX {
            self.0.clear();
        }
    }
}

impl Bucket {
    fn now(self, rate: Rate, now_ms: u64) -> f64 {
        let passed_s = now_ms.saturating_sub(self.at_ms) as f64 / 1000.0;
        (self.tokens + passed_s * rate.per_s).min(rate.burst)
    }
}

/// Whoever has an address of version 6 has 2^64 of them.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    const RATE: Rate = Rate { per_s: 2.0, burst: 3.0 };

    #[test]
    fn an_address_asks_as_often_as_its_bucket_has_tokens() {
        let mut buckets = Buckets::default();
        let here: IpAddr = "10.0.0.7".parse().unwrap();
        let mut take = |now_ms| {
            buckets
                .take(here, RATE, now_ms)
                .map_err(|refused| (refused.code(), refused.refusal().retry_after_s))
        };
        assert!((0..3).all(|_| take(1000).is_ok()));
        assert_eq!(take(1000), Err((Code::TooMany, Some(1))));
        assert!(take(1500).is_ok() && take(1500).is_err());
        assert!(take(1400).is_err(), "a time that went back gives nothing");
        assert!((0..3).all(|_| take(100_000).is_ok()) && take(100_000).is_err());
        assert!(buckets.take("10.0.0.8".parse().unwrap(), RATE, 1000).is_ok());
    }

    #[test]
    fn who_must_wait_is_told_for_how_long() {
        let (mut buckets, here) = (Buckets::default(), "10.0.0.7".parse().unwrap());
        let slow = Rate { per_s: 0.1, burst: 1.0 };
        buckets.take(here, slow, 0).unwrap();
        let mut wait =
            |now_ms| buckets.take(here, slow, now_ms).unwrap_err().refusal().retry_after_s;
        assert_eq!((wait(0), wait(7_500)), (Some(10), Some(3)));
    }

    #[test]
    fn one_network_of_version_6_is_one_address_and_old_ones_are_forgotten() {
        let mut buckets = Buckets::default();
        let rate = Rate { per_s: 1.0, burst: 1.0 };
        assert!(buckets.take("2001:db8::1".parse().unwrap(), rate, 0).is_ok());
        assert!(buckets.take("2001:db8::2".parse().unwrap(), rate, 0).is_err());
        assert!(buckets.take("2001:db8:0:1::1".parse().unwrap(), rate, 0).is_ok());
        for at in 0..2 * ADDRESSES_MAX as u32 {
            assert!(buckets.take(std::net::Ipv4Addr::from_bits(at).into(), rate, 1).is_ok());
        }
        assert!(buckets.0.len() <= ADDRESSES_MAX);
    }

    #[test]
    fn a_header_that_is_missing_or_twice_is_named() {
        let error = claim(|_| vec![]).unwrap_err();
        assert_eq!(error, RequestError::Missing { name: HEADERS[0] });
        let twice = |name| match name {
            "sapwood-device" => vec![Some("00112233445566778899aabbccddeeff"); 2],
            _ => vec![Some("1")],
        };
        assert_eq!(claim(twice).unwrap_err(), RequestError::Missing { name: HEADERS[0] });
    }

    #[test]
    fn every_refusal_can_be_sent() {
        for code in Code::ALL {
            let long = Refused::new(code, "a\nline ".repeat(400)).at(1);
            let read = Refusal::read(&long.refusal().write().unwrap()).unwrap();
            assert_eq!(read.error, code);
        }
    }
}

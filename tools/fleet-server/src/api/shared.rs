//! What all calls share: the fleet, the limits, who asked how often.

use super::metrics::Metrics;
use super::places::{Place, Places};
use crate::door::{BUSY, Buckets, Cause, Rate, Refused};
use crate::home::Home;
use crate::ports::{Chance, Clock};
use crate::store::{Book, BookError};
use sapwood_protocol::fleet::code::Code;
use sapwood_protocol::fleet::id::{DeviceId, Hash};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Calls at the disk or the book at the same time: as many as one commit takes.
pub(crate) const BLOCKING_MAX: usize = 256;
/// Of these calls that may have a store fetch something, which may take minutes.
const FETCHING_MAX: usize = 32;
/// How long another waits for one of them.
const FETCHING: Duration = Duration::from_secs(5);
/// How long a count of devices is believed.
const COUNT_MS: u64 = 60_000;
const DAY_MS: u64 = 24 * 3_600_000;
/// Between two lines of the log about one part of the server.
const TELL: Duration = Duration::from_secs(60);

/// A part of the server that failed.
struct Trouble {
    /// When the log was told.
    told: Duration,
    /// How many calls it had be refused since.
    untold: u64,
    /// When it had the last one be.
    last: Duration,
    problem: String,
}

/// What all calls share.
pub(crate) struct Shared {
    pub(crate) home: Home,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) chance: Arc<dyn Chance>,
    pub(crate) metrics: Metrics,
    /// BLAKE3 of the operator's token.
    pub(crate) token: Option<Hash>,
    /// Whether this server makes candidates.
    pub(crate) judges: bool,
    rate: Rate,
    buckets: Mutex<Buckets>,
    places: Arc<Places>,
    /// Held while an upload is in memory whole: one at a time.
    pub(crate) whole: Mutex<()>,
    blocking: Arc<Semaphore>,
    fetching: Arc<Semaphore>,
    /// What of a part of the server had calls be refused.
    troubles: Mutex<BTreeMap<&'static str, Trouble>>,
    /// Of a cohort: devices that checked in within a day, and when that was counted.
    devices: Mutex<BTreeMap<[u8; 32], (u64, u64)>>,
}

impl Shared {
    pub(crate) fn new(
        home: Home,
        clock: Arc<dyn Clock>,
        chance: Arc<dyn Chance>,
        rate: Rate,
        token: Option<Hash>,
        judges: bool,
    ) -> Self {
        Self {
            home,
            clock,
            chance,
            metrics: Metrics::new(),
            token,
            judges,
            rate,
            buckets: Mutex::default(),
            places: Arc::default(),
            whole: Mutex::default(),
            blocking: Arc::new(Semaphore::new(BLOCKING_MAX)),
            fetching: Arc::new(Semaphore::new(FETCHING_MAX)),
            troubles: Mutex::default(),
            devices: Mutex::default(),
        }
    }

    /// Tells the log what of the server itself had a call be refused: once a minute for each part of it.
    pub(crate) fn tell(&self, refused: &Refused) {
        let Some(Cause { part, problem }) = refused.cause() else { return };
        let now = self.clock.elapsed();
        let mut troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        let before = troubles.get(part);
        let untold = before.map_or(0, |before| before.untold);
        let is_told = before.is_some_and(|before| now < before.told + TELL);
        let told = before.filter(|_| is_told).map_or(now, |before| before.told);
        let counted = if is_told { untold + 1 } else { 0 };
        let line = problem.clone();
        troubles.insert(part, Trouble { told, untold: counted, last: now, problem });
        drop(troubles);
        if !is_told {
            tracing::error!(part, untold, "a call is answered with 503: {line}");
        }
    }

    /// What failed within a minute, for calls that came: a look of one's own may find room for less.
    pub(crate) fn troubles(&self) -> Vec<String> {
        let now = self.clock.elapsed();
        let troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        // That there is much to do is no fault.
        let recent = troubles.iter().filter(|(part, one)| **part != BUSY && now < one.last + TELL);
        let told = |(part, one): (&&str, &Trouble)| {
            format!("calls were answered with 503 within a minute ({part}): {}", one.problem)
        };
        recent.map(told).collect()
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    /// Whether an address may ask now.
    pub(crate) fn may_ask(&self, address: IpAddr) -> Result<(), Refused> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        // The count that never goes back: whoever sets the time of day resets no bucket.
        let now_ms = self.clock.elapsed().as_millis() as u64;
        buckets.take(address, self.rate, now_ms)
    }

    /// A place among the uploads.
    pub(crate) fn place(&self, device: DeviceId) -> Result<Place, Refused> {
        self.places.enter(device, self.clock.elapsed())
    }

    /// A place among those for whom a store may have to fetch something: one that hangs holds up no others.
    pub(crate) async fn fetching(&self) -> Result<OwnedSemaphorePermit, Refused> {
        let busy = || Refused::new(Code::Unavailable, "too many ask for artifacts; ask again");
        let permit = timeout(FETCHING, self.fetching.clone().acquire_owned()).await;
        permit.ok().and_then(Result::ok).ok_or_else(busy)
    }

    /// Work at the disk or the book, away from the threads that carry connections.
    pub(crate) async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, Refused> + Send + 'static,
    ) -> Result<T, Refused> {
        let lost = || Refused::new(Code::Unavailable, "the call was lost; send it again");
        let permit = self.blocking.clone().acquire_owned().await.map_err(|_| lost())?;
        let shared = self.clone();
        let done = tokio::task::spawn_blocking(move || {
            let done = work(&shared);
            drop(permit);
            done
        });
        done.await.map_err(|_| lost())?
    }

    /// Devices of a cohort that checked in within a day, as of a minute ago.
    pub(crate) fn devices(&self, cohort: [u8; 32], now_ms: u64) -> Result<u64, BookError> {
        let kept =
            self.devices.lock().unwrap_or_else(PoisonError::into_inner).get(&cohort).copied();
        if let Some((count, _)) = kept.filter(|(_, at_ms)| now_ms.abs_diff(*at_ms) < COUNT_MS) {
            return Ok(count);
        }
        let sql = "select count(*) from device where cohort = $1 and seen > $2";
        let since = now_ms.saturating_sub(DAY_MS);
        let rows = self.home.book.read(sql, &[cohort.to_vec().into(), since.into()])?;
        let count =
            crate::store::Columns::of(rows.into_iter().next().unwrap_or_default()).number()?;
        let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        devices.insert(cohort, (count, now_ms));
        Ok(count)
    }
}

//! What all requests share: the device, the limits that hold for all of them, and how a body comes in.
//!
//! - Invariant: large bodies are held with a permit each, and a body that does not move ends.

use super::chance::Chance;
use super::metrics::Metrics;
use super::refusal::Refusal;
use super::turns::Turns;
use super::{Device, Learner, OFFERS_MAX, ServeError};
use crate::clock::Clock;
use crate::config::Serve;
use crate::wire::Listed;
use axum::BoxError;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::StatusCode;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use sapwood_connections::Guest;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// A body of at most so many bytes needs no permit.
const SMALL_BODY_BYTES: u64 = 64 << 10;
/// Larger bodies that are held at the same time.
const LARGE_BODIES_MAX: usize = 4;
/// Time for a body, and without a byte of it.
const BODY: Duration = Duration::from_secs(30);
const SILENCE: Duration = Duration::from_secs(5);
/// Wait for one of the permits of large bodies.
const PATIENCE: Duration = Duration::from_secs(5);

/// What all requests share.
pub(super) struct Shared {
    pub(super) device: Arc<dyn Device>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) config: Serve,
    pub(super) turns: Turns,
    pub(super) chance: Chance,
    pub(super) metrics: Metrics,
    large: Arc<Semaphore>,
    pub(super) offers: Arc<Semaphore>,
    halted: AtomicBool,
    pub(super) created: i64,
}

impl Shared {
    pub(super) fn new(
        config: Serve,
        device: Arc<dyn Device>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ServeError> {
        Ok(Self {
            metrics: Metrics::new(device.clone()),
            turns: Turns::new(config.concurrency, config.queue),
            chance: Chance::new().map_err(ServeError::Chance)?,
            large: Arc::new(Semaphore::new(LARGE_BODIES_MAX)),
            offers: Arc::new(Semaphore::new(OFFERS_MAX)),
            halted: AtomicBool::new(false),
            created: clock.now().as_second(),
            device,
            clock,
            config,
        })
    }

    /// How long a request for text may take.
    pub(super) fn patience(&self) -> Duration {
        Duration::try_from_secs_f64(self.config.seconds_max).unwrap_or(Duration::MAX)
    }

    /// Refuses what only a learner can do where there is none.
    pub(super) fn learns(&self) -> Result<(), Refusal> {
        self.device.learner().map(|_| ()).ok_or_else(Refusal::no_learner)
    }

    /// Work at the learner's disk, away from the threads that carry connections.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Learner) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let turn = self.offers.clone().acquire_owned().await;
        let device = self.device.clone();
        let work = move || {
            let done = device.learner().map(work);
            drop(turn);
            done.ok_or_else(Refusal::no_learner)
        };
        tokio::task::spawn_blocking(work).await.map_err(|_| Refusal::lost())?
    }

    /// Every model, and every other name of one.
    pub(super) fn models(&self) -> Vec<Listed> {
        let mut all = self.device.models();
        let named = |(name, id): (&String, &String)| {
            let one = all.iter().find(|one| one.id == *id)?;
            let about = format!("another name of {id}");
            Some(Listed { id: name.clone(), about, stands_for: Some(id.clone()), ..one.clone() })
        };
        let aliases: Vec<Listed> = self.config.aliases.iter().filter_map(named).collect();
        all.extend(aliases);
        all
    }

    /// The model of a name, or the one that answers where none is named.
    ///
    /// # Errors
    /// A [`Refusal`] that lists those which are there.
    pub(super) fn model(&self, name: Option<&str>) -> Result<Listed, Refusal> {
        let all = self.models();
        let found = match name {
            Some(name) => all.iter().find(|one| one.id == name),
            None => all.first(),
        };
        let known = || all.iter().map(|one| one.id.as_str()).collect::<Vec<_>>();
        let found = found.ok_or_else(|| Refusal::model(name.unwrap_or_default(), &known()))?;
        Ok(found.clone())
    }

    /// From now on texts end at their next token.
    pub(super) fn halt(&self) {
        self.halted.store(true, Ordering::Release);
    }

    pub(super) fn halted(&self) -> bool {
        self.halted.load(Ordering::Acquire)
    }

    /// The body of a request, and with a large one the permit to hold it.
    pub(super) async fn body(
        &self,
        request: Request,
        bytes_max: usize,
    ) -> Result<(Bytes, Option<OwnedSemaphorePermit>), Refusal> {
        let bytes_max = bytes_max.min(self.config.body_bytes_max);
        let guest = request.extensions().get::<Arc<Guest>>().cloned();
        let body = request.into_body();
        let size = body.size_hint();
        if size.lower() > bytes_max as u64 {
            return Err(Refusal::large(bytes_max));
        }
        let permit = match size.upper() {
            Some(0..=SMALL_BODY_BYTES) => None,
            _ => {
                let permit = timeout(PATIENCE, self.large.clone().acquire_owned()).await;
                Some(permit.map_err(|_| Refusal::crowded())?.map_err(|_| Refusal::stopping())?)
            }
        };
        match timeout(BODY, gathered(Limited::new(body, bytes_max))).await.unwrap_or(Err(None)) {
            Ok(body) => {
                // From here on the request waits for us.
                guest.inspect(|guest| guest.has_asked());
                Ok((body, permit))
            }
            Err(Some(error)) if error.is::<LengthLimitError>() => Err(Refusal::large(bytes_max)),
            Err(Some(_)) => {
                let message = "the body broke off: nothing was done";
                Err(Refusal::new(StatusCode::BAD_REQUEST, "invalid_body", message))
            }
            Err(None) => {
                let message = "the body did not come in time: nothing was done";
                Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "timeout", message))
            }
        }
    }
}

/// The bytes of a body; none as error when nothing comes for [`SILENCE`].
async fn gathered(mut body: Limited<Body>) -> Result<Bytes, Option<BoxError>> {
    let mut bytes = Vec::new();
    while let Some(frame) = timeout(SILENCE, body.frame()).await.map_err(|_| None)? {
        if let Ok(data) = frame.map_err(Some)?.into_data() {
            bytes.extend_from_slice(&data);
        }
    }
    Ok(bytes.into())
}

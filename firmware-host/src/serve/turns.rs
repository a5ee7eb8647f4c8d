//! Turns at the model: so many texts at a time, so many requests that wait, the rest is refused.

use super::refusal::Refusal;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

/// Who writes and who waits.
pub(super) struct Turns {
    free: Arc<Semaphore>,
    concurrency: usize,
    queue: usize,
    waiting: AtomicUsize,
}

/// A place in the queue, given back however the wait ends.
struct Place<'a>(&'a AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Turns {
    pub(super) fn new(concurrency: usize, queue: usize) -> Self {
        let free = Arc::new(Semaphore::new(concurrency.min(Semaphore::MAX_PERMITS)));
        Self { free, concurrency, queue, waiting: AtomicUsize::new(0) }
    }

    /// A turn, in order of asking; it lasts until it is dropped.
    ///
    /// # Errors
    /// A [`Refusal`] when the queue is full, when no turn came within `patience`, or at the end.
    pub(super) async fn take(&self, patience: Duration) -> Result<OwnedSemaphorePermit, Refusal> {
        match self.free.clone().try_acquire_owned() {
            Ok(turn) => return Ok(turn),
            Err(TryAcquireError::Closed) => return Err(Refusal::stopping()),
            Err(TryAcquireError::NoPermits) => {}
        }
        let before = self.waiting.fetch_add(1, Ordering::AcqRel);
        let _place = Place(&self.waiting);
        if before >= self.queue {
            return Err(Refusal::busy(self.concurrency, self.queue));
        }
        match tokio::time::timeout(patience, self.free.clone().acquire_owned()).await {
            Ok(Ok(turn)) => Ok(turn),
            Ok(Err(_)) => Err(Refusal::stopping()),
            Err(_) => Err(Refusal::late()),
        }
    }

    /// From now on nobody gets a turn.
    pub(super) fn close(&self) {
        self.free.close();
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn status(turn: Result<OwnedSemaphorePermit, Refusal>) -> u16 {
        turn.map_or_else(|refusal| refusal.status().as_u16(), |_| 200)
    }

    #[tokio::test]
    async fn beyond_the_queue_requests_are_refused_and_a_place_comes_back() {
        let turns = Arc::new(Turns::new(1, 1));
        let first = turns.take(PATIENCE).await.unwrap();
        let second = tokio::spawn({
            let turns = turns.clone();
            async move { status(turns.take(PATIENCE).await) }
        });
        while turns.waiting.load(Ordering::Acquire) == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(status(turns.take(PATIENCE).await), 429);
        drop(first);
        assert_eq!(second.await.unwrap(), 200);
        assert_eq!(turns.waiting.load(Ordering::Acquire), 0);
        assert_eq!(status(turns.take(PATIENCE).await), 200);
    }

    #[tokio::test]
    async fn a_wait_has_an_end() {
        let turns = Turns::new(1, 1);
        let _first = turns.take(PATIENCE).await.unwrap();
        assert_eq!(status(turns.take(Duration::from_millis(1)).await), 503);
        turns.close();
        assert_eq!(status(turns.take(PATIENCE).await), 503);
    }
}

//! What the worker was told: orders from outside, in the order in which they came.
//!
//! - An order is noted here the moment it is heard, during a run too: none is lost with what it came into.
//! - What is to be done between two runs is one more arm of [`Told::follow`], and one of the worker's tick.

use super::{Order, Sent};
use crate::paused::Paused;
use crate::sync::Offered;
use sapwood_protocol::fleet::id::Hash;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

/// What the worker was told.
pub(super) struct Told {
    pub(super) orders: Receiver<Order>,
    /// Whether learning was told to wait.
    pub(super) paused: Arc<Paused>,
    /// An operator asked for a job.
    pub(super) ordered: bool,
    /// An operator asked for the end.
    pub(super) ending: bool,
    /// The newest global adapter that is to be installed.
    pub(super) install: Option<Arc<Offered>>,
    /// Wishes for earlier generations, in the order in which they came.
    pub(super) rollbacks: Vec<Arc<Sent>>,
    /// What is to be on trial no longer.
    pub(super) recalled: Option<Hash>,
}

impl Told {
    /// The next order that has come.
    pub(super) fn next(&mut self) -> Option<Order> {
        let order = self.orders.try_recv().ok()?;
        self.follow(order.clone());
        Some(order)
    }

    /// Waits for an order.
    ///
    /// # Errors
    /// None came in that time, or nobody is left who could give one.
    pub(super) fn wait(&mut self, time: Duration) -> Result<(), RecvTimeoutError> {
        let order = self.orders.recv_timeout(time)?;
        self.follow(order);
        Ok(())
    }

    fn follow(&mut self, order: Order) {
        match order {
            Order::JobNow => self.ordered = true,
            Order::Stop => self.ending = true,
            Order::Install(offered) => {
                // Whoever gives one of another series has left that of before.
                let is_newer = |was: &Arc<Offered>| {
                    was.series != offered.series || was.sequence < offered.sequence
                };
                if self.install.as_ref().is_none_or(is_newer) {
                    self.install = Some(offered);
                }
            }
            Order::Rollback(sent) => self.rollbacks.push(sent),
            Order::Withdraw => self.install = None,
            Order::Recall(artifact) => self.recalled = Some(artifact),
            // Whoever gave it has written it down: the next look sees it.
            Order::Pause | Order::Resume => {}
        }
    }
}

//! The worker: one job at a time over the resident base, and what others may ask of it.
//!
//! - [`Handle`] is what servers hold: it takes samples in, gives orders, shows the status, and knows
//!   the model that is served.

mod served;

pub use served::{Current, Served};

use crate::status::{Board, Status};
use sapwood::inbox::{Inbox, InboxError, Receipt};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

/// What an operator can order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Learn now, whatever the number of samples and the constraints that are a matter of taste.
    JobNow,
    /// Stop at the next optimiser step and wait.
    Pause,
    /// Go on.
    Resume,
    /// Stop at the next optimiser step and end.
    Stop,
}

/// What the servers ask of the device; cheap to clone.
#[derive(Clone)]
pub struct Handle {
    inbox: Arc<Mutex<Inbox>>,
    orders: mpsc::Sender<Order>,
    board: Arc<Board>,
    served: Arc<Served>,
}

impl Handle {
    /// Takes in JSON lines, all or none; when it returns they are durable.
    ///
    /// # Errors
    /// [`InboxError`]: nothing of the batch was taken in.
    pub fn offer(&self, lines: &str) -> Result<Receipt, InboxError> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner).offer(lines)
    }

    /// Gives an order; whether anybody is there to follow it.
    pub fn order(&self, order: Order) -> bool {
        self.orders.send(order).is_ok()
    }

    /// What the device says of itself.
    pub fn status(&self) -> Status {
        self.board.snapshot()
    }

    /// The model that is served.
    pub fn served(&self) -> &Arc<Served> {
        &self.served
    }

    /// Where servers report.
    pub fn board(&self) -> &Board {
        &self.board
    }
}

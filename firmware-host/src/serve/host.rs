//! The ports of serving over the device that learns: its inbox, its orders, the generations that it keeps.

use super::model::Snapshot;
use super::{Device, Learner, Model, ModelError, scoring};
use crate::device::kept::{self, KeptError};
use crate::device::{Current, Handle, Order, Rolled};
use crate::paused::OrderError;
use crate::status::{Board, Status};
use crate::sync::Fleet;
use crate::wire::{self, BASE, IN_USE, Listed};
use sapwood::gate::Tally;
use sapwood::inbox::{Aside, InboxError, Receipt};
use sapwood::intake;
use sapwood::state::StateError;
use std::ops::ControlFlow;
use std::sync::Arc;

impl Learner for Handle {
    fn offer(&self, lines: &str) -> Result<Receipt, InboxError> {
        let refused = |error| {
            let lines = lines.lines().filter(|line| !line.trim().is_empty()).count() as u64;
            Handle::board(self).update(|status| status.inbox.refused += lines);
            error
        };
        let samples = intake::samples(lines, "batch").map_err(InboxError::from);
        let offered = samples.and_then(|all| Handle::offer(self, &all.iter().collect::<Vec<_>>()));
        offered.map_err(refused)
    }

    fn aside(&self) -> Result<Vec<Aside>, InboxError> {
        Handle::aside(self)
    }

    fn retry_aside(&self, number: u64) -> Result<bool, InboxError> {
        self.mend(|inbox| inbox.retry_aside(number))
    }

    fn drop_aside(&self, number: u64) -> Result<bool, InboxError> {
        self.mend(|inbox| inbox.drop_aside(number))
    }

    fn job_now(&self) -> Result<(), OrderError> {
        self.order(Order::JobNow)
    }

    fn pause(&self) -> Result<(), OrderError> {
        self.order(Order::Pause)
    }

    fn resume(&self) -> Result<(), OrderError> {
        self.order(Order::Resume)
    }

    fn roll_back(&self, to: Option<u64>) -> Result<[Option<u64>; 2], OrderError> {
        let Rolled { before, generation } = Handle::roll_back(self, to)?;
        Ok([before, generation])
    }
}

impl Handle {
    /// What a model of that name is now.
    fn at(&self, id: &str) -> Result<Arc<Current>, ModelError> {
        let unknown = || ModelError::Unknown { id: id.to_owned() };
        match id {
            IN_USE => return Ok(self.served().current()),
            BASE => return Ok(Arc::default()),
            _ => {}
        }
        let number = wire::generation_of(IN_USE, id).ok_or_else(unknown)?;
        let current = self.served().current();
        if current.generation == Some(number) {
            return Ok(current);
        }
        let base = &self.served().engines.base;
        let read = || kept::generation(self.disk(), number, base);
        self.served().named(id, read).map_err(|error| match error {
            KeptError::State(StateError::Unknown { .. }) => unknown(),
            error => ModelError::Failed(Box::new(error)),
        })
    }
}

impl Device for Handle {
    fn board(&self) -> &Board {
        Handle::board(self)
    }

    fn learner(&self) -> Option<&dyn Learner> {
        Some(self)
    }

    fn fleet(&self) -> Option<&Fleet> {
        self.sync()
    }

    fn models(&self) -> Vec<Listed> {
        Handle::board(self).look(listed)
    }

    fn model(&self, id: &str) -> Result<Arc<dyn Model>, ModelError> {
        Ok(Arc::new(Snapshot::new(self.served(), self.at(id)?)))
    }

    fn compare(
        &self,
        [first, second]: [&str; 2],
        texts: Option<&[String]>,
        going: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<[Tally; 2], ModelError> {
        let (first, second) = (self.at(first)?, self.at(second)?);
        let pair = [&*first, &*second];
        if let Some(texts) = texts {
            return scoring::texts(self.served(), pair, texts, going);
        }
        let held_out = kept::held_out(self.disk());
        let held_out = held_out.map_err(|error| ModelError::Failed(Box::new(error)))?;
        scoring::blocks(self.served(), pair, &held_out, going)
    }
}

/// What a device's status says of its models.
fn listed(status: &Status) -> Vec<Listed> {
    let in_use = status.serving.generation;
    let named = |id: &str, about: String, generation| Listed {
        id: id.to_owned(),
        about,
        generation,
        ..Listed::default()
    };
    let about = match in_use {
        Some(number) => format!("in use: generation {number}"),
        None => "in use: the bare base".to_owned(),
    };
    let kept = status.generations.iter().map(|one| {
        let about = format!("generation {}: {}", one.number, one.verdict);
        let job = status.jobs.iter().find(|job| job.made(one.number));
        let begun = job.and_then(|job| job.started.parse::<jiff::Timestamp>().ok());
        let created = begun.map(jiff::Timestamp::as_second);
        Listed { created, ..named(&wire::kept(IN_USE, one.number), about, Some(one.number)) }
    });
    let both = [named(IN_USE, about, in_use), named(BASE, "the bare base".to_owned(), None)];
    both.into_iter().chain(kept).collect()
}

//! What is shown of the device in its fleet.

use super::{Counted, Turn};
use crate::status::FleetStatus;
use crate::sync::book::Book;
use crate::sync::decide::reports;
use jiff::Timestamp;
use sapwood_protocol::fleet::message::DeviceState;

impl Turn {
    /// What is shown; none while the device is in no fleet.
    pub(in crate::sync) fn status(&self) -> Option<FleetStatus> {
        let Some(member) = &self.member else {
            let waiting_for = self.amiss.iter().find(|line| !line.is_empty())?.clone();
            return Some(FleetStatus { state: "unknown", waiting_for, ..FleetStatus::default() });
        };
        let (book, now_ms) = (member.book(), self.time.now_ms());
        let (day, budget, now) = (book.day.at(now_ms), self.budget(), self.world.clock.elapsed());
        let wait = u64::try_from(self.pace.due().saturating_sub(now).as_millis()).unwrap_or(0);
        let view = self.view();
        let have = |artifact| member.store.have(artifact).unwrap_or(0);
        let Counted { check_ins, uploads, downloads, bytes } = self.counted;
        Some(FleetStatus {
            waiting_for: self
                .amiss
                .iter()
                .find(|line| !line.is_empty())
                .cloned()
                .unwrap_or_default(),
            installed: view.as_ref().and_then(|view| Some(view.global?.sequence)),
            trial: view.as_ref().is_some_and(|view| view.trial),
            pending: member.pending().map(|one| one.sequence),
            pending_bytes: member.pending().map(|one| match member.book().pending.as_ref() {
                Some(pending) if pending.fetched => [one.artifact_bytes; 2],
                _ => [have(one.artifact), one.artifact_bytes],
            }),
            reports: view.map_or(0, |view| reports(book, &view).len() as u64),
            last_check_in: self.last.map(told),
            next_check_in: Some(told(now_ms.saturating_add(wait))),
            up_today: Some([day.up, budget.up]),
            down_today: Some([day.down, budget.down]),
            check_ins,
            uploads,
            downloads,
            bytes,
            ..shown(book)
        })
    }
}

/// What a book alone says.
pub(in crate::sync) fn shown(book: &Book) -> FleetStatus {
    FleetStatus {
        fleet: book.fleet.to_string(),
        server: book.host.clone(),
        device: book.device.to_string(),
        name: book.name.clone(),
        label: book.label.clone(),
        state: match book.state {
            None => "joining",
            Some(DeviceState::Pending) => "pending",
            Some(DeviceState::Accepted) => "accepted",
            Some(DeviceState::Suspended) => "suspended",
            Some(DeviceState::Rejected) => "rejected",
            Some(DeviceState::Retired) => "retired",
        },
        taken: book.taken(),
        reports: book.failures.len() as u64,
        ..FleetStatus::default()
    }
}

/// A time for people.
fn told(time_ms: u64) -> String {
    let time = i64::try_from(time_ms / 1000).ok().and_then(|s| Timestamp::from_second(s).ok());
    time.map(|time| time.to_string()).unwrap_or_default()
}

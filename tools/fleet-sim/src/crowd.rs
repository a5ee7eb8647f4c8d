//! Who is due: devices wake up one after the other, many at the same time.
//!
//! - In: devices with the time of their first call. Out: the same, when it is over.
//! - Who waits is an entry of a heap; only who is awake has a task.

use crate::device::Device;
use crate::tally::one;
use crate::world::World;
use fleet_server::ports::Clock;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

/// Devices that are awake at the same time; more wait, and are counted as late.
const AWAKE_MAX: usize = 4_000;
/// Real time after which a wake-up is late.
const LATE: Duration = Duration::from_secs(1);
/// Real time for those that are awake at the end.
const END: Duration = Duration::from_secs(75);

type Awake = (usize, Box<Device>, u64);

/// All devices, those that are awake elsewhere.
struct Crowd {
    world: Arc<World>,
    slots: Vec<Option<Box<Device>>>,
    due: BinaryHeap<Reverse<(u64, usize)>>,
    back: mpsc::UnboundedSender<Awake>,
    awake: usize,
}

/// Lets devices live until they are told to stop.
///
/// - `devices`: with when each is due first, simulated ms since 1970.
pub(crate) async fn live(
    world: &Arc<World>,
    devices: Vec<(Device, u64)>,
    mut stopped: watch::Receiver<bool>,
) -> Vec<Device> {
    let (back, mut returned) = mpsc::unbounded_channel();
    let due = devices.iter().enumerate().map(|(slot, (_, due))| Reverse((*due, slot))).collect();
    let slots = devices.into_iter().map(|(device, _)| Some(Box::new(device))).collect();
    let mut crowd = Crowd { world: world.clone(), slots, due, back, awake: 0 };
    loop {
        let rest = crowd.rest();
        tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => break,
            Some(awake) = returned.recv() => crowd.returned(awake),
            () = sleep(rest.unwrap_or(LATE)), if rest.is_some() => crowd.wake(),
        }
    }
    while crowd.awake > 0 {
        let Ok(Some(awake)) = timeout(END, returned.recv()).await else { break };
        crowd.returned(awake);
    }
    crowd.slots.into_iter().flatten().map(|device| *device).collect()
}

impl Crowd {
    /// Real time until the next is due; none while nobody may wake up.
    fn rest(&self) -> Option<Duration> {
        let Reverse((due, _)) = self.due.peek()?;
        let now_ms = self.world.time.now_ms();
        (self.awake < AWAKE_MAX).then(|| self.world.time.real(due.saturating_sub(now_ms)))
    }

    fn returned(&mut self, (slot, device, due): Awake) {
        self.slots[slot] = Some(device);
        self.due.push(Reverse((due, slot)));
        self.awake -= 1;
    }

    /// Wakes whoever is due.
    fn wake(&mut self) {
        let now_ms = self.world.time.now_ms();
        while let Some(Reverse((due, slot))) = self.due.peek().copied() {
            if due > now_ms || self.awake >= AWAKE_MAX {
                return;
            }
            self.due.pop();
            if self.world.time.real(now_ms - due) > LATE {
                one(&self.world.tally.late);
            }
            let Some(mut device) = self.slots[slot].take() else { continue };
            let (world, back) = (self.world.clone(), self.back.clone());
            self.awake += 1;
            tokio::spawn(async move {
                let due = world.wake(&mut device).await;
                // At the end nobody asks any more.
                let _ = back.send((slot, device, due));
            });
        }
    }
}

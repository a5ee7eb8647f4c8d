//! When a device asks again, and which devices are first.
//!
//! - In: counts, hashes, a random number. Out: a wait, a bucket. The same arguments, the same answer.
//! - Source: full jitter, Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog 2015.

use super::id::{DeviceId, hash};
use crate::limits::{FLEET_BACKOFF_S_MAX, FLEET_BACKOFF_S_MIN};
use core::time::Duration;

/// Buckets that devices fall into: hundredths of a percent.
pub const BUCKETS: u16 = 10_000;

/// How long a device waits after so many failures in a row: anything from 30 s to a bound that begins
/// at a minute, doubles with each failure, and ends at six hours.
///
/// - `failures`: 1 after the first. `random`: all of its bits are chance.
pub fn backoff(failures: u32, random: u64) -> Duration {
    let doubled = 1_u64.checked_shl(failures.max(1)).unwrap_or(u64::MAX);
    let bound_s = FLEET_BACKOFF_S_MIN.saturating_mul(doubled).min(FLEET_BACKOFF_S_MAX);
    let span_ms = (bound_s - FLEET_BACKOFF_S_MIN) * 1000;
    // The high half of a product: 64 random bits as a fraction of the span.
    let part_ms = (u128::from(random) * u128::from(span_ms + 1)) >> 64;
    Duration::from_millis(FLEET_BACKOFF_S_MIN * 1000 + part_ms as u64)
}

/// The bucket of a device, below [`BUCKETS`], for the stage of a sequence or the invites of a round: a
/// stage of p percent takes those below 100 p.
pub fn bucket(number: u64, device: DeviceId) -> u16 {
    let parts: [&[u8]; 3] = [b"sapwood-bucket-v1\n", &number.to_le_bytes(), &device.0];
    (u32::from_le_bytes(hash(&parts)) % u32::from(BUCKETS)) as u16
}

//! The same under a device's life in a fleet: it joins, lends, fetches, installs, changes its key,
//! leaves and joins again, while power, the disk and the server fail.
//!
//! - In: a seed. Out: what was tried, and every state that broke a promise.
//! - The promises are those of `firmware_host::sync`: no number of a check-in runs back, for one
//!   artifact the same bytes go out, what the server knows of the device is on the disk first, a file
//!   that is called whole has its hash, an adapter is given to the learner once until it has told the
//!   end, and a life goes on from any disk to a device that is as the fleet wants it.
//! - The sync is the device's own, with its HTTP and its signatures; only TCP and TLS are left out.
//! - Invariant: what the server and the learner know at a cut is what they knew then.

pub mod plan; //   which life a seed stands for
pub mod pupil; //  a learner that obeys, and looks at what it is given
pub mod life; //   what a device does in a fleet, and how it must end
pub mod record; // a life without faults of the disk, and what everybody knew when
pub mod look; //   what a disk must hold, whatever comes next
pub mod cuts; //   power cuts, at every step
pub mod errors; // EIO and ENOSPC at every operation

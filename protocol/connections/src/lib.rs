//! What holds for every connection, of the device's server and of the fleet's, and for all who call a server.
//!
//! - In: any stream of bytes. Out: one that ends when its client does not move, and closes so that its
//!   last answer is heard; places for so many of them; one under TLS to a server that is who it must be.
//! - Never here: HTTP, sockets, what is answered.

mod paced;
mod room;
mod tls;

pub use paced::Paced;
pub use room::{Asking, Guest, Room};
pub use tls::{Known, TlsError, TlsStream};

use std::time::Duration;

/// Time for the headers of a request, and between two requests of a connection.
pub const HEADER: Duration = Duration::from_secs(15);
/// Bytes of a request's headers, and of what is read ahead.
pub const BUFFER_BYTES: usize = 64 << 10;

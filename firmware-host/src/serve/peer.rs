//! Whether the client that is being answered is still there.
//!
//! - A client may end its half of a connection once it has asked, and read on: that is no going away.
//! - The system tells a reset, and the close of a Unix socket. The close of a TCP socket looks like the
//!   end of a half; for a client of this machine Linux' table of sockets tells them apart.
//! - A client elsewhere that closes is found by what is written to it: at the next piece of a stream. A
//!   text that is not streamed is written to its end then, `seconds-max` at most.
//! - Never here: HTTP.

use crate::config::is_loopback;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::TcpStream as Stream;
use tokio::time::sleep;

/// Time between two looks: a text goes on for nobody at most so long, twice.
const LOOK: Duration = Duration::from_millis(250);
/// Looks that must say the same: a table that changes while it is read may lack what is there.
const LOOKS: u32 = 2;
/// The system's tables of sockets.
const TABLES: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];

/// The other end of a connection.
pub(super) struct Peer {
    /// Of either kind: only its readiness is asked.
    socket: Stream,
    ends: Option<Ends>,
}

/// The addresses of a connection whose other end is on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ends {
    theirs: SocketAddr,
    ours: SocketAddr,
}

impl Peer {
    /// The other end of a socket.
    ///
    /// # Errors
    /// The system's, when it gives no second handle.
    pub(super) fn of(io: &impl AsFd) -> io::Result<Self> {
        let stream = TcpStream::from(io.as_fd().try_clone_to_owned()?);
        let addresses = stream.peer_addr().ok().zip(stream.local_addr().ok());
        let ends =
            addresses.map(|(theirs, ours)| Ends { theirs: plain(theirs), ours: plain(ours) });
        let is_here =
            |ends: &Ends| is_loopback(ends.theirs.ip()) || ends.theirs.ip() == ends.ours.ip();
        Ok(Self { socket: Stream::from_std(stream)?, ends: ends.filter(is_here) })
    }

    /// Comes back when nobody is there any more.
    pub(super) async fn gone(&self) {
        let mut looks = 0;
        while looks < LOOKS {
            sleep(LOOK).await;
            looks = if self.is_gone().await { looks + 1 } else { 0 };
        }
    }

    async fn is_gone(&self) -> bool {
        let told = self.socket.ready(Interest::READABLE | Interest::WRITABLE).await;
        told.is_ok_and(|told| told.is_write_closed() || (told.is_read_closed() && self.is_left()))
    }

    /// Whether nobody has the other end any more, which can be told of this machine's own.
    fn is_left(&self) -> bool {
        let Some(ends) = self.ends else { return false };
        let tables = TABLES.iter().filter_map(|path| fs::read_to_string(path).ok());
        ends.is_left(&tables.collect::<String>())
    }
}

impl Ends {
    /// Whether a table of sockets has our end, and theirs with nobody behind it or not at all.
    fn is_left(self, tables: &str) -> bool {
        let sockets = || tables.lines().filter_map(Socket::read);
        let is_read = sockets().any(|one| (one.near, one.far) == (self.ours, self.theirs));
        let theirs = sockets().find(|one| (one.near, one.far) == (self.theirs, self.ours));
        is_read && theirs.is_none_or(|one| !one.is_held)
    }
}

/// A line of the table.
struct Socket {
    near: SocketAddr,
    far: SocketAddr,
    /// Whether a process has it: it has an inode then.
    is_held: bool,
}

impl Socket {
    /// A line: its number, both addresses, the state, four columns, the owner, the time, the inode.
    /// Source: Linux, Documentation/networking/proc_net_tcp.
    fn read(line: &str) -> Option<Self> {
        let columns: Vec<&str> = line.split_ascii_whitespace().collect();
        let [_, near, far, _, _, _, _, _, _, inode, ..] = columns[..] else { return None };
        Some(Self { near: address(near)?, far: address(far)?, is_held: inode != "0" })
    }
}

/// `0100007F:1F90`: words of an address as this machine has them in memory, and a port.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let word = |at: usize| {
        let digits = ip.get(at..at + 8)?;
        u32::from_str_radix(digits, 16).ok().map(u32::to_ne_bytes)
    };
    let ip = match ip.len() {
        8 => IpAddr::from(word(0)?),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?];
            let bytes: [u8; 16] = words.as_flattened().try_into().ok()?;
            IpAddr::from(bytes)
        }
        _ => return None,
    };
    Some(plain(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?)))
}

/// An address of the old kind inside the new is one of the old kind.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;
    use tokio::net::TcpListener;

    async fn pair(listen: &str) -> (Stream, Peer, Stream) {
        let listener = TcpListener::bind(listen).await.unwrap();
        let address = listener.local_addr().unwrap();
        let to = if listen.starts_with("[::]") {
            ([127, 0, 0, 1], address.port()).into()
        } else {
            address
        };
        let client = Stream::connect(to).await.unwrap();
        let ours = listener.accept().await.unwrap().0;
        let peer = Peer::of(&ours).unwrap();
        (client, peer, ours)
    }

    /// Goal: the system's own table is read as it means it, for addresses of either kind and mixed.
    #[tokio::test]
    async fn who_has_closed_is_told_from_who_only_reads() {
        for listen in ["127.0.0.1:0", "[::1]:0", "[::]:0"] {
            let (client, peer, _ours) = pair(listen).await;
            assert!(peer.ends.is_some() && !peer.is_gone().await, "{listen}");
            let std = client.into_std().unwrap();
            std.shutdown(std::net::Shutdown::Write).unwrap();
            peer.socket.readable().await.unwrap();
            sleep(LOOK).await;
            assert!(!peer.is_gone().await, "{listen}: it reads on");
            drop(std);
            tokio::time::timeout(Duration::from_secs(10), peer.gone()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_reset_needs_no_table() {
        let (client, mut peer, _ours) = pair("127.0.0.1:0").await;
        peer.ends = None;
        client.set_zero_linger().unwrap();
        drop(client);
        tokio::time::timeout(Duration::from_secs(10), peer.gone()).await.unwrap();
    }

    #[test]
    fn a_table_that_does_not_have_our_end_tells_nothing() {
        let [theirs, ours] = [40_000, 8_080].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let ends = Ends { theirs, ours };
        let mut ip = String::new();
        for byte in u32::from_ne_bytes([127, 0, 0, 1]).to_be_bytes() {
            ip += &format!("{byte:02X}");
        }
        let line = |from: u16, to: u16, inode: u32| {
            format!("   0: {ip}:{from:04X} {ip}:{to:04X} 05 0:0 00:0 0     0        0 {inode} 1\n")
        };
        let our_line = line(8_080, 40_000, 7);
        for (tables, is_left) in [
            (String::new(), false),
            ("  sl  local_address rem_address   st\n".to_owned(), false),
            (line(40_000, 8_080, 0), false),
            (our_line.clone(), true),
            (our_line.clone() + &line(40_000, 8_080, 0), true),
            (our_line.clone() + &line(40_000, 8_080, 9), false),
            (our_line + &line(40_001, 8_080, 9), true),
        ] {
            assert_eq!(ends.is_left(&tables), is_left, "{tables}");
        }
    }
}

//! Connections of which one half has ended, or both: who still reads is answered, who has gone is not.

use super::sockets::{completion, connect, request, status};
use super::{config, served, until};
use crate::config::Serve;
use crate::serve::Server;
use crate::serve::fixture::{Cage, Parrot};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

/// Longer than it takes to find that a client has gone.
const LOOKS: Duration = Duration::from_millis(1_000);

/// Either kind of connection.
trait Client: Read + Write {
    /// Ends the half that asks.
    fn end(&self);
}

impl Client for TcpStream {
    fn end(&self) {
        self.shutdown(Shutdown::Write).unwrap();
    }
}

impl Client for UnixStream {
    fn end(&self) {
        self.shutdown(Shutdown::Write).unwrap();
    }
}

/// A server whose texts go on only as they are let, and a client of either kind.
fn parts(folder: &std::path::Path) -> (Arc<Cage>, Sender<()>, Server) {
    let (parrot, letters) = Parrot::held();
    let cage = Cage::with(parrot);
    let socket = Some(folder.join("socket"));
    let server = served(&cage, &Serve { socket, ..config() });
    (cage, letters, server)
}

fn clients(server: &Server) -> [Box<dyn Client>; 2] {
    let unix = UnixStream::connect(server.addresses().socket.as_ref().unwrap()).unwrap();
    unix.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    [Box::new(connect(server.addresses().tcp)), Box::new(unix)]
}

#[expect(clippy::disallowed_methods, reason = "the test lets time pass in which nothing happens")]
fn pause() {
    std::thread::sleep(LOOKS);
}

#[test]
fn a_client_that_has_ended_its_half_is_answered() {
    let folder = tempfile::tempdir().unwrap();
    for stream in [false, true] {
        let (cage, letters, server) = parts(folder.path());
        for mut client in clients(&server) {
            client.write_all(completion(stream).as_bytes()).unwrap();
            client.end();
            until("a text under way", || cage.board.snapshot().serving.active == 1);
            pause();
            (0..6).for_each(|_| letters.send(()).unwrap());
            let mut answer = String::new();
            client.read_to_string(&mut answer).unwrap();
            assert_eq!(status(&answer), "200", "{answer}");
            let whole = if stream { "data: [DONE]" } else { "\"text\":\"abcdef\"" };
            assert!(answer.contains(whole), "{answer}");
        }
        for mut client in clients(&server) {
            client.write_all(request("/v1/samples", "{\"text\":\"a\"}").as_bytes()).unwrap();
            client.end();
            let mut answer = String::new();
            client.read_to_string(&mut answer).unwrap();
            assert_eq!(status(&answer), "200", "{answer}");
        }
        server.stop();
    }
}

/// At once, or after it had ended its half.
#[test]
fn a_client_that_goes_away_ends_its_text() {
    let folder = tempfile::tempdir().unwrap();
    for (stream, half_first) in [(false, false), (false, true), (true, false), (true, true)] {
        let (cage, letters, server) = parts(folder.path());
        for mut client in clients(&server) {
            let before = cage.board.snapshot().serving.tokens;
            let written = || cage.board.snapshot().serving.tokens - before;
            let active = || cage.board.snapshot().serving.active;
            client.write_all(completion(stream).as_bytes()).unwrap();
            until("a text under way", || active() == 1);
            letters.send(()).unwrap();
            until("its first token", || written() == 1);
            if half_first {
                client.end();
                pause();
            }
            assert_eq!(active(), 1);
            drop(client);
            pause();
            letters.send(()).unwrap();
            until("the end of the text", || active() == 0);
            assert_eq!(written(), 2, "it went on for nobody");
        }
        server.stop();
    }
}

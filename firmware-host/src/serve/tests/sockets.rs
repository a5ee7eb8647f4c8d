//! What only a socket shows: clients that are slow, go away, or are too many.

use super::{config, served, until};
use crate::clock::{Clock, SystemClock};
use crate::config::Serve;
use crate::serve::fixture::{Cage, Parrot};
use crate::supervise::Supervisor;
use serde_json::{Value, json};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

/// A connection on which a test never waits for ever.
#[expect(clippy::disallowed_methods, reason = "the test is the client")]
pub(super) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

pub(super) fn request(path: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
}

pub(super) fn completion(stream: bool) -> String {
    request("/v1/completions", &json!({"prompt": "abcdef", "stream": stream}).to_string())
}

/// Sends a request and reads until the server closes.
fn said(mut stream: impl Read + Write, request: &str) -> String {
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

pub(super) fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

#[test]
fn samples_come_in_over_tcp_and_over_the_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let cage = Cage::with(Parrot::default());
    let server = served(&cage, &Serve { socket: Some(path.clone()), ..config() });
    let samples = request("/v1/samples", "{\"text\":\"a\"}");
    assert_eq!(status(&said(connect(server.addresses().tcp), &samples)), "200");
    let stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
    // Whoever can open the socket may come in under any name.
    let elsewhere = samples.replace("localhost", "device.example");
    let answer = said(stream, &elsewhere);
    assert_eq!(status(&answer), "200");
    assert!(answer.contains("\"last\":2"), "{answer}");
    assert_eq!(status(&said(connect(server.addresses().tcp), &elsewhere)), "403");
    server.stop();
    assert!(!path.exists());
}

#[test]
fn text_comes_as_it_is_written() {
    let (parrot, letters) = Parrot::held();
    let cage = Cage::with(parrot);
    let server = served(&cage, &config());
    let mut client = connect(server.addresses().tcp);
    client.write_all(completion(true).as_bytes()).unwrap();
    letters.send(()).unwrap();
    let (mut got, mut buffer) = (String::new(), [0; 512]);
    while !got.contains("\"text\":\"a\"") {
        let count = client.read(&mut buffer).unwrap();
        assert_ne!(count, 0, "{got}");
        got.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
    }
    assert_eq!(cage.board.snapshot().serving.active, 1);
    drop(letters);
    client.read_to_string(&mut got).unwrap();
    assert!(got.contains("data: [DONE]"), "{got}");
}

#[test]
fn too_many_texts_at_once_are_refused_and_those_that_wait_are_not() {
    let (parrot, letters) = Parrot::held();
    let cage = Cage::with(parrot);
    let server = served(&cage, &config());
    let address = server.addresses().tcp;
    let mut clients: Vec<TcpStream> = Vec::new();
    let mut refused = None;
    for _ in 0..3 {
        let mut client = connect(address);
        client.write_all(completion(false).as_bytes()).unwrap();
        clients.push(client);
    }
    // One writes, one waits, and whichever came last is refused at once.
    until("a refusal", || {
        refused = clients.iter().position(|client| {
            client.set_nonblocking(true).unwrap();
            let peeked = client.peek(&mut [0; 16]);
            client.set_nonblocking(false).unwrap();
            !matches!(peeked, Err(error) if error.kind() == ErrorKind::WouldBlock)
        });
        refused.is_some()
    });
    let mut answer = String::new();
    clients.remove(refused.unwrap()).read_to_string(&mut answer).unwrap();
    assert_eq!(status(&answer), "429");
    assert!(answer.to_ascii_lowercase().contains("retry-after: 1"), "{answer}");
    drop(letters);
    for mut client in clients {
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(status(&answer), "200");
    }
    assert_eq!(cage.board.snapshot().serving.refused, 1);
}

#[test]
fn a_slow_client_does_not_keep_others_from_being_answered() {
    let cage = Cage::with(Parrot::default());
    let server = served(&cage, &config());
    let address = server.addresses().tcp;
    let slow: Vec<TcpStream> = (0..8)
        .map(|_| {
            let mut client = connect(address);
            client.write_all(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n").unwrap();
            client.write_all(b"Content-Length: 4000\r\n\r\n{").unwrap();
            client
        })
        .collect();
    assert_eq!(status(&said(connect(address), &completion(false))), "200");
    drop(slow);
}

#[test]
fn connections_that_say_nothing_keep_nobody_out() {
    let cage = Cage::with(Parrot::default());
    let server = served(&cage, &Serve { connections_max: 4, ..config() });
    let address = server.addresses().tcp;
    let idle: Vec<TcpStream> = (0..20).map(|_| connect(address)).collect();
    let slow: Vec<TcpStream> = (0..20)
        .map(|_| {
            let mut client = connect(address);
            client.write_all(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n").unwrap();
            client.write_all(b"Content-Length: 4000\r\n\r\n{").unwrap();
            client
        })
        .collect();
    for _ in 0..10 {
        assert_eq!(status(&said(connect(address), &completion(false))), "200");
    }
    drop((idle, slow));
}

#[test]
fn where_all_are_being_answered_health_still_is_and_the_rest_is_told_to_come_again() {
    let (parrot, letters) = Parrot::held();
    let cage = Cage::with(parrot);
    let server = served(&cage, &Serve { connections_max: 1, ..config() });
    let address = server.addresses().tcp;
    let mut first = connect(address);
    first.write_all(completion(false).as_bytes()).unwrap();
    until("a text under way", || cage.board.snapshot().serving.active == 1);
    let health = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert_eq!(status(&said(connect(address), health)), "200");
    let answer = said(connect(address), &completion(false));
    assert_eq!(status(&answer), "503");
    assert!(answer.to_ascii_lowercase().contains("retry-after: 1"), "{answer}");
    drop(letters);
    let mut answer = String::new();
    first.read_to_string(&mut answer).unwrap();
    assert_eq!(status(&answer), "200", "the one that was there first is answered");
}

#[test]
fn large_bodies_that_stall_do_not_keep_an_honest_one_waiting_for_ever() {
    let cage = Cage::with(Parrot::default());
    let server = served(&cage, &Serve { body_bytes_max: 1 << 20, ..config() });
    let address = server.addresses().tcp;
    let head = "POST /v1/samples HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
    let stalled: Vec<TcpStream> = (0..4)
        .map(|_| {
            let mut client = connect(address);
            client.write_all(head.as_bytes()).unwrap();
            client.write_all(b"1\r\n{\r\n").unwrap();
            client
        })
        .collect();
    let body = format!("{{\"text\":\"{}\"}}", "x".repeat(100_000));
    let clock = SystemClock::start();
    let answer = said(connect(address), &request("/v1/samples", &body));
    assert!(clock.elapsed() < Duration::from_secs(8), "{:?}", clock.elapsed());
    assert!(["200", "503"].contains(&status(&answer)), "{answer}");
    for mut client in stalled {
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(status(&answer), "408");
    }
}

/// A refusal goes out before the body has come: who writes first and reads then still hears it.
#[test]
fn a_client_that_sends_more_than_is_taken_hears_why() {
    let cage = Cage::with(Parrot::default());
    let server = served(&cage, &config());
    for bytes in [5_000, 300_000, 30_000_000] {
        let body = "x".repeat(bytes);
        let answer = said(connect(server.addresses().tcp), &request("/v1/samples", &body));
        assert_eq!(status(&answer), "413", "{answer}");
        assert!(answer.contains("expected at most 4096 bytes"), "{answer}");
    }
}

#[test]
fn a_request_under_way_may_end_when_the_server_stops() {
    let (parrot, letters) = Parrot::held();
    let cage = Cage::with(parrot);
    let server = served(&cage, &config());
    let address = server.addresses().tcp;
    let mut client = connect(address);
    client.write_all(completion(false).as_bytes()).unwrap();
    until("a text under way", || cage.board.snapshot().serving.active == 1);
    let stopping = std::thread::spawn(move || server.stop());
    until("nobody listens", || refused(address));
    drop(letters);
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("\"text\":\"abcdef\""), "{answer}");
    stopping.join().unwrap();
}

#[expect(clippy::disallowed_methods, reason = "the test is the client")]
fn refused(address: SocketAddr) -> bool {
    TcpStream::connect(address).is_err()
}

#[test]
fn a_text_ends_when_its_time_is_up() {
    let (parrot, letters) = Parrot::held();
    let cage = Cage::with(parrot);
    let clock = Arc::new(super::Wound::default());
    let server =
        super::start(&config(), cage.clone(), clock.clone(), &Supervisor::default()).unwrap();
    let mut client = connect(server.addresses().tcp);
    client.write_all(completion(false).as_bytes()).unwrap();
    until("a text under way", || cage.board.snapshot().serving.active == 1);
    letters.send(()).unwrap();
    until("its first token", || cage.board.snapshot().serving.tokens == 1);
    clock.0.store(1_000, std::sync::atomic::Ordering::Relaxed);
    letters.send(()).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    let body: Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    assert_eq!(body["choices"][0]["text"], "ab");
    assert_eq!(body["choices"][0]["finish_reason"], "length");
}

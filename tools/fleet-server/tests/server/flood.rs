//! Many who say little: bodies that drip, sockets that say nothing. Others are served meanwhile.

use crate::common::{
    Device, Fleet, Served, Stream, chosen, client_tls, fleet, link, made_with, open,
};
use fleet_server::home::Home;
use fleet_server::ports::{Clock, SystemClock};
use fleet_server::rounds::NONE;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sapwood_protocol::fleet::code::Code;
use sapwood_protocol::fleet::id::Hash;
use sapwood_protocol::fleet::key::SecretKey;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::thread::park_timeout;
use std::time::Duration;

/// Longest that a check-in may take beside a flood, on a machine that does other things too.
const SOON: Duration = Duration::from_secs(5);

/// A call whose headers and first bytes are sent.
fn begun(device: &Device, path: &str, method: &str, body: &[u8], first: usize) -> Stream {
    let mut stream = device.stream().unwrap();
    let mut text = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n");
    for (name, value) in device.head(method, path, body, device.time_ms) {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(&[text.as_bytes(), b"\r\n", &body[..first]].concat()).unwrap();
    stream.flush().unwrap();
    stream
}

#[test]
fn uploads_that_drip_give_their_places_to_those_that_do_not() {
    let (fleet, mut devices) = fleet(18);
    let round = open(&fleet);
    devices.iter_mut().for_each(|device| drop(device.check_in().unwrap()));
    let path = format!("/v1/rounds/{round}/upload");
    let mut slow: Vec<Stream> = devices[..16]
        .iter()
        .map(|device| begun(device, &path, "PUT", &device.update(NONE, 1), 100))
        .collect();
    let send = |device: &Device| device.upload(round, &device.update(NONE, 1));
    // All places are taken once each has come as far as its body.
    let busy = || {
        let reply = send(&devices[16]);
        (reply.status == 503).then(|| reply.refusal())
    };
    let refusal = (0..500).find_map(|_| {
        busy().or_else(|| {
            park_timeout(Duration::from_millis(10));
            None
        })
    });
    // The seventeenth may have been faster than the last of them.
    if let Some(refusal) = refusal {
        assert!(refusal.error == Code::Unavailable && refusal.message.contains("16 uploads"));
    }
    fleet.wind(Duration::from_secs(31));
    for device in &devices[16..] {
        let reply = send(device);
        assert!(matches!(reply.status, 200 | 201), "{}", reply.text());
    }
    // One that kept its place goes on to its end.
    let ended = slow.iter_mut().zip(&devices).filter_map(|(stream, device)| {
        let rest = device.update(NONE, 1);
        stream.write_all(&rest[100..]).and_then(|()| stream.flush()).ok()?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).ok().map(|()| answer)
    });
    let answers: Vec<[u8; 12]> = ended.collect();
    assert!(answers.contains(b"HTTP/1.1 201"), "{answers:?}");
}

fn fleet_folder(place: &Path) -> PathBuf {
    let folder = place.join("fleet");
    made_with(&folder, &chosen(), SystemClock::start().now_ms());
    folder
}

/// A device that takes part in the fleet of a server that runs by itself.
fn enrolled(folder: &Path, address: SocketAddr, seed: u8) -> Device {
    let home = Home::open(folder).unwrap();
    let now_ms = SystemClock::start().now_ms();
    let token = link(&home, 8443, 1, false, now_ms).token.unwrap();
    let key = SecretKey::from_seed(&Hash::of(&[seed]).0);
    let mut device = Device::new(key, home.fleet, address, client_tls(folder), now_ms);
    assert!(device.try_enrol(&token));
    device
}

/// A check-in, and how long it took.
fn timed(device: &mut Device) -> Duration {
    let clock = SystemClock::start();
    device.counter += 1;
    device.time_ms = clock.now_ms();
    device.try_check_in().unwrap();
    clock.elapsed()
}

#[expect(clippy::disallowed_methods, reason = "the test is the client")]
fn silent(address: SocketAddr, count: u64) -> Vec<TcpStream> {
    (0..count).map(|_| TcpStream::connect(address).unwrap()).collect()
}

/// Bytes that a process has in memory.
fn resident(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// Ten thousand, or as many as this machine lets a process open.
#[test]
#[cfg(target_os = "linux")]
fn ten_thousand_sockets_that_say_nothing_take_little_and_hold_nobody_up() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let files = getrlimit(Resource::Nofile).current.unwrap_or(1 << 20);
    let count = files.saturating_sub(300).min(10_000);
    let told = format!("{count} sockets, of {files} files that may be open\n");
    std::io::stderr().write_all(told.as_bytes()).unwrap();
    let place = tempfile::tempdir().unwrap();
    let folder = fleet_folder(place.path());
    let served = Served::start(&folder);
    let address = served.address.unwrap();
    let mut device = enrolled(&folder, address, 1);
    timed(&mut device);
    let before = resident(served.child.id());
    let sockets = silent(address, count);
    let slowest = (0..10).map(|_| timed(&mut device)).max().unwrap();
    let each = resident(served.child.id()).saturating_sub(before) / count;
    let told = format!("{each} bytes each, slowest check-in {slowest:?}\n");
    std::io::stderr().write_all(told.as_bytes()).unwrap();
    assert!(slowest < SOON, "{slowest:?}");
    assert!(each < 16 << 10, "{each} bytes each");
    drop(sockets);
}

#[test]
fn where_few_files_may_be_open_silence_still_keeps_nobody_out() {
    let place = tempfile::tempdir().unwrap();
    let folder = fleet_folder(place.path());
    let served = Served::with_files(&folder, 200);
    let address = served.address.unwrap();
    let mut device = enrolled(&folder, address, 1);
    let mut sockets = Vec::new();
    for _ in 0..10 {
        sockets.extend(silent(address, 100));
        assert!(timed(&mut device) < SOON);
    }
}

/// In the time of the machine: the limits of a body are not a test's to wind.
#[test]
fn bodies_that_stop_or_drip_end_and_check_ins_do_not_wait_for_them() {
    let fleet = Fleet::new();
    let mut device = fleet.enrolled(1);
    let others: Vec<Device> = (2..10).map(|seed| fleet.enrolled(seed)).collect();
    let body = vec![b' '; 60_000];
    let begin = |device: &Device| begun(device, "/v1/checkin", "POST", &body, 1);
    let clock = SystemClock::start();
    let mut stopped: Vec<Stream> = others[..4].iter().map(begin).collect();
    let mut drips: Vec<Stream> = others[4..].iter().map(begin).collect();
    let mut slowest = Duration::ZERO;
    while clock.elapsed() < Duration::from_secs(33) {
        // After the server has ended one, nobody takes its bytes.
        drips
            .iter_mut()
            .for_each(|stream| drop(stream.write_all(b" ").and_then(|()| stream.flush())));
        let began = clock.elapsed();
        device.check_in().unwrap();
        slowest = slowest.max(clock.elapsed().saturating_sub(began));
        park_timeout(Duration::from_millis(200));
    }
    assert!(slowest < SOON, "{slowest:?}");
    for stream in stopped.iter_mut().chain(&mut drips) {
        stream.sock.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 400", "{}", String::from_utf8_lossy(&answer));
    }
}

/// Sockets and bodies know nothing of stores, and take their time: both others at once are enough.
mod over_every_store {
    #[test]
    fn postgres_and_s3() {
        crate::common::over::again("flood", true, Some(&[]));
    }
}

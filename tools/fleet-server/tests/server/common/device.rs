//! A device that calls over TLS, and what it hears.

use super::{BASE, LABEL};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use sapwood::adapter::{Adapter, Spec, Strength, Target, wire};
use sapwood_protocol::fleet::id::{CohortId, DeviceId, FleetId, Hash};
use sapwood_protocol::fleet::key::SecretKey;
use sapwood_protocol::fleet::message::{
    self, CheckIn, CheckedIn, Enroll, Enrolled, Facts, Installed, Ready, Refusal,
};
use sapwood_protocol::fleet::request::{Call, HEADERS};
use sapwood_protocol::fleet::update::{Kind, Meta};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

pub(crate) type Stream = StreamOwned<ClientConnection, TcpStream>;

pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn refusal(&self) -> Refusal {
        Refusal::read(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub(crate) fn text(&self) -> String {
        format!("{}\n{}", self.head, String::from_utf8_lossy(&self.body))
    }
}

/// A device of the fleet.
pub(crate) struct Device {
    pub(crate) key: SecretKey,
    pub(crate) id: DeviceId,
    pub(crate) fleet: FleetId,
    pub(crate) address: SocketAddr,
    pub(crate) tls: Arc<ClientConfig>,
    /// What it takes for the time.
    pub(crate) time_ms: u64,
    pub(crate) counter: u64,
    pub(crate) installed: Option<Installed>,
    pub(crate) ready: Option<Ready>,
    pub(crate) facts: Facts,
    pub(crate) trial: bool,
    pub(crate) candidates: Option<bool>,
}

pub(crate) fn facts() -> Facts {
    Facts { base: BASE, first_layer: 1, targets: 0b101, rank: 2 }
}

/// The adapter of a device: rank, chance of its own.
pub(crate) fn adapter(rank: usize, seed: u64) -> Adapter {
    let fans = |target| match target {
        Target::Q => Some((6, 8)),
        Target::V => Some((6, 4)),
        _ => None,
    };
    let spec = Spec::placed(1..3, |_, target| {
        Some((Strength { rank, alpha: rank as f32 }, fans(target)?))
    });
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    let values = (0..spec.len()).map(|_| next()).collect();
    Adapter { spec, values }
}

pub(crate) fn meta(cohort: CohortId, from: Hash, tokens: u64) -> Meta {
    Meta { kind: Kind::Update, base: BASE, cohort, from, generation: 3, steps: 40, tokens }
}

impl Device {
    pub(crate) fn new(
        key: SecretKey,
        fleet: FleetId,
        address: SocketAddr,
        tls: Arc<ClientConfig>,
        time_ms: u64,
    ) -> Self {
        Self {
            id: key.public().device(),
            key,
            fleet,
            address,
            tls,
            time_ms,
            counter: 0,
            installed: None,
            ready: Some(Ready { steps: 40, tokens: 1000 }),
            facts: facts(),
            trial: false,
            candidates: None,
        }
    }

    pub(crate) fn cohort(&self) -> CohortId {
        self.facts.cohort(LABEL).unwrap()
    }

    pub(crate) fn head(
        &self,
        method: &str,
        path: &str,
        body: &[u8],
        time_ms: u64,
    ) -> Vec<(String, String)> {
        let call = Call { fleet: self.fleet, method, path, body_bytes: body.len() as u64 };
        let claim = call.sign(&self.key, self.id, time_ms, Hash::of(body)).unwrap();
        let named = HEADERS.iter().map(|name| (*name).to_owned());
        let mut all: Vec<_> = named.zip(claim.values()).collect();
        all.push(("content-length".into(), body.len().to_string()));
        all
    }

    pub(crate) fn call(&self, method: &str, path: &str, body: &[u8]) -> Option<Reply> {
        self.send(method, path, &self.head(method, path, body, self.time_ms), body)
    }

    pub(crate) fn stream(&self) -> Option<Stream> {
        #[expect(clippy::disallowed_methods, reason = "the other end of the server's interface")]
        let stream = TcpStream::connect(self.address).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(60))).ok()?;
        let name = ServerName::try_from("localhost").unwrap();
        Some(StreamOwned::new(ClientConnection::new(self.tls.clone(), name).unwrap(), stream))
    }

    /// A call with these headers on a connection of its own; none when the server is gone.
    pub(crate) fn send(
        &self,
        method: &str,
        path: &str,
        head: &[(String, String)],
        body: &[u8],
    ) -> Option<Reply> {
        let mut stream = self.stream()?;
        let mut text =
            format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n");
        head.iter().for_each(|(name, value)| text.push_str(&format!("{name}: {value}\r\n")));
        text.push_str("\r\n");
        stream.write_all(text.as_bytes()).ok()?;
        // A server that has heard enough may answer before the end of the body.
        let _ = stream.write_all(body).and_then(|()| stream.flush());
        read(stream)
    }

    pub(crate) fn enrol(&mut self, token: Option<&str>) -> Result<Enrolled, Refusal> {
        let public_key = self.key.public();
        let asks = Enroll {
            public_key,
            token: token.map(Into::into),
            name: "valve".into(),
            facts: self.facts,
        };
        let reply = self.call("POST", "/v1/enroll", &message::write(&asks).unwrap()).unwrap();
        if reply.status == 200 {
            Ok(message::read(&reply.body).unwrap())
        } else {
            Err(reply.refusal())
        }
    }

    /// Whether it is enrolled; false when nobody answers.
    pub(crate) fn try_enrol(&mut self, token: &str) -> bool {
        let (public_key, name) = (self.key.public(), "valve".into());
        let asks = Enroll { public_key, token: Some(token.into()), name, facts: self.facts };
        let reply = self.call("POST", "/v1/enroll", &message::write(&asks).unwrap());
        reply.is_some_and(|reply| {
            reply.status == 200 && message::read::<Enrolled>(&reply.body).is_ok()
        })
    }

    /// The answer to a check-in; none when nobody answers.
    pub(crate) fn try_check_in(&self) -> Option<CheckedIn> {
        let reply =
            self.call("POST", "/v1/checkin", &message::write(&self.check_in_with()).unwrap())?;
        (reply.status == 200).then(|| message::read(&reply.body).ok())?
    }

    pub(crate) fn check_in_with(&self) -> CheckIn {
        CheckIn {
            counter: self.counter,
            agent: "test/1".into(),
            facts: self.facts,
            installed: self.installed,
            trial: self.trial,
            candidates: self.candidates,
            generation: 3,
            ready: self.ready,
            reports: vec![],
        }
    }

    pub(crate) fn tell(&self, told: &CheckIn) -> Result<CheckedIn, Refusal> {
        let reply = self.call("POST", "/v1/checkin", &message::write(told).unwrap()).unwrap();
        if reply.status == 200 {
            Ok(message::read(&reply.body).unwrap())
        } else {
            Err(reply.refusal())
        }
    }

    /// A check-in with the next counter, a second later.
    pub(crate) fn check_in(&mut self) -> Result<CheckedIn, Refusal> {
        self.counter += 1;
        self.time_ms += 1000;
        self.tell(&self.check_in_with())
    }

    pub(crate) fn update(&self, from: Hash, seed: u64) -> Vec<u8> {
        wire::encode(&adapter(2, seed), &meta(self.cohort(), from, 1000 + seed)).unwrap()
    }

    pub(crate) fn upload(&self, round: u64, file: &[u8]) -> Reply {
        self.call("PUT", &format!("/v1/rounds/{round}/upload"), file).unwrap()
    }
}

/// A connection that is kept from call to call.
pub(crate) struct Line<'a> {
    device: &'a Device,
    stream: Option<Stream>,
}

impl<'a> Line<'a> {
    pub(crate) fn new(device: &'a Device) -> Self {
        Self { device, stream: None }
    }

    pub(crate) fn upload(&mut self, round: u64, file: &[u8]) -> Reply {
        let path = format!("/v1/rounds/{round}/upload");
        let head = self.device.head("PUT", &path, file, self.device.time_ms);
        self.send("PUT", &path, &head, file)
    }

    pub(crate) fn send(
        &mut self,
        method: &str,
        path: &str,
        head: &[(String, String)],
        body: &[u8],
    ) -> Reply {
        let mut stream = self.stream.take().unwrap_or_else(|| self.device.stream().unwrap());
        let mut text = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n");
        head.iter().for_each(|(name, value)| text.push_str(&format!("{name}: {value}\r\n")));
        stream.write_all(&[text.as_bytes(), b"\r\n", body].concat()).unwrap();
        stream.flush().unwrap();
        let (mut all, mut piece) = (Vec::new(), [0; 16 << 10]);
        let reply = loop {
            let count = stream.read(&mut piece).unwrap();
            assert!(count > 0, "the connection ended: {}", String::from_utf8_lossy(&all));
            all.extend_from_slice(&piece[..count]);
            let Some(end) = all.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
            let head = String::from_utf8_lossy(&all[..end]).into_owned();
            let length = head.split("content-length: ").nth(1).unwrap().split('\r').next().unwrap();
            let length: usize = length.parse().unwrap();
            if all.len() >= end + 4 + length {
                let status = head.split(' ').nth(1).unwrap().parse().unwrap();
                break Reply { status, head, body: all[end + 4..].to_vec() };
            }
        };
        self.stream = Some(stream).filter(|_| !reply.head.contains("connection: close"));
        reply
    }
}

/// An answer up to the end of its connection.
pub(crate) fn read(mut stream: impl Read) -> Option<Reply> {
    let mut all = Vec::new();
    let mut piece = [0; 16 << 10];
    loop {
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => break,
            Ok(count) => all.extend_from_slice(&piece[..count]),
        }
    }
    let end = all.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&all[..end]).into_owned();
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Reply { status, head, body: all[end + 4..].to_vec() })
}

//! What a fleet's server in memory knows, and what it makes of a request whose bytes are all there.
//!
//! - In: a signed request. Out: a message or an artifact, or a refusal of the protocol.
//! - It keeps count of what no device may do: numbers that run back, other bytes for one artifact.

use super::bad::Bad;
use super::files::{FLEET, Keys, LABEL};
use hyper::body::Bytes;
use hyper::http::request::Parts;
use sapwood_protocol::fleet::code::Code;
use sapwood_protocol::fleet::id::{DeviceId, Hash, PublicKey};
use sapwood_protocol::fleet::key::replacement;
use sapwood_protocol::fleet::message::{
    self, CheckIn, CheckedIn, DeviceState, Enroll, Enrolled, Invite, Message, Offer, Outcome,
    Receipt, Refusal, Rekey, Rekeyed, Signed, TrustAnswer,
};
use sapwood_protocol::fleet::request::{Call, Claim, HEADERS};
use sapwood_protocol::fleet::trust::Trust;
use std::collections::{BTreeMap, VecDeque};

/// When this server thinks it is: in 2026.
pub const NOW_MS: u64 = 1_790_000_000_000;

/// A device, as the server has it.
#[derive(Clone, Debug)]
pub struct Device {
    /// Whom its requests must be signed by.
    pub key: PublicKey,
    /// What it is to the fleet.
    pub state: DeviceState,
    /// The highest number of a check-in.
    pub counter: Option<u64>,
}

/// What the server knows.
#[derive(Clone, Debug)]
pub struct Desk {
    /// Its time.
    pub now_ms: u64,
    /// The pace that it gives.
    pub check_in_s: u64,
    /// Trust statements, the first first.
    pub trust: Vec<Signed>,
    /// The devices.
    pub devices: BTreeMap<DeviceId, Device>,
    /// What new devices become.
    pub welcome: DeviceState,
    /// What lets them in.
    pub token: Option<String>,
    /// What is offered.
    pub release: Option<Offer>,
    /// What is asked for.
    pub invite: Option<Invite>,
    /// Hash of what a device sent for an artifact.
    pub uploads: BTreeMap<(DeviceId, Hash), Hash>,
    /// Updates that were other bytes than those before them.
    pub refused_uploads: usize,
    /// Hash of what a device first tried to send for an artifact, whatever came of it.
    pub tried: BTreeMap<(DeviceId, Hash), Hash>,
    /// Tries that were of other bytes.
    pub other_tries: usize,
    /// Ends of installs.
    pub reports: BTreeMap<u64, Outcome>,
    /// By path.
    pub artifacts: BTreeMap<String, Vec<u8>>,
    /// What it does wrong next, by the beginning of the path.
    pub bad: VecDeque<(&'static str, Bad)>,
    /// Requests whose time comes after the next one.
    pub late: Vec<(Parts, Bytes)>,
    /// Its last answer to a check-in.
    pub last: Option<Vec<u8>>,
    /// Method and path of every request, and the number of a check-in.
    pub heard: Vec<(String, Option<u64>)>,
    /// Numbers that ran back.
    pub back: Vec<u64>,
    /// The last check-in.
    pub told: Option<CheckIn>,
}

impl Default for Desk {
    fn default() -> Self {
        Self {
            now_ms: NOW_MS,
            check_in_s: 600,
            trust: vec![Keys::new(0).trust(1, None)],
            devices: BTreeMap::new(),
            welcome: DeviceState::Accepted,
            token: Some("token".into()),
            release: None,
            invite: None,
            uploads: BTreeMap::new(),
            refused_uploads: 0,
            tried: BTreeMap::new(),
            other_tries: 0,
            reports: BTreeMap::new(),
            artifacts: BTreeMap::new(),
            bad: VecDeque::new(),
            late: Vec::new(),
            last: None,
            heard: Vec::new(),
            back: Vec::new(),
            told: None,
        }
    }
}

/// A refusal with this code.
pub fn refusal(error: Code) -> Refusal {
    let busy = matches!(error, Code::TooMany | Code::Unavailable);
    Refusal { error, message: "no".into(), retry_after_s: busy.then_some(30), time: None }
}

fn said(message: &impl Message) -> Result<Vec<u8>, Refusal> {
    Ok(message::write(message).unwrap())
}

/// Method, path and query.
pub(super) fn path(parts: &Parts) -> &str {
    parts.uri.path_and_query().map_or("/", |path| path.as_str())
}

/// The number of a check-in.
fn numbered(body: &[u8]) -> Option<u64> {
    serde_json::from_slice::<serde_json::Value>(body).ok()?["counter"].as_u64()
}

fn claim(parts: &Parts) -> Result<Claim, Refusal> {
    let values = HEADERS.map(|name| parts.headers.get(name).and_then(|v| v.to_str().ok()));
    Claim::read(values).map_err(|error| refusal(error.code()))
}

impl Desk {
    /// Offers an artifact.
    pub fn offer(&mut self, signed: Signed, artifact: &[u8]) {
        let url = format!("/v1/artifacts/{}", Hash::of(artifact));
        self.artifacts.insert(url.clone(), artifact.to_vec());
        let Signed { statement, signatures } = signed;
        self.release = Some(Offer { statement, signatures, url });
    }

    /// A request has come, whatever becomes of it.
    pub(super) fn arrives(&mut self, parts: &Parts, body: &Bytes) {
        let path = path(parts);
        self.heard.push((format!("{} {path}", parts.method), numbered(body)));
        if let (Some(invite), Ok(claim)) = (self.asked_for(path), claim(parts)) {
            let hash = Hash::of(body);
            let first = *self.tried.entry((claim.device, invite.artifact)).or_insert(hash);
            self.other_tries += usize::from(first != hash);
        }
    }

    /// The invite that an upload follows.
    fn asked_for(&self, path: &str) -> Option<Invite> {
        let round = path.strip_prefix("/v1/rounds/")?.strip_suffix("/upload")?.parse().ok();
        self.invite.filter(|invite| Some(invite.round) == round)
    }

    /// Does what came late, once; a check-in that a later one has overtaken changes nothing.
    pub(super) fn catch_up(&mut self) {
        for (parts, body) in std::mem::take(&mut self.late) {
            let device = claim(&parts).ok().and_then(|claim| self.devices.get(&claim.device));
            let known = device.and_then(|device| device.counter);
            if path(&parts) != "/v1/checkin" || numbered(&body) > known {
                // Nobody hears the answer.
                drop(self.call(&parts, &body));
            }
        }
    }

    /// Answers.
    pub(super) fn call(&mut self, parts: &Parts, body: &Bytes) -> Result<Vec<u8>, Refusal> {
        let path = path(parts);
        if let Some(bytes) = self.artifacts.get(path).filter(|_| path.starts_with("/cdn/")) {
            assert!(
                HEADERS.iter().all(|name| !parts.headers.contains_key(*name)),
                "not for others"
            );
            return Ok(bytes.clone());
        }
        let claim = claim(parts)?;
        let known = self.devices.get(&claim.device).map(|device| device.key);
        let enroll: Option<Enroll> = (path == "/v1/enroll").then(|| message::read(body).unwrap());
        let key = enroll.as_ref().map(|enroll| enroll.public_key).or(known);
        let key = key.ok_or_else(|| refusal(Code::UnknownDevice))?;
        let (method, body_bytes) = (parts.method.as_str(), body.len() as u64);
        let call = Call { fleet: FLEET, method, path, body_bytes };
        claim.verify(&call, &key, self.now_ms).map_err(|error| {
            let time = (error.code() == Code::Clock).then_some(self.now_ms);
            Refusal { time, ..refusal(error.code()) }
        })?;
        claim.covers(&call, body_bytes, Hash::of(body)).unwrap();
        let id = claim.device;
        if let Some(enroll) = enroll {
            claim.enrols(&key).unwrap();
            return self.enrol(id, &enroll);
        }
        self.known(id, path, body)
    }

    /// Answers a device whose signature holds.
    fn known(&mut self, id: DeviceId, path: &str, body: &Bytes) -> Result<Vec<u8>, Refusal> {
        if path == "/v1/checkin" {
            return self.check_in(id, &message::read(body).unwrap());
        }
        if let Some(after) = path.strip_prefix("/v1/trust?after=") {
            let after: u64 = after.parse().unwrap();
            let later =
                |signed: &&Signed| Trust::decode(&signed.statement.0).unwrap().epoch > after;
            let trust = self.trust.iter().filter(later).take(2).cloned().collect();
            return said(&TrustAnswer { trust });
        }
        if path == "/v1/key" {
            let rekey: Rekey = message::read(body).unwrap();
            let proven = replacement(FLEET, id, &rekey.new_public_key);
            assert!(rekey.new_public_key.verifies(&proven, &rekey.proof));
            let device = self.devices.get_mut(&id).unwrap();
            device.key = rekey.new_public_key;
            return said(&Rekeyed { state: device.state });
        }
        if let Some(bytes) = self.artifacts.get(path) {
            return Ok(bytes.clone());
        }
        match self.asked_for(path) {
            Some(invite) => self.upload(id, invite.artifact, body),
            None if path.starts_with("/v1/rounds/") => Err(refusal(Code::RoundClosed)),
            None => Err(refusal(Code::NotFound)),
        }
    }

    fn upload(&mut self, id: DeviceId, artifact: Hash, body: &[u8]) -> Result<Vec<u8>, Refusal> {
        let receipt = Hash::of(body);
        let kept = *self.uploads.entry((id, artifact)).or_insert(receipt);
        if kept == receipt {
            return said(&Receipt { receipt });
        }
        self.refused_uploads += 1;
        Err(refusal(Code::AlreadyUploaded))
    }

    fn enrol(&mut self, id: DeviceId, enroll: &Enroll) -> Result<Vec<u8>, Refusal> {
        let welcome = self.welcome;
        if !self.devices.contains_key(&id) && enroll.token != self.token {
            return Err(refusal(Code::Rejected));
        }
        let new = Device { key: enroll.public_key, state: welcome, counter: None };
        let state = self.devices.entry(id).or_insert(new).state;
        said(&Enrolled {
            device: id,
            state,
            fleet: FLEET,
            label: (state == DeviceState::Accepted).then(|| LABEL.into()),
            trust: self.trust.last().unwrap().clone(),
            time: self.now_ms,
            check_in_s: self.check_in_s,
        })
    }

    fn check_in(&mut self, id: DeviceId, check_in: &CheckIn) -> Result<Vec<u8>, Refusal> {
        let device = self.devices.get_mut(&id).unwrap();
        if device.counter.is_some_and(|counter| check_in.counter <= counter) {
            self.back.push(check_in.counter);
        }
        device.counter = device.counter.max(Some(check_in.counter));
        self.told = Some(check_in.clone());
        for report in &check_in.reports {
            self.reports.insert(report.sequence, report.outcome);
        }
        let epoch = Trust::decode(&self.trust.last().unwrap().statement.0).unwrap().epoch;
        let answer = said(&CheckedIn {
            time: self.now_ms,
            check_in_s: self.check_in_s,
            state: device.state,
            acked: check_in.reports.iter().map(|report| report.sequence).collect(),
            trust_epoch: Some(epoch),
            release: self.release.clone(),
            invite: self.invite,
        })?;
        self.last = Some(answer.clone());
        Ok(answer)
    }
}

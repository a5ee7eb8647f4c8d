//! A fleet's server in memory: it checks what devices say, keeps what they send, and fails as it is told.

use super::files::{FLEET, Keys, LABEL};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, header};
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
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
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// When this server thinks it is: in 2026.
pub(super) const NOW_MS: u64 = 1_790_000_000_000;

/// How a request is answered instead.
pub(super) enum Bad {
    /// With these bytes as the whole answer.
    Body(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// As a refusal says.
    Refuse(Refusal),
    /// As usual, but the connection ends after so many bytes of the body.
    Cut(usize),
    /// As usual, but the work is done and no answer comes.
    Silent,
    /// Not at all, for so long.
    Slow(Duration),
}

#[derive(Clone)]
pub(super) struct Device {
    pub(super) key: PublicKey,
    pub(super) state: DeviceState,
    pub(super) counter: Option<u64>,
}

pub(super) struct Inner {
    pub(super) now_ms: u64,
    pub(super) check_in_s: u64,
    pub(super) trust: Vec<Signed>,
    pub(super) devices: BTreeMap<DeviceId, Device>,
    /// What new devices become.
    pub(super) welcome: DeviceState,
    pub(super) token: Option<String>,
    pub(super) release: Option<Offer>,
    pub(super) invite: Option<Invite>,
    /// Hash of what a device sent for an artifact.
    pub(super) uploads: BTreeMap<(DeviceId, Hash), Hash>,
    /// Updates that were other bytes than those before them.
    pub(super) refused_uploads: usize,
    pub(super) reports: BTreeMap<u64, Outcome>,
    pub(super) artifacts: BTreeMap<String, Vec<u8>>,
    /// By the beginning of the path.
    pub(super) bad: VecDeque<(&'static str, Bad)>,
    /// Method and path of every request, and the number of a check-in.
    pub(super) heard: Vec<(String, Option<u64>)>,
    /// Numbers that ran back.
    pub(super) back: Vec<u64>,
}

/// The server; it ends with the runtime of its test.
#[derive(Clone)]
pub(super) struct Server {
    inner: Arc<Mutex<Inner>>,
    pub(super) port: u16,
    pub(super) pin: Hash,
    pub(super) pem: String,
}

impl Server {
    pub(super) async fn start() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let names = vec!["localhost".to_owned()];
        let certificate = rcgen::CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let secret = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], secret)
            .unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let inner = Inner {
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
            reports: BTreeMap::new(),
            artifacts: BTreeMap::new(),
            bad: VecDeque::new(),
            heard: Vec::new(),
            back: Vec::new(),
        };
        let server = Self {
            inner: Arc::new(Mutex::new(inner)),
            port,
            pin: Hash::of(&rcgen::PublicKeyData::subject_public_key_info(&key)),
            pem: certificate.pem(),
        };
        let (acceptor, own) = (TlsAcceptor::from(Arc::new(config)), server.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, own) = (acceptor.clone(), own.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let answer = service_fn(move |request| {
                        let own = own.clone();
                        async move { Ok::<_, Infallible>(own.answer(request).await) }
                    });
                    let http = hyper::server::conn::http1::Builder::new();
                    let _ = http.serve_connection(TokioIo::new(stream), answer).await;
                });
            }
        });
        server
    }

    pub(super) fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// The link that its operator gives.
    pub(super) fn link(&self) -> String {
        let trust = Hash::of(&self.inner().trust[0].statement.0);
        let (port, pin) = (self.port, self.pin);
        format!(
            "sapwood+https://127.0.0.1:{port}/#fleet={FLEET}&token=token&trust={trust}&pin={pin}"
        )
    }

    /// Offers an artifact.
    pub(super) fn offer(&self, signed: Signed, artifact: &[u8]) {
        let url = format!("/v1/artifacts/{}", Hash::of(artifact));
        let mut inner = self.inner();
        inner.artifacts.insert(url.clone(), artifact.to_vec());
        let Signed { statement, signatures } = signed;
        inner.release = Some(Offer { statement, signatures, url });
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Cuttable> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let path = parts.uri.path_and_query().unwrap().to_string();
        let bad = {
            let mut inner = self.inner();
            let numbered: Option<u64> = serde_json::from_slice::<serde_json::Value>(&body)
                .ok()
                .and_then(|value| value["counter"].as_u64());
            inner.heard.push((format!("{} {path}", parts.method), numbered));
            let at = inner.bad.iter().position(|(prefix, _)| path.starts_with(prefix));
            at.and_then(|at| inner.bad.remove(at)).map(|(_, bad)| bad)
        };
        match bad {
            Some(Bad::Body(status, headers, bytes)) => {
                let mut response = Response::builder().status(status);
                for (name, value) in headers {
                    response = response.header(name, value);
                }
                response.body(Cuttable::whole(bytes)).unwrap()
            }
            Some(Bad::Refuse(refusal)) => refused(&refusal),
            Some(Bad::Slow(wait)) => {
                tokio::time::sleep(wait).await;
                self.serve(&parts, &path, &body, None)
            }
            Some(Bad::Silent) => {
                let _done = self.serve(&parts, &path, &body, None);
                std::future::pending().await
            }
            Some(Bad::Cut(at)) => self.serve(&parts, &path, &body, Some(at)),
            None => self.serve(&parts, &path, &body, None),
        }
    }

    fn serve(
        &self,
        parts: &hyper::http::request::Parts,
        path: &str,
        body: &Bytes,
        cut: Option<usize>,
    ) -> Response<Cuttable> {
        let mut inner = self.inner();
        let outcome = inner.call(parts, path, body);
        match outcome {
            Ok(bytes) if path.starts_with("/v1/artifacts/") || path.starts_with("/cdn/") => {
                ranged(parts, &bytes, cut)
            }
            Ok(bytes) => Response::new(Cuttable { bytes: bytes.into(), cut }),
            Err(refusal) => refused(&refusal),
        }
    }
}

/// A part of a file, as it was asked for.
fn ranged(
    parts: &hyper::http::request::Parts,
    bytes: &[u8],
    cut: Option<usize>,
) -> Response<Cuttable> {
    let from = parts.headers.get(header::RANGE).and_then(|range| {
        range.to_str().ok()?.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok()
    });
    let from = from.unwrap_or(0).min(bytes.len());
    let total = bytes.len();
    let range = format!("bytes {from}-{}/{total}", total.saturating_sub(1));
    Response::builder()
        .status(206)
        .header(header::CONTENT_RANGE, range)
        .body(Cuttable { bytes: Bytes::copy_from_slice(&bytes[from..]), cut })
        .unwrap()
}

fn refused(refusal: &Refusal) -> Response<Cuttable> {
    let bytes = refusal.write().unwrap();
    Response::builder().status(refusal.error.status()).body(Cuttable::whole(bytes)).unwrap()
}

pub(super) fn refusal(error: Code) -> Refusal {
    Refusal { error, message: "no".into(), retry_after_s: None, time: None }
}

impl Inner {
    fn call(
        &mut self,
        parts: &hyper::http::request::Parts,
        path: &str,
        body: &Bytes,
    ) -> Result<Vec<u8>, Refusal> {
        if let Some(bytes) = self.artifacts.get(path).filter(|_| path.starts_with("/cdn/")) {
            assert!(
                HEADERS.iter().all(|name| !parts.headers.contains_key(*name)),
                "not for others"
            );
            return Ok(bytes.clone());
        }
        let values = HEADERS.map(|name| parts.headers.get(name).and_then(|v| v.to_str().ok()));
        let claim = Claim::read(values).map_err(|error| refusal(error.code()))?;
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
        let round = path.strip_prefix("/v1/rounds/").and_then(|rest| rest.strip_suffix("/upload"));
        if let (Some(round), Some(invite)) = (round, self.invite) {
            assert_eq!(round.parse(), Ok(invite.round));
            let receipt = Hash::of(body);
            let kept = *self.uploads.entry((id, invite.artifact)).or_insert(receipt);
            return match kept == receipt {
                true => said(&Receipt { receipt }),
                false => {
                    self.refused_uploads += 1;
                    Err(refusal(Code::AlreadyUploaded))
                }
            };
        }
        Err(refusal(Code::NotFound))
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
        for report in &check_in.reports {
            self.reports.insert(report.sequence, report.outcome);
        }
        let epoch = Trust::decode(&self.trust.last().unwrap().statement.0).unwrap().epoch;
        said(&CheckedIn {
            time: self.now_ms,
            check_in_s: self.check_in_s,
            state: device.state,
            acked: check_in.reports.iter().map(|report| report.sequence).collect(),
            trust_epoch: Some(epoch),
            release: self.release.clone(),
            invite: self.invite,
        })
    }
}

fn said(message: &impl Message) -> Result<Vec<u8>, Refusal> {
    Ok(message::write(message).unwrap())
}

/// A body that may break off.
pub(super) struct Cuttable {
    bytes: Bytes,
    cut: Option<usize>,
}

impl Cuttable {
    fn whole(bytes: Vec<u8>) -> Self {
        Self { bytes: bytes.into(), cut: None }
    }
}

impl hyper::body::Body for Cuttable {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        match self.cut {
            Some(0) => Poll::Ready(Some(Err(std::io::ErrorKind::BrokenPipe.into()))),
            Some(at) if at < self.bytes.len() => {
                let bytes = self.bytes.slice(..at);
                self.cut = Some(0);
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            _ if self.bytes.is_empty() => Poll::Ready(None),
            _ => Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.bytes))))),
        }
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        let full = Full::new(self.bytes.clone());
        hyper::body::Body::size_hint(&full)
    }
}

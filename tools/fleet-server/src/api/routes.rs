//! Which path does what, and the door that all calls go through.
//!
//! - Order of a call: its address may ask, its path is one, its length is known, its headers claim, its
//!   device is known, its signature holds; then its body is read.

use super::answer::{self, Answer};
use super::body::Coming;
use super::shared::Shared;
use super::{artifact, checkin, enrol, upload};
use crate::devices::{self, Device};
use crate::door::{self, Refused};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderMap, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request};
use sapwood_connections::Guest;
use sapwood_protocol::fleet::code::Code;
use sapwood_protocol::fleet::id::{FleetId, Hash};
use sapwood_protocol::fleet::request::{Call, Claim};
use sapwood_protocol::limits::FLEET_ADAPTER_BYTES_MAX;
use std::net::IpAddr;
use std::sync::Arc;

/// A call before its body.
pub(super) struct Asked {
    method: Method,
    path: String,
    pub(super) headers: HeaderMap,
    pub(super) body_bytes: u64,
}

impl Asked {
    fn new(parts: Parts, body_bytes: u64) -> Self {
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        Self { method: parts.method, path, headers: parts.headers, body_bytes }
    }

    /// What its headers claim.
    pub(super) fn claim(&self) -> Result<Claim, Refused> {
        let values = |name| {
            let all = self.headers.get_all(name).iter();
            all.map(|value| value.to_str().ok()).collect::<Vec<_>>()
        };
        Ok(door::claim(values)?)
    }

    /// What was signed beside who and when.
    pub(super) fn call(&self, fleet: FleetId) -> Call<'_> {
        let (method, path) = (self.method.as_str(), self.path.as_str());
        Call { fleet, method, path, body_bytes: self.body_bytes }
    }

    /// Whether a body is the one that was signed.
    pub(super) fn covers(&self, shared: &Shared, body: &[u8]) -> Result<Claim, Refused> {
        let claim = self.claim()?;
        claim.covers(&self.call(shared.home.fleet), body.len() as u64, Hash::of(body))?;
        Ok(claim)
    }

    /// The device that makes the call, by its signature.
    async fn device(&self, shared: &Arc<Shared>) -> Result<Device, Refused> {
        let claim = self.claim()?;
        let unknown = || {
            let message = format!(
                "device {} is none of this fleet's, expected it to enrol first",
                claim.device
            );
            Refused::new(Code::UnknownDevice, message)
        };
        let id = claim.device;
        let found =
            shared.blocking(move |shared| Ok(devices::find(&shared.home.book, id)?)).await?;
        let device = found.ok_or_else(unknown)?;
        claim.verify(&self.call(shared.home.fleet), &device.key, shared.now_ms())?;
        Ok(device)
    }
}

/// What a path is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route<'a> {
    Enrol,
    Key,
    CheckIn,
    Trust,
    Upload(&'a str),
    Artifact(&'a str),
}

impl Route<'_> {
    /// Under what its answers are counted.
    fn name(self) -> &'static str {
        match self {
            Self::Enrol => "enroll",
            Self::Key => "key",
            Self::CheckIn => "checkin",
            Self::Trust => "trust",
            Self::Upload(_) => "upload",
            Self::Artifact(_) => "artifact",
        }
    }

    fn method(self) -> Method {
        match self {
            Self::Enrol | Self::Key | Self::CheckIn => Method::POST,
            Self::Upload(_) => Method::PUT,
            Self::Trust | Self::Artifact(_) => Method::GET,
        }
    }
}

fn route(path: &str) -> Option<Route<'_>> {
    Some(match path {
        "/v1/enroll" => Route::Enrol,
        "/v1/key" => Route::Key,
        "/v1/checkin" => Route::CheckIn,
        "/v1/trust" => Route::Trust,
        _ => {
            if let Some(hash) = path.strip_prefix("/v1/artifacts/") {
                Route::Artifact(hash)
            } else {
                Route::Upload(path.strip_prefix("/v1/rounds/")?.strip_suffix("/upload")?)
            }
        }
    })
}

/// Answers a call from an address; whatever comes, there is an answer.
pub(crate) async fn answer(
    shared: &Arc<Shared>,
    request: Request<Incoming>,
    from: IpAddr,
    guest: Arc<Guest>,
) -> Answer {
    let begun = shared.clock.elapsed();
    let (parts, body) = request.into_parts();
    let (mut body, length) = Coming::new(body, guest);
    let name = route(parts.uri.path()).map_or("other", Route::name);
    let answered = match shared.may_ask(from).and(length) {
        Ok(length) => dispatch(shared, parts, length, &mut body).await,
        Err(refused) => Err(refused),
    };
    let mut answer = match answered {
        Ok(answer) => answer,
        Err(refused) => {
            shared.tell(&refused);
            answer::refused(&refused)
        }
    };
    if !body.heard(FLEET_ADAPTER_BYTES_MAX).await {
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let taken = shared.clock.elapsed().saturating_sub(begun);
    shared.metrics.answered(name, answer.status().as_u16(), taken);
    answer
}

async fn dispatch(
    shared: &Arc<Shared>,
    parts: Parts,
    length: u64,
    body: &mut Coming,
) -> Result<Answer, Refused> {
    let uri = parts.uri.clone();
    let nothing = || Refused::new(Code::NotFound, "there is no such path");
    let route = route(uri.path()).ok_or_else(nothing)?;
    if parts.method != route.method() {
        let message = format!("{} is answered to {} alone", uri.path(), route.method());
        return Err(Refused::new(Code::NotFound, message));
    }
    let asked = Asked::new(parts, length);
    match route {
        Route::Trust => return enrol::trust(shared, uri.query()).await,
        Route::Enrol => return enrol::enrol(shared, &asked, body).await,
        _ => {}
    }
    let device = asked.device(shared).await?;
    match route {
        Route::CheckIn => checkin::check_in(shared, &asked, device, body).await,
        Route::Key => enrol::rekey(shared, &asked, device, body).await,
        Route::Upload(round) => upload::upload(shared, &asked, &device, round, body).await,
        Route::Artifact(hash) => artifact::artifact(shared, &asked, &device, hash).await,
        Route::Trust | Route::Enrol => Err(nothing()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_of_the_protocol_is_one_and_no_other() {
        for (path, expected) in [
            ("/v1/enroll", Some(Route::Enrol)),
            ("/v1/key", Some(Route::Key)),
            ("/v1/checkin", Some(Route::CheckIn)),
            ("/v1/trust", Some(Route::Trust)),
            ("/v1/rounds/7/upload", Some(Route::Upload("7"))),
            ("/v1/rounds//upload", Some(Route::Upload(""))),
            ("/v1/artifacts/ab", Some(Route::Artifact("ab"))),
            ("/v1/rounds/7", None),
            ("/v1/admin/overview", None),
            ("/", None),
        ] {
            assert_eq!(route(path), expected, "{path}");
        }
    }
}

//! Which path does what, for whom, and where there is room for it: one table.
//!
//! - Never here: the limits that hold for all of them (`shared`), who has the token (`door`).

use super::door::Door;
use super::origins::Origins;
use super::refusal::Refusal;
use super::shared::Shared;
use super::{Learner, adapters, fleet, text};
use crate::paused::OrderError;
use crate::status::{Phase, Status};
use crate::wire;
use axum::extract::rejection::PathRejection;
use axum::extract::{MatchedPath, Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post};
use axum::{Json, Router};
use sapwood::inbox::{Aside, InboxError, Receipt};
use serde_json::json;
use std::sync::Arc;

/// Bytes of a request for text: far more than any context holds.
const TEXT_BODY_BYTES_MAX: usize = 1 << 20;
/// The status page; every `NONCE` in it is replaced, and the two places that follow.
const PAGE: &str = include_str!("../../assets/status.html");
/// What it has in common with the fleet server's.
const STYLE: &str = include_str!("../../../tools/page/style.css");
const BASE: &str = include_str!("../../../tools/page/base.js");

/// A route: what a path answers to which methods, and to whom.
pub(super) struct Route {
    path: &'static str,
    methods: fn() -> MethodRouter<Arc<Shared>>,
    /// Whether it needs no token: it tells nothing.
    pub(super) is_open: bool,
    /// Whether it is answered where there is room for nothing else.
    pub(super) is_health: bool,
    /// Whether it is there over the Unix socket alone.
    is_owner_s: bool,
}

/// One that needs the token, and room.
const fn route(path: &'static str, methods: fn() -> MethodRouter<Arc<Shared>>) -> Route {
    Route { path, methods, is_open: false, is_health: false, is_owner_s: false }
}

impl Route {
    const fn open(self) -> Self {
        Self { is_open: true, ..self }
    }

    const fn health(self) -> Self {
        Self { is_health: true, ..self }
    }

    const fn owner_s(self) -> Self {
        Self { is_owner_s: true, ..self }
    }
}

/// Every route; a path stands once. The time of its answers is counted under the path by itself.
static ROUTES: [Route; 26] = [
    // The status page, empty: it asks for the status.
    route("/", || get(page)).open(),
    // What the device says of itself.
    route("/healthz", || get(async || "ok\n")).open().health(),
    route("/readyz", || get(ready)).health(),
    // The same as llama.cpp's clients ask it; to whom that is all that is told.
    route("/health", || get(health)).open().health(),
    route("/metrics", || get(numbers)).health(),
    route("/v1/status", || get(status)),
    // JSON lines, answered once they are durable.
    route("/v1/samples", || post(samples)),
    // Samples that no job could take in.
    route("/v1/aside", || get(aside)),
    route("/v1/aside/{number}", || delete(drop_aside)),
    route("/v1/aside/{number}/retry", || post(retry_aside)),
    // As OpenAI's clients know them.
    route("/v1/completions", || post(completions)),
    route("/v1/chat/completions", || post(conversations)),
    route("/v1/models", || get(adapters::models)),
    // The same where llama.cpp's server has them too.
    route("/chat/completions", || post(conversations)),
    route("/models", || get(adapters::models)),
    route("/v1/models/{id}", || get(adapters::model)),
    // Adapters.
    route("/v1/generations", || get(adapters::generations)),
    route("/v1/compare", || post(adapters::compare)),
    // Orders to the worker.
    route("/v1/job", || post(job)),
    route("/v1/pause", || post(pause)),
    route("/v1/resume", || post(resume)),
    route("/v1/rollback", || post(adapters::rollback)),
    // Orders about the fleet.
    route("/v1/fleet/join", || post(fleet::join)).owner_s(),
    route("/v1/fleet/leave", || post(fleet::leave)).owner_s(),
    route("/v1/fleet/sync", || post(fleet::now)).owner_s(),
    route("/v1/fleet/rotate-key", || post(fleet::rotate_key)).owner_s(),
];

/// The route of a path without parts that vary.
pub(super) fn at(path: &str) -> Option<&'static Route> {
    let plain = path.trim_end_matches('/');
    ROUTES.iter().find(|route| route.path == path || route.path == plain)
}

/// All routes, for whoever can reach the socket.
pub(super) fn open(shared: &Arc<Shared>) -> Router {
    let watched = middleware::from_fn_with_state(shared.clone(), watched);
    slashed(routes(shared, true).layer(watched))
}

/// The routes behind a door; what is the owner's is not there.
pub(super) fn guarded(shared: &Arc<Shared>, door: Door) -> Router {
    let door = Arc::new(door);
    let guard = move |request: Request, next: Next| {
        let is_open = at(request.uri().path()).is_some_and(|route| route.is_open);
        let checked = door.check(is_open, request.uri(), request.headers());
        async move {
            match checked {
                Ok(()) => next.run(request).await,
                Err(refusal) => refusal.into_response(),
            }
        }
    };
    let origins = Origins::new(&shared.config.origins);
    let cross = move |request: Request, next: Next| origins.clone().cross(request, next);
    let watched = middleware::from_fn_with_state(shared.clone(), watched);
    let routes = routes(shared, false).layer(middleware::from_fn(guard));
    slashed(routes.layer(middleware::from_fn(cross)).layer(watched))
}

fn routes(shared: &Arc<Shared>, is_owner: bool) -> Router {
    let add = |router: Router<_>, one: &Route| router.route(one.path, (one.methods)());
    ROUTES
        .iter()
        .filter(|route| is_owner || !route.is_owner_s)
        .fold(Router::new(), add)
        .fallback(async || Refusal::new(StatusCode::NOT_FOUND, "not_found", "no such path"))
        .method_not_allowed_fallback(async || {
            let message = "this path has another method";
            Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
        })
        .with_state(shared.clone())
}

/// The same routes for paths with slashes at their end, which some clients put there.
fn slashed(routes: Router) -> Router {
    let strip = async |mut request: Request, next: Next| {
        if let Some(uri) = without_slash(request.uri()) {
            *request.uri_mut() = uri;
        }
        next.run(request).await
    };
    // A layer around routes runs when the route is chosen already: they become one service below it.
    Router::new().fallback_service(routes).layer(middleware::from_fn(strip))
}

/// The same address without slashes at the end of its path; none where there is none to go.
fn without_slash(uri: &Uri) -> Option<Uri> {
    let path = uri.path().trim_end_matches('/');
    if path.is_empty() || path.len() == uri.path().len() {
        return None;
    }
    let query = uri.query().map_or_else(String::new, |query| format!("?{query}"));
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = format!("{path}{query}").parse().ok();
    Uri::from_parts(parts).ok()
}

/// Times every answer, and says what holds for all of them.
async fn watched(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let begun = shared.clock.elapsed();
    // By route and not by path: nobody who asks can add to the labels.
    let matched = request.extensions().get::<MatchedPath>();
    let route = matched.map_or_else(|| "other".into(), |route| route.as_str().to_owned().into());
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    let taken = shared.clock.elapsed().saturating_sub(begun);
    shared.metrics.answered(route, response.status().as_u16(), taken);
    response
}

async fn page(State(shared): State<Arc<Shared>>) -> Response {
    let nonce = shared.chance.name();
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; \
         connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    );
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8".to_owned()),
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::REFERRER_POLICY, "no-referrer".to_owned()),
    ];
    let page = PAGE.replacen("/* STYLE */", STYLE, 1).replacen("/* BASE */", BASE, 1);
    (headers, page.replace("NONCE", &nonce)).into_response()
}

async fn ready(State(shared): State<Arc<Shared>>) -> Result<&'static str, Refusal> {
    let state = |status: &Status| (status.phase, status.fault.clone());
    let not = |message: String| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", message);
    match shared.device.board().look(state) {
        (_, Some(fault)) => Err(not(fault)),
        (Phase::Starting, None) => Err(not("the base is being loaded".to_owned())),
        (Phase::Stopping, None) => Err(Refusal::stopping()),
        (Phase::Waiting | Phase::Learning | Phase::Paused, None) => Ok("ready\n"),
    }
}

async fn health(State(shared): State<Arc<Shared>>) -> Result<Response, Refusal> {
    let not = |_| {
        let message = "not ready: /readyz says why";
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", message)
    };
    ready(State(shared)).await.map_err(not)?;
    Ok(Json(json!({ "status": "ok" })).into_response())
}

async fn numbers(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let text = shared.metrics.text(accept.unwrap_or_default());
    let (kind, text) = text.map_err(|_| Refusal::lost())?;
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

async fn status(State(shared): State<Arc<Shared>>) -> Response {
    Json(shared.device.board().snapshot()).into_response()
}

async fn samples(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, Refusal> {
    shared.learns()?;
    let (body, large) = shared.body(request, shared.config.body_bytes_max).await?;
    let turn = shared.offers.clone().acquire_owned().await;
    let device = shared.device.clone();
    let offer = move || {
        let learner = device.learner().ok_or_else(Refusal::no_learner);
        let text = wire::lines(&body).map_err(Refusal::from);
        let offered = learner.and_then(|learner| Ok(learner.offer(text?)));
        drop((large, turn));
        offered
    };
    let offered = tokio::task::spawn_blocking(offer).await.map_err(|_| Refusal::lost())??;
    let receipt = offered.inspect_err(|error| note(&shared, error))?;
    Ok(Json(acknowledged(&shared, receipt)).into_response())
}

/// Most characters of a sample that are shown; the whole of it may be long.
const SHOWN_CHARS: usize = 1_000;

async fn aside(State(shared): State<Arc<Shared>>) -> Result<Response, Refusal> {
    let all = at_inbox(&shared, |learner| learner.aside()).await?;
    let row = |one: &Aside| {
        let sample: String = one.line.chars().take(SHOWN_CHARS).collect();
        let bytes = one.line.len();
        json!({ "number": one.number, "reason": one.reason, "bytes": bytes, "sample": sample })
    };
    let rows: Vec<_> = all.iter().map(row).collect();
    Ok(Json(json!({ "aside": rows })).into_response())
}

async fn retry_aside(
    State(shared): State<Arc<Shared>>,
    number: Result<Path<u64>, PathRejection>,
) -> Result<Response, Refusal> {
    let Path(number) = number?;
    let found = at_inbox(&shared, move |learner| learner.retry_aside(number)).await?;
    mended(number, "waits", found)
}

async fn drop_aside(
    State(shared): State<Arc<Shared>>,
    number: Result<Path<u64>, PathRejection>,
) -> Result<Response, Refusal> {
    let Path(number) = number?;
    let found = at_inbox(&shared, move |learner| learner.drop_aside(number)).await?;
    mended(number, "dropped", found)
}

fn mended(number: u64, done: &str, found: bool) -> Result<Response, Refusal> {
    if !found {
        let message = format!("no sample of number {number} was set aside");
        return Err(Refusal::new(StatusCode::NOT_FOUND, "not_found", message));
    }
    Ok(Json(json!({ "number": number, done: true })).into_response())
}

/// Work at the inbox.
async fn at_inbox<T: Send + 'static>(
    shared: &Arc<Shared>,
    work: impl FnOnce(&dyn Learner) -> Result<T, InboxError> + Send + 'static,
) -> Result<T, Refusal> {
    let done = shared.blocking(work).await?;
    Ok(done.inspect_err(|error| note(shared, error))?)
}

/// A disk that fails is a fault of the device, not of the request alone.
fn note(shared: &Shared, error: &InboxError) {
    if matches!(error, InboxError::Sync(_) | InboxError::Broken) {
        tracing::error!(%error, "the disk failed: the program must start again");
        shared.device.board().update(|status| status.fault = Some(error.to_string()));
    }
}

fn acknowledged(shared: &Shared, receipt: Receipt) -> serde_json::Value {
    let waiting =
        |status: &Status| (status.inbox.samples, status.inbox.bytes, status.inbox.bytes_max);
    let (samples, bytes, bytes_max) = shared.device.board().look(waiting);
    json!({
        "accepted": receipt.accepted,
        "duplicates": receipt.duplicates,
        "last": receipt.last,
        "waiting": { "samples": samples, "bytes": bytes, "bytes_max": bytes_max },
    })
}

async fn completions(
    State(shared): State<Arc<Shared>>,
    request: Request,
) -> Result<Response, Refusal> {
    let (body, _large) = shared.body(request, TEXT_BODY_BYTES_MAX).await?;
    text::answer(&shared, wire::completion(&body)?).await
}

async fn conversations(
    State(shared): State<Arc<Shared>>,
    request: Request,
) -> Result<Response, Refusal> {
    let (body, _large) = shared.body(request, TEXT_BODY_BYTES_MAX).await?;
    text::answer(&shared, wire::chat(&body)?).await
}

async fn job(State(shared): State<Arc<Shared>>) -> Result<Response, Refusal> {
    shared.learns()?;
    if shared.device.board().look(|status| status.inbox.samples) == 0 {
        let message = "nothing waits in the inbox: there is nothing to learn";
        return Err(Refusal::new(StatusCode::CONFLICT, "nothing_to_learn", message));
    }
    ordered(&shared, "job", |learner| learner.job_now()).await
}

async fn pause(State(shared): State<Arc<Shared>>) -> Result<Response, Refusal> {
    ordered(&shared, "pause", |learner| learner.pause()).await
}

async fn resume(State(shared): State<Arc<Shared>>) -> Result<Response, Refusal> {
    ordered(&shared, "resume", |learner| learner.resume()).await
}

/// The worker follows when it comes by: at the next optimiser step, or the next look around.
async fn ordered(
    shared: &Arc<Shared>,
    order: &str,
    give: impl FnOnce(&dyn Learner) -> Result<(), OrderError> + Send + 'static,
) -> Result<Response, Refusal> {
    shared.blocking(give).await??;
    Ok((StatusCode::ACCEPTED, Json(json!({ "ordered": order }))).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever adds a route here says so: everything else needs the token, and room.
    #[test]
    fn what_is_open_and_what_is_health_is_named() {
        let paths = |is: fn(&Route) -> bool| {
            let chosen = ROUTES.iter().filter(|route| is(route)).map(|route| route.path);
            chosen.collect::<Vec<_>>()
        };
        assert_eq!(paths(|route| route.is_open), ["/", "/healthz", "/health"]);
        assert_eq!(paths(|route| route.is_health), ["/healthz", "/readyz", "/health", "/metrics"]);
        assert!(paths(|route| route.is_owner_s).iter().all(|path| path.starts_with("/v1/fleet/")));
        assert_eq!(paths(|route| route.is_owner_s).len(), 4);
        let twice = |one: &&Route| ROUTES.iter().filter(|other| other.path == one.path).count() > 1;
        assert!(ROUTES.iter().find(twice).is_none());
        // Both are asked of a path as it came, which none of them may take apart.
        let open = ROUTES.iter().filter(|route| route.is_open || route.is_health);
        assert!(open.clone().all(|route| !route.path.contains('{')));
    }
}

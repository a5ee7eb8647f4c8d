//! Serving over a device of memory: routes and refusals first, then what only a socket shows.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use super::door::Door;
use super::fixture::{Cage, Parrot, Wound};
use super::routes::{guarded, open};
use super::shared::Shared;
use super::{Server, start};
use crate::config::Serve;
use crate::constraints::ConstraintState;
use crate::status::{Change, Ending, JobKind, JobReport, Phase, StepPoint};
use crate::supervise::Supervisor;
use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use http_body_util::BodyExt;
use sapwood::inbox::{Aside, InboxError};
use sapwood::ports::StorageError;
use serde_json::{Value, json};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tower::ServiceExt;

mod adapters;
mod calls;
mod clients;
mod fleet;
mod halves;
mod numbers;
mod sockets;

fn config() -> Serve {
    Serve {
        listen: "127.0.0.1:0".parse().unwrap(),
        tokens_max: 64,
        concurrency: 1,
        queue: 1,
        body_bytes_max: 4_096,
        ..Serve::default()
    }
}

fn shared(cage: &Arc<Cage>) -> Arc<Shared> {
    Arc::new(Shared::new(config(), Arc::new(cage.clone()), Arc::new(Wound::default())).unwrap())
}

fn routes(cage: &Arc<Cage>) -> Router {
    open(&shared(cage))
}

async fn sent(routes: &Router, method: &str, path: &str, body: &str) -> Response<Body> {
    let request = Request::builder().method(method).uri(path);
    routes.clone().oneshot(request.body(Body::from(body.to_owned())).unwrap()).await.unwrap()
}

async fn text(response: Response<Body>) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Status and body of an answer in JSON.
async fn asked(routes: &Router, method: &str, path: &str, body: &str) -> (u16, Value) {
    let response = sent(routes, method, path, body).await;
    let status = response.status().as_u16();
    (status, serde_json::from_str(&text(response).await).unwrap())
}

async fn completed(routes: &Router, body: &Value) -> (u16, Value) {
    asked(routes, "POST", "/v1/completions", &body.to_string()).await
}

#[tokio::test]
async fn samples_are_acknowledged_with_what_waits() {
    let cage = Cage::with(Parrot::default());
    let lines = "{\"text\":\"a\"}\n{\"text\":\"b\"}\n";
    let (status, body) = asked(&routes(&cage), "POST", "/v1/samples", lines).await;
    assert_eq!(status, 200);
    assert_eq!(
        (&body["accepted"], &body["last"], &body["waiting"]["samples"]),
        (&json!(2), &json!(2), &json!(2))
    );
}

#[tokio::test]
async fn a_sample_that_is_none_is_refused_with_its_line() {
    let cage = Cage::with(Parrot::default());
    let lines = "{\"text\":\"a\"}\n{\"txt\":\"b\"}\n";
    let (status, body) = asked(&routes(&cage), "POST", "/v1/samples", lines).await;
    assert_eq!((status, &body["error"]["param"]), (400, &json!("line 2")));
    assert_eq!(cage.taken.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn an_inbox_that_takes_nothing_in_says_why_by_its_status() {
    let storage = |kind: io::ErrorKind| {
        let (operation, path) = ("write", "inbox/1".to_owned());
        StorageError::Io { operation, path, source: kind.into() }
    };
    let full = InboxError::Full { samples: 1, samples_max: 1, bytes: 1, bytes_max: 1 };
    for (error, expected, again) in [
        (full, 429, true),
        (InboxError::Low { free: 1, needed: 2 }, 429, true),
        (InboxError::Large { got: 2, max: 1 }, 413, false),
        (InboxError::Empty, 400, false),
        (InboxError::Storage(storage(io::ErrorKind::StorageFull)), 507, true),
        (InboxError::Storage(storage(io::ErrorKind::PermissionDenied)), 503, false),
        (InboxError::Broken, 503, false),
    ] {
        let cage = Cage::with(Parrot::default());
        let named = error.to_string();
        *cage.inbox.lock().unwrap() = Some(error);
        let response = sent(&routes(&cage), "POST", "/v1/samples", "{\"text\":\"a\"}").await;
        assert_eq!(response.status().as_u16(), expected, "{named}");
        assert_eq!(response.headers().contains_key("retry-after"), again, "{named}");
        let body: Value = serde_json::from_str(&text(response).await).unwrap();
        assert_eq!(body["error"]["message"], named);
    }
}

#[tokio::test]
async fn a_disk_that_broke_is_not_ready() {
    let cage = Cage::with(Parrot::default());
    let routes = routes(&cage);
    assert_eq!(sent(&routes, "GET", "/readyz", "").await.status(), 503);
    cage.board.update(|status| status.phase = Phase::Waiting);
    assert_eq!(sent(&routes, "GET", "/readyz", "").await.status(), 200);
    *cage.inbox.lock().unwrap() = Some(InboxError::Broken);
    sent(&routes, "POST", "/v1/samples", "{\"text\":\"a\"}").await;
    assert_eq!(sent(&routes, "GET", "/readyz", "").await.status(), 503);
    for open in ["/healthz", "/"] {
        assert_eq!(sent(&routes, "GET", open, "").await.status(), 200);
    }
}

#[tokio::test]
async fn a_body_above_its_limit_is_refused_said_or_found() {
    let cage = Cage::with(Parrot::default());
    let long = "x".repeat(4_097);
    let (status, body) = asked(&routes(&cage), "POST", "/v1/samples", &long).await;
    assert_eq!((status, &body["error"]["code"]), (413, &json!("body_too_large")));
    let piece = || Ok::<_, io::Error>("x".repeat(3_000));
    let pieces = tokio_stream::iter([piece(), piece()]);
    let request = Request::post("/v1/samples").body(Body::from_stream(pieces)).unwrap();
    assert_eq!(routes(&cage).oneshot(request).await.unwrap().status(), 413);
}

#[tokio::test]
async fn a_completion_counts_its_tokens_and_names_its_generation() {
    let (parrot, letters) = Parrot::held();
    drop(letters);
    let cage = Cage::with(parrot);
    let (status, body) = completed(&routes(&cage), &json!({"prompt": "abc"})).await;
    assert_eq!((status, &body["choices"][0]["text"]), (200, &json!("abc")));
    assert_eq!(
        body["usage"],
        json!({"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6,
            "prompt_tokens_details": {"cached_tokens": 0}})
    );
    assert_eq!(body["system_fingerprint"], "generation-7");
    let base = json!({"prompt": "abc", "model": "base"});
    let (_, body) = completed(&routes(&cage), &base).await;
    assert_eq!((&body["system_fingerprint"], &body["model"]), (&json!("base"), &json!("base")));
    let serving = cage.board.snapshot().serving;
    assert_eq!((serving.requests, serving.tokens, serving.active), (2, 6, 0));
}

#[tokio::test]
async fn what_is_wrong_with_a_request_for_text_is_answered_as_openai_does() {
    let cage = Cage::with(Parrot::default());
    let routes = routes(&cage);
    for (body, expected, code) in [
        (json!({"prompt": "a", "model": "gpt"}), 404, "model_not_found"),
        (json!({"prompt": "a", "tools": [1]}), 400, "unsupported_parameter"),
        (json!({"prompt": "a", "temperature": 9}), 400, "invalid_value"),
        (json!({"prompt": "unreadable"}), 400, "invalid_prompt"),
        (json!({"prompt": "a".repeat(64)}), 400, "context_length_exceeded"),
        (json!({"prompt": "a", "logit_bias": {"2000000": 1}}), 400, "invalid_value"),
        (json!({"prompt": "ab!"}), 500, "model_failed"),
    ] {
        for stream in [false, true] {
            let mut body = body.clone();
            body["stream"] = stream.into();
            if expected == 500 && stream {
                continue;
            }
            let (status, got) = completed(&routes, &body).await;
            assert_eq!((status, &got["error"]["code"]), (expected, &json!(code)), "{body}");
        }
    }
    assert_eq!(completed(&routes, &json!([])).await.0, 400);
    assert_eq!(cage.board.snapshot().serving.active, 0);
}

#[tokio::test]
async fn a_stream_ends_with_done_also_when_the_model_fails() {
    let cage = Cage::with(Parrot::default());
    let body = json!({"prompt": "ab", "stream": true, "stream_options": {"include_usage": true}});
    let response = sent(&routes(&cage), "POST", "/v1/completions", &body.to_string()).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let events = text(response).await;
    let parts: Vec<&str> = events.split_terminator("\n\n").collect();
    assert_eq!((parts.len(), parts[4]), (5, "data: [DONE]"), "{events}");
    let part = |at: usize| -> Value {
        serde_json::from_str(parts[at].strip_prefix("data: ").unwrap()).unwrap()
    };
    assert_eq!((&part(0)["choices"][0]["text"], &part(0)["usage"]), (&json!("a"), &Value::Null));
    assert_eq!(part(2)["choices"][0]["finish_reason"], "stop");
    assert_eq!(part(3)["usage"]["completion_tokens"], 2);

    let body = json!({"messages": [{"role": "user", "content": "a!"}], "stream": true});
    let response = sent(&routes(&cage), "POST", "/v1/chat/completions", &body.to_string()).await;
    let events = text(response).await;
    assert!(events.contains("\"role\":\"assistant\"") && events.contains("flew away"), "{events}");
    assert!(events.ends_with("data: [DONE]\n\n"));
}

#[tokio::test]
async fn models_are_listed_and_found_by_name() {
    let cage = Cage::with(Parrot::default());
    let (_, body) = asked(&routes(&cage), "GET", "/v1/models", "").await;
    assert_eq!(
        (&body["data"][0]["id"], &body["data"][1]["id"]),
        (&json!("sapwood"), &json!("base"))
    );
    assert_eq!(asked(&routes(&cage), "GET", "/v1/models/base", "").await.0, 200);
    assert_eq!(asked(&routes(&cage), "GET", "/v1/models/other", "").await.0, 404);
}

#[tokio::test]
async fn a_path_or_method_that_is_not_there_is_refused_in_the_same_shape() {
    let cage = Cage::with(Parrot::default());
    let (status, body) = asked(&routes(&cage), "GET", "/v2", "").await;
    assert_eq!((status, &body["error"]["code"]), (404, &json!("not_found")));
    let (status, body) = asked(&routes(&cage), "GET", "/v1/samples", "").await;
    assert_eq!((status, &body["error"]["code"]), (405, &json!("method_not_allowed")));
}

#[tokio::test]
async fn what_was_set_aside_is_shown_tried_again_or_dropped() {
    let cage = Cage::with(Parrot::default());
    let one = |number, line: &str| Aside { number, reason: "no text".into(), line: line.into() };
    *cage.aside.lock().unwrap() = vec![one(3, "{\"text\":\"\"}"), one(7, &"x".repeat(5_000))];
    let routes = routes(&cage);
    let listed = asked(&routes, "GET", "/v1/aside", "").await.1;
    assert_eq!(listed["aside"][0]["reason"], "no text");
    let (bytes, shown) = (&listed["aside"][1]["bytes"], listed["aside"][1]["sample"].as_str());
    assert_eq!((bytes, shown.unwrap().len()), (&json!(5_000), 1_000));
    let again = asked(&routes, "POST", "/v1/aside/3/retry", "").await;
    assert_eq!(again, (200, json!({"number": 3, "waits": true})));
    for (path, expected) in [("7", 200), ("7", 404), ("x", 400)] {
        let path = format!("/v1/aside/{path}");
        assert_eq!(sent(&routes, "DELETE", &path, "").await.status().as_u16(), expected, "{path}");
    }
}

#[tokio::test]
async fn an_order_is_given_or_said_to_be_lost() {
    let cage = Cage::with(Parrot::default());
    let routes = routes(&cage);
    let (status, body) = asked(&routes, "POST", "/v1/job", "").await;
    assert_eq!((status, &body["error"]["code"]), (409, &json!("nothing_to_learn")));
    cage.board.update(|status| status.inbox.samples = 1);
    for path in ["/v1/job", "/v1/pause", "/v1/resume"] {
        assert_eq!(asked(&routes, "POST", path, "").await.0, 202);
    }
    cage.worker.store(false, Ordering::Relaxed);
    assert_eq!(asked(&routes, "POST", "/v1/job", "").await.0, 503);
}

#[tokio::test]
async fn an_order_that_the_disk_refuses_is_answered_with_what_it_said_and_what_holds() {
    let cage = Cage::with(Parrot::default());
    cage.board.update(|status| status.inbox.samples = 1);
    let routes = routes(&cage);
    for (kind, code) in [
        (io::ErrorKind::StorageFull, "disk_full"),
        (io::ErrorKind::ReadOnlyFilesystem, "disk_failed"),
    ] {
        for path in ["/v1/job", "/v1/pause", "/v1/resume"] {
            let (operation, name) = ("write", "paused".to_owned());
            let error = StorageError::Io { operation, path: name, source: kind.into() };
            let said = format!("{error}; learning goes on");
            *cage.disk.lock().unwrap() = Some(error);
            let (status, body) = asked(&routes, "POST", path, "").await;
            assert_eq!((status, &body["error"]["code"]), (507, &json!(code)), "{path}");
            assert_eq!(body["error"]["message"], said);
        }
    }
}

#[tokio::test]
async fn behind_a_door_nobody_comes_in_without_the_token() {
    let cage = Cage::with(Parrot::default());
    let routes = guarded(&shared(&cage), Door::Token(blake3::hash(b"0123456789abcdef")));
    assert_eq!(asked(&routes, "GET", "/v1/status", "").await.0, 401);
    assert_eq!(asked(&routes, "GET", "/metrics", "").await.0, 401);
    assert_eq!(asked(&routes, "GET", "/nowhere", "").await.0, 401);
    for open in ["/healthz", "/"] {
        assert_eq!(sent(&routes, "GET", open, "").await.status(), 200);
    }
    let request = Request::get("/v1/status").header("authorization", "Bearer 0123456789abcdef");
    let response = routes.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn the_page_runs_only_what_it_came_with() {
    let cage = Cage::with(Parrot::default());
    let one = sent(&routes(&cage), "GET", "/", "").await;
    let policy = one.headers()["content-security-policy"].to_str().unwrap().to_owned();
    let nonce = policy.split("'nonce-").nth(1).unwrap().split('\'').next().unwrap().to_owned();
    assert!(policy.starts_with("default-src 'none'"), "{policy}");
    assert_eq!(one.headers()["x-content-type-options"], "nosniff");
    let page = text(one).await;
    assert!(page.contains(&format!("nonce=\"{nonce}\"")) && !page.contains("NONCE"));
    let other = text(sent(&routes(&cage), "GET", "/", "").await).await;
    assert!(!other.contains(&nonce));
}

#[tokio::test]
async fn metrics_show_the_status_and_leave_out_what_is_not_known() {
    let cage = Cage::with(Parrot::default());
    let routes = routes(&cage);
    let before = text(sent(&routes, "GET", "/metrics", "").await).await;
    for absent in
        ["sapwood_celsius", "sapwood_loss ", "sapwood_generation", "sapwood_cross_entropy"]
    {
        assert!(!before.contains(absent), "{absent}");
    }
    cage.board.step(StepPoint { step: 1, loss: 2.5, fresh: 2.5, replay: None });
    let changes = vec![Change { text: "new".into(), before: 3.0, after: 2.0 }];
    cage.board.job(JobReport { changes, ..report(1, Ending::Kept) });
    cage.board.job(report(2, Ending::Stopped));
    cage.board.update(|status| {
        status.readings.celsius = Some(41.5);
        status.serving.generation = Some(7);
        status.inbox.accepted = 9;
        let (name, why) = ("charging", String::new());
        status.constraints.push(ConstraintState { name, met: false, why });
    });
    let after = text(sent(&routes, "GET", "/metrics", "").await).await;
    for line in [
        "sapwood_samples_total{result=\"accepted\"} 9",
        "sapwood_jobs_total{ending=\"kept\"} 1",
        "sapwood_jobs_total{ending=\"stopped\"} 1",
        "sapwood_steps_total 1",
        "sapwood_loss 2.5",
        "sapwood_cross_entropy{text=\"new\",when=\"before\"} 3.0",
        "sapwood_cross_entropy{text=\"new\",when=\"after\"} 2.0",
        "sapwood_constraint_met{name=\"charging\"} 0.0",
        "sapwood_celsius 41.5",
        "sapwood_generation 7.0",
        "sapwood_http_request_seconds_count{route=\"/metrics\",status=\"2xx\"} 1",
    ] {
        assert!(after.lines().any(|got| got == line), "{line}\n{after}");
    }
}

#[tokio::test]
async fn requests_are_counted_by_route_and_no_path_adds_a_label() {
    let cage = Cage::with(Parrot::default());
    let routes = routes(&cage);
    for (method, path) in [
        ("GET", "/v1/status"),
        ("GET", "/v1/models/one"),
        ("GET", "/v1/models/two"),
        ("DELETE", "/v1/aside/7"),
        ("POST", "/v1/aside/7/retry"),
        ("GET", "/v1/samples"),
        ("GET", "/nowhere"),
        ("GET", "/v1/aside/7/8/9"),
    ] {
        sent(&routes, method, path, "").await;
    }
    let text = text(sent(&routes, "GET", "/metrics", "").await).await;
    let name = "sapwood_http_request_seconds_count{route=\"";
    let counted = |line: &str| {
        let (route, rest) = line.strip_prefix(name)?.split_once('"')?;
        Some((route.to_owned(), rest.rsplit(' ').next()?.to_owned()))
    };
    let mut got: Vec<_> = text.lines().filter_map(counted).collect();
    got.sort();
    let expected = [
        ("/v1/aside/{number}", "1"),
        ("/v1/aside/{number}/retry", "1"),
        ("/v1/models/{id}", "2"),
        ("/v1/samples", "1"),
        ("/v1/status", "1"),
        ("other", "2"),
    ];
    assert_eq!(got, expected.map(|(route, count)| (route.to_owned(), count.to_owned())));
}

fn report(number: u64, ending: Ending) -> JobReport {
    JobReport {
        number,
        kind: JobKind::Learn,
        started: String::new(),
        seconds: 1.0,
        joules: None,
        bytes_written: 0,
        samples: 1,
        steps: [1, 1],
        ending,
        reason: String::new(),
        generation: None,
        changes: Vec::new(),
    }
}

/// A server on a port of its own.
fn served(cage: &Arc<Cage>, config: &Serve) -> Server {
    start(config, cage.clone(), Arc::new(Wound::default()), &Supervisor::default()).unwrap()
}

/// Waits for something that other threads bring about.
#[expect(clippy::disallowed_methods, reason = "the test waits for the server's threads")]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..2_000 {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(holds(), "{what} did not come about in 10 s");
}

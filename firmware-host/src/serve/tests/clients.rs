//! What clients of OpenAI's API, of llama.cpp and in browsers do that a careful one would not.

use super::*;
use axum::http::HeaderMap;

async fn headed(
    routes: &Router,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> Response<Body> {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    routes.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
}

#[tokio::test]
async fn several_texts_come_whole_and_in_events_under_numbers_of_their_own() {
    let cage = Cage::with(Parrot::default());
    let routes = routes(&cage);
    let (_, body) = completed(&routes, &json!({"prompt": ["ab", "c"], "n": 2})).await;
    let text = |at: usize| &body["choices"][at]["text"];
    assert_eq!([text(0), text(1), text(2), text(3)], ["ab", "ab", "c", "c"]);
    assert_eq!(body["choices"][3]["index"], 3);
    assert_eq!(body["usage"]["prompt_tokens"], 3);
    let body = json!({"messages": [{"role": "user", "content": "a"}], "n": 2, "stream": true});
    let path = "/v1/chat/completions";
    let events = super::text(sent(&routes, "POST", path, &body.to_string()).await).await;
    let roles = events.matches("\"role\":\"assistant\"").count();
    assert_eq!((roles, events.matches("\"finish_reason\":\"stop\"").count()), (2, 2), "{events}");
    assert!(events.contains("\"index\":1"), "{events}");
}

#[tokio::test]
async fn more_tokens_than_there_is_room_for_are_cut_and_the_answer_says_so() {
    let cage = Cage::with(Parrot::default());
    let body = json!({"prompt": "a".repeat(40), "max_tokens": 100_000});
    let (status, body) = completed(&routes(&cage), &body).await;
    assert_eq!((status, &body["choices"][0]["finish_reason"]), (200, &json!("length")));
    assert_eq!(body["usage"]["completion_tokens"], 24);
}

#[tokio::test]
async fn health_is_told_to_anybody_and_why_not_to_nobody() {
    let cage = Cage::with(Parrot::default());
    let routes = guarded(&shared(&cage), Door::Token(blake3::hash(b"0123456789abcdef")));
    let (status, body) = asked(&routes, "GET", "/health", "").await;
    assert_eq!((status, &body["error"]["code"]), (503, &json!("not_ready")));
    cage.board.update(|status| status.phase = Phase::Waiting);
    assert_eq!(asked(&routes, "GET", "/health", "").await, (200, json!({"status": "ok"})));
    cage.board.update(|status| status.fault = Some("the disk failed".into()));
    let (status, body) = asked(&routes, "GET", "/health", "").await;
    assert_eq!(status, 503);
    assert!(!body.to_string().contains("disk"), "{body}");
}

#[tokio::test]
async fn a_slash_at_the_end_changes_nothing_and_two_paths_need_no_version() {
    let cage = Cage::with(Parrot::default());
    cage.board.update(|status| status.phase = Phase::Waiting);
    let routes = routes(&cage);
    for path in ["/v1/models/", "/v1/models/base/", "/v1/status//?x=1", "/health/", "/models"] {
        assert_eq!(asked(&routes, "GET", path, "").await.0, 200, "{path}");
    }
    let (status, _) = asked(&routes, "POST", "/v1/completions/", "{\"prompt\":\"a\"}").await;
    assert_eq!(status, 200);
    let door = guarded(&shared(&cage), Door::Token(blake3::hash(b"0123456789abcdef")));
    let talk = "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}";
    assert_eq!(asked(&routes, "POST", "/chat/completions", talk).await.0, 200);
    for path in ["/v1/models/", "/models", "/chat/completions"] {
        assert_eq!(asked(&door, "GET", path, "").await.0, 401, "{path}");
    }
    assert_eq!(asked(&door, "GET", "/health/", "").await.0, 200);
    assert_eq!(sent(&door, "GET", "/", "").await.status(), 200);
}

#[tokio::test]
async fn whatever_is_refused_is_refused_in_json() {
    let cage = Cage::with(Parrot::default());
    let routes = routes(&cage);
    for (method, path, expected) in [
        ("GET", "/v2", 404),
        ("GET", "/v1/embeddings", 404),
        ("GET", "//", 404),
        ("GET", "/v1/models/a/b", 404),
        ("GET", "/v1/models/%ff", 400),
        ("DELETE", "/v1/aside/x", 400),
        ("POST", "/v1/aside/-1/retry", 400),
        ("PUT", "/v1/completions", 405),
        ("GET", "/v1/chat/completions/", 405),
        ("OPTIONS", "/v1/models", 405),
        ("TRACE", "/", 405),
        ("BREW", "/v1/models", 405),
    ] {
        let (status, body) = asked(&routes, method, path, "").await;
        assert_eq!(status, expected, "{method} {path}");
        assert!(body["error"]["message"].is_string(), "{method} {path}: {body}");
    }
}

/// Routes that name one page, behind a token.
fn named(cage: &Arc<Cage>) -> Router {
    let config = Serve { origins: vec!["https://app.example".into()], ..config() };
    let (device, clock) = (Arc::new(cage.clone()), Arc::new(Wound::default()));
    let shared = Arc::new(Shared::new(config, device, clock).unwrap());
    guarded(&shared, Door::Token(blake3::hash(b"0123456789abcdef")))
}

#[tokio::test]
async fn a_browser_is_told_which_pages_may_ask() {
    let cage = Cage::with(Parrot::default());
    let path = "/v1/chat/completions";
    let asks = |origin: &'static str| {
        [
            ("origin", origin),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "authorization,x-stainless-os"),
        ]
    };
    let allowed = |headers: &HeaderMap| {
        headers.get("access-control-allow-origin").map(|value| value.to_str().unwrap().to_owned())
    };
    let answer = headed(&named(&cage), "OPTIONS", path, &asks("https://app.example")).await;
    assert_eq!(answer.status(), 204);
    assert_eq!(allowed(answer.headers()).as_deref(), Some("https://app.example"));
    assert_eq!(answer.headers()["access-control-allow-headers"], "authorization,x-stainless-os");
    let answer = headed(&named(&cage), "OPTIONS", path, &asks("https://evil.example")).await;
    assert_eq!((answer.status().as_u16(), allowed(answer.headers())), (401, None));
    let from = |origin, token| [("origin", origin), ("authorization", token)];
    let right = "Bearer 0123456789abcdef";
    for (origin, token, status, named_to) in [
        ("https://app.example", right, 200, Some("https://app.example")),
        ("https://app.example", "Bearer no", 401, Some("https://app.example")),
        ("https://evil.example", right, 200, None),
    ] {
        let answer = headed(&named(&cage), "GET", "/v1/models", &from(origin, token)).await;
        assert_eq!(answer.status().as_u16(), status);
        assert_eq!(allowed(answer.headers()).as_deref(), named_to, "{origin}");
        assert_eq!(answer.headers()["vary"], "origin");
    }
    let none = headed(&routes(&cage), "GET", "/v1/models", &from("https://app.example", "x")).await;
    assert!(allowed(none.headers()).is_none() && !none.headers().contains_key("vary"));
}

#[tokio::test]
async fn how_likely_tokens_were_comes_whole_and_with_the_pieces_of_a_stream() {
    let cage = Cage::with(Parrot::default());
    let routes = routes(&cage);
    let score = json!({"prompt": "ab", "echo": true, "logprobs": 1, "max_tokens": 1});
    let (_, body) = completed(&routes, &score).await;
    let told = &body["choices"][0]["logprobs"];
    assert_eq!(told["token_logprobs"], json!([null, -2.0, -1.0]));
    assert_eq!(told["top_logprobs"], json!([null, {"b": -2.0}, {"a": -1.0}]));
    assert_eq!((&told["text_offset"], &told["tokens"][2]), (&json!([0, 1, 2]), &json!("a")));
    let talk = json!({"messages": [{"role": "user", "content": "xy"}], "logprobs": true,
        "top_logprobs": 2});
    let path = "/v1/chat/completions";
    let (_, body) = asked(&routes, "POST", path, &talk.to_string()).await;
    let content = &body["choices"][0]["logprobs"]["content"];
    assert_eq!((&content[1]["token"], &content[1]["bytes"]), (&json!("y"), &json!([121])));
    assert_eq!(content[1]["top_logprobs"].as_array().unwrap().len(), 2);
    let mut stream = talk.clone();
    stream["stream"] = true.into();
    let events = super::text(sent(&routes, "POST", path, &stream.to_string()).await).await;
    assert_eq!(events.matches("\"top_logprobs\"").count(), 2, "{events}");
}

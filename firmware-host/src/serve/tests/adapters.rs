//! Adapters by their names: listed, chosen by a request, compared, gone back to.

use super::*;
use crate::status::GenerationStatus;

/// A device that keeps generations 3, 5 and 6, with 6 in use; one run is remembered.
fn kept() -> Arc<Cage> {
    let cage = Cage::with(Parrot::default());
    let one = |number: u64| GenerationStatus {
        number,
        parent: number - 1,
        step: 10 * number,
        verdict: format!("kept {number}"),
        in_use: number == 6,
    };
    let changes = vec![Change { text: "new".into(), before: 3.0, after: 2.0 }];
    let made = JobReport {
        generation: Some(5),
        started: "2026-11-03T02:15:00Z".into(),
        changes,
        ..report(4, Ending::Kept)
    };
    cage.board.job(made);
    // What was dropped has made none, though 6 was in use after it.
    cage.board.job(JobReport { generation: Some(6), ..report(5, Ending::Dropped) });
    cage.board.update(|status| {
        status.generations = [3, 5, 6].map(one).to_vec();
        status.serving.generation = Some(6);
    });
    cage
}

fn named(cage: &Arc<Cage>, aliases: &[(&str, &str)]) -> Router {
    let pairs = aliases.iter().map(|(name, id)| ((*name).to_owned(), (*id).to_owned()));
    let config = Serve { aliases: pairs.collect(), ..config() };
    let (device, clock) = (Arc::new(cage.clone()), Arc::new(Wound::default()));
    open(&Arc::new(Shared::new(config, device, clock).unwrap()))
}

#[tokio::test]
async fn every_kept_generation_is_a_model_and_so_is_another_name() {
    let routes = named(&kept(), &[("gpt-4o-mini", "sapwood"), ("openai/old", "sapwood@5")]);
    let (_, body) = asked(&routes, "GET", "/v1/models", "").await;
    let ids: Vec<&str> =
        body["data"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap()).collect();
    let expected =
        ["sapwood", "base", "sapwood@3", "sapwood@5", "sapwood@6", "gpt-4o-mini", "openai/old"];
    assert_eq!(ids, expected);
    assert_eq!(
        (&body["data"][0]["generation"], &body["data"][1]["generation"]),
        (&json!(6), &Value::Null)
    );
    assert_eq!(body["data"][5]["alias_of"], "sapwood");
    assert!(body["data"].as_array().unwrap().iter().all(|one| one["created"].is_i64()));
    for (id, alias_of) in [("sapwood@5", Value::Null), ("openai%2Fold", json!("sapwood@5"))] {
        let (status, body) = asked(&routes, "GET", &format!("/v1/models/{id}"), "").await;
        assert_eq!((status, &body["alias_of"], &body["generation"]), (200, &alias_of, &json!(5)));
    }
    assert_eq!(asked(&routes, "GET", "/v1/models/sapwood@4", "").await.0, 404);
}

#[tokio::test]
async fn a_request_is_answered_by_the_model_that_it_names_and_told_its_own_name() {
    let cage = kept();
    let routes = named(&cage, &[("gpt-4o-mini", "sapwood@5")]);
    for (name, own, weights) in [
        ("sapwood@3", "sapwood@3", "generation-3"),
        ("gpt-4o-mini", "sapwood@5", "generation-5"),
        ("base", "base", "base"),
    ] {
        let (status, body) = completed(&routes, &json!({"prompt": "ab", "model": name})).await;
        let got = (status, body["model"].as_str(), body["system_fingerprint"].as_str());
        assert_eq!(got, (200, Some(own), Some(weights)));
        let body =
            json!({"messages": [{"role": "user", "content": "ab"}], "model": name, "stream": true});
        let path = "/v1/chat/completions";
        let events = text(sent(&routes, "POST", path, &body.to_string()).await).await;
        assert!(events.contains(&format!("\"model\":\"{own}\"")), "{events}");
    }
    assert_eq!(*cage.read.lock().unwrap(), [3, 3, 5, 5], "each by its own number");
    assert_eq!(cage.board.snapshot().serving.active, 0);
}

#[tokio::test]
async fn a_model_that_is_not_there_is_answered_with_those_that_are_and_takes_no_turn() {
    let routes = named(&kept(), &[("mine", "base")]);
    for name in ["gpt-4", "sapwood@4", "sapwood@05", "base@3", "mine@3"] {
        let (status, body) = completed(&routes, &json!({"prompt": "a", "model": name})).await;
        assert_eq!((status, &body["error"]["code"]), (404, &json!("model_not_found")), "{name}");
        assert_eq!(body["error"]["param"], "model");
        let message = body["error"]["message"].as_str().unwrap();
        for known in [name, "`sapwood`", "`base`", "`sapwood@6`", "`mine`"] {
            assert!(message.contains(known), "{message}");
        }
    }
    let (status, _) = completed(&routes, &json!({"prompt": "a", "model": ""})).await;
    assert_eq!(status, 400);
}

#[tokio::test]
async fn generations_are_told_with_what_was_measured_when_they_were_made() {
    let (status, body) = asked(&routes(&kept()), "GET", "/v1/generations", "").await;
    assert_eq!((status, &body["in_use"]), (200, &json!(6)));
    let row = |at: usize| &body["data"][at];
    assert_eq!((&row(1)["id"], &row(1)["reason"]), (&json!("sapwood@5"), &json!("kept 5")));
    assert_eq!(row(1)["scores"], json!([{"text": "new", "before": 3.0, "after": 2.0}]));
    assert_eq!(
        (&row(1)["started"], &row(1)["in_use"]),
        (&json!("2026-11-03T02:15:00Z"), &json!(false))
    );
    assert_eq!((&row(2)["scores"], &row(2)["in_use"]), (&Value::Null, &json!(true)));
    assert_eq!((&row(2)["parent"], &row(2)["step"]), (&json!(5), &json!(60)));
}

#[tokio::test]
async fn a_rollback_is_answered_when_it_is_done_or_refused_with_what_is_kept() {
    let cage = kept();
    let routes = routes(&cage);
    let path = "/v1/rollback";
    let expected = json!({"ordered": "rollback", "before": 6, "generation": 3});
    assert_eq!(asked(&routes, "POST", path, "{\"to\": 3}").await, (200, expected));
    let expected = json!({"ordered": "rollback", "before": 3, "generation": null});
    assert_eq!(asked(&routes, "POST", path, "{\"to\": 0}").await, (200, expected));
    cage.board.update(|status| status.serving.generation = Some(6));
    assert_eq!(asked(&routes, "POST", path, "").await.1["generation"], 5, "the one before");
    let (status, body) = asked(&routes, "POST", path, "{\"to\": 4}").await;
    assert_eq!((status, &body["error"]["code"]), (404, &json!("generation_not_found")));
    assert!(body["error"]["message"].as_str().unwrap().contains("[3, 5, 6]"), "{body}");
    assert_eq!(asked(&routes, "POST", path, "{\"too\": 4}").await.0, 400);
    assert_eq!(asked(&routes, "POST", path, &"x".repeat(2_000)).await.0, 413);
    let (operation, name) = ("write", "manifest.a".to_owned());
    let source = io::ErrorKind::StorageFull.into();
    *cage.disk.lock().unwrap() = Some(StorageError::Io { operation, path: name, source });
    assert_eq!(asked(&routes, "POST", path, "{\"to\": 3}").await.0, 507);
    cage.worker.store(false, Ordering::Relaxed);
    assert_eq!(asked(&routes, "POST", path, "{\"to\": 3}").await.0, 503);
    let door = guarded(&shared(&cage), Door::Token(blake3::hash(b"0123456789abcdef")));
    for (method, path) in
        [("POST", path), ("POST", "/v1/compare"), ("GET", "/v1/generations"), ("GET", "/v1/models")]
    {
        assert_eq!(asked(&door, method, path, "").await.0, 401, "{path}");
    }
}

#[tokio::test]
async fn two_models_are_compared_on_the_same_texts() {
    let cage = kept();
    let routes = named(&cage, &[("old", "sapwood@3")]);
    let path = "/v1/compare";
    let body = json!({"models": ["base", "old"], "texts": ["four", "fiv"]});
    let (status, body) = asked(&routes, "POST", path, &body.to_string()).await;
    assert_eq!(status, 200, "{body}");
    let [first, second] = [&body["models"][0], &body["models"][1]];
    let close = |value: &Value, expected: f64| (value.as_f64().unwrap() - expected).abs() < 1e-9;
    assert!(close(&first["bits_per_byte"], 2.0) && close(&second["bits_per_byte"], 0.5), "{body}");
    assert!(close(&body["difference"], -1.5), "{body}");
    assert_eq!((&second["model"], &second["generation"]), (&json!("sapwood@3"), &json!(3)));
    assert_eq!((&first["bytes"], &body["texts"]), (&json!(7), &json!("request")));
    for (models, expected) in [(["base", "sapwood@4"], 404), (["nothing", "base"], 404)] {
        let body = json!({"models": models, "texts": ["a"]});
        assert_eq!(asked(&routes, "POST", path, &body.to_string()).await.0, expected);
    }
    let own = json!({"models": ["base", "sapwood"]});
    let (status, body) = asked(&routes, "POST", path, &own.to_string()).await;
    assert_eq!((status, &body["error"]["code"]), (409, &json!("no_text")));
    let serving = cage.board.snapshot().serving;
    assert_eq!(serving.active, 0, "a turn that was taken is given back");
}

#[tokio::test]
async fn a_comparison_ends_when_a_request_s_time_is_up() {
    let cage = kept();
    let config = Serve { seconds_max: 0.0, ..config() };
    let (device, clock) = (Arc::new(cage.clone()), Arc::new(Wound::default()));
    let routes = open(&Arc::new(Shared::new(config, device, clock).unwrap()));
    let body = json!({"models": ["base", "sapwood"], "texts": ["a"]});
    let (status, body) = asked(&routes, "POST", "/v1/compare", &body.to_string()).await;
    assert_eq!((status, &body["error"]["code"]), (503, &json!("timeout")));
}

#[tokio::test]
async fn where_nobody_learns_orders_say_so_and_texts_are_written() {
    let cage = kept();
    cage.learns.store(false, Ordering::Relaxed);
    let routes = routes(&cage);
    for (method, path) in [
        ("POST", "/v1/samples"),
        ("GET", "/v1/aside"),
        ("DELETE", "/v1/aside/7"),
        ("POST", "/v1/aside/7/retry"),
        ("POST", "/v1/job"),
        ("POST", "/v1/pause"),
        ("POST", "/v1/resume"),
        ("POST", "/v1/rollback"),
        ("GET", "/v1/generations"),
    ] {
        let (status, body) = asked(&routes, method, path, "{\"text\":\"a\"}").await;
        assert_eq!((status, &body["error"]["code"]), (501, &json!("no_learner")), "{path}");
        assert!(body["error"]["message"].as_str().unwrap().contains("learns nothing"), "{body}");
    }
    assert_eq!(cage.taken.load(Ordering::Relaxed), 0);
    assert_eq!(completed(&routes, &json!({"prompt": "ab", "model": "sapwood@5"})).await.0, 200);
    assert_eq!(asked(&routes, "GET", "/v1/status", "").await.0, 200);
}

//! Orders about the fleet: where they are taken, and what is said where there is none.

use super::*;

fn door(cage: &Arc<Cage>) -> Router {
    guarded(&shared(cage), Door::Token(blake3::hash(b"0123456789abcdef")))
}

#[tokio::test]
async fn orders_about_the_fleet_are_taken_over_the_socket_alone() {
    let cage = Cage::with(Parrot::default());
    let (owner_s, others) = (routes(&cage), door(&cage));
    let body = json!({ "link": "sapwood+https://h/#fleet=0&trust=0" }).to_string();
    for path in ["join", "leave", "sync", "rotate-key"].map(|order| format!("/v1/fleet/{order}")) {
        let request = Request::post(&path).header("authorization", "Bearer 0123456789abcdef");
        let request = request.body(Body::from(body.clone())).unwrap();
        assert_eq!(others.clone().oneshot(request).await.unwrap().status(), 404, "{path}");
        let (status, answer) = asked(&owner_s, "POST", &path, &body).await;
        let message = answer["error"]["message"].as_str().unwrap().to_owned();
        let is_join = path.ends_with("join");
        assert_eq!(status, if is_join { 400 } else { 409 }, "{path}: {message}");
        let said = if is_join { "enrolment link" } else { "fleet.enabled" };
        assert!(message.contains(said), "{path}: {message}");
    }
    for wrong in ["", "{}", "[]", "{\"link\":7}", "{\"link\":\"x\",\"more\":1}"] {
        assert_eq!(asked(&owner_s, "POST", "/v1/fleet/join", wrong).await.0, 400, "{wrong}");
    }
}

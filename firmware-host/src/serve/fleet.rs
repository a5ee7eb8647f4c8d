//! Orders about the fleet: for whoever may open the Unix socket, and for nobody over TCP.
//!
//! - To join a fleet is to lend it what was learned: a token that lets a client ask for texts is not
//!   enough for that.

use super::refusal::Refusal;
use super::shared::Shared;
use crate::sync::{FleetError, Order};
use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use sapwood_protocol::fleet::link::Link;
use sapwood_protocol::fleet::message::one_line;
use serde::Deserialize;
use std::sync::Arc;

/// Bytes of an order: a link and a name, with room for JSON's escapes.
const ORDER_BYTES_MAX: usize = 16 << 10;
/// Bytes of a fault of JSON that are told.
const TOLD_BYTES_MAX: usize = 200;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Join {
    link: String,
    name: Option<String>,
}

pub(super) async fn join(
    State(shared): State<Arc<Shared>>,
    request: Request,
) -> Result<Response, Refusal> {
    let (body, _large) = shared.body(request, ORDER_BYTES_MAX).await?;
    let Join { link, name } = serde_json::from_slice(&body).map_err(|error| {
        let problem = one_line(&error.to_string(), TOLD_BYTES_MAX);
        let message = format!("expected {{\"link\": .., \"name\": ..}}: {problem}");
        Refusal::new(StatusCode::BAD_REQUEST, "invalid_body", message)
    })?;
    let link: Link = link.parse().map_err(|error| Refusal::from(FleetError::Link(error)))?;
    ordered(&shared, Order::Join { link, name }).await
}

pub(super) async fn leave(State(shared): State<Arc<Shared>>) -> Result<Response, Refusal> {
    ordered(&shared, Order::Leave).await
}

pub(super) async fn now(State(shared): State<Arc<Shared>>) -> Result<Response, Refusal> {
    ordered(&shared, Order::Now).await
}

pub(super) async fn rotate_key(State(shared): State<Arc<Shared>>) -> Result<Response, Refusal> {
    ordered(&shared, Order::RotateKey).await
}

/// The order is followed between two calls to the server; the answer tells how the fleet is then.
async fn ordered(shared: &Arc<Shared>, order: Order) -> Result<Response, Refusal> {
    let fleet = shared.device.fleet().cloned().ok_or(FleetError::Off)?;
    let turn = shared.offers.clone().acquire_owned().await;
    let follow = move || {
        let done = fleet.order(order);
        drop(turn);
        done
    };
    let status = tokio::task::spawn_blocking(follow).await.map_err(|_| Refusal::lost())??;
    Ok(Json(status).into_response())
}

impl From<FleetError> for Refusal {
    fn from(error: FleetError) -> Self {
        use StatusCode as S;
        let (status, code) = match &error {
            FleetError::Off => (S::CONFLICT, "fleet_off"),
            FleetError::Alone | FleetError::Other { .. } => (S::CONFLICT, "fleet_member"),
            FleetError::Link(_) | FleetError::Name { .. } | FleetError::Server(_) => {
                (S::BAD_REQUEST, "invalid_link")
            }
            FleetError::Store(_) => (S::INSUFFICIENT_STORAGE, "fleet_folder"),
            FleetError::Failed(_) | FleetError::Joining(_) | FleetError::Unproven(_) => {
                (S::BAD_GATEWAY, "fleet_failed")
            }
            FleetError::Asleep => (S::CONFLICT, "fleet_member"),
            FleetError::Busy => (S::SERVICE_UNAVAILABLE, "fleet_busy"),
            FleetError::Stopping => return Self::stopping(),
        };
        Self::new(status, code, error.to_string())
    }
}

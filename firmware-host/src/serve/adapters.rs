//! Routes about adapters: which models there are, which generations are kept, back to one, two compared.
//!
//! - A comparison takes a turn as a text does, and no longer than a request may.

use super::refusal::Refusal;
use super::shared::Shared;
use super::text::{self, Active};
use crate::paused::OrderError;
use crate::status::{GenerationStatus, JobReport, Status};
use crate::wire::{self, Compare};
use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::ops::ControlFlow;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Bytes of an order to go back.
const ROLLBACK_BYTES_MAX: usize = 1 << 10;
/// Bytes of a comparison: its texts, every byte of them escaped.
const COMPARE_BYTES_MAX: usize = 6 * wire::COMPARED_BYTES_MAX + (4 << 10);

/// `GET /v1/models`
pub(super) async fn models(State(shared): State<Arc<Shared>>) -> Response {
    Json(wire::models(&shared.models(), shared.created)).into_response()
}

/// `GET /v1/models/{id}`
pub(super) async fn model(
    State(shared): State<Arc<Shared>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, Refusal> {
    let Path(id) = id?;
    let listed = shared.model(Some(&id))?;
    Ok(Json(wire::model(&listed, shared.created)).into_response())
}

/// `GET /v1/generations`: those that are kept, with what the run that made each has measured, as far as that
/// run is remembered.
pub(super) async fn generations(State(shared): State<Arc<Shared>>) -> Result<Response, Refusal> {
    shared.learns()?;
    let look = |status: &Status| {
        let all: Vec<Value> = status.generations.iter().map(|one| row(one, &status.jobs)).collect();
        json!({ "object": "list", "in_use": status.serving.generation, "data": all })
    };
    Ok(Json(shared.device.board().look(look)).into_response())
}

fn row(generation: &GenerationStatus, jobs: &[JobReport]) -> Value {
    let GenerationStatus { number, parent, step, verdict, in_use } = generation;
    let job = jobs.iter().find(|job| job.made(*number));
    json!({
        "id": wire::kept(wire::IN_USE, *number),
        "generation": number,
        "in_use": in_use,
        "parent": parent,
        "step": step,
        "reason": verdict,
        "started": job.map(|job| &job.started),
        "kind": job.map(|job| job.kind),
        "samples": job.map(|job| job.samples),
        // Bits per byte of each text that the gate has judged by, before and after.
        "scores": job.map(|job| &job.changes),
    })
}

/// `POST /v1/rollback`: answered when the generation is in use.
pub(super) async fn rollback(
    State(shared): State<Arc<Shared>>,
    request: Request,
) -> Result<Response, Refusal> {
    shared.learns()?;
    let (body, _large) = shared.body(request, ROLLBACK_BYTES_MAX).await?;
    let to = wire::rollback(&body)?;
    let known = |status: &Status| status.generations.iter().map(|one| one.number).collect();
    let known: Vec<u64> = shared.device.board().look(known);
    if let Some(number) = to.filter(|number| *number != 0 && !known.contains(number)) {
        // A job under way is not stopped for what is not there.
        let why = format!(
            "generation {number} is not kept: expected one of {known:?}; the generation in use stays"
        );
        return Err(OrderError::Refused { why, is_missing: true, is_disk: false }.into());
    }
    let rolled = shared.blocking(move |learner| learner.roll_back(to)).await?;
    let [before, generation] = rolled?;
    let body = json!({ "ordered": "rollback", "before": before, "generation": generation });
    Ok(Json(body).into_response())
}

/// `POST /v1/compare`
pub(super) async fn compare(
    State(shared): State<Arc<Shared>>,
    request: Request,
) -> Result<Response, Refusal> {
    let (body, _large) = shared.body(request, COMPARE_BYTES_MAX).await?;
    let Compare { models: [first, second], texts } = wire::compare(&body)?;
    let until = shared.clock.elapsed().saturating_add(shared.patience());
    let listed = [shared.model(Some(&first))?, shared.model(Some(&second))?];
    let ids = listed.each_ref().map(|one| one.stands_for.as_ref().unwrap_or(&one.id).clone());
    let turn = text::turn(&shared).await?;
    let (tell, told) = oneshot::channel();
    let own = shared.clone();
    tokio::task::spawn_blocking(move || {
        let active = Active::begin(&own, turn);
        let going = &mut || {
            // Whoever asked may be gone.
            let ends = tell.is_closed() || own.halted() || own.clock.elapsed() >= until;
            if ends { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let [first, second] = &ids;
        let scores = own.device.compare([first, second], texts.as_deref(), going);
        drop(active);
        let is_held_out = texts.is_none();
        let _ = tell.send(scores.map(|scores| (ids, scores, is_held_out)));
    });
    let (ids, scores, is_held_out) = told.await.map_err(|_| Refusal::lost())??;
    let [first, second] = &listed;
    let told = [
        (ids[0].as_str(), first.generation, &scores[0]),
        (ids[1].as_str(), second.generation, &scores[1]),
    ];
    Ok(Json(wire::compared(told, is_held_out)).into_response())
}

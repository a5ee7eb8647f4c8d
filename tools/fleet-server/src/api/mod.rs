//! The calls of devices: HTTP in, the protocol's messages out.
//!
//! - A call's signature is checked before its body is read; the body is compared with what was signed.
//! - A refusal reads the body on, so that it is heard.
//! - What takes long, disk and book, runs on blocking threads, so many at a time.
//! - Never here: sockets (`serve`), what follows from what (`devices`, `rounds`, `rollout`).

mod answer; //   bytes of an answer
mod body; //     bodies, with their limits
pub(crate) mod places; // uploads at the same time
pub(crate) mod shared; // what all calls share
mod enrol; //    POST /v1/enroll, POST /v1/key, GET /v1/trust
mod checkin; //  POST /v1/checkin
mod incoming; // an adapter on its way, checked as it comes
mod upload; //   PUT /v1/rounds/N/upload
mod artifact; // GET /v1/artifacts/HASH
pub(crate) mod metrics; // numbers
mod page; //     what an operator looks at
pub(crate) mod health; //  the other listener
pub(crate) mod routes; //  which path does what

pub(crate) use answer::Answer;

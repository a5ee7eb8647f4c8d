//! The fleet server: who takes part, rounds, the merge of what many devices learned, releases.
//!
//! - In: signed calls of devices, orders of an operator. Out: statements, adapters.
//! - The modules stand in the order of their use: decisions are functions of rows, times and random
//!   numbers; `store` remembers; `api` and `serve` are the doors.
//! - Never here: an engine, a base, anybody's data.

pub mod aggregate;
pub mod ports; // clocks and chance
pub mod store; // the book and the blobs
pub mod home; //  the folder
pub mod door; //  who is let in
pub mod cohorts; // devices whose adapters add up
pub mod devices; // who takes part
pub mod rounds; // collections of updates
pub mod rollout; // whom an artifact is offered
pub mod situation; // what a check-in is decided from
pub mod work; // what the server does by itself
pub mod operator; // orders
pub mod judge; // whether a merge is offered
pub mod overview; // what an operator sees
pub mod ready; // whether the server can work
mod api; //    calls and answers
pub mod serve; // sockets, beginning and end

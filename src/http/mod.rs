//! The port: an accept loop of our own in front, tiny_http behind it on a Unix socket.
//!
//! ```text
//! client ── TCP ── conn-N (head, guard, framing, body) ──┬── /healthz: answered here
//!                                                       ├── upgrade at the stream path: Api::upgrade, in this thread
//!                                                       ├── Server-Sent Events there: Api::events, in this thread
//!                                                       └── everything else ── Unix socket ── tiny_http ── Api::handle
//! ```
//! A handler sees nothing that has not passed every check of [`guard`] and of the framing, and no stranger reaches tiny_http.

pub mod api;
mod body;
mod connection;
mod data;
pub mod front_door;
pub mod guard;
pub mod head;
mod inner;
pub mod limits;
mod open;
pub mod openapi;
pub mod page;
pub mod peer;
pub mod reply;
pub mod routes;
pub mod token;
mod wire;

#[cfg(test)]
mod fuzz;
#[cfg(test)]
#[path = "../../tests/mutate/mod.rs"]
mod mutate;
#[cfg(test)]
mod tests;

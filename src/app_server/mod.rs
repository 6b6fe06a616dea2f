//! The app-server protocol, as a client: JSON-RPC 2.0 without the `jsonrpc` member, one object a line.
//!
//! A *connection* is one life of the app-server; the *client* hands out the present one and does the handshake on it,
//! once, for whoever comes first. The *reader* turns what comes in into answers for callers and drafts for the hub.
//! What the app-server asks goes through the *inbox*: recorded, answered, and left in its final state there.

pub mod answer;
pub mod call;
mod changes;
pub mod client;
pub mod connection;
pub mod dial;
pub mod impression;
pub mod inbox;
mod inbox_events;
pub mod needs;
pub mod notification;
pub mod outgoing;
mod oversize;
pub mod reader;
#[cfg(feature = "tls")]
mod tls;
mod upgrade;
pub mod websocket;
pub mod wire;

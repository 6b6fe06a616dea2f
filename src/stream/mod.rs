//! The event stream: what a client sees of the hub's batches, over a WebSocket (and, later, Server-Sent Events).

pub mod source;
pub mod websocket;

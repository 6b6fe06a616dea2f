//! The event stream: what a client sees of the hub's batches, over a WebSocket or as Server-Sent Events.

pub mod feed;
pub mod source;
pub mod sse;
pub mod websocket;

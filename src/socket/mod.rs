//! The Unix socket: HTTP/1.1 and JSON for local callers. `listen` makes the socket, `peer` asks the
//! kernel who is calling, `serve` drives connections, `routes` asks the engine
//! and `answer` puts what it says into HTTP, `client` is the other end.
//! Decides nothing about tokens: it asks the engine, with the caller in hand.

mod alerts;
mod answer;
pub mod client;
mod events;
pub mod limits;
pub mod listen;
pub mod openapi;
mod orders;
mod page;
pub mod peer;
pub mod protocol;
mod rotation;
mod routes;
pub mod serve;
mod state;
mod webhooks;

pub use client::Client;
pub use limits::Limits;
pub use listen::{Inherited, ListenError, Settings, Socket};
pub use serve::{serve_health, serve_socket, serve_stream};

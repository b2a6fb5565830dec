//! The life of a grant, as rules: states, events, what follows. Pure: no async, no clock, no log,
//! no I/O; time comes in as a value.

pub mod event;

pub use event::{ClientPair, Granted, Introspection, Refusal, RefusalClass};

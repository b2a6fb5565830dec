//! The life of a grant, as rules: states, events, what follows. Pure: no async, no clock, no log,
//! no I/O; time comes in as a value.

pub mod app;
pub mod event;
pub mod policy;
pub mod schedule;
pub mod state;
pub mod step;

pub use app::{App, Change, Probe};
pub use event::{ClientPair, Granted, Introspection, Refusal, RefusalClass};
pub use policy::{OnStart, RefreshMode, RefreshPolicy, ValidatePolicy};
pub use state::{Doubt, End, Generation, Phase, Portal, PortalState, Superseded, TokenLife};
pub use step::{Cause, Context, Effect, Event, Facts, Outcome, Reread, step};

//! The life of a grant, as rules: states, events, what follows. Pure: no async, no clock, no log,
//! no I/O; time comes in as a value.

pub mod answer;
pub mod app;
pub mod budget;
pub mod crowd;
pub mod effect;
pub mod event;
pub mod policy;
pub mod provider;
pub mod rate;
pub mod schedule;
pub mod shown;
pub mod state;
pub mod step;

pub use answer::{ClientPair, Code, FurtherSecrets, Granted, Introspection, Refusal, RefusalClass};
pub use app::{App, Change, Closed, Probe};
pub use budget::Budget;
pub use crowd::{Belief, Crowd};
pub use effect::{Cause, Effect};
pub use event::{Event, Facts, Found, Outcome, Reread};
pub use policy::{OnStart, RefreshMode, RefreshPolicy, ValidatePolicy};
pub use provider::Rotation;
pub use rate::Rate;
pub use shown::PortalState;
pub use state::{Doubt, End, Generation, Phase, Portal, TokenLife};
pub use step::{Context, Step, step};

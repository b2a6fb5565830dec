//! Who may do what, and how much of it: callers, rights, rules, allowances. Pure: the kernel's word on who is calling comes in as a
//! value, and names of users and groups have been resolved before.

pub mod allowance;
pub mod caller;
pub mod rules;

pub use caller::Caller;
pub use rules::{Portals, Right, Rule, Rules, Who};

//! The one function that moves a release: `decide(plan, state, facts, now)`.
//!
//! It is a plain function over values. It never performs anything: it returns the next [`State`], the history
//! [`Entry`]s that lead there, and [`Action`]s as *desired states* ("the canary's weight is 5 %"), so that repeating
//! one is harmless and a crash between recording and acting is repaired by the next pass.
//!
//! ```text
//! Waiting → [BeforeHooks →] Starting → Smoking ─┐
//!  ┌────────────────────────────────────────────┘
//!  └► [Gated →] [BeforeHooks →] Preparing → Shifting → Analysing ─┐   (once per stage; hooks before the first at 100 %)
//!       ▲                                                         │
//!       └────────────── next stage ───────────────────────────────┤
//!                                                                 ▼ after the bake
//!  Done ◄── [AfterHooks ◄─] Returning(Route → Drain → Remove → Restore)
//!                             ▲ from every phase before HandingOver(Adopt → Drain → Retire) → [AfterHooks →] Done
//! ```
//!
//! Three files answer three questions: `moves` says which event is legal where and what follows (one total match, by
//! which replay also works); `decide` says which event the facts call for, and why in words; `desired` says what the
//! world should look like in a state.

pub mod command;
pub mod decide;
pub mod desired;
pub mod facts;
pub mod moves;
pub mod state;

#[cfg(test)]
mod tests;

pub use command::{Actor, Command, CommandKind};
pub use decide::{Decision, decide};
pub use desired::{Action, desired};
pub use facts::{Diagnosis, Facts, HookReport, Interference, NoData, Presence, Reading, RouteFact, SmokeReport, World};
pub use moves::{IllegalMove, apply, replay};
pub use state::{Cause, Entry, Event, HandOver, Outcome, Phase, Proof, Retreat, Return, State, TrafficOn};

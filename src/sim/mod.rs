//! The simulator: the production controller in virtual time, in a world where everything that can go wrong does.
//!
//! It exists to find, before users do, the order of events that nobody thought of. A seed makes a case (a plan, a
//! service, a new revision, and what goes wrong); the case runs the *unchanged* controller, engine and judge against a
//! simulated platform, record and metrics source; afterwards [`check`] looks at the whole run with twelve rules. After
//! the faults comes a quiet phase in which every release has to end. The same seed gives the same run to the byte.
//!
//! `wade simulate` uses the same machine with a case written by hand ([`scenario`]): what would Wade do if errors rose
//! at minute three?
//!
//! What it does not do: it models no real adapter (each has its own tests); what it assumes of one is written down in
//! [`faults`]. Nothing here reads a clock, starts a thread or sleeps.
//!
//! [`judging`] is the odd one out: it plays releases before the judge alone, by the thousand, to count its false alarms.
//!
//! Reading order: [`world`] (what is), [`faults`] (what goes wrong), `platform`, `store`, `signals` (what a controller
//! sees of it), [`run`] (who moves when), [`seen`] (what is noted), [`check`] (what must hold), [`generate`] (cases).

pub mod chance;
pub mod check;
pub mod faults;
pub mod generate;
mod ground;
pub mod judging;
mod platform;
pub mod run;
pub mod sabotage;
pub mod scenario;
pub mod seen;
mod signals;
mod store;
pub mod timeline;
mod traffic;
pub mod world;

pub use check::{Breach, Name, check};
pub use run::{Case, Run, run};
pub use sabotage::Sabotage;
pub use scenario::{Scenario, cli_text, read_scenario, run_scenario};
pub use timeline::Timeline;

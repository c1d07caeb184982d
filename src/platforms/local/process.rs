//! Runs the instances of a service's revisions as real processes on this machine.
//!
//! **The idea.** The caller says what should be true ([`Supervisor::ensure`]: this revision, this many instances) and
//! looks at what is ([`Supervisor::observe`]); one task per slot closes the gap. A slot is the place of one instance:
//! `(service, revision, number)`. Every change wakes whoever listens to [`Supervisor::changes`].
//!
//! **The daemon may die; the services must not.** Each launch is written down before it happens (an *intent* with a
//! launch token), then the process is started with that token in its environment, then its pid and start time are
//! written. After `kill -9` of the daemon the next [`Supervisor::open`] finds each process again: by pid *and* start
//! time, or, if the daemon died between start and record, by the token. So nothing is orphaned and nothing runs twice.
//! Output goes straight to files, so no pipe breaks when the daemon goes.
//!
//! **What it deliberately does not do.** It does not decide how many instances there should be, route traffic, isolate
//! (no namespaces, no cgroups: that is a container runtime's work), or give up: a crash loop is a [`Diagnosis`] for the
//! engine to judge, while the slot keeps trying at its slowest pace.
//!
//! **Caveats.** A process that leaves its process group *and* clears its environment escapes a stop. If the daemon is
//! pid 1 of a container, run it under an init: grandchildren that lose their parent are reaped by pid 1 only.
//! Linux only: it reads `/proc`.
//!
//! Read [`spec`] for what can be asked, `slot` for the life of one instance, `supervisor` for the whole.

pub mod diagnosis;
pub mod identity;
pub mod ledger;
pub mod limits;
pub mod spec;

mod launch;
mod output;
mod proc;
mod ready;
mod slot;
mod supervisor;
mod user;

#[cfg(test)]
mod tests;

pub use diagnosis::{Diagnosis, Problem};
pub use identity::{RevisionId, identity};
pub use ledger::{FileLedger, Ledger, LedgerError, MemoryLedger, Phase, ProcessId, ProcessRecord, SlotKey};
pub use limits::exec_with_limits;
pub use slot::{Ending, Exit, State};
pub use spec::{
    Limits, OutputRule, Port, ProbeTiming, ProcessSpec, Ready, RestartPolicy, RunAs, Settings, StopRule, StopSignal,
};
pub use supervisor::{Adoption, Instance, RevisionProcesses, Shutdown, Supervisor};

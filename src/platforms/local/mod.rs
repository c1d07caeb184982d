//! One server: revisions as real processes behind an embedded weighted proxy.
//!
//! [`process`] runs instances and survives the daemon; [`proxy`] divides requests; [`service`] joins the two for one
//! service (who is stable, who is canary, which split is in force); [`adapter`] is the view of it that a release's
//! controller drives; [`measure`] is what the judge gets to see; [`workload`] turns what a Rollout says into what the supervisor
//! runs; [`hooks`] runs the author's own commands beside a release.

pub mod adapter;
pub mod hooks;
pub mod measure;
pub mod process;
pub mod proxy;
pub mod service;
pub mod workload;

pub use adapter::LocalPlatform;
pub use hooks::LocalHooks;
pub use measure::LocalSignals;
pub use service::{Running, Service, ServiceSetup};
pub use workload::LocalWorkload;

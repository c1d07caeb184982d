//! The Rollout as the user writes it: read strictly, every fault at once.
//!
//! A file goes through four stations, each blind to the next: `nodes` turns YAML into a tree that remembers lines and
//! bounds what a hostile file can cost; `walk` lays that tree against the JSON Schema derived from the types in
//! [`rollout`], so that the types are the only list of fields; `serde` makes the typed value; [`validate`] checks what
//! a schema cannot say. All faults of a station are reported together, with path, line, what was found and what to
//! write instead ([`Faults`]).
//!
//! What it does not do: fill in defaults (that is `plan`, in one place), read files or the clock, or guess. A scalar's
//! type is decided by the field it is written to, never by its looks: `version: 1.10` is the text `1.10`, and `no` is
//! not a boolean.
//!
//! Read next: [`read`] for the way in, [`strategies`] for what `strategy: {use: careful}` means, [`windows`] and
//! [`vars`] for the two parts that are evaluated when a release is asked for.

pub mod config;
pub mod fault;
pub mod hooks;
mod nodes;
mod other;
mod read;
pub mod rollout;
mod schema;
pub mod strategies;
pub mod targets;
mod validate;
pub mod values;
pub mod vars;
mod walk;
pub mod windows;

pub use config::{Config, HttpConfig, OtlpConfig, OtlpTls};
pub use fault::{Fault, Faults, Path, Place};
pub use hooks::{CommandHook, CronJobHook, HookPoint, HookSpec, Requires};
pub use other::read_as;
pub use read::{Document, read, read_config, read_rollout, read_strategy};
pub use rollout::*;
pub(crate) use schema::remove_null;
pub(crate) use schema::required;
pub use schema::schema;
pub use strategies::{Resolved, resolve};
pub use validate::{DEFAULT_READY, DEFAULT_SETTLE, Note, notes, validate, validate_strategy};
pub use values::{Allow, BurstWindow, Bytes, Percent, Span, Weight};
pub use vars::{Bound, bind, expand};
pub use windows::WindowVerdict;

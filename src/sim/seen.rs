//! What happened in a run, as a list that the checkers read afterwards.
//!
//! Some lines are the truth of the simulated world ([`Seen::World`], [`Seen::Measured`]), some are what passed between
//! the controller and its surroundings. A checker may use both; the controller knows only its own side.

use jiff::Timestamp;

use crate::controller::Pass;
use crate::engine::{Action, Command, State};
use crate::plan::Split;
use crate::signals::Condition;
use crate::store::Update;

use super::faults::Fault;

/// One line of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Moment {
    /// When.
    pub at: Timestamp,
    /// What.
    pub seen: Seen,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen {
    /// The world has changed: the truth from now on.
    World(Truth),
    /// A write reached the platform.
    Applied {
        /// By which controller.
        epoch: u64,
        /// What it asked for.
        action: Action,
    },
    /// A read or write was turned away or did not come back.
    Failed {
        /// Whose.
        epoch: u64,
        /// What was tried.
        call: Call,
    },
    /// A decision was recorded.
    Recorded {
        /// By which controller.
        epoch: u64,
        /// What was written.
        update: Box<Update>,
    },
    /// A controller read the whole record.
    Loaded {
        /// As which epoch.
        epoch: u64,
        /// The state as it was read.
        state: Box<State>,
        /// Everything else is, byte for byte, what was recorded last.
        whole: bool,
    },
    /// Somebody asked for something.
    Asked(Command),
    /// What measuring was like, in truth, when a controller looked.
    Measured {
        /// Which controller looked.
        epoch: u64,
        /// The truth.
        condition: Condition,
    },
    /// A controller began a pass.
    PassBegan {
        /// Which.
        epoch: u64,
    },
    /// A controller ended a pass.
    PassEnded {
        /// Which.
        epoch: u64,
        /// How.
        pass: Pass,
    },
    /// A controller takes over or starts.
    Started {
        /// Its epoch.
        epoch: u64,
    },
    /// A controller has read the record and runs.
    Runs {
        /// Its epoch.
        epoch: u64,
    },
    /// A controller died.
    Died {
        /// Which.
        epoch: u64,
    },
    /// A controller said that something could not be done.
    Trouble {
        /// Which.
        epoch: u64,
        /// What, in its words.
        message: String,
    },
    /// A fault begins.
    FaultBegan(Fault),
    /// A fault ends.
    FaultEnded(Fault),
    /// From here on nothing goes wrong any more.
    Quiet,
}

/// The calls that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// `Platform::observe`.
    Observe,
    /// `Platform::apply`.
    Apply,
    /// `Store::record`.
    Record,
    /// `Store::commands`.
    Commands,
    /// `Store::load`.
    Load,
}

/// The world as it is, whatever anybody believes.
#[derive(Clone, Debug, PartialEq)]
pub struct Truth {
    /// The split that the router applies.
    pub split: Split,
    /// The canary's instances.
    pub canary: Instances,
    /// Stable's instances.
    pub stable: Instances,
    /// The platform may not roll by itself.
    pub held: bool,
    /// The canary is the revision that serves.
    pub adopted: bool,
}

/// One revision's instances, in truth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Instances {
    /// How many exist.
    pub exist: u32,
    /// How many are ready.
    pub ready: u32,
    /// How many there are at full size.
    pub full: u32,
}

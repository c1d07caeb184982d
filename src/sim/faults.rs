//! What goes wrong, and when: windows of time in which a fault is in force, and single happenings.
//!
//! # What a platform promises, and so what is never simulated
//! The engine is right only on platforms that keep these promises; every adapter has to (see `platforms`):
//!
//! * **Order.** Writes to one object (the route, the canary, the hold, the old revision) take effect in the order in
//!   which they were accepted: a late write never overrides one that was accepted after it. Writes to *different*
//!   objects may overtake each other.
//! * **Fencing.** Once a write with an epoch was accepted, none with a lower epoch is accepted or takes effect.
//! * **Own writes are seen.** `observe` may be stale, but never from before the same controller's last accepted write,
//!   and it never goes back in time for one controller.
//! * **An answer means an attempt.** An accepted write may still be undone or never take effect (the next pass repeats
//!   it); a write that was answered with an error may have taken effect all the same, now or later.
//!
//! Everything else goes wrong here.

use jiff::Timestamp;

use crate::engine::{Actor, CommandKind};
use crate::plan::Split;

/// A fault that lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The platform can be neither observed nor written.
    PlatformDown,
    /// The platform can be written but not observed.
    ObserveDown,
    /// The platform can be observed but refuses every write.
    WritesRefused,
    /// Writes have their effect and come back as errors, now and then.
    RepliesLost,
    /// Accepted writes have no effect, now and then.
    WritesLost,
    /// Accepted writes take effect seconds later.
    WritesLate,
    /// Observations are seconds old.
    StaleReads,
    /// The router does not say which split is in force.
    RouterMute,
    /// The record can be neither read nor written.
    StoreDown,
    /// The record is written, and the answer gets lost, now and then.
    StoreRepliesLost,
    /// The record refuses every second call.
    StoreFlaky,
    /// Nothing can be measured.
    SourceDown,
    /// The canary gets no requests, whatever the weight.
    CanarySilent,
    /// Nobody sends requests.
    BothSilent,
    /// Both revisions fail many requests: an incident that is not the canary's.
    Incident,
    /// Controllers die, now and then, at any await.
    Crashes,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::PlatformDown,
        Self::ObserveDown,
        Self::WritesRefused,
        Self::RepliesLost,
        Self::WritesLost,
        Self::WritesLate,
        Self::StaleReads,
        Self::RouterMute,
        Self::StoreDown,
        Self::StoreRepliesLost,
        Self::StoreFlaky,
        Self::SourceDown,
        Self::CanarySilent,
        Self::BothSilent,
        Self::Incident,
        Self::Crashes,
    ];

    /// Whether it keeps a controller from working on the platform or the record, so that bounds do not hold.
    pub const fn hinders(self) -> bool {
        !matches!(
            self,
            Self::SourceDown | Self::CanarySilent | Self::BothSilent | Self::Incident
        )
    }
}

/// A fault with its time.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// What.
    pub fault: Fault,
    /// From when on.
    pub from: Timestamp,
    /// Until just before.
    pub to: Timestamp,
}

/// Something that happens once.
#[derive(Clone, Debug, PartialEq)]
pub enum Happening {
    /// Somebody asks for something.
    Ask {
        /// What.
        kind: CommandKind,
        /// Who.
        by: Actor,
        /// In their words.
        reason: Option<String>,
    },
    /// A newer revision wants to be released.
    Newer(String),
    /// The controller dies, and another starts after so many seconds.
    Kill {
        /// Seconds without a controller.
        for_secs: u32,
    },
    /// A second controller takes over while the first is alive.
    Rival,
    /// Somebody else changes the split.
    Meddle(Split),
    /// The service is scaled to so many instances.
    Scale(u32),
    /// The canary behaves differently from now on.
    Turn(super::world::Behaviour),
}

/// Everything that goes wrong in a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Faults {
    /// What lasts.
    pub windows: Vec<Window>,
    /// What happens once, in order of time.
    pub happenings: Vec<(Timestamp, Happening)>,
}

impl Faults {
    /// Whether a fault is in force.
    pub fn active(&self, fault: Fault, now: Timestamp) -> bool {
        self.windows
            .iter()
            .any(|window| window.fault == fault && window.from <= now && now < window.to)
    }

    /// When the last fault has ended; the epoch's start if there is none.
    pub fn quiet_from(&self) -> Option<Timestamp> {
        let windows = self.windows.iter().map(|window| window.to);
        windows.chain(self.happenings.iter().map(|(at, _)| *at)).max()
    }

    /// When a fault begins or ends next.
    pub fn next_edge(&self, after: Timestamp) -> Option<Timestamp> {
        self.windows
            .iter()
            .flat_map(|window| [window.from, window.to])
            .filter(|at| *at > after)
            .min()
    }
}

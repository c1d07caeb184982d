//! What went wrong, in words: one sentence with the object, what was tried and what to do instead.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A failure that a person can act on. Displayed as one sentence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Diagnosis {
    /// The kind of failure, for code to branch on.
    pub what: Problem,
    /// What it happened to: `checkout/3fa9c1e slot 0`, a file, a user.
    pub object: String,
    /// What was tried and what was seen.
    pub detail: String,
    /// What to do about it.
    pub try_this: String,
}

/// The kinds of failure; the label is the same in logs, API and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Problem {
    /// What was asked cannot be run as written.
    InvalidSpec,
    /// The program is neither at the given path nor in `PATH`.
    CommandNotFound,
    /// The file is there but cannot be executed.
    NotExecutable,
    /// The working directory is missing or not a directory.
    WorkdirMissing,
    /// The kernel refused.
    PermissionDenied,
    /// The service would run as root and nobody allowed that.
    RootRefused,
    /// The named user does not exist here, or this daemon may not become that user.
    UserUnavailable,
    /// The program could not be started for another reason.
    CannotStart,
    /// The process ended by itself.
    Exited,
    /// The process was ended by a signal that Wade did not send.
    Killed,
    /// The process ended several times in a row.
    CrashLoop,
    /// The process runs but does not become, or stay, ready.
    NotReady,
    /// Another process holds the port.
    PortInUse,
    /// The process does not end, not even on SIGKILL.
    CannotStop,
    /// The record of processes could not be read or written.
    LedgerFailed,
    /// Another daemon uses the same data directory.
    AlreadyRunning,
}

impl Problem {
    /// The stable label.
    pub fn label(self) -> &'static str {
        match self {
            Self::InvalidSpec => "invalidSpec",
            Self::CommandNotFound => "commandNotFound",
            Self::NotExecutable => "notExecutable",
            Self::WorkdirMissing => "workdirMissing",
            Self::PermissionDenied => "permissionDenied",
            Self::RootRefused => "rootRefused",
            Self::UserUnavailable => "userUnavailable",
            Self::CannotStart => "cannotStart",
            Self::Exited => "exited",
            Self::Killed => "killed",
            Self::CrashLoop => "crashLoop",
            Self::NotReady => "notReady",
            Self::PortInUse => "portInUse",
            Self::CannotStop => "cannotStop",
            Self::LedgerFailed => "ledgerFailed",
            Self::AlreadyRunning => "alreadyRunning",
        }
    }
}

impl Diagnosis {
    /// A diagnosis from its four parts.
    pub fn new(
        what: Problem,
        object: impl Into<String>,
        detail: impl Into<String>,
        try_this: impl Into<String>,
    ) -> Self {
        Self {
            what,
            object: object.into(),
            detail: detail.into(),
            try_this: try_this.into(),
        }
    }
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.object, self.detail, self.try_this)
    }
}

impl std::error::Error for Diagnosis {}

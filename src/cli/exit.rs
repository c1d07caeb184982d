//! Exit codes: what a pipeline learns without reading (DESIGN.md section 7), and failures that end a verb.

use std::process::ExitCode;

use crate::daemon::api::{Problem, ProblemKind};
use crate::engine::Outcome;

/// How a verb ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Promoted, first deploy, served already; for other verbs: done.
    Done = 0,
    /// Anything that has no code of its own.
    Other = 1,
    /// Wrong usage or an invalid file; nothing was touched.
    Invalid = 2,
    /// Health degraded: back on stable.
    RolledBack = 3,
    /// A person ended it: back on stable.
    Aborted = 4,
    /// Ended before any user's traffic, or refused.
    Rejected = 5,
    /// It still waits for a person (or a window), and `--wait` has ended.
    Waiting = 6,
    /// The daemon or platform cannot be reached, or does not allow it.
    Unreachable = 7,
    /// A newer revision came.
    Superseded = 8,
    /// It does not come to an end by itself; a person is needed.
    Stuck = 9,
    /// Back on stable without a verdict, or `--require-proof` was not met.
    NoVerdict = 10,
}

impl Exit {
    /// What another process's exit code means.
    pub const fn from_code(code: i32) -> Self {
        match code {
            0 => Self::Done,
            2 => Self::Invalid,
            3 => Self::RolledBack,
            4 => Self::Aborted,
            5 => Self::Rejected,
            6 => Self::Waiting,
            7 => Self::Unreachable,
            8 => Self::Superseded,
            9 => Self::Stuck,
            10 => Self::NoVerdict,
            _ => Self::Other,
        }
    }

    /// The code of an outcome.
    pub const fn of(outcome: &Outcome, require_proof: bool) -> Self {
        match outcome {
            Outcome::Promoted { proven: false } if require_proof => Self::NoVerdict,
            Outcome::Promoted { .. } | Outcome::FirstDeploy => Self::Done,
            Outcome::RolledBack => Self::RolledBack,
            Outcome::Aborted => Self::Aborted,
            Outcome::Returned => Self::NoVerdict,
            Outcome::Rejected => Self::Rejected,
            Outcome::Superseded => Self::Superseded,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a verb could not do its work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// As the API says it.
    pub problem: Problem,
}

impl Failure {
    /// What was asked for makes no sense: exit 2.
    pub fn usage(message: impl Into<String>) -> Self {
        Problem {
            kind: ProblemKind::Invalid,
            message: message.into(),
        }
        .into()
    }

    /// Something outside of Wade failed (a file cannot be written): exit 1.
    pub fn other(message: impl Into<String>) -> Self {
        Self {
            exit: Exit::Other,
            problem: Problem {
                kind: ProblemKind::Unavailable,
                message: message.into(),
            },
        }
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        let exit = match problem.kind {
            ProblemKind::Invalid | ProblemKind::NotFound => Exit::Invalid,
            ProblemKind::Conflict => Exit::Rejected,
            ProblemKind::Forbidden | ProblemKind::Unauthenticated | ProblemKind::Busy | ProblemKind::Unavailable => {
                Exit::Unreachable
            }
        };
        Self { exit, problem }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_has_the_exit_code_of_the_design() {
        let codes = [
            (Outcome::Promoted { proven: true }, 0, 0),
            (Outcome::Promoted { proven: false }, 0, 10),
            (Outcome::FirstDeploy, 0, 0),
            (Outcome::RolledBack, 3, 3),
            (Outcome::Aborted, 4, 4),
            (Outcome::Rejected, 5, 5),
            (Outcome::Superseded, 8, 8),
            (Outcome::Returned, 10, 10),
        ];
        for (outcome, plain, with_proof) in codes {
            let seen = (Exit::of(&outcome, false) as u8, Exit::of(&outcome, true) as u8);
            assert_eq!(seen, (plain, with_proof), "{outcome:?}");
        }
    }
}

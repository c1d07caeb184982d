//! What people may ask of a release, and who they are.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Somebody who asks for something.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Actor {
    /// The name as authenticated (or, on a unix socket, as the kernel says).
    pub user: String,
    /// Groups as authenticated.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// From where it was asked over a network, an address; none where the question does not come up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}

impl Actor {
    /// Somebody without groups.
    pub fn named(user: &str) -> Self {
        Self {
            user: user.to_owned(),
            groups: Vec::new(),
            from: None,
        }
    }

    /// Whether a gate's list names this actor; an empty list names everybody.
    pub fn is_among(&self, approvers: &[String]) -> bool {
        approvers.is_empty()
            || approvers.iter().any(|approver| match approver.split_once(':') {
                Some(("group", group)) => self.groups.iter().any(|own| own == group),
                Some(("user", user)) => self.user == user,
                _ => self.user == *approver,
            })
    }
}

/// A request to a running release, as recorded: who, when, why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Command {
    /// Grows by one with each command of a release, so that each is handled once, in order.
    pub id: u64,
    /// What is asked.
    pub kind: CommandKind,
    /// By whom.
    pub by: Actor,
    /// Why, in their words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it was written.
    pub at: Timestamp,
}

/// What may be asked of a running release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum CommandKind {
    /// Open the gate the release waits at.
    Approve,
    /// End the present stage now; `full` goes to 100 % and the bake.
    Promote {
        /// Skip all further stages.
        full: bool,
    },
    /// Keep the weight until `resume`. A failing verdict still goes back.
    Pause,
    /// End a pause.
    Resume,
    /// Back to stable.
    Abort,
    /// Back to stable, because a newer revision is to be released in its place; whoever releases that asks it.
    Supersede,
    /// Try again what is stuck.
    Retry,
}

impl CommandKind {
    /// Whether it asks for the way back, which waits for nothing.
    pub const fn goes_back(self) -> bool {
        matches!(self, Self::Abort | Self::Supersede)
    }
}

impl std::fmt::Display for CommandKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Approve => "approve",
            Self::Promote { full: false } => "promote",
            Self::Promote { full: true } => "promote --full",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Abort => "abort",
            Self::Supersede => "supersede",
            Self::Retry => "retry",
        })
    }
}

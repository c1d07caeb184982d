//! The rules that every run has to keep, each in a file of its own.
//!
//! A checker sees a whole run afterwards: the truth of the world beside what passed between the controller and its
//! surroundings. It shares no code with the rule that it checks where that can be helped; where it asks the engine
//! (what a state wants, what follows from an event), it says so. Each has a defect in `sabotage` that it must find.

mod abort;
mod back;
mod dead_canary;
mod doubt;
mod earned;
mod history;
mod one_writer;
mod reasons;
mod recorded;
mod restart;
mod settles;
mod splits;

use jiff::Timestamp;

use super::run::Run;
use super::seen::{Moment, Seen};
use crate::engine::{Entry, State, apply};
use crate::store::Update;

pub use abort::AbortIsPrompt;
pub use back::BackMeansBack;
pub use dead_canary::NoUsersOnDeadCanary;
pub use doubt::NeverRaisedInDoubt;
pub use earned::PromotionIsEarned;
pub use history::HistoryIsTheState;
pub use one_writer::OneWriter;
pub use reasons::EveryEntryHasAReason;
pub use recorded::RecordedBeforeDone;
pub use restart::RestartChangesNothing;
pub use settles::{SettlesWhenQuiet, bound};
pub use splits::SplitsAsPlanned;

/// A rule by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each name is the rule; see the struct of the same name")]
pub enum Name {
    SplitsAsPlanned,
    NoUsersOnDeadCanary,
    PromotionIsEarned,
    BackMeansBack,
    AbortIsPrompt,
    RestartChangesNothing,
    HistoryIsTheState,
    RecordedBeforeDone,
    OneWriter,
    NeverRaisedInDoubt,
    SettlesWhenQuiet,
    EveryEntryHasAReason,
}

/// A rule that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breach {
    /// Which rule.
    pub rule: Name,
    /// When.
    pub at: Timestamp,
    /// What happened, in one sentence.
    pub what: String,
}

impl std::fmt::Display for Breach {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} at {}: {}", self.rule, self.at, self.what)
    }
}

/// A rule.
pub trait Checker {
    /// Which.
    fn name(&self) -> Name;

    /// The first breach in a run, if there is one.
    fn check(&self, run: &Run) -> Option<(Timestamp, String)>;
}

/// All rules.
pub fn all() -> [&'static dyn Checker; 12] {
    [
        &SplitsAsPlanned,
        &NoUsersOnDeadCanary,
        &PromotionIsEarned,
        &BackMeansBack,
        &AbortIsPrompt,
        &RestartChangesNothing,
        &HistoryIsTheState,
        &RecordedBeforeDone,
        &OneWriter,
        &NeverRaisedInDoubt,
        &SettlesWhenQuiet,
        &EveryEntryHasAReason,
    ]
}

/// Every rule that a run has broken.
pub fn check(run: &Run) -> Vec<Breach> {
    let breach = |rule: &&dyn Checker| {
        rule.check(run).map(|(at, what)| Breach {
            rule: rule.name(),
            at,
            what,
        })
    };
    all().iter().filter_map(breach).collect()
}

/// One recorded entry with the states around it, as the table of legal moves has them.
struct Turn<'r> {
    /// Where in the run's moments it was recorded.
    index: usize,
    /// As which epoch.
    epoch: u64,
    before: State,
    entry: &'r Entry,
    after: State,
    update: &'r Update,
}

/// The recorded entries in order; it ends early where the table is broken, which is [`HistoryIsTheState`]'s to say.
fn turns(run: &Run) -> Vec<Turn<'_>> {
    let mut state = State::new(run.case.start);
    let mut turns = Vec::new();
    for (index, epoch, update) in records(&run.moments) {
        let fresh = state.next_entry;
        for entry in update.entries.iter().filter(|entry| entry.number >= fresh) {
            let Ok(after) = apply(&run.case.plan, &state, &entry.event, entry.at) else {
                return turns;
            };
            turns.push(Turn {
                index,
                epoch,
                before: state,
                entry,
                after: after.clone(),
                update,
            });
            state = after;
        }
    }
    turns
}

fn records(moments: &[Moment]) -> impl Iterator<Item = (usize, u64, &Update)> {
    moments
        .iter()
        .enumerate()
        .filter_map(|(index, moment)| match &moment.seen {
            Seen::Recorded { epoch, update } => Some((index, *epoch, &**update)),
            _ => None,
        })
}

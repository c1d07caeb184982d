//! Broken on purpose: one defect per checker, so that each checker is known to be able to fail.
//!
//! A checker that has never failed proves nothing. Each defect is planted in the simulator's own adapters, where a real
//! adapter (or the store, or whoever sits between) could have it; `tests/simulation` runs every one of them and
//! expects the checker named beside it to object.

use super::check::Name;

/// A defect in the simulator's adapters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sabotage {
    /// The platform writes one permille more than it was told.
    WeightOff,
    /// The platform says that every instance is ready, always.
    ReadyForever,
    /// The record turns stages without proof into passed ones.
    ProofForged,
    /// The platform says that the canary is gone, and leaves it.
    CanaryLeft,
    /// The record hides aborts.
    AbortHidden,
    /// The record forgets a pass of the release when it is read again.
    RecordFaded,
    /// The record keeps a state that the history does not lead to.
    StateTampered,
    /// The record says yes and writes nothing.
    NothingWritten,
    /// Neither platform nor record refuse a lower epoch.
    NoFence,
    /// Measurements never miss: what is down is reported as measured, without numbers.
    BlindnessHidden,
    /// The platform never says that it has back what was held.
    NeverRestored,
    /// The record drops the reasons.
    ReasonsDropped,
}

impl Sabotage {
    /// Every defect with the checker that has to find it.
    pub const ALL: [(Self, Name); 12] = [
        (Self::WeightOff, Name::SplitsAsPlanned),
        (Self::ReadyForever, Name::NoUsersOnDeadCanary),
        (Self::ProofForged, Name::PromotionIsEarned),
        (Self::CanaryLeft, Name::BackMeansBack),
        (Self::AbortHidden, Name::AbortIsPrompt),
        (Self::RecordFaded, Name::RestartChangesNothing),
        (Self::StateTampered, Name::HistoryIsTheState),
        (Self::NothingWritten, Name::RecordedBeforeDone),
        (Self::NoFence, Name::OneWriter),
        (Self::BlindnessHidden, Name::NeverRaisedInDoubt),
        (Self::NeverRestored, Name::SettlesWhenQuiet),
        (Self::ReasonsDropped, Name::EveryEntryHasAReason),
    ];
}

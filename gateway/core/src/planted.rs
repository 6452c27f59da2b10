//! Bugs that are planted on purpose, so that the simulator can show that it finds them. Without the feature `planted` none
//! exists: [`is`] is false at compile time.

/// One bug, by what goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A fan-out ends at the first member that cannot take it at once.
    FullClientAbortsList,
    /// A list of members is closed up under a running fan-out.
    SwapRemoveUnderFanout,
    /// A closing connection stays a member until its socket is closed.
    SendAfterClose,
    /// What a gap keeps from a member is counted twice.
    GapCountedTwice,
    /// A hot tail that dropped its first message still says that it begins there.
    HotTailServesHole,
    /// Words of an owner that has a successor are believed.
    StaleOwnerAccepted,
    /// A place in a log that was lost is taken for one in the log that followed.
    HistoryIgnored,
    /// After a reset nobody comes back to ask what became of their groups.
    ResetKeepsMembers,
    /// Who has to come back after a reset is still answered in the meantime.
    AnswersCrossReset,
    /// An open that asks several partitions is answered once the first has.
    PartForTheWhole,
    /// Who is taken out of a group while their open waits for another partition is not told.
    OutUntold,
    /// A group that refused is not asked again though the inbox's partition names it later.
    RefusalStands,
    /// An answer counts although the interest that it speaks of was dropped.
    ForgetCrossesOpen,
}

impl Bug {
    pub const ALL: [Bug; 13] = [
        Bug::FullClientAbortsList,
        Bug::SwapRemoveUnderFanout,
        Bug::SendAfterClose,
        Bug::GapCountedTwice,
        Bug::HotTailServesHole,
        Bug::StaleOwnerAccepted,
        Bug::HistoryIgnored,
        Bug::ResetKeepsMembers,
        Bug::AnswersCrossReset,
        Bug::PartForTheWhole,
        Bug::OutUntold,
        Bug::RefusalStands,
        Bug::ForgetCrossesOpen,
    ];
}

#[cfg(feature = "planted")]
mod chosen {
    use std::cell::Cell;

    use super::Bug;

    thread_local! {
        static CHOSEN: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// From now on this thread's hubs and shards have this bug.
    pub fn choose(bug: Option<Bug>) {
        CHOSEN.set(bug);
    }

    pub(crate) fn is(bug: Bug) -> bool {
        CHOSEN.get() == Some(bug)
    }
}

#[cfg(feature = "planted")]
pub use chosen::choose;
#[cfg(feature = "planted")]
pub(crate) use chosen::is;

#[cfg(not(feature = "planted"))]
pub(crate) const fn is(_: Bug) -> bool {
    false
}

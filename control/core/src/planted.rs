//! Bugs that are planted on purpose, so that the simulator can show that it finds them. Without the feature `planted` none
//! exists: [`is`] is false at compile time.

/// One bug, by what goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Seqs of a batch that was given up are not given again.
    AbandonedSeqBlock,
    /// A batch that was given up is answered as if it were durable.
    OkWithoutCommit,
    /// Keys that were used before a restart count as fresh.
    DedupLostAtRestart,
    /// A group that is created again goes on in its old epoch.
    GroupKeepsItsEpoch,
    /// A mark is taken beyond the head.
    AckBeyondHead,
    /// Who left a group reads what was said since.
    KickedMemberReadsOn,
    /// Gateways are not told that somebody left a group.
    LeavingUntold,
    /// The replay after a break begins one record too late.
    ReplaySkipsSeam,
    /// A gateway is told that a record is complete with the first of its items.
    CompleteTooEarly,
    /// A recovery page lacks its first message.
    PageSkipsFirst,
    /// An unknown device of a user begins at the head of the inbox.
    NewDeviceAtHead,
    /// A cursor beyond the head is believed.
    FutureCursorBelieved,
    /// A cursor of another epoch is believed.
    ForeignCursorBelieved,
    /// Ids and times begin at the machine's clock after a restart.
    ClockRunsBackwards,
    /// An open does not register the interest.
    InterestForgotten,
    /// A link that ran out of credit goes on behind what it was not sent.
    CreditSkipsRecord,
    /// An inbox takes the same entry of a conversation again.
    EntryTwice,
    /// Who comes into a group of another partition is told to nobody there.
    JoiningUntoldElsewhere,
    /// Streams of other partitions are not named to a connection that joins by itself.
    AlsoForgotten,
    /// A member's group may be written by anybody.
    StrangerWrites,
    /// The store takes what an owner commits that has a successor.
    ZombieOwnerWrites,
}

impl Bug {
    pub const ALL: [Bug; 18] = [
        Bug::AbandonedSeqBlock,
        Bug::OkWithoutCommit,
        Bug::DedupLostAtRestart,
        Bug::GroupKeepsItsEpoch,
        Bug::AckBeyondHead,
        Bug::KickedMemberReadsOn,
        Bug::LeavingUntold,
        Bug::ReplaySkipsSeam,
        Bug::CompleteTooEarly,
        Bug::PageSkipsFirst,
        Bug::NewDeviceAtHead,
        Bug::FutureCursorBelieved,
        Bug::ForeignCursorBelieved,
        Bug::ClockRunsBackwards,
        Bug::InterestForgotten,
        Bug::CreditSkipsRecord,
        Bug::StrangerWrites,
        Bug::ZombieOwnerWrites,
    ];
}

#[cfg(feature = "planted")]
mod chosen {
    use std::cell::Cell;

    use super::Bug;

    thread_local! {
        static CHOSEN: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// From now on this thread's partitions have this bug.
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

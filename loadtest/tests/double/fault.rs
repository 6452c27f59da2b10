//! What a double does wrong.

use std::time::Duration;

/// One planted fault. Messages are numbered from 1 in the order in which they are sequenced, over all streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// Before message `at` the whole server stands still: no answer, no delivery. Nothing is lost.
    Stall {
        at: u64,
        pause: Duration,
    },
    /// Each nth message is answered and never shown: ranges cover it, pulls do not have it.
    DropEvery {
        nth: u64,
    },
    /// As `DropEvery` for one message, and only one of its recipients.
    DropForOne {
        at: u64,
    },
    /// Each nth message is missing live; the next frame leaves a hole, and pulls have it.
    DropLive {
        nth: u64,
    },
    /// As `DropLive` for one message, but pulls of its stream never help.
    UnhealedHole {
        at: u64,
        pulls: Pulls,
    },
    /// As `DropLive` for one message, but the pull's page passes over it.
    HoleInPull {
        at: u64,
    },
    /// As `DropLive` for one message, and what the pull brings has another byte.
    WrongInPull {
        at: u64,
    },
    /// From message `at` on everything is answered, and nobody ever hears of it.
    SilentFrom {
        at: u64,
    },
    /// The live frame of each nth message comes twice.
    Duplicate {
        nth: u64,
    },
    /// Message `at` stands twice in its frame.
    DuplicateInFrame {
        at: u64,
    },
    /// Message `at` gets a second seq, under which it is shown again; the first one is answered.
    SecondPlace {
        at: u64,
    },
    /// After message `at` comes one that nobody published, with a seq of its own and a valid content.
    Phantom {
        at: u64,
    },
    /// The frames of message `at` and of the next of its stream are swapped for one client.
    Reorder {
        at: u64,
    },
    /// Message `at` and the next of its stream come in one frame, in the wrong order.
    ReorderInFrame {
        at: u64,
    },
    /// One byte of the live content of message `at` is another.
    WrongPayload {
        at: u64,
    },
    /// Message `at` comes with the content of the one before it, which is a valid one.
    ContentOfAnother {
        at: u64,
    },
    /// The content of message `at` comes without its end.
    Truncated {
        at: u64,
    },
    /// Message `at` comes with another type than it was pushed with.
    OtherType {
        at: u64,
    },
    /// Message `at` comes under an id that its publisher was not told.
    OtherId {
        at: u64,
    },
    /// The frame of message `at` also goes to a client that does not follow its stream.
    WrongRecipient {
        at: u64,
    },
    /// The frame of message `at` comes a second time under the name of a stream that nobody asked for.
    ForeignStream {
        at: u64,
    },
    /// The batch of message `at` claims the range of the `more` next ones too, which come in their own frames.
    ClaimsMore {
        at: u64,
        more: u64,
    },
    /// The frame of message `at` is a text frame, in the binary sub-protocol.
    TextFrame {
        at: u64,
    },
    /// The frame of message `at` is masked, as only clients mask.
    MaskedFrame {
        at: u64,
    },
    /// The batch of message `at` claims a range that ends before it.
    OutsideRange {
        at: u64,
    },
    /// The batch of message `at` names another epoch.
    OtherEpoch {
        at: u64,
    },
    /// A gap is told for message `at`; then, as promised, nothing live until a pull. No fault.
    Gap {
        at: u64,
    },
    /// A gap is told for message `at`, and the frames after it are sent live all the same.
    LiveInGap {
        at: u64,
    },
    /// Bytes that are no frame of the sub-protocol, to one recipient of message `at`.
    Garbage {
        at: u64,
    },
    /// Two messages of a stream are answered with one seq: that of the first.
    SeqTwice {
        at: u64,
    },
    /// Each nth push is answered with this error and stored nowhere.
    RefusedPush {
        nth: u64,
        code: &'static str,
    },
    /// Push `at` is stored and shown, and answered UNAVAILABLE. No fault: it may be asked again.
    LateAnswer {
        at: u64,
    },
    /// Push `at` is taken, shown and never answered.
    Unanswered {
        at: u64,
    },
    /// The push stream that brings message `at` breaks after it was stored, before it is answered. No fault.
    PushStreamBreaks {
        at: u64,
    },
    /// At message `at` the first `count` connections are ended.
    Close {
        at: u64,
        count: usize,
        how: How,
    },
    /// As `Close`, and whoever comes back gets its streams from the beginning again.
    ForgetsCursors {
        at: u64,
        count: usize,
    },
    /// As `Close`, and whoever comes back is told that it missed nothing.
    ForgetsMissed {
        at: u64,
        count: usize,
    },
    /// Each join is told a head that its stream has not reached.
    JoinsAhead {
        by: u64,
    },
    /// Push `at` is answered OVERLOADED, and stored and shown all the same.
    RefusedAndShown {
        at: u64,
    },
    /// The answer to each join carries the id of no request.
    WrongAnswerId,
    /// This user's upgrade is refused with 503.
    RefusedUpgrade {
        client: u32,
    },
}

/// How pulls are answered that do not help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pulls {
    Error,
    /// An empty page that goes nowhere.
    Empty,
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// A close frame with this code.
    Frame(u16),
    /// TCP is ended without a word.
    Cut,
}

impl Fault {
    /// Whether this fault is one of message `number`.
    pub fn strikes(self, number: u64) -> bool {
        match self {
            Fault::None | Fault::JoinsAhead { .. } | Fault::WrongAnswerId | Fault::RefusedUpgrade { .. } => false,
            Fault::DropEvery { nth }
            | Fault::DropLive { nth }
            | Fault::Duplicate { nth }
            | Fault::RefusedPush { nth, .. } => number.is_multiple_of(nth),
            Fault::SilentFrom { at } => number >= at,
            Fault::Stall { at, .. }
            | Fault::DropForOne { at }
            | Fault::UnhealedHole { at, .. }
            | Fault::HoleInPull { at }
            | Fault::DuplicateInFrame { at }
            | Fault::SecondPlace { at }
            | Fault::Reorder { at }
            | Fault::ReorderInFrame { at }
            | Fault::WrongPayload { at }
            | Fault::ContentOfAnother { at }
            | Fault::Truncated { at }
            | Fault::OtherType { at }
            | Fault::ForeignStream { at }
            | Fault::ClaimsMore { at, .. }
            | Fault::TextFrame { at }
            | Fault::MaskedFrame { at }
            | Fault::OtherId { at }
            | Fault::WrongInPull { at }
            | Fault::Phantom { at }
            | Fault::WrongRecipient { at }
            | Fault::OutsideRange { at }
            | Fault::OtherEpoch { at }
            | Fault::Gap { at }
            | Fault::LiveInGap { at }
            | Fault::Garbage { at }
            | Fault::SeqTwice { at }
            | Fault::LateAnswer { at }
            | Fault::RefusedAndShown { at }
            | Fault::Unanswered { at }
            | Fault::PushStreamBreaks { at }
            | Fault::Close { at, .. }
            | Fault::ForgetsCursors { at, .. }
            | Fault::ForgetsMissed { at, .. } => number == at,
        }
    }
}

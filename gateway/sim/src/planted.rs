//! Bugs that the simulator must find: in both cores (behind their feature `planted`), and at the seams of the gateway, where
//! a message or a completion is lost, doubled, swapped or forged as a bug on either side would do it.

use std::fmt;

#[cfg(feature = "planted")]
use tidegate_control_core::planted as partition;
#[cfg(feature = "planted")]
use tidegate_gateway_core::planted as gateway;

/// One planted bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    #[cfg(feature = "planted")]
    Partition(partition::Bug),
    #[cfg(feature = "planted")]
    Gateway(gateway::Bug),
    Seam(Seam),
}

/// What is wrong between hub, shard, driver and link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seam {
    /// Two fan-outs of a stream change places.
    ReorderingFanout,
    /// A slow client is not told what it missed.
    GapUntold,
    /// Who was told a gap gets live frames all the same.
    LiveIntoGap,
    /// What a returning client missed does not come.
    ResumeSkipsSeam,
    /// A new member misses the fan-out that follows.
    MemberTooLate,
    /// An ended membership is counted twice.
    LeftTwice,
    /// An ended membership is not counted.
    LeftLost,
    /// A shard does not say that its fan-out is done.
    FanoutDoneLost,
    /// Who was taken out of a group keeps its live feed.
    ExpelIgnored,
    /// A command for a connection that is over reaches the one that has its slot now.
    ReusedSlot,
    /// The rest of a short send is forgotten.
    TruncatedShortSend,
    /// A short send is reported shorter than it was.
    ShortSendRepeats,
    /// A completion of a connection that is over reaches the one that has its slot now.
    LateCompletion,
    /// A close while a poll is armed frees the slot, but the peer hears nothing.
    CloseWithoutFin,
    /// A delivery is lost on the link, and nothing follows it.
    LostTail,
    /// A chunk of what a client says is lost.
    ChunkLost,
    /// A push counts as appended to the upstream log before the log has it.
    QueuedUnplaced,
    /// Errands of one round are asked one by one, so that one may be refused for a moment and the next one taken.
    ErrandsOneByOne,
    /// Errands count as arrived when they are on their way.
    RoutedTooEarly,
    /// An errand is answered before it is committed.
    ErrandTakenUncommitted,
    /// A data folder that is made anew begins in the epoch of the one that was lost.
    EpochUnchangedAfterLoss,
}

impl Seam {
    pub const ALL: [Seam; 21] = [
        Seam::ReorderingFanout,
        Seam::GapUntold,
        Seam::LiveIntoGap,
        Seam::ResumeSkipsSeam,
        Seam::MemberTooLate,
        Seam::LeftTwice,
        Seam::LeftLost,
        Seam::FanoutDoneLost,
        Seam::ExpelIgnored,
        Seam::ReusedSlot,
        Seam::TruncatedShortSend,
        Seam::ShortSendRepeats,
        Seam::LateCompletion,
        Seam::CloseWithoutFin,
        Seam::LostTail,
        Seam::ChunkLost,
        Seam::QueuedUnplaced,
        Seam::ErrandsOneByOne,
        Seam::RoutedTooEarly,
        Seam::ErrandTakenUncommitted,
        Seam::EpochUnchangedAfterLoss,
    ];
}

impl Planted {
    pub fn all() -> Vec<Planted> {
        let seams = Seam::ALL.into_iter().map(Planted::Seam);
        #[cfg(feature = "planted")]
        let seams = {
            let partition = partition::Bug::ALL.into_iter().map(Planted::Partition);
            partition.chain(gateway::Bug::ALL.into_iter().map(Planted::Gateway)).chain(seams)
        };
        seams.collect()
    }

    pub(crate) fn seam(self) -> Option<Seam> {
        match self {
            #[cfg(feature = "planted")]
            Planted::Partition(_) | Planted::Gateway(_) => None,
            Planted::Seam(seam) => Some(seam),
        }
    }

    /// This thread's worlds have this bug from now on, or none.
    pub(crate) fn choose(planted: Option<Planted>) {
        #[cfg(feature = "planted")]
        {
            partition::choose(match planted {
                Some(Planted::Partition(bug)) => Some(bug),
                _ => None,
            });
            gateway::choose(match planted {
                Some(Planted::Gateway(bug)) => Some(bug),
                _ => None,
            });
        }
        #[cfg(not(feature = "planted"))]
        let _ = planted;
    }
}

impl fmt::Display for Planted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            #[cfg(feature = "planted")]
            Planted::Partition(bug) => format!("{bug:?}"),
            #[cfg(feature = "planted")]
            Planted::Gateway(bug) => format!("{bug:?}"),
            Planted::Seam(seam) => format!("{seam:?}"),
        };
        for (at, letter) in name.char_indices() {
            if letter.is_uppercase() && at > 0 {
                f.write_str("-")?;
            }
            write!(f, "{}", letter.to_ascii_lowercase())?;
        }
        Ok(())
    }
}

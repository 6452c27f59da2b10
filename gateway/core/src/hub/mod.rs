//! Streams of one node: windows, encoding, membership counts, recovery, holes.

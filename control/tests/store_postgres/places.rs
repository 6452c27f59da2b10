//! Who follows a log keeps its place beside it.

use tidegate_control::adapters::postgres::Postgres;
use tidegate_control_core::domain::{Lsn, PartitionId};

use crate::factory::Factory;

#[test]
fn places_are_kept_by_partition_and_name_and_never_go_back() {
    let mut factory = Factory::new();
    let postgres = Postgres::connect(factory.begin()).expect("connected");
    let place = |partition, name: &str| postgres.place_of(PartitionId(partition), name).expect("looked up");
    assert_eq!(place(0, "history"), None);
    for (partition, name, at) in [(0, "history", 5), (0, "away", 2), (1, "history", 9), (0, "history", 3)] {
        postgres.keep_place(PartitionId(partition), name, Lsn(at)).expect("kept");
    }
    let places = [place(0, "history"), place(0, "away"), place(1, "history"), place(1, "away")];
    assert_eq!(places, [Some(Lsn(5)), Some(Lsn(2)), Some(Lsn(9)), None]);
}

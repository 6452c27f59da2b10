//! The embedded store passes the suite that every store must pass.

use tempfile::TempDir;
use tidegate_control::adapters::embedded::{EmbeddedOptions, EmbeddedStore};
use tidegate_control_core::contract::store::StoreFactory;
use tidegate_control_core::domain::Lsn;

struct Factory {
    dir: Option<TempDir>,
    options: EmbeddedOptions,
}

impl Factory {
    fn path(&self) -> &std::path::Path {
        self.dir.as_ref().expect("open comes first").path()
    }
}

impl StoreFactory for Factory {
    type Store = EmbeddedStore;

    fn open(&mut self) -> EmbeddedStore {
        self.dir = Some(TempDir::new().expect("a temporary folder"));
        EmbeddedStore::open(self.path(), self.options.clone()).expect("open")
    }

    fn reopen(&mut self, store: EmbeddedStore) -> EmbeddedStore {
        drop(store);
        EmbeddedStore::open(self.path(), self.options.clone()).expect("open again")
    }

    fn trim(&mut self, store: &mut EmbeddedStore, upto: Lsn) -> bool {
        store.trim(upto).expect("trim") > Lsn(0)
    }
}

/// The suite's few records stand in several segments, and most look-ups go to disk.
fn factory() -> Factory {
    let options = EmbeddedOptions { segment_bytes: 2_000, recent_bytes: 4_000, ..EmbeddedOptions::default() };
    Factory { dir: None, options }
}

tidegate_control_core::store_contract!(factory());

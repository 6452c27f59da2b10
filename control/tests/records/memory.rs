//! The suite over the index in memory.

use std::sync::Arc;

use tidegate_control::records::{MemoryIndex, RecordIndex};

use crate::kit::{Factory, KEEP_DAYS};

struct Memory(Arc<MemoryIndex>);

impl Factory for Memory {
    fn index(&self) -> Arc<dyn RecordIndex> {
        Arc::clone(&self.0) as Arc<dyn RecordIndex>
    }

    fn another(&self) -> Arc<dyn RecordIndex> {
        self.index()
    }

    async fn settle(&self) {}
}

crate::contract::index_contract!(Memory(Arc::new(MemoryIndex::new(KEEP_DAYS))));

//! Who keeps sessions alive: a thread and a connection of their own, so that a process whose other threads have no time, or
//! whose other requests stand in a long queue, does not lose what it owns.

use std::sync::Arc;

use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::backend::Backend;
use crate::error::RegistryError;

pub(crate) struct Keeping {
    backend: Arc<dyn Backend>,
    runtime: Option<Runtime>,
}

impl Keeping {
    /// `backend` must not be used by anybody else.
    pub fn new(backend: impl Backend) -> Result<Keeping, RegistryError> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name("sessions").enable_all().build();
        let runtime = runtime.map_err(|error| RegistryError::settings(format!("no thread: {error}")))?;
        Ok(Keeping { backend: Arc::new(backend), runtime: Some(runtime) })
    }

    pub fn spawn<F>(&self, keep: impl FnOnce(Arc<dyn Backend>) -> F) -> JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let kept = keep(Arc::clone(&self.backend));
        self.runtime.as_ref().expect("only dropping takes it").spawn(kept)
    }
}

impl Drop for Keeping {
    /// Its last owner may be a future, where a runtime must not be waited for.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

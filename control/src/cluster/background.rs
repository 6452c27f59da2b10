//! Threads that give way to those that take calls in.
//!
//! What is accepted lies safe in the upstream topic, and what is not accepted yet is in somebody else's hands. So where cores
//! are short, a node takes in first and sequences with what is left: a burst is accepted at the speed of the topic and handed out
//! over the time that it takes, instead of making its senders wait for every step of that. Threads inherit their niceness from
//! the one that starts them, so it holds for all that begins here: partitions, readers of the topic, what follows their logs.

use tokio::runtime::{Builder, Handle, Runtime};

/// A runtime whose threads are nice.
pub(crate) struct Background(Option<Runtime>);

impl Background {
    pub fn new(nice: u8) -> std::io::Result<Background> {
        let give_way = move || {
            // For Linux each thread is a process of its own here. Who wants less is never refused.
            if let Err(error) = rustix::process::setpriority_process(None, nice.into()) {
                tracing::warn!(%error, nice, "a thread does not give way");
            }
        };
        let mut builder = Builder::new_multi_thread();
        builder.thread_name("sequencing").enable_all();
        if nice > 0 {
            builder.on_thread_start(give_way);
        }
        builder.build().map(|runtime| Background(Some(runtime)))
    }

    pub fn handle(&self) -> &Handle {
        self.0.as_ref().expect("only dropping takes it").handle()
    }
}

impl Drop for Background {
    /// Its last owner is a future, where a runtime must not be waited for.
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nice_here() -> i32 {
        rustix::process::getpriority_process(None).expect("always known")
    }

    #[test]
    fn what_begins_there_gives_way_and_nothing_else_does() {
        let (before, background) = (nice_here(), Background::new(7).expect("threads"));
        let there = background.handle().clone();
        let begun = there.spawn(async {
            let blocking = tokio::task::spawn_blocking(nice_here).await.expect("it only asks");
            let thread = std::thread::spawn(nice_here).join().expect("it only asks");
            [nice_here(), blocking, thread]
        });
        let main = Builder::new_current_thread().build().expect("a runtime");
        assert_eq!(main.block_on(begun).expect("it only asks"), [before.max(7); 3]);
        assert_eq!(nice_here(), before);
        main.block_on(async { drop(background) });
    }
}

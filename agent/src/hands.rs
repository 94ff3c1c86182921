//! A few threads for what blocks in the kernel: files, and starting programs.
//!
//! Each job is short, a piece of a transfer and not the transfer, so that a reader who is slow
//! occupies none of them.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use tokio::sync::oneshot;

use crate::tasks;

/// Threads at most. More would wait for the same processors.
const THREADS: usize = 6;

type Job = Box<dyn FnOnce() + Send>;

/// See the module's documentation.
#[derive(Default)]
pub(crate) struct Hands {
    state: Mutex<State>,
    /// Rung for each new job.
    work: Condvar,
}

#[derive(Default)]
struct State {
    /// At most one for each of the link's streams, which wait for them.
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
}

impl Hands {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while it is held")
    }

    /// Have this done, and wait for it. What has begun is done even if nobody waits any more.
    pub(crate) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let (tell, told) = oneshot::channel();
        self.put(Box::new(move || {
            let _ = tell.send(job());
        }));
        told.await.expect("a job is done, or the agent has ended")
    }

    fn put(self: &Arc<Self>, job: Job) {
        let mut state = self.lock();
        state.jobs.push_back(job);
        if state.idle < state.jobs.len() && state.threads < THREADS {
            let hands = self.clone();
            if tasks::thread("hand", move || hands.work()).is_ok() {
                state.threads += 1;
            } else if state.threads == 0 {
                // No room for a single thread: then it is done here.
                let job = state.jobs.pop_back().expect("it was put there");
                drop(state);
                return job();
            }
        }
        drop(state);
        self.work.notify_one();
    }

    fn work(&self) {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                job();
                tasks::run();
                state = self.lock();
            } else {
                state.idle += 1;
                state = self.work.wait(state).expect("no panic while it is held");
                state.idle -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;

    #[test]
    fn many_jobs_by_few_threads() {
        let hands = Arc::new(Hands::default());
        let (tell, told) = mpsc::channel();
        for number in 0..100 {
            let (hands, tell) = (hands.clone(), tell.clone());
            tasks::spawn(async move {
                let squared = hands.clone().run(move || number * number).await;
                tell.send(squared).expect("it is heard");
            });
        }
        tasks::run();
        let sum: u32 = (0..100)
            .map(|_| told.recv_timeout(Duration::from_secs(60)).expect("done"))
            .sum();
        assert_eq!(sum, 328_350);
        assert!(hands.lock().threads <= THREADS);
    }
}

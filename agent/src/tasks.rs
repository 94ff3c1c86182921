//! Runs the tasks of the links, on whichever thread has news for them.
//!
//! Inside gVisor a thread that sleeps in `read` itself is back with its bytes 50 to 100 µs sooner
//! than one that sleeps in `epoll_wait` and then reads, and a thread that hands bytes to another
//! pays for waking it. So each descriptor has a thread that blocks on it, and that thread carries
//! its news through to the end: it wakes the tasks concerned and runs them itself, and those that
//! they wake, until none is ready. No thread waits for tasks.
//!
//! The rule that makes this work: who may wake a task calls [`run`] before it blocks again.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;

use async_task::Runnable;

thread_local! {
    /// Tasks that this thread has woken.
    static READY: RefCell<VecDeque<Runnable>> = const { RefCell::new(VecDeque::new()) };
    /// What its tasks read into, one after the other.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Lend this thread's buffer for a moment: at least `size` bytes, of any content. So a hundred tasks
/// that wait have none.
pub(crate) fn with_buffer<T>(size: usize, body: impl FnOnce(&mut [u8]) -> T) -> T {
    BUFFER.with_borrow_mut(|buffer| {
        if buffer.len() < size {
            buffer.resize(size, 0);
        }
        body(buffer)
    })
}

/// Make a task of this; it runs with the next [`run`] of this thread, and later on others'.
pub(crate) fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    let schedule = |ready| READY.with_borrow_mut(|queue| queue.push_back(ready));
    let (ready, task) = async_task::spawn(task, schedule);
    task.detach();
    ready.schedule();
}

/// Run the tasks that this thread has woken.
pub(crate) fn run() {
    // Not in the `while let` itself, which would hold the borrow while the task runs.
    let next = || READY.with_borrow_mut(VecDeque::pop_front);
    while let Some(ready) = next() {
        ready.run();
    }
}

/// Start a thread that may wake tasks.
pub(crate) fn thread(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    // Its own name, so that `ps -L` and a debugger tell them apart.
    let builder = std::thread::Builder::new().name(name.into());
    builder.spawn(|| {
        body();
        // A task that is still in the queue would die with the thread.
        run();
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;
    use tokio::sync::oneshot;

    #[test]
    fn whoever_wakes_a_task_runs_it() {
        let (wake, woken) = oneshot::channel();
        let (tell, told) = mpsc::channel();
        spawn(async move {
            woken.await.expect("it is woken");
            tell.send(std::thread::current().name().map(str::to_owned))
                .expect("it is heard");
        });
        run();
        assert!(told.try_recv().is_err(), "it waits");
        thread("waker", move || wake.send(()).expect("it waits")).expect("a thread");
        let name = told.recv_timeout(Duration::from_secs(60));
        assert_eq!(name.expect("it ran").as_deref(), Some("waker"));
    }

    #[test]
    fn tasks_wake_tasks() {
        let (first, mut second) = tokio::sync::mpsc::channel(1);
        let (tell, told) = mpsc::channel();
        spawn(async move {
            let mut sum = 0;
            while let Some(number) = second.recv().await {
                sum += number;
            }
            tell.send(sum).expect("it is heard");
        });
        spawn(async move {
            for number in 0..100 {
                first.send(number).await.expect("it is read");
            }
        });
        run();
        assert_eq!(told.try_recv(), Ok(4950));
    }
}

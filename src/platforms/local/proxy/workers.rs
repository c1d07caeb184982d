//! The threads that carry requests: one tokio runtime each, shared by all proxies of the process.
//!
//! The runtime that Wade lives in moves tasks between its threads, which is right for a controller and costly for a
//! proxy: sockets are woken on one thread and served on another, and a thread that finds work first wakes a second one
//! to share it. A client's connection here stays on the thread that it was given to, and so do the connections to
//! backends made for it: nothing wakes anything across threads. What that gives up is balance among connections of
//! unequal weight, which is why a new one goes where the fewest are.
//!
//! Threads are never ended; idle, they cost a stack. Where the machine gives us none, proxies live in the runtime that
//! started them, as they would without this file.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};
use std::thread;

use tokio::runtime::{Builder, Handle};

/// More threads than this would only help a proxy that moves more than a local platform's services ever see.
pub(super) const MAX_WORKERS: usize = 8;

static WORKERS: LazyLock<Vec<Worker>> = LazyLock::new(|| {
    let wanted = thread::available_parallelism().map_or(1, usize::from).min(MAX_WORKERS);
    (0..wanted).map_while(Worker::start).collect()
});

thread_local!(static OWN: Cell<usize> = const { Cell::new(0) });

#[derive(Debug)]
struct Worker {
    runtime: Handle,
    seated: Arc<AtomicUsize>,
}

impl Worker {
    fn start(index: usize) -> Option<Self> {
        let runtime = Builder::new_current_thread().enable_io().enable_time().build().ok()?;
        let handle = runtime.handle().clone();
        let thread = thread::Builder::new().name(format!("wade-proxy-{index}"));
        let started = thread.spawn(move || {
            OWN.set(index);
            runtime.block_on(std::future::pending::<()>());
        });
        match started {
            Ok(_) => Some(Self {
                runtime: handle,
                seated: Arc::default(),
            }),
            Err(error) => {
                tracing::warn!(%error, "a thread for proxies did not start; the others carry its share");
                None
            }
        }
    }
}

/// A connection's place on a worker, taken until this is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) runtime: Handle,
    seated: Arc<AtomicUsize>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seated.fetch_sub(1, Relaxed);
    }
}

/// A place on the worker with the fewest connections. Must be called in a tokio runtime.
pub(super) fn seat() -> Seat {
    let least = WORKERS.iter().min_by_key(|worker| worker.seated.load(Relaxed));
    let (runtime, seated) = match least {
        Some(worker) => (worker.runtime.clone(), Arc::clone(&worker.seated)),
        None => (Handle::current(), Arc::default()),
    };
    seated.fetch_add(1, Relaxed);
    Seat { runtime, seated }
}

/// How many there are.
pub(super) fn count() -> usize {
    WORKERS.len().max(1)
}

/// The number of the worker whose thread this is, below [`count`]; 0 on every other thread.
pub(super) fn own() -> usize {
    OWN.get()
}

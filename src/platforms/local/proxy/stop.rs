//! How a proxy ends: first nothing new, then nothing at all. One value that every task of a proxy watches.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

use tokio::sync::Notify;

/// How far the end has come; it never goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Serving,
    /// No new connections; each connection ends after the request it has.
    Draining,
    /// Everything ends now.
    Cut,
}

#[derive(Debug, Default)]
pub(super) struct Stop {
    phase: AtomicU8,
    changed: Notify,
}

impl Stop {
    pub(super) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::SeqCst) {
            0 => Phase::Serving,
            1 => Phase::Draining,
            _ => Phase::Cut,
        }
    }

    pub(super) fn advance(&self, to: Phase) {
        self.phase.fetch_max(to as u8, Ordering::SeqCst);
        self.changed.notify_waiters();
    }

    /// Waits until the end has come at least this far.
    pub(super) async fn reached(&self, phase: Phase) {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            if self.phase() >= phase {
                return;
            }
            changed.await;
        }
    }
}

/// [`Stop`] for a future that is polled for every request: registers its waker once per phase and otherwise reads one
/// atomic. Only for use within one task, whose waker never changes.
pub(super) struct Watch {
    stop: Arc<Stop>,
    next: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    seen: Phase,
}

impl Watch {
    pub(super) fn new(stop: Arc<Stop>) -> Self {
        Self {
            stop,
            next: None,
            seen: Phase::Serving,
        }
    }

    /// The phase, if it is not the one that was returned before.
    pub(super) fn poll_change(&mut self, cx: &mut Context<'_>) -> Option<Phase> {
        let phase = self.stop.phase();
        if self.next.is_some() && phase == self.seen {
            return None;
        }
        let (stop, wanted) = (
            Arc::clone(&self.stop),
            if phase == Phase::Serving {
                Phase::Draining
            } else {
                Phase::Cut
            },
        );
        let mut next: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async move { stop.reached(wanted).await });
        let missed_one = matches!(next.as_mut().poll(cx), Poll::Ready(()));
        self.next = Some(next);
        let now = if missed_one { self.stop.phase() } else { phase };
        if missed_one && now != Phase::Cut {
            // Not registered for the phase after: come back at once.
            cx.waker().wake_by_ref();
            self.next = None;
        }
        (std::mem::replace(&mut self.seen, now) != now).then_some(now)
    }
}

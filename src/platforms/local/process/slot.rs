//! The life of one slot: start, look, restart, stop. One task each; it owns the process and nobody else touches it.
//!
//! The task waits for three things only: the process ends (an event of the kernel, not a poll), what is wanted changes,
//! or the next look at readiness is due.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use rustix::process::Signal;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::diagnosis::{Diagnosis, Problem};
use super::ledger::SlotKey;
use super::proc;
use super::ready;
use super::spec::{ProcessSpec, Ready, StopRule};
use super::supervisor::{Shared, lock};

mod live;

pub(super) use live::{Live, check_port};

/// After SIGKILL a process is gone in microseconds, unless the kernel itself is stuck in it.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// Where an instance stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Being started, or started and not ready yet.
    Starting {
        /// When this launch began.
        since: Timestamp,
    },
    /// Can take traffic.
    Ready {
        /// Without a break since then.
        since: Timestamp,
    },
    /// Was ready and is not now.
    Unready {
        /// When it was noticed.
        since: Timestamp,
    },
    /// Ended or did not start; waiting to try again.
    Backoff {
        /// When it is tried again.
        until: Timestamp,
    },
    /// Told to end.
    Stopping {
        /// When it was told.
        since: Timestamp,
    },
    /// An adopted process ended before anybody said whether it is wanted.
    Exited,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// By itself, with this code.
    Code(i32),
    /// By a signal.
    Signal {
        /// Its number.
        number: i32,
        /// For SIGKILL: whether the kernel killed any process for want of memory while this one ran; none if the
        /// kernel does not say.
        kernel_oom: Option<bool>,
    },
    /// It was adopted: only its parent, a daemon that is gone, could have asked.
    Unknown,
}

/// When and how a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// How.
    pub ending: Ending,
    /// When it was noticed.
    pub at: Timestamp,
}

/// What a slot's task should bring about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Want {
    /// Adopted and not asked for yet: keep what runs, start nothing.
    Parked,
    /// A running instance of this.
    Run(Arc<ProcessSpec>),
    /// No process, then no slot.
    Stop,
    /// Leave everything as it is: the daemon ends.
    Detach,
}

/// What a slot's task shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct View {
    pub(super) pid: Option<u32>,
    pub(super) port: Option<u16>,
    pub(super) state: State,
    pub(super) restarts: u32,
    pub(super) last_exit: Option<Exit>,
    pub(super) diagnosis: Option<Diagnosis>,
    /// Where the last launch's output begins in its file.
    pub(super) log_from: u64,
}

/// The task of one slot.
pub(super) struct Slot {
    pub(super) shared: Arc<Shared>,
    pub(super) key: SlotKey,
    pub(super) want: watch::Receiver<Want>,
    pub(super) view: Arc<Mutex<View>>,
    /// How to end the present process; shared because a spec may come with the order to stop.
    pub(super) stop: Arc<Mutex<StopRule>>,
    /// Launches so far, tried or done.
    pub(super) launches: u32,
    /// Failures in a row.
    pub(super) failures: u32,
}

enum Event {
    WantChanged,
    Ended(Ending),
}

impl Slot {
    /// Runs until the slot is retired or detached. Aborting it leaves the process running.
    pub(super) async fn run(mut self, mut live: Option<Live>) {
        let mut wait = None;
        // An error means that the supervisor is gone.
        while self.want.has_changed().is_ok() {
            let want = self.want.borrow_and_update().clone();
            if let Want::Run(spec) = &want {
                *lock(&self.stop) = spec.stop;
            }
            match (want, live.take()) {
                (Want::Detach, _) => return,
                (Want::Stop, Some(process)) => live = self.end(process).await,
                (Want::Stop, None) if self.shared.retire(&self.key).await => return,
                (Want::Stop, None) => {}
                (Want::Parked, None) => drop(self.want.changed().await),
                (Want::Parked, Some(process)) => (live, wait) = self.tend(process, None).await,
                (Want::Run(spec), Some(process)) => (live, wait) = self.tend(process, Some(&spec)).await,
                (Want::Run(spec), None) => {
                    // Any change ends the wait: a corrected spec should not wait for the faulty one's sake.
                    let waited = timeout(wait.take().unwrap_or_default(), self.want.changed())
                        .await
                        .is_err();
                    if waited {
                        (live, wait) = self.start(spec).await;
                    }
                }
            }
        }
    }

    async fn start(&mut self, spec: Arc<ProcessSpec>) -> (Option<Live>, Option<Duration>) {
        let restarts = self.launches;
        self.launches += 1;
        let since = self.shared.clock.now();
        self.show(|view| {
            view.state = State::Starting { since };
            view.restarts = restarts;
        });
        let key = self.key.clone();
        let launched = self
            .shared
            .blocking(move |shared| shared.launch(&key, &spec, restarts))
            .await;
        match launched {
            Ok(live) => {
                tracing::info!(instance = %self.key, pid = live.id.pid, port = live.port(), restarts, "started");
                self.show(|view| {
                    view.pid = Some(live.id.pid);
                    view.port = live.port();
                    view.log_from = live.log_from;
                });
                (Some(live), None)
            }
            Err(diagnosis) => (None, Some(self.back_off(diagnosis, None))),
        }
    }

    /// Keeps the process until it ends or something else is wanted; without a spec it only waits.
    async fn tend(&mut self, mut live: Live, spec: Option<&ProcessSpec>) -> (Option<Live>, Option<Duration>) {
        match self.watch(&mut live, spec).await {
            Event::WantChanged => (Some(live), None),
            Event::Ended(ending) => (None, Some(self.ended(live, ending).await)),
        }
    }

    async fn watch(&mut self, live: &mut Live, spec: Option<&ProcessSpec>) -> Event {
        let timing = self.shared.settings.probe;
        let mut misses = 0;
        // Without a probe, "ready" is "did not end at once", so the first look waits.
        let at_once = spec.is_some_and(|spec| spec.ready != Ready::None);
        let mut pause = if at_once { Duration::ZERO } else { timing.until_ready };
        loop {
            let port = live.port();
            let key = self.key.clone();
            let look = async {
                let Some(spec) = spec else {
                    return std::future::pending().await;
                };
                sleep(pause).await;
                ready::probe(spec, &key, port, timing.timeout).await
            };
            let answer = tokio::select! {
                biased;
                ending = live.exited() => return Event::Ended(ending),
                // An error (no supervisor) is seen by the caller's loop.
                _ = self.want.changed() => return Event::WantChanged,
                answer = look => answer,
            };
            let seen = match answer {
                Ok(()) if !self.is_ready() => self.confirm(live).await,
                Ok(()) => Ok(()),
                Err(seen) => Err(self.not_ready(seen)),
            };
            misses = if seen.is_ok() { 0 } else { misses + 1 };
            self.judge(live, seen, misses);
            pause = if self.is_ready() {
                timing.when_ready
            } else {
                timing.until_ready
            };
        }
    }

    /// An answer counts only if it can be ours: somebody else may hold the port.
    async fn confirm(&self, live: &Live) -> Result<(), Diagnosis> {
        let Some(port) = live.port() else { return Ok(()) };
        let (id, token, object) = (live.id.clone(), live.token.clone(), self.key.to_string());
        self.shared
            .blocking(move |_| check_port(port, &id, &token, &object))
            .await
    }

    fn not_ready(&self, seen: String) -> Diagnosis {
        let try_this =
            "see its output, and whether the path, the port (it must listen on $PORT) and the probe are right";
        Diagnosis::new(
            Problem::NotReady,
            self.key.to_string(),
            format!("it runs but is not ready: {seen}"),
            try_this,
        )
    }

    fn judge(&mut self, live: &Live, seen: Result<(), Diagnosis>, misses: u32) {
        let (restart, timing) = (self.shared.settings.restart, self.shared.settings.probe);
        let since = self.shared.clock.now();
        let ran_for = live.since.elapsed();
        if ran_for >= restart.reset_after {
            self.failures = 0;
        }
        let looping = self.failures >= restart.crash_loop_after;
        self.show(|view| match seen {
            Ok(()) => {
                if !matches!(view.state, State::Ready { .. }) {
                    view.state = State::Ready { since };
                }
                // A crash loop that looks ready between two crashes is still a crash loop.
                if !looping {
                    view.diagnosis = None;
                }
            }
            Err(diagnosis) => match view.state {
                State::Ready { .. } if misses < timing.misses => {}
                State::Ready { .. } => {
                    view.state = State::Unready { since };
                    view.diagnosis = Some(diagnosis);
                }
                State::Unready { .. } => view.diagnosis = Some(diagnosis),
                // Time to start is normal; a foreign port holder is not.
                _ if looping || (ran_for < timing.slow_start && diagnosis.what == Problem::NotReady) => {}
                _ => view.diagnosis = Some(diagnosis),
            },
        });
    }

    /// The process ended by itself: clear up after it and say why. Returns how long to wait.
    async fn ended(&mut self, live: Live, ending: Ending) -> Duration {
        if live.since.elapsed() >= self.shared.settings.restart.reset_after {
            self.failures = 0;
        }
        let log_from = lock(&self.view).log_from;
        let exit = Exit {
            ending,
            at: self.shared.clock.now(),
        };
        let key = self.key.clone();
        let diagnosis = self
            .shared
            .blocking(move |shared| shared.clear(&key, &live, ending, log_from))
            .await;
        tracing::warn!(instance = %self.key, %diagnosis, "ended");
        self.back_off(diagnosis, Some(exit))
    }

    fn back_off(&mut self, diagnosis: Diagnosis, exit: Option<Exit>) -> Duration {
        self.failures += 1;
        let restart = self.shared.settings.restart;
        let wait = restart.wait(self.failures);
        let diagnosis = if exit.is_some() && self.failures >= restart.crash_loop_after {
            let detail = format!(
                "it ended {} times in a row, the last time: {}",
                self.failures, diagnosis.detail
            );
            Diagnosis {
                what: Problem::CrashLoop,
                detail,
                ..diagnosis
            }
        } else {
            diagnosis
        };
        let until = self.shared.clock.now() + wait;
        let parked = *self.want.borrow() == Want::Parked;
        self.show(|view| {
            view.state = if parked {
                State::Exited
            } else {
                State::Backoff { until }
            };
            view.pid = None;
            view.port = None;
            view.last_exit = exit.or(view.last_exit);
            view.diagnosis = Some(diagnosis);
        });
        wait
    }

    /// Ends the process: signal, drain, SIGKILL. Gives it back if the daemon ends in the middle.
    async fn end(&mut self, mut live: Live) -> Option<Live> {
        let since = self.shared.clock.now();
        self.show(|view| view.state = State::Stopping { since });
        let rule = *lock(&self.stop);
        for (signal, patience) in [(rule.signal.signal(), rule.drain), (Signal::KILL, KILL_PATIENCE)] {
            proc::signal_group(&live.id, signal);
            tokio::select! {
                biased;
                () = detached(&mut self.want) => return Some(live),
                gone = timeout(patience, live.all_gone()) => if gone.is_ok() { break },
            }
        }
        if !live.is_gone() {
            let detail = format!("pid {} did not end on SIGKILL within {KILL_PATIENCE:?}", live.id.pid);
            let try_this =
                "look for a stuck disk or network mount in /proc/<pid>/stack; it ends when the kernel lets go";
            let diagnosis = Diagnosis::new(Problem::CannotStop, self.key.to_string(), detail, try_this);
            tracing::error!(%diagnosis, "cannot stop");
            self.show(|view| view.diagnosis = Some(diagnosis));
            tokio::select! {
                biased;
                () = detached(&mut self.want) => return Some(live),
                () = live.all_gone() => {}
            }
        }
        let exit = Exit {
            ending: live.exited().await,
            at: self.shared.clock.now(),
        };
        let key = self.key.clone();
        self.shared.blocking(move |shared| shared.forget(&key, &live)).await;
        self.failures = 0;
        tracing::info!(instance = %self.key, ending = ?exit.ending, "stopped");
        self.show(|view| {
            view.pid = None;
            view.port = None;
            view.last_exit = Some(exit);
            view.diagnosis = None;
        });
        None
    }

    fn is_ready(&self) -> bool {
        matches!(lock(&self.view).state, State::Ready { .. })
    }

    /// Changes the view and tells the listeners, if that made a difference.
    fn show(&self, change: impl FnOnce(&mut View)) {
        let changed = {
            let mut view = lock(&self.view);
            let before = view.clone();
            change(&mut view);
            *view != before
        };
        if changed {
            self.shared.notify();
        }
    }
}

async fn detached(want: &mut watch::Receiver<Want>) {
    // An error means that the supervisor is gone, which is the same.
    drop(want.wait_for(|want| *want == Want::Detach).await);
}

impl From<ExitStatus> for Ending {
    fn from(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Code(code),
            (None, Some(number)) => Self::Signal {
                number,
                kernel_oom: None,
            },
            (None, None) => Self::Unknown,
        }
    }
}

/// The ending in words.
pub(super) fn explain(ending: Ending, lines: &[String], object: String) -> Diagnosis {
    let output = match lines {
        [] => "it wrote nothing".to_owned(),
        lines => format!("its last output: {}", lines.join(" | ")),
    };
    let (what, how, try_this) = match ending {
        Ending::Code(code) => {
            let hint = match code {
                0 => "a service must keep running in the foreground: look for a daemon or background option",
                126 | 127 => "a program that the command starts is missing or not executable there",
                _ => "see its output, and run the command by hand in its working directory",
            };
            (Problem::Exited, format!("it exited with code {code}"), hint)
        }
        Ending::Signal { number, kernel_oom } if number == Signal::KILL.as_raw() => {
            let who = match kernel_oom {
                Some(true) => "and the kernel's out-of-memory killer was active while it ran",
                Some(false) => "not by Wade, and the kernel's out-of-memory killer was not active",
                None => "not by Wade, perhaps by the kernel's out-of-memory killer",
            };
            (
                Problem::Killed,
                format!("it was killed (SIGKILL), {who}"),
                "see `dmesg` and the memory it needs",
            )
        }
        Ending::Signal { number, .. } => (
            Problem::Killed,
            format!(
                "it was ended by signal {number} ({}), which Wade did not send",
                signal_name(number)
            ),
            "see its output; for a crash inside the program look for a core dump",
        ),
        Ending::Unknown => (
            Problem::Exited,
            "it ended; how is unknown because an earlier daemon had started it".to_owned(),
            "see its output",
        ),
    };
    Diagnosis::new(what, object, format!("{how}; {output}"), try_this)
}

fn signal_name(number: i32) -> String {
    let named = Signal::from_named_raw(number).map(|signal| format!("{signal:?}"));
    named.map_or_else(
        || "unnamed".to_owned(),
        |name| name.rsplit("::").next().unwrap_or(&name).to_owned(),
    )
}

//! A running process that this supervisor holds: its own child, or one it adopted.

use std::os::fd::OwnedFd;
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::process::{PidfdFlags, Signal, pidfd_open};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::sleep;

use super::super::diagnosis::Diagnosis;
use super::super::launch;
use super::super::ledger::ProcessId;
use super::super::proc::{self, Listener};
use super::super::supervisor::PortLease;
use super::Ending;

/// How often a group is looked at once its leader is gone: groups, unlike processes, tell nobody when they end.
const GROUP_LOOK: Duration = Duration::from_millis(50);

/// How often a process is looked at where the kernel offers no descriptor for it (before 5.3, or a strict seccomp).
const LOOK: Duration = Duration::from_millis(250);

/// A process with what is needed to wait for it and to end it.
pub(in super::super) struct Live {
    pub(in super::super) id: ProcessId,
    pub(in super::super) token: String,
    pub(in super::super) since: Instant,
    pub(in super::super) log_from: u64,
    lease: Option<PortLease>,
    /// None for an adopted process.
    child: Option<Child>,
    /// Readable when the process has ended; none where the kernel has no such thing.
    descriptor: Option<AsyncFd<OwnedFd>>,
    ending: Option<Ending>,
    oom_kills_before: Option<u64>,
}

impl Live {
    /// Takes charge of a process. Must run inside the runtime.
    pub(in super::super) fn new(
        id: ProcessId,
        token: String,
        child: Option<Child>,
        lease: Option<PortLease>,
        log_from: u64,
        since: Instant,
    ) -> Self {
        // Opened by number: the caller checks the identity again where the number could have been reused before this.
        let open = || {
            let descriptor = pidfd_open(proc::to_pid(id.pid)?, PidfdFlags::empty()).ok()?;
            #[expect(
                deprecated,
                reason = "its successor is unsafe; an OwnedFd keeps what that asks the caller to promise"
            )]
            AsyncFd::with_interest(descriptor, Interest::READABLE).ok()
        };
        let descriptor = open();
        let oom_kills_before = proc::oom_kills();
        Self {
            id,
            token,
            since,
            log_from,
            lease,
            child,
            descriptor,
            ending: None,
            oom_kills_before,
        }
    }

    pub(in super::super) fn port(&self) -> Option<u16> {
        self.lease.as_ref().map(PortLease::port)
    }

    /// Waits until the process ends, and reaps it if it is ours. Safe to cancel and to repeat.
    pub(in super::super) async fn exited(&mut self) -> Ending {
        loop {
            if let Some(ending) = self.ending {
                return ending;
            }
            let Some(descriptor) = &self.descriptor else {
                self.look();
                if self.ending.is_none() {
                    sleep(LOOK).await;
                }
                continue;
            };
            match descriptor.readable().await {
                Ok(mut guard) => {
                    guard.clear_ready();
                    drop(guard);
                    self.look();
                }
                // The reactor is gone: the runtime is shutting down.
                Err(_) => self.descriptor = None,
            }
        }
    }

    /// Waits until the process and the rest of its group are gone.
    pub(super) async fn all_gone(&mut self) {
        self.exited().await;
        while !proc::members(&self.id).is_empty() {
            sleep(GROUP_LOOK).await;
        }
    }

    /// Whether the process has been seen to end and its group is empty.
    pub(super) fn is_gone(&self) -> bool {
        self.ending.is_some() && proc::members(&self.id).is_empty()
    }

    fn look(&mut self) {
        self.ending = match &mut self.child {
            Some(child) => match child.try_wait() {
                Ok(Some(status)) => Some(status.into()),
                Ok(None) => None,
                Err(_) => (!proc::alive(&self.id)).then_some(Ending::Unknown),
            },
            None => (!proc::alive(&self.id)).then_some(Ending::Unknown),
        };
        if let Some(Ending::Signal { number, kernel_oom }) = &mut self.ending
            && *number == Signal::KILL.as_raw()
        {
            *kernel_oom = self
                .oom_kills_before
                .zip(proc::oom_kills())
                .map(|(before, now)| now > before);
        }
    }
}

/// Whether whoever listens on the port can be the process `id`; a diagnosis if it is certainly somebody else.
pub(in super::super) fn check_port(port: u16, id: &ProcessId, token: &str, object: &str) -> Result<(), Diagnosis> {
    let Listener::Processes(holders) = proc::listener(port) else {
        return Ok(());
    };
    let members = proc::members(id);
    if holders
        .iter()
        .any(|pid| members.contains(pid) || proc::has_token(*pid, token))
    {
        return Ok(());
    }
    Err(launch::port_in_use(port, object))
}

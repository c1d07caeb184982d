//! What can be asked of the supervisor: how one revision's processes run, and how patient the supervisor is.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use super::diagnosis::{Diagnosis, Problem};

/// The most instances of one revision; more is a typing error on one machine.
pub const MAX_INSTANCES: u32 = 100;

/// The longest service or revision name: both become directory names.
pub const MAX_NAME_CHARS: usize = 63;

/// How the processes of one revision run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessSpec {
    /// Program and arguments; no shell reads them. A program without `/` is looked up in `PATH`, a relative one starts
    /// at `workdir`. `${PORT}` in arguments becomes the instance's port; there is no other substitution.
    pub command: Vec<String>,
    /// Added to the environment, over what is inherited (only `PATH`, `HOME`, `LANG`, `TZ` and `TMPDIR`: the daemon's
    /// secrets stay its own). `${PORT}` in values is substituted. `PORT` and names that begin with `WADE_` are Wade's.
    pub env: BTreeMap<String, String>,
    /// Where it runs. Absolute for [`ensure`](super::Supervisor::ensure).
    pub workdir: PathBuf,
    /// Files and directories that are part of the revision besides the program, for [`identity`](super::identity()):
    /// scripts, configuration, assets. Relative ones start at `workdir`.
    pub files: Vec<PathBuf>,
    /// Which port each instance gets.
    pub port: Port,
    /// When an instance can take traffic.
    pub ready: Ready,
    /// How an instance is ended.
    pub stop: StopRule,
    /// Resource limits of each instance.
    pub limits: Limits,
    /// Whose rights it has.
    pub run_as: RunAs,
    /// How much output is kept.
    pub output: OutputRule,
}

/// Which port an instance gets, as `PORT` and `${PORT}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// A free loopback port, another one after each restart.
    Auto,
    /// This port, whoever holds it now; for one instance only.
    Fixed(u16),
    /// No port: a worker.
    None,
}

/// When an instance can take traffic. Probes go to 127.0.0.1 and the instance's port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ready {
    /// `GET path` answers 2xx. Redirects are not followed: a login page is not readiness.
    Http {
        /// Path and query, beginning with `/`.
        path: String,
    },
    /// The port accepts a connection.
    Tcp,
    /// This command (not read by a shell, same environment, directory and user) exits with 0.
    Command(Vec<String>),
    /// It runs and has not ended by the first look.
    None,
}

/// How an instance is ended: the signal, then this long to finish its work, then SIGKILL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopRule {
    /// Sent to the whole process group first.
    pub signal: StopSignal,
    /// How long it has to end by itself.
    pub drain: Duration,
}

impl Default for StopRule {
    fn default() -> Self {
        Self {
            signal: StopSignal::Term,
            drain: Duration::from_secs(30),
        }
    }
}

/// Signals that programs understand as "finish and end".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StopSignal {
    /// SIGTERM, what most programs expect.
    Term,
    /// SIGINT.
    Int,
    /// SIGQUIT: nginx's graceful stop.
    Quit,
    /// SIGHUP.
    Hup,
    /// SIGUSR1.
    Usr1,
    /// SIGUSR2.
    Usr2,
    /// SIGWINCH: httpd's graceful stop.
    Winch,
}

impl StopSignal {
    pub(super) fn signal(self) -> Signal {
        match self {
            Self::Term => Signal::TERM,
            Self::Int => Signal::INT,
            Self::Quit => Signal::QUIT,
            Self::Hup => Signal::HUP,
            Self::Usr1 => Signal::USR1,
            Self::Usr2 => Signal::USR2,
            Self::Winch => Signal::WINCH,
        }
    }
}

/// Resource limits of one process (and, each anew, of its children): see [`limits`](super::limits).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of private writable memory (`RLIMIT_DATA`).
    pub memory_bytes: Option<u64>,
    /// Open files (`RLIMIT_NOFILE`).
    pub open_files: Option<u64>,
}

/// Whose rights a process has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunAs {
    /// The daemon's own user. If that is root, only when somebody wrote `allow_root`.
    Daemon {
        /// Whether root is meant.
        allow_root: bool,
    },
    /// This user, by name in `/etc/passwd` or as `uid:gid`. Supplementary groups are dropped, and the user's own ones
    /// from `/etc/group` are not added. Never root.
    User(String),
}

/// How much output of each slot is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutputRule {
    /// A file of this size is rotated.
    pub max_bytes: u64,
    /// Older files kept beside the present one.
    pub files: u32,
}

impl Default for OutputRule {
    fn default() -> Self {
        Self {
            max_bytes: 10 * 1024 * 1024,
            files: 3,
        }
    }
}

/// How patient the supervisor is: the same for all services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// When and how fast to try again.
    pub restart: RestartPolicy,
    /// When to look for readiness.
    pub probe: ProbeTiming,
    /// How often output files are measured against their size.
    pub rotate_every: Duration,
    /// Revisions whose output is kept after they were removed, per service.
    pub removed_outputs_kept: usize,
    /// The program (and first arguments) that sets limits and then becomes the service: see
    /// [`exec_with_limits`](super::exec_with_limits).
    pub launcher: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            restart: RestartPolicy::default(),
            probe: ProbeTiming::default(),
            rotate_every: Duration::from_secs(2),
            removed_outputs_kept: 5,
            // Not current_exe: an upgrade replaces the file while this daemon runs, the link keeps its own program.
            launcher: vec!["/proc/self/exe".to_owned(), "__exec".to_owned()],
        }
    }
}

/// Restarts: the wait doubles from `first` to `max`, and starts again at `first` after `reset_after` of running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestartPolicy {
    /// The wait after the first failure.
    pub first: Duration,
    /// The longest wait.
    pub max: Duration,
    /// Running this long makes the next failure a first one.
    pub reset_after: Duration,
    /// This many failures in a row are a crash loop.
    pub crash_loop_after: u32,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(1),
            max: Duration::from_secs(30),
            reset_after: Duration::from_secs(60),
            crash_loop_after: 3,
        }
    }
}

impl RestartPolicy {
    /// The wait after `failures` in a row (1 is the first).
    pub fn wait(&self, failures: u32) -> Duration {
        // 2^20 first waits are past any maximum; the bound keeps the shift defined.
        self.first
            .saturating_mul(1 << failures.saturating_sub(1).min(20))
            .min(self.max)
    }
}

/// When to look for readiness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeTiming {
    /// Between looks until ready.
    pub until_ready: Duration,
    /// Between looks afterwards.
    pub when_ready: Duration,
    /// How long one look may take.
    pub timeout: Duration,
    /// Misses in a row that make a ready instance unready.
    pub misses: u32,
    /// Not ready after this long is worth a diagnosis; the instance keeps its time to start.
    pub slow_start: Duration,
}

impl Default for ProbeTiming {
    fn default() -> Self {
        Self {
            until_ready: Duration::from_millis(200),
            when_ready: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            misses: 3,
            slow_start: Duration::from_secs(10),
        }
    }
}

impl ProcessSpec {
    /// A spec with the usual settings: an automatic port, ready when it accepts connections, TERM and 30 s of drain,
    /// the daemon's user if that is not root.
    pub fn new(command: Vec<String>, workdir: PathBuf) -> Self {
        Self {
            command,
            env: BTreeMap::new(),
            workdir,
            files: Vec::new(),
            port: Port::Auto,
            ready: Ready::Tcp,
            stop: StopRule::default(),
            limits: Limits::default(),
            run_as: RunAs::Daemon { allow_root: false },
            output: OutputRule::default(),
        }
    }

    /// The first reason why `instances` of this can never run, whatever the machine looks like.
    pub(super) fn check(&self, object: &str, instances: u32) -> Result<(), Diagnosis> {
        let fault = |detail: String, try_this: &str| {
            Err(Diagnosis::new(
                Problem::InvalidSpec,
                object,
                detail,
                try_this.to_owned(),
            ))
        };
        if self.command.first().is_none_or(String::is_empty) {
            return fault(
                "the command is empty".into(),
                "give a program and its arguments as a list",
            );
        }
        if !self.workdir.is_absolute() {
            let shown = self.workdir.display();
            return fault(
                format!("the working directory `{shown}` is relative"),
                "give an absolute path",
            );
        }
        if instances > MAX_INSTANCES {
            return fault(
                format!("{instances} instances asked"),
                "ask for at most 100 on one machine",
            );
        }
        if let Port::Fixed(port) = self.port
            && instances > 1
        {
            return fault(
                format!("{instances} instances cannot share port {port}"),
                "use an automatic port",
            );
        }
        match &self.ready {
            Ready::Http { .. } | Ready::Tcp if self.port == Port::None => {
                return fault(
                    "readiness needs a port and there is none".into(),
                    "use an automatic port",
                );
            }
            Ready::Http { path } if !path.starts_with('/') => {
                return fault(
                    format!("the readiness path `{path}` does not begin with /"),
                    "write it as `/path`",
                );
            }
            Ready::Command(command) if command.first().is_none_or(String::is_empty) => {
                return fault(
                    "the readiness command is empty".into(),
                    "give a program and its arguments as a list",
                );
            }
            Ready::Http { .. } | Ready::Tcp | Ready::Command(_) | Ready::None => {}
        }
        for (name, value) in &self.env {
            if name == "PORT" || name.starts_with("WADE_") {
                return fault(
                    format!("the environment sets {name}, which Wade sets itself"),
                    "use another name",
                );
            }
            if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
                return fault(
                    format!("`{}` is not an environment variable", name.escape_debug()),
                    "rename it",
                );
            }
        }
        if self.command.iter().any(|word| word.contains('\0')) {
            return fault("the command contains a zero byte".into(), "remove it");
        }
        if self.output.max_bytes == 0 {
            return fault("output.maxBytes is 0".into(), "allow at least some kilobytes");
        }
        Ok(())
    }
}

/// Names become directories and environment values, so they are plain.
pub(super) fn check_name(kind: &str, name: &str) -> Result<(), Diagnosis> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if starts_well && name.len() <= MAX_NAME_CHARS && name.chars().all(plain) {
        return Ok(());
    }
    Err(Diagnosis::new(
        Problem::InvalidSpec,
        format!("{kind} `{}`", name.escape_debug()),
        "the name cannot be a directory name here",
        format!("use letters, digits, `-`, `_` and `.`, beginning with a letter or digit, at most {MAX_NAME_CHARS}"),
    ))
}

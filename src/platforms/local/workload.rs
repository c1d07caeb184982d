//! From what a Rollout says about its processes to what the supervisor runs.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::process::{
    Diagnosis, Limits, OutputRule, Port, ProcessSpec, Ready, RevisionId, RunAs, StopRule, StopSignal, identity,
};
use crate::spec::{self, ProcessWorkload};

/// The local platform's form of a revision: everything needed to start it again, variables already filled in
/// (but `${PORT}`, which every launch has its own of).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LocalWorkload {
    /// What to run.
    pub process: ProcessWorkload,
    /// The folder of the rollout's file, where relative paths start.
    pub base_dir: PathBuf,
}

impl LocalWorkload {
    /// Instances at full size.
    pub fn full(&self) -> u32 {
        self.process.instances.unwrap_or(1)
    }

    /// What the supervisor is asked to run.
    pub fn process_spec(&self) -> ProcessSpec {
        let process = &self.process;
        let workdir = process
            .workdir
            .as_deref()
            .map_or_else(|| self.base_dir.clone(), |dir| self.base_dir.join(dir));
        ProcessSpec {
            command: process.command.clone(),
            env: process.env.clone(),
            workdir,
            files: process.files.iter().map(PathBuf::from).collect(),
            port: process.port.map_or(Port::None, |_| Port::Auto),
            ready: match &process.ready {
                Some(spec::Ready::Http(path)) => Ready::Http { path: path.clone() },
                Some(spec::Ready::Tcp(_)) => Ready::Tcp,
                Some(spec::Ready::Command(command)) => Ready::Command(command.clone()),
                // Whoever has a port is ready when it can be reached.
                None if process.port.is_some() => Ready::Tcp,
                None => Ready::None,
            },
            stop: StopRule {
                signal: stop_signal(process.stop_signal.unwrap_or_default()),
                drain: process
                    .drain
                    .map_or(std::time::Duration::from_secs(10), |drain| drain.0),
            },
            limits: Limits {
                memory_bytes: process.limits.and_then(|limits| limits.memory).map(|bytes| bytes.0),
                open_files: process.limits.and_then(|limits| limits.open_files),
            },
            run_as: match &process.user {
                Some(user) => RunAs::User(user.clone()),
                None => RunAs::Daemon {
                    allow_root: process.allow_root,
                },
            },
            output: OutputRule::default(),
        }
    }

    /// The hash of what defines the revision: command, environment, and executables and listed files by content.
    ///
    /// # Errors
    /// When the program or a listed file cannot be found or read.
    pub fn identity(&self) -> Result<RevisionId, Diagnosis> {
        identity(&self.process_spec(), Path::new("/"))
    }
}

const fn stop_signal(signal: spec::StopSignal) -> StopSignal {
    match signal {
        spec::StopSignal::Term => StopSignal::Term,
        spec::StopSignal::Int => StopSignal::Int,
        spec::StopSignal::Quit => StopSignal::Quit,
        spec::StopSignal::Hup => StopSignal::Hup,
        spec::StopSignal::Usr1 => StopSignal::Usr1,
        spec::StopSignal::Usr2 => StopSignal::Usr2,
    }
}

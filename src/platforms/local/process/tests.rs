//! The supervisor with real processes: small shell scripts in a temporary directory. Every test waits for changes, not
//! for time, and ends whatever it started through the recorded launch tokens, also when it fails.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::clock::SystemClock;

mod adoption;
mod life;

/// Longer than anything here takes on a busy machine; a test that needs it has failed.
const PATIENCE: Duration = Duration::from_secs(15);

/// One machine's data directory; ends every process that was started from it.
struct World {
    dir: tempfile::TempDir,
    ledger: Arc<MemoryLedger>,
}

impl World {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            ledger: Arc::default(),
        }
    }

    fn settings() -> Settings {
        let ms = Duration::from_millis;
        Settings {
            restart: RestartPolicy {
                first: ms(20),
                max: ms(80),
                reset_after: ms(60_000),
                crash_loop_after: 3,
            },
            probe: ProbeTiming {
                until_ready: ms(20),
                when_ready: ms(50),
                timeout: ms(1000),
                misses: 2,
                slow_start: ms(100),
            },
            rotate_every: ms(50),
            ..Settings::default()
        }
    }

    fn open(&self) -> (Supervisor, Adoption) {
        self.open_with(Self::settings())
    }

    fn open_with(&self, settings: Settings) -> (Supervisor, Adoption) {
        let ledger = Arc::clone(&self.ledger) as Arc<dyn Ledger>;
        Supervisor::open(self.dir.path(), ledger, Arc::new(SystemClock), settings).unwrap()
    }

    /// A spec that runs this shell script, without port and probe.
    fn spec(&self, script: &str) -> ProcessSpec {
        let command = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        let mut spec = ProcessSpec::new(command, self.dir.path().to_owned());
        spec.port = Port::None;
        spec.ready = Ready::None;
        spec.run_as = RunAs::Daemon { allow_root: true };
        spec.stop.drain = Duration::from_secs(5);
        spec
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.file(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // By directory, so that also processes without a row are found; only ours run there.
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            let here = fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == self.dir.path());
            if here && pid != std::process::id() {
                let _gone = rustix::process::kill_process(proc::to_pid(pid).unwrap(), rustix::process::Signal::KILL);
            }
        }
    }
}

/// Waits until the service looks like `expected`, woken by changes only.
async fn until(
    supervisor: &Supervisor,
    service: &str,
    expected: impl Fn(&[RevisionProcesses]) -> bool,
) -> Vec<RevisionProcesses> {
    let mut changes = supervisor.changes();
    let wait = async {
        loop {
            changes.borrow_and_update();
            let seen = supervisor.observe(service);
            if expected(&seen) {
                return seen;
            }
            changes.changed().await.unwrap();
        }
    };
    match tokio::time::timeout(PATIENCE, wait).await {
        Ok(seen) => seen,
        Err(_) => panic!("never as expected: {:#?}", supervisor.observe(service)),
    }
}

fn all_ready(seen: &[RevisionProcesses], count: usize) -> bool {
    let instances: Vec<_> = seen.iter().flat_map(|revision| &revision.instances).collect();
    instances.len() == count && instances.iter().all(|i| matches!(i.state, State::Ready { .. }))
}

fn pids(seen: &[RevisionProcesses]) -> Vec<u32> {
    seen.iter()
        .flat_map(|revision| &revision.instances)
        .filter_map(|instance| instance.pid)
        .collect()
}

/// Waits until a file that a script writes has this text.
async fn until_file(path: &Path, expected: impl Fn(&str) -> bool) -> String {
    let wait = async {
        loop {
            let text = fs::read_to_string(path).unwrap_or_default();
            if expected(&text) {
                return text;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait)
        .await
        .unwrap_or_else(|_| panic!("{} never came", path.display()))
}

fn gone(pid: u32) -> bool {
    proc::stat(pid).is_none_or(|seen| seen.zombie)
}

async fn until_gone(pid: u32) {
    let wait = async {
        while !gone(pid) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait)
        .await
        .unwrap_or_else(|_| panic!("pid {pid} still runs"));
}

fn diagnosis(seen: &[RevisionProcesses]) -> Option<&Diagnosis> {
    seen.first()?.instances.first()?.diagnosis.as_ref()
}

/// A tiny HTTP server of this test process, in the place of a service's own.
fn answer_with(status: &'static str) -> u16 {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in socket.incoming().flatten() {
            use std::io::{Read, Write};
            let _request = stream.read(&mut [0; 1024]);
            let _answer = write!(
                stream,
                "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            );
        }
    });
    port
}

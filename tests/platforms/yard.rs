//! A folder with a daemon in it: the real binary, a rollout whose service is `wade sample-service`, and a guard that
//! leaves nothing running behind, however a test ends.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use wade::clock::{Clock, SystemClock, stopwatch};
use wade::daemon::api::{ReleaseRequest, ReleaseTarget, RolloutView};
use wade::daemon::client::Client;
use wade::store::{ReleaseKey, ReleaseRecord};

/// The service's name in every test.
pub(crate) const SERVICE: &str = "hello";
/// The binary under test.
pub(crate) const WADE: &str = env!("CARGO_BIN_EXE_wade");
/// A revision is known by its program's content, and reading a debug build's takes a second on a busy machine.
pub(crate) const SHELL: &str = "/bin/sh";
/// Nothing flawed.
pub(crate) const GOOD: &str = "--fail-percent=0";
/// Marks the processes of one yard in their environment.
const MARK: &str = "YARD";
/// How long a daemon may take to answer after its start; other builds may have the machine.
const START_WITHIN: Duration = Duration::from_secs(20);
/// Between two looks.
pub(crate) const LOOK: Duration = Duration::from_millis(20);

/// What differs between the rollouts of the tests; everything is YAML.
pub(crate) struct Rollout {
    pub(crate) steps: &'static str,
    pub(crate) bake: &'static str,
    pub(crate) instances: u32,
    pub(crate) smoke: &'static str,
    /// Further lines of the spec, two spaces deep.
    pub(crate) more: &'static str,
}

impl Default for Rollout {
    fn default() -> Self {
        Self {
            steps: "{weight: 20%, max: 4s}, {weight: 50%, max: 4s}",
            bake: "1s",
            instances: 2,
            smoke: "{http: /selftest}",
            more: "",
        }
    }
}

impl Rollout {
    fn text(&self, mark: &str, port: u16) -> String {
        let Self {
            steps,
            bake,
            instances,
            smoke,
            more,
        } = self;
        format!(
            "apiVersion: wade.dev/v1alpha1
kind: Rollout
metadata: {{name: {SERVICE}}}
spec:
  workload:
    process:
      command: ['{SHELL}', -c, 'exec \"$0\" \"$@\"', '{WADE}', sample-service, '--version=${{version}}', '${{flaw}}']
      env: {{{MARK}: '{mark}'}}
      instances: {instances}
      port: auto
      ready: {{http: /healthz}}
      drain: 3s
      allowRoot: true
  variables:
    flaw: {{default: {GOOD}}}
  traffic: {{listen: '127.0.0.1:{port}'}}
  strategy: {{use: demo, with: {{steps: [{steps}], bake: {bake}}}}}
  analysis:
    source: {{scrape: {{path: /metrics, every: 1s}}}}
    look: 200ms
    passEarly: {{minStage: 2s}}
  limits: {{settle: 300ms, ready: 30s}}
  smoke: [{smoke}]
{more}"
        )
    }
}

/// A process of the sample service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Sample {
    pub(crate) revision: String,
    pub(crate) slot: String,
    pub(crate) pid: u32,
    /// Since boot; with the pid it names one process for ever.
    pub(crate) start_ticks: u64,
}

/// The folder, the daemon if one runs, and what is to be cleaned up.
pub(crate) struct Yard {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) port: u16,
    daemon: Option<Child>,
}

impl Yard {
    pub(crate) fn new(rollout: &Rollout) -> Self {
        // In memory where that is possible: how long a busy disk takes to sync is not what is tested here.
        let memory = tempfile::tempdir_in("/dev/shm");
        let folder = memory.or_else(|_| tempfile::tempdir()).expect("a temporary folder");
        let yard = Self {
            folder,
            port: free_port(),
            daemon: None,
        };
        fs::create_dir(yard.path("rollouts")).expect("a new folder");
        yard.write("rollouts/hello.yaml", &rollout.text(&yard.mark(), yard.port));
        yard.write("wade.yaml", "apiVersion: wade.dev/v1alpha1\nkind: Config\ndata: data\n");
        yard
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("the test's folder can be written");
    }

    pub(crate) fn mark(&self) -> String {
        self.folder.path().display().to_string()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path("data/wade.sock")
    }

    /// What the daemons of this yard have logged, its last part.
    pub(crate) fn log(&self) -> String {
        let text = fs::read_to_string(self.path("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    /// Starts the daemon; its log goes to the end of `log`.
    pub(crate) fn launch(&mut self, more: &[&str]) {
        assert!(self.daemon.is_none(), "one daemon at a time");
        let log = || {
            fs::File::options()
                .create(true)
                .append(true)
                .open(self.path("log"))
                .expect("the log can be written")
        };
        let child = Command::new(WADE)
            .arg("serve")
            .arg("--config")
            .arg(self.path("wade.yaml"))
            .args(more)
            .env("WADE_LOG", "info")
            .stdin(Stdio::null())
            .stdout(log())
            .stderr(log())
            .spawn()
            .expect("the binary runs");
        self.daemon = Some(child);
    }

    /// Starts the daemon and waits until it answers.
    pub(crate) async fn start(&mut self) -> Client {
        self.launch(&[]);
        self.answering().await
    }

    /// Waits until the daemon answers.
    pub(crate) async fn answering(&mut self) -> Client {
        let began = stopwatch();
        loop {
            if let Ok(client) = Client::socket(&self.socket())
                && client.rollouts().await.is_ok()
            {
                return client;
            }
            let ended = self.daemon.as_mut().and_then(|daemon| daemon.try_wait().ok().flatten());
            let late = began.elapsed() > START_WITHIN;
            assert!(
                ended.is_none() && !late,
                "the daemon does not answer (ended: {ended:?}):\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// `kill -9`, and gone.
    pub(crate) async fn kill(&mut self) {
        let mut daemon = self.daemon.take().expect("a daemon runs");
        daemon.kill().await.expect("our own child can be killed");
    }

    /// SIGTERM, and how it ended.
    pub(crate) async fn terminate(&mut self) -> ExitStatus {
        let mut daemon = self.daemon.take().expect("a daemon runs");
        signal(daemon.id().expect("not reaped yet"), Signal::TERM);
        match tokio::time::timeout(Duration::from_secs(20), daemon.wait()).await {
            Ok(status) => status.expect("our own child can be waited for"),
            Err(_) => {
                let _ = daemon.kill().await;
                panic!("the daemon did not stop within 20 s:\n{}", self.log());
            }
        }
    }

    /// The processes of the service, in order.
    pub(crate) fn samples(&self) -> Vec<Sample> {
        samples(&self.mark())
    }

    /// Runs `wade` against this daemon: exit code, standard output, standard error.
    pub(crate) async fn wade(&self, words: &[&str]) -> (i32, String, String) {
        let command = Command::new(WADE)
            .args(words)
            .env("WADE_SOCKET", self.socket())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(Duration::from_secs(60), command).await;
        let output = output
            .unwrap_or_else(|_| panic!("wade {words:?} hangs:\n{}", self.log()))
            .expect("the binary runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (
            output.status.code().unwrap_or(-1),
            text(&output.stdout),
            text(&output.stderr),
        )
    }

    /// Releases and waits for the end.
    pub(crate) async fn release(&self, client: &Client, version: &str, flaw: &str) -> ReleaseRecord {
        let started = client
            .release(SERVICE, &request(version, flaw))
            .await
            .unwrap_or_else(|problem| panic!("{problem}"));
        self.over(client, &started.release.expect("not served already")).await
    }

    /// Waits for the end of a release.
    pub(crate) async fn over(&self, client: &Client, key: &ReleaseKey) -> ReleaseRecord {
        self.until("the release is over", async || {
            let record = client.record(key).await.ok()?;
            record.state.outcome().is_some().then_some(record)
        })
        .await
    }

    /// Waits until the release is in the phase with this label.
    pub(crate) async fn phase(&self, client: &Client, label: &str) -> RolloutView {
        self.until(label, async || {
            let view = client.rollout(SERVICE).await.ok()?;
            (view.release.as_ref()?.phase == label).then_some(view)
        })
        .await
    }

    /// Looks until there is an answer; fails with the log after a while.
    pub(crate) async fn until<T>(&self, what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
        let began = stopwatch();
        loop {
            if let Some(found) = look().await {
                return found;
            }
            assert!(
                began.elapsed() < Duration::from_secs(40),
                "waited for 40 s in vain: {what}\n{}",
                self.log()
            );
            tokio::time::sleep(LOOK).await;
        }
    }
}

impl Drop for Yard {
    fn drop(&mut self) {
        if let Some(pid) = self.daemon.as_ref().and_then(Child::id) {
            signal(pid, Signal::KILL);
        }
        // A daemon's last act may have been to start one more, so look until none is left.
        for _ in 0..50 {
            let left = self.samples();
            if left.is_empty() {
                break;
            }
            left.iter().for_each(|sample| signal(sample.pid, Signal::KILL));
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

pub(crate) fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .expect("a process number");
    // Gone already is what was wanted.
    let _ = kill_process(pid, signal);
}

/// A release of `version` with a flaw of the sample service.
pub(crate) fn request(version: &str, flaw: &str) -> ReleaseRequest {
    let set = [("version", version), ("flaw", flaw)];
    let set: BTreeMap<String, String> = set.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    ReleaseRequest {
        target: ReleaseTarget::File { set, path: None },
        ..ReleaseRequest::default()
    }
}

/// A port that nobody listens on and that the kernel gives to nobody by itself, so that it is free after a restart too.
pub(crate) fn free_port() -> u16 {
    let seed = SystemClock.now().as_nanosecond() as u64 ^ u64::from(std::process::id()).rotate_left(32);
    let mut dice = ChaCha8Rng::seed_from_u64(seed);
    (0..200)
        .map(|_| dice.random_range(20_000..32_000))
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .expect("a free port among 12,000")
}

fn samples(mark: &str) -> Vec<Sample> {
    let wanted = format!("{MARK}={mark}");
    let entries = fs::read_dir("/proc").expect("Linux").flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mut found: Vec<Sample> = numbers.filter_map(|pid| sample(pid, &wanted)).collect();
    found.sort();
    found
}

fn sample(pid: u32, wanted: &str) -> Option<Sample> {
    let folder = Path::new("/proc").join(pid.to_string());
    let environ = fs::read(folder.join("environ")).ok()?;
    let variables: Vec<&str> = environ
        .split(|byte| *byte == 0)
        .filter_map(|text| std::str::from_utf8(text).ok())
        .collect();
    if !variables.contains(&wanted) {
        return None;
    }
    let value = |name: &str| {
        variables
            .iter()
            .find_map(|text| text.strip_prefix(name)?.strip_prefix('='))
            .map(str::to_owned)
    };
    let stat = fs::read_to_string(folder.join("stat")).ok()?;
    // proc(5): fields count from behind the name, which may contain anything; field 3 is the state, 22 the start.
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace();
    let state = fields.next()?;
    let start_ticks = fields.nth(18)?.parse().ok()?;
    (state != "Z" && state != "X").then_some(())?;
    Some(Sample {
        revision: value("WADE_REVISION")?,
        slot: value("WADE_INSTANCE")?,
        pid,
        start_ticks,
    })
}

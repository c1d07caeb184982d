//! One command on this machine, in a process group of its own.
//!
//! It gets no shell, no input, a bounded ear for its output, and an environment of five inherited names. Whatever it
//! starts ends with it: at the time limit, when the run is dropped, or when it has left something behind that still
//! holds its output. What has left the process group *and* let go of the output escapes.

use std::collections::{BTreeMap, VecDeque};
use std::process::{ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

use super::text::{EXCERPT, quoted};
use super::{Failure, Limit, SmokeTarget};
use crate::spec::CommandSmoke;

/// What a command inherits of Wade's own environment; the rest may hold Wade's own secrets.
const INHERITED: [&str; 5] = ["PATH", "HOME", "LANG", "TZ", "TMPDIR"];
/// How much of the end of a command's output is kept, in bytes.
const TAIL: usize = 4 << 10;
/// How many of the last lines a report shows.
const LINES: usize = 4;
/// How long output may keep coming after the command itself has ended.
const AFTERGLOW: Duration = Duration::from_millis(200);

/// One try: runs the command once and expects it to end with 0.
pub(super) async fn execute(
    test: &CommandSmoke,
    target: &SmokeTarget,
    limit: Limit,
    env: &BTreeMap<String, String>,
) -> Result<(), Failure> {
    let mut env = env.clone();
    env.insert(
        "WADE_URL".to_owned(),
        format!("http://{}{}", target.address, target.prefix),
    );
    run(&test.command, limit, &env).await
}

/// Runs a command and expects it to end with 0.
pub(super) async fn run(command: &[String], limit: Limit, env: &BTreeMap<String, String>) -> Result<(), Failure> {
    let Some((program, arguments)) = command.split_first() else {
        return Err(Failure::Test(
            "it has no words; write the program and its arguments".to_owned(),
        ));
    };
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(
            INHERITED
                .iter()
                .filter_map(|name| Some((name, std::env::var_os(name)?))),
        )
        .envs(env)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| {
            let program = quoted(program, EXCERPT);
            Failure::Test(format!(
                "`{program}` cannot be started ({error}); check the path and that it is executable"
            ))
        })?;
    let tail = Mutex::new(Tail::default());
    let ended = {
        let mut group = Group(child.id().and_then(|id| Pid::from_raw(id.cast_signed())));
        let ended = tokio::time::timeout(limit.time, outcome(&mut child, &tail)).await;
        if matches!(ended, Ok(Ok((_, Output::Closed)))) {
            // Nobody is left who holds the output: the group is most likely empty and its number free for others.
            group.0 = None;
        }
        ended
    };
    let tail = tail.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let what = match ended {
        Ok(Ok((status, _))) if status.success() => return Ok(()),
        Ok(Ok((status, _))) => ending(status),
        Ok(Err(error)) => format!("its end could not be awaited ({error})"),
        Err(_) => {
            // Killed by now; reaped here, so that no zombie outlives the test.
            let _ = child.wait().await;
            format!("it did not end within {limit} and was killed")
        }
    };
    Err(Failure::Answer {
        what,
        excerpt: tail.last_lines().map(|lines| ("last lines", lines)),
    })
}

/// Whether the output was closed when the command had ended, or somebody still holds it.
enum Output {
    Closed,
    Held,
}

async fn outcome(child: &mut Child, tail: &Mutex<Tail>) -> std::io::Result<(ExitStatus, Output)> {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let mut listening = std::pin::pin!(async { tokio::join!(listen(stdout, tail), listen(stderr, tail)) });
    let status = tokio::select! {
        status = child.wait() => Some(status?),
        _ = &mut listening => None,
    };
    match status {
        None => Ok((child.wait().await?, Output::Closed)),
        Some(status) => match tokio::time::timeout(AFTERGLOW, listening).await {
            Ok(_) => Ok((status, Output::Closed)),
            Err(_) => Ok((status, Output::Held)),
        },
    }
}

async fn listen(pipe: Option<impl AsyncRead + Unpin>, tail: &Mutex<Tail>) {
    let Some(mut pipe) = pipe else { return };
    let mut buffer = [0; 1024];
    while let Ok(count @ 1..) = pipe.read(&mut buffer).await {
        tail.lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .push(&buffer[..count]);
    }
}

fn ending(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with {code} where 0 was expected"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => format!("ended oddly ({status})"),
    }
}

/// A process group that is killed when this is dropped.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            // The group may be gone already, which is what is wanted.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

/// The end of the output, whatever pipe it came from.
#[derive(Default)]
struct Tail(VecDeque<u8>);

impl Tail {
    fn push(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
        let surplus = self.0.len().saturating_sub(TAIL);
        self.0.drain(..surplus);
    }

    /// The last lines on one line, the newest kept when they are too long.
    fn last_lines(mut self) -> Option<String> {
        let text = String::from_utf8_lossy(self.0.make_contiguous());
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let last = lines[lines.len().saturating_sub(LINES)..].join(" | ");
        let surplus = last.chars().count().saturating_sub(EXCERPT);
        let kept: String = last.chars().skip(surplus).collect();
        match (kept.is_empty(), surplus) {
            (true, _) => None,
            (false, 0) => Some(quoted(&kept, EXCERPT)),
            (false, _) => Some(format!("…{}", quoted(&kept, EXCERPT))),
        }
    }
}

//! The daemon dies or leaves; the processes stay, and the next daemon finds exactly them.
//!
//! Dropping the supervisor is what `kill -9` is to it: its tasks stop wherever they are and nothing is cleaned up.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use jiff::Timestamp;

use super::*;

fn key() -> SlotKey {
    SlotKey {
        service: "web".into(),
        revision: "r1".into(),
        slot: 0,
    }
}

/// A process as a daemon would have started it just before it died.
fn started_by_a_dead_daemon(world: &World, token: &str) -> std::process::Child {
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", "sleep 60 & wait"])
        .env("WADE_LAUNCH", token)
        .current_dir(world.dir.path());
    command
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

fn record(launch: &str, phase: Phase) -> ProcessRecord {
    ProcessRecord {
        key: key(),
        launch: launch.into(),
        phase,
        port: None,
        started_at: Timestamp::UNIX_EPOCH,
        restarts: 4,
        stop: StopRule {
            signal: StopSignal::Term,
            drain: Duration::from_secs(5),
        },
    }
}

#[tokio::test]
async fn processes_survive_the_daemon_and_are_adopted_with_their_ports() {
    let world = World::new();
    let mut spec = world.spec("exec sleep 60");
    spec.port = Port::Auto;
    let (supervisor, _) = world.open();
    supervisor.ensure("web", "r1", &spec, 2).unwrap();
    let before = until(&supervisor, "web", |seen| all_ready(seen, 2)).await;
    let rows = world.ledger.all().unwrap();
    drop(supervisor);

    let (supervisor, adoption) = world.open();
    assert_eq!(
        adoption,
        Adoption {
            adopted: rows,
            lost: vec![]
        }
    );
    assert_eq!(supervisor.observe("web")[0].desired, None);
    supervisor.ensure("web", "r1", &spec, 2).unwrap();
    let after = until(&supervisor, "web", |seen| all_ready(seen, 2)).await;
    let facts = |seen: &[RevisionProcesses]| -> Vec<_> {
        seen[0]
            .instances
            .iter()
            .map(|i| (i.slot, i.pid, i.port, i.restarts))
            .collect()
    };
    assert_eq!(facts(&after), facts(&before));

    // An adopted process is watched like an own one: it is started again when it ends, and stopped on demand.
    let first = pids(&after)[0];
    rustix::process::kill_process(proc::to_pid(first).unwrap(), rustix::process::Signal::KILL).unwrap();
    let restarted = |seen: &[RevisionProcesses]| all_ready(seen, 2) && seen[0].instances[0].restarts == 1;
    let seen = until(&supervisor, "web", restarted).await;
    assert_eq!(seen[0].instances[0].last_exit.unwrap().ending, Ending::Unknown);
    let last = pids(&seen);
    supervisor.shutdown(Shutdown::Stop).await;
    assert!(last.into_iter().all(gone));
    assert_eq!(world.ledger.all().unwrap(), []);
}

#[tokio::test]
async fn keeping_leaves_processes_and_rows_for_the_next_daemon() {
    let world = World::new();
    let (supervisor, _) = world.open();
    supervisor.ensure("web", "r1", &world.spec("exec sleep 60"), 1).unwrap();
    let pid = pids(&until(&supervisor, "web", |seen| all_ready(seen, 1)).await)[0];
    supervisor.shutdown(Shutdown::Keep).await;
    assert!(!gone(pid));
    let (supervisor, adoption) = world.open();
    assert_eq!(adoption.adopted.len(), 1);
    // Nobody knows its spec any more; the recorded rule is enough to stop it.
    supervisor.remove("web", "r1");
    until(&supervisor, "web", |seen| seen.is_empty()).await;
    assert!(gone(pid));
}

#[tokio::test]
async fn an_intent_without_a_pid_is_resolved_by_its_token() {
    let world = World::new();
    let mut child = started_by_a_dead_daemon(&world, "token-of-a-dead-daemon");
    world
        .ledger
        .put(&record("token-of-a-dead-daemon", Phase::Intended))
        .unwrap();
    // Until exec, the child has its parent's environment.
    until_file(Path::new(&format!("/proc/{}/environ", child.id())), |env| {
        env.contains("WADE_LAUNCH")
    })
    .await;
    let (supervisor, adoption) = world.open();
    let phase = Phase::Running(proc::identify(child.id()).unwrap());
    let expected = record("token-of-a-dead-daemon", phase);
    assert_eq!(
        adoption,
        Adoption {
            adopted: vec![expected.clone()],
            lost: vec![]
        }
    );
    assert_eq!(world.ledger.all().unwrap(), [expected]);
    supervisor.ensure("web", "r1", &world.spec("exec sleep 60"), 1).unwrap();
    let seen = until(&supervisor, "web", |seen| all_ready(seen, 1)).await;
    assert_eq!((pids(&seen), seen[0].instances[0].restarts), (vec![child.id()], 4));
    supervisor.shutdown(Shutdown::Stop).await;
    assert!(gone(child.id()));
    child.wait().unwrap();
}

#[tokio::test]
async fn an_intent_that_came_to_nothing_is_forgotten() {
    let world = World::new();
    let intent = record("token-that-nobody-carries", Phase::Intended);
    world.ledger.put(&intent).unwrap();
    let (supervisor, adoption) = world.open();
    assert_eq!(
        adoption,
        Adoption {
            adopted: vec![],
            lost: vec![intent]
        }
    );
    assert_eq!((supervisor.services(), world.ledger.all().unwrap()), (vec![], vec![]));
}

#[tokio::test]
async fn a_reused_pid_is_not_adopted_and_not_touched() {
    let world = World::new();
    let mut stranger = started_by_a_dead_daemon(&world, "of-somebody-else");
    let seen = proc::identify(stranger.id()).unwrap();
    let earlier = ProcessId {
        start_ticks: seen.start_ticks - 1,
        ..seen
    };
    let row = record("token-of-the-old-process", Phase::Running(earlier));
    world.ledger.put(&row).unwrap();
    let (_supervisor, adoption) = world.open();
    assert_eq!(
        adoption,
        Adoption {
            adopted: vec![],
            lost: vec![row]
        }
    );
    assert!(!gone(stranger.id()));
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[tokio::test]
async fn children_of_a_process_that_died_with_its_daemon_are_ended() {
    let world = World::new();
    let mut leader = started_by_a_dead_daemon(&world, "token-of-a-dead-leader");
    let id = proc::identify(leader.id()).unwrap();
    let orphan = loop {
        if let Some(pid) = proc::with_token("token-of-a-dead-leader")
            .iter()
            .map(|f| f.0)
            .find(|p| *p != leader.id())
        {
            break pid;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    leader.kill().unwrap();
    leader.wait().unwrap();
    world
        .ledger
        .put(&record("token-of-a-dead-leader", Phase::Running(id)))
        .unwrap();
    let (_supervisor, adoption) = world.open();
    assert_eq!((adoption.adopted.len(), adoption.lost.len()), (0, 1));
    until_gone(orphan).await;
}

#[tokio::test]
async fn an_adopted_process_that_ends_before_it_is_asked_for_is_shown_and_not_restarted() {
    let world = World::new();
    let (supervisor, _) = world.open();
    supervisor.ensure("web", "r1", &world.spec("exec sleep 60"), 1).unwrap();
    let pid = pids(&until(&supervisor, "web", |seen| all_ready(seen, 1)).await)[0];
    drop(supervisor);
    let (supervisor, _) = world.open();
    rustix::process::kill_process(proc::to_pid(pid).unwrap(), rustix::process::Signal::KILL).unwrap();
    let seen = until(&supervisor, "web", |seen| seen[0].instances[0].state == State::Exited).await;
    assert_eq!((seen[0].desired, pids(&seen)), (None, vec![]));
    supervisor.ensure("web", "r1", &world.spec("exec sleep 60"), 1).unwrap();
    until(&supervisor, "web", |seen| all_ready(seen, 1)).await;
    supervisor.shutdown(Shutdown::Stop).await;
}

#[tokio::test]
async fn a_data_directory_has_one_daemon() {
    let world = World::new();
    let (supervisor, _) = world.open();
    let again = || {
        let ledger = Arc::clone(&world.ledger) as Arc<dyn Ledger>;
        Supervisor::open(world.dir.path(), ledger, Arc::new(SystemClock), World::settings()).map(|_| ())
    };
    assert_eq!(again().unwrap_err().what, Problem::AlreadyRunning);
    drop(supervisor);
    again().unwrap();
}

#[test]
fn a_file_ledger_survives_its_writer() {
    let world = World::new();
    let path = world.file("processes.json");
    let intent = record("a", Phase::Intended);
    let running = ProcessId {
        pid: 7,
        start_ticks: 9,
        boot: "b".into(),
    };
    let second = ProcessRecord {
        key: SlotKey { slot: 1, ..key() },
        ..record("b", Phase::Running(running))
    };
    let ledger = FileLedger::new(path.clone());
    assert_eq!(ledger.all().unwrap(), []);
    ledger.put(&second).unwrap();
    ledger.put(&intent).unwrap();
    assert_eq!(
        FileLedger::new(path.clone()).all().unwrap(),
        [intent.clone(), second.clone()]
    );
    FileLedger::new(path.clone()).remove(&intent.key).unwrap();
    assert_eq!(ledger.all().unwrap(), [second]);
    fs::write(&path, "{").unwrap();
    let error = ledger.all().unwrap_err().to_string();
    assert_eq!(
        error,
        format!("cannot understand the process record {}", path.display())
    );
}

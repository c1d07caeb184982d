//! Start, readiness, restarts, scaling, stopping, output.

use super::*;

#[tokio::test]
async fn an_instance_becomes_ready_with_its_own_environment_and_stops_on_the_signal() {
    let world = World::new();
    let (supervisor, adoption) = world.open();
    assert_eq!(adoption, Adoption::default());
    let mut spec = world.spec("echo got $0 $1; env > env; trap 'echo bye; exit 0' TERM; while :; do sleep 0.02; done");
    spec.command.extend(["name".into(), "--listen=${PORT}".into()]);
    spec.env.insert("URL".into(), "http://localhost:${PORT}/".into());
    spec.port = Port::Auto;
    supervisor.ensure("web", "r1", &spec, 1).unwrap();
    let seen = until(&supervisor, "web", |seen| all_ready(seen, 1)).await;
    let instance = seen[0].instances[0].clone();
    let port = instance.port.unwrap();
    assert_eq!(
        (seen[0].desired, instance.slot, instance.restarts, instance.last_exit),
        (Some(1), 0, 0, None)
    );
    let env = until_file(&world.file("env"), |text| text.contains("WADE_INSTANCE")).await;
    let mut names: Vec<_> = env.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    names.sort_unstable();
    names.retain(|name| !matches!(*name, "HOME" | "LANG" | "TZ" | "TMPDIR" | "_"));
    assert_eq!(
        names,
        [
            "PATH",
            "PORT",
            "PWD",
            "URL",
            "WADE_INSTANCE",
            "WADE_LAUNCH",
            "WADE_REVISION",
            "WADE_SERVICE"
        ]
    );
    for line in [
        format!("URL=http://localhost:{port}/"),
        format!("PORT={port}"),
        "WADE_REVISION=r1".into(),
    ] {
        assert!(env.lines().any(|l| l == line), "{line} in {env}");
    }

    let key = SlotKey {
        service: "web".into(),
        revision: "r1".into(),
        slot: 0,
    };
    supervisor.ensure("web", "r1", &spec, 0).unwrap();
    until(&supervisor, "web", |seen| seen.is_empty()).await;
    let output = fs::read_to_string(supervisor.output_file(&key)).unwrap();
    assert_eq!(output, format!("got name --listen={port}\nbye\n"));
    assert_eq!(world.ledger.all().unwrap(), []);
    assert!(gone(instance.pid.unwrap()));
}

#[tokio::test]
async fn ensuring_again_changes_nothing() {
    let world = World::new();
    let (supervisor, _) = world.open();
    let spec = world.spec("exec sleep 60");
    supervisor.ensure("web", "r1", &spec, 2).unwrap();
    let before = until(&supervisor, "web", |seen| all_ready(seen, 2)).await;
    for _ in 0..3 {
        supervisor.ensure("web", "r1", &spec, 2).unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(supervisor.observe("web"), before);
    supervisor.shutdown(Shutdown::Stop).await;
}

#[tokio::test]
async fn scaling_down_stops_the_highest_slots_and_up_again_starts_new_ones() {
    let world = World::new();
    let (supervisor, _) = world.open();
    let spec = world.spec("exec sleep 60");
    supervisor.ensure("web", "r1", &spec, 3).unwrap();
    let three = pids(&until(&supervisor, "web", |seen| all_ready(seen, 3)).await);
    supervisor.ensure("web", "r1", &spec, 1).unwrap();
    let one = pids(&until(&supervisor, "web", |seen| all_ready(seen, 1)).await);
    assert_eq!(one, three[..1]);
    assert!(gone(three[1]) && gone(three[2]));
    supervisor.ensure("web", "r1", &spec, 2).unwrap();
    let two = pids(&until(&supervisor, "web", |seen| all_ready(seen, 2)).await);
    assert_eq!(two[0], three[0]);
    assert!(!three.contains(&two[1]));
    // Down and up in one breath: the old process ends, a new one comes, never both.
    supervisor.ensure("web", "r1", &spec, 1).unwrap();
    supervisor.ensure("web", "r1", &spec, 2).unwrap();
    until(&supervisor, "web", |seen| all_ready(seen, 2)).await;
    supervisor.shutdown(Shutdown::Stop).await;
    assert!(gone(three[0]));
}

#[tokio::test]
async fn a_crash_at_start_is_told_with_its_code_and_output_and_becomes_a_crash_loop() {
    let world = World::new();
    let (supervisor, _) = world.open();
    let spec = world.spec("echo config.toml: missing key >&2; exit 3");
    supervisor.ensure("web", "r1", &spec, 1).unwrap();
    let seen = until(&supervisor, "web", |seen| diagnosis(seen).is_some()).await;
    assert_eq!(
        diagnosis(&seen).unwrap().to_string(),
        "web/r1 slot 0: it exited with code 3; its last output: config.toml: missing key; \
         see its output, and run the command by hand in its working directory"
    );
    assert_eq!(seen[0].instances[0].last_exit.unwrap().ending, Ending::Code(3));
    assert_eq!(seen[0].instances[0].last_output, ["config.toml: missing key"]);
    let looping = |seen: &[RevisionProcesses]| diagnosis(seen).is_some_and(|d| d.what == Problem::CrashLoop);
    let seen = until(&supervisor, "web", looping).await;
    assert!(seen[0].instances[0].restarts >= 2);
    // A corrected spec does not wait for the faulty one's backoff, and a stop ends the loop.
    supervisor.ensure("web", "r1", &world.spec("exec sleep 60"), 1).unwrap();
    until(&supervisor, "web", |seen| all_ready(seen, 1)).await;
    supervisor.remove("web", "r1");
    until(&supervisor, "web", |seen| seen.is_empty()).await;
}

#[test]
fn the_wait_doubles_up_to_its_maximum() {
    let waits: Vec<u64> = (1..=7)
        .map(|failures| RestartPolicy::default().wait(failures).as_secs())
        .collect();
    assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
    assert_eq!(RestartPolicy::default().wait(u32::MAX).as_secs(), 30);
}

#[tokio::test]
async fn a_killed_process_is_told_and_started_again() {
    let world = World::new();
    let (supervisor, _) = world.open();
    supervisor.ensure("web", "r1", &world.spec("exec sleep 60"), 1).unwrap();
    let first = pids(&until(&supervisor, "web", |seen| all_ready(seen, 1)).await)[0];
    rustix::process::kill_process(proc::to_pid(first).unwrap(), rustix::process::Signal::KILL).unwrap();
    let seen = until(&supervisor, "web", |seen| diagnosis(seen).is_some()).await;
    assert_eq!(diagnosis(&seen).unwrap().what, Problem::Killed);
    let Ending::Signal { number: 9, .. } = seen[0].instances[0].last_exit.unwrap().ending else {
        panic!("{seen:?}");
    };
    let seen = until(&supervisor, "web", |seen| all_ready(seen, 1)).await;
    assert_eq!((seen[0].instances[0].restarts, diagnosis(&seen)), (1, None));
    assert_ne!(pids(&seen)[0], first);
    supervisor.shutdown(Shutdown::Stop).await;
}

#[tokio::test]
async fn what_cannot_start_is_told_by_name() {
    let world = World::new();
    let (supervisor, _) = world.open();
    fs::write(world.file("plain.txt"), "x").unwrap();
    world.script("orphan.sh", "#!/no/such/interpreter\n");
    world.script("headless", "\u{1}\u{2}");
    let with = |change: &dyn Fn(&mut ProcessSpec)| {
        let mut spec = world.spec(":");
        change(&mut spec);
        spec
    };
    let cases = [
        (
            Problem::CommandNotFound,
            "no-such-program",
            with(&|s| s.command = vec!["no-such-program".into()]),
        ),
        (
            Problem::CommandNotFound,
            "missing.sh does not exist",
            with(&|s| s.command = vec!["./missing.sh".into()]),
        ),
        (
            Problem::NotExecutable,
            "chmod +x",
            with(&|s| s.command = vec!["./plain.txt".into()]),
        ),
        (
            Problem::NotExecutable,
            "is a directory",
            with(&|s| s.command = vec!["/".into()]),
        ),
        (
            Problem::NotExecutable,
            "not a program",
            with(&|s| s.command = vec!["./headless".into()]),
        ),
        (
            Problem::CommandNotFound,
            "interpreter",
            with(&|s| s.command = vec!["./orphan.sh".into()]),
        ),
        (
            Problem::WorkdirMissing,
            "/no/such/dir does not exist",
            with(&|s| s.workdir = "/no/such/dir".into()),
        ),
        (
            Problem::WorkdirMissing,
            "is not a directory",
            with(&|s| s.workdir = world.file("plain.txt")),
        ),
    ];
    for (number, (what, words, spec)) in cases.into_iter().enumerate() {
        let service = format!("s{number}");
        supervisor.ensure(&service, "r1", &spec, 1).unwrap();
        let seen = until(&supervisor, &service, |seen| diagnosis(seen).is_some()).await;
        let told = diagnosis(&seen).unwrap();
        assert_eq!(told.what, what, "{told}");
        assert!(told.to_string().contains(words), "{told}");
        assert_eq!(seen[0].instances[0].pid, None);
    }
    supervisor.shutdown(Shutdown::Stop).await;
    assert_eq!(world.ledger.all().unwrap(), []);
}

#[tokio::test]
async fn what_can_never_run_is_refused_and_changes_nothing() {
    let world = World::new();
    let (supervisor, _) = world.open();
    let refused = |change: &dyn Fn(&mut ProcessSpec), instances| {
        let mut spec = world.spec(":");
        change(&mut spec);
        supervisor.ensure("web", "r1", &spec, instances).unwrap_err().what
    };
    let invalid = Problem::InvalidSpec;
    assert_eq!(refused(&|s| s.command.clear(), 1), invalid);
    assert_eq!(refused(&|s| s.workdir = "relative".into(), 1), invalid);
    assert_eq!(refused(&|s| s.port = Port::Fixed(8080), 2), invalid);
    assert_eq!(refused(&|s| s.ready = Ready::Tcp, 1), invalid);
    assert_eq!(
        refused(&|s| drop(s.env.insert("WADE_X".into(), String::new())), 1),
        invalid
    );
    assert_eq!(refused(&|_| (), spec::MAX_INSTANCES + 1), invalid);
    assert_eq!(
        refused(&|s| s.run_as = RunAs::User("no-such-user".into()), 1),
        Problem::UserUnavailable
    );
    if rustix::process::geteuid().is_root() {
        assert_eq!(
            refused(&|s| s.run_as = RunAs::Daemon { allow_root: false }, 1),
            Problem::RootRefused
        );
    }
    for name in ["", "..", "a/b", ".hidden", "ü"] {
        assert_eq!(
            supervisor.ensure(name, "r1", &world.spec(":"), 1).unwrap_err().what,
            invalid,
            "{name}"
        );
    }
    assert_eq!(supervisor.services(), Vec::<String>::new());
}

#[tokio::test]
async fn another_user_runs_without_the_daemons_rights() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let world = World::new();
    fs::set_permissions(world.dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let (supervisor, _) = world.open();
    let mut spec = world.spec("echo $(id -u):$(id -g):$(id -G) $HOME; exec sleep 60");
    spec.run_as = RunAs::User("12345:12346".into());
    supervisor.ensure("web", "r1", &spec, 1).unwrap();
    let written = |seen: &[RevisionProcesses]| all_ready(seen, 1) && !seen[0].instances[0].last_output.is_empty();
    let seen = until(&supervisor, "web", written).await;
    assert_eq!(seen[0].instances[0].last_output, ["12345:12346:12346"]);
    supervisor.shutdown(Shutdown::Stop).await;
}

#[tokio::test]
async fn readiness_follows_its_command_there_and_back() {
    let world = World::new();
    let (supervisor, _) = world.open();
    let mut spec = world.spec("exec sleep 60");
    spec.ready = Ready::Command(["test", "-e", "up"].map(str::to_owned).to_vec());
    supervisor.ensure("web", "r1", &spec, 1).unwrap();
    let seen = until(&supervisor, "web", |seen| diagnosis(seen).is_some()).await;
    let told = diagnosis(&seen).unwrap();
    assert_eq!(
        (told.what, &*told.detail),
        (Problem::NotReady, "it runs but is not ready: `test` exited with 1")
    );
    assert!(matches!(seen[0].instances[0].state, State::Starting { .. }));
    fs::write(world.file("up"), "").unwrap();
    let seen = until(&supervisor, "web", |seen| all_ready(seen, 1)).await;
    assert_eq!(diagnosis(&seen), None);
    fs::remove_file(world.file("up")).unwrap();
    let unready = |seen: &[RevisionProcesses]| matches!(seen[0].instances[0].state, State::Unready { .. });
    let seen = until(&supervisor, "web", unready).await;
    assert_eq!(diagnosis(&seen).unwrap().what, Problem::NotReady);
    assert_eq!(seen[0].instances[0].restarts, 0);
    supervisor.shutdown(Shutdown::Stop).await;
}

#[tokio::test]
async fn probes_say_what_was_answered() {
    let world = World::new();
    let key = SlotKey {
        service: "web".into(),
        revision: "r1".into(),
        slot: 0,
    };
    let patience = Duration::from_millis(200);
    let look = async |ready: Ready, port: u16| {
        let mut spec = world.spec(":");
        spec.ready = ready;
        ready::probe(&spec, &key, Some(port), patience).await
    };
    let http = || Ready::Http { path: "/up".into() };
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let silent_socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = silent_socket.local_addr().unwrap().port();
    let refused = format!("nothing listens on 127.0.0.1:{closed} (connection refused)");
    let (good, bad, moved) = (
        answer_with("204 No Content"),
        answer_with("503 Busy"),
        answer_with("302 Found"),
    );
    assert_eq!(look(http(), good).await, Ok(()));
    assert_eq!(
        look(http(), bad).await,
        Err(format!("GET /up on port {bad} answered 503 Service Unavailable"))
    );
    assert_eq!(
        look(http(), moved).await,
        Err(format!("GET /up on port {moved} answered 302 Found"))
    );
    assert_eq!(look(http(), closed).await, Err(refused.clone()));
    assert_eq!(
        look(http(), silent).await,
        Err("GET /up gave no answer within 200ms".into())
    );
    assert_eq!(look(Ready::Tcp, good).await, Ok(()));
    assert_eq!(look(Ready::Tcp, closed).await, Err(refused));
    let slow = Ready::Command(["sleep", "60"].map(str::to_owned).to_vec());
    assert_eq!(
        look(slow, closed).await,
        Err("`sleep` gave no answer within 200ms".into())
    );
}

#[tokio::test]
async fn a_port_that_somebody_else_holds_is_told_with_the_holder() {
    let world = World::new();
    let (supervisor, _) = world.open();
    let port = answer_with("200 OK");
    let mut spec = world.spec("exec sleep 60");
    spec.port = Port::Fixed(port);
    spec.ready = Ready::Http { path: "/".into() };
    supervisor.ensure("web", "r1", &spec, 1).unwrap();
    let seen = until(&supervisor, "web", |seen| diagnosis(seen).is_some()).await;
    let told = diagnosis(&seen).unwrap();
    assert_eq!(told.what, Problem::PortInUse);
    assert!(
        told.detail.ends_with(&format!("(pid {})", std::process::id())),
        "{told}"
    );
    supervisor.shutdown(Shutdown::Stop).await;
}

#[tokio::test]
async fn an_answer_from_another_process_on_the_port_is_not_readiness() {
    let world = World::new();
    let (supervisor, _) = world.open();
    let mut spec = world.spec("echo $PORT > port; exec sleep 60");
    spec.port = Port::Auto;
    spec.ready = Ready::Tcp;
    supervisor.ensure("web", "r1", &spec, 1).unwrap();
    let port: u16 = until_file(&world.file("port"), |text| text.ends_with('\n'))
        .await
        .trim()
        .parse()
        .unwrap();
    let thief = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let told = |seen: &[RevisionProcesses]| diagnosis(seen).is_some_and(|d| d.what == Problem::PortInUse);
    let seen = until(&supervisor, "web", told).await;
    assert!(matches!(seen[0].instances[0].state, State::Starting { .. }));
    drop(thief);
    supervisor.shutdown(Shutdown::Stop).await;
}

#[tokio::test]
async fn a_deaf_process_is_killed_after_its_drain_with_its_grandchildren() {
    let world = World::new();
    let (supervisor, _) = world.open();
    let mut spec = world.spec("trap '' TERM; sleep 60 & echo $! > child; while :; do sleep 0.02; done");
    spec.stop.drain = Duration::from_millis(150);
    supervisor.ensure("web", "r1", &spec, 1).unwrap();
    let child: u32 = until_file(&world.file("child"), |text| text.ends_with('\n'))
        .await
        .trim()
        .parse()
        .unwrap();
    let pid = pids(&until(&supervisor, "web", |seen| all_ready(seen, 1)).await)[0];
    let before = crate::clock::stopwatch();
    supervisor.ensure("web", "r1", &spec, 0).unwrap();
    until(&supervisor, "web", |seen| seen.is_empty()).await;
    assert!(before.elapsed() >= Duration::from_millis(150));
    assert!(gone(pid) && gone(child));
}

#[tokio::test]
async fn a_grandchild_finishes_its_work_within_the_drain_after_its_parent_went() {
    let world = World::new();
    let (supervisor, _) = world.open();
    let script = world.script(
        "worker",
        "#!/bin/sh\ntrap 'sleep 0.2; echo done > finished; exit' TERM\n\
         echo $$ > child\nwhile :; do sleep 0.02; done\n",
    );
    let spec = world.spec(&format!("{} & wait", script.display()));
    supervisor.ensure("web", "r1", &spec, 1).unwrap();
    let child: u32 = until_file(&world.file("child"), |text| text.ends_with('\n'))
        .await
        .trim()
        .parse()
        .unwrap();
    supervisor.ensure("web", "r1", &spec, 0).unwrap();
    until(&supervisor, "web", |seen| seen.is_empty()).await;
    assert!(gone(child));
    assert_eq!(fs::read_to_string(world.file("finished")).unwrap(), "done\n");
}

#[tokio::test]
async fn what_a_crashed_process_left_running_is_ended_even_outside_its_group() {
    let world = World::new();
    let (supervisor, _) = world.open();
    let spec = world.spec("setsid sleep 60 & echo $! > far; sleep 60 & echo $! > near; kill -9 $$");
    supervisor.ensure("web", "r1", &spec, 1).unwrap();
    until(&supervisor, "web", |seen| diagnosis(seen).is_some()).await;
    supervisor.remove("web", "r1");
    until(&supervisor, "web", |seen| seen.is_empty()).await;
    for file in ["far", "near"] {
        until_gone(fs::read_to_string(world.file(file)).unwrap().trim().parse().unwrap()).await;
    }
}

#[tokio::test]
async fn output_is_rotated_while_the_process_writes() {
    let world = World::new();
    let (supervisor, _) = world.open();
    let mut spec = world.spec("i=0; while :; do i=$((i+1)); echo line $i; sleep 0.002; done");
    spec.output = OutputRule {
        max_bytes: 200,
        files: 2,
    };
    supervisor.ensure("web", "r1", &spec, 1).unwrap();
    let log = supervisor.output_file(&SlotKey {
        service: "web".into(),
        revision: "r1".into(),
        slot: 0,
    });
    until_file(&log.with_extension("log.2"), |text| !text.is_empty()).await;
    supervisor.shutdown(Shutdown::Stop).await;
    let kept: Vec<u64> = [1, 2]
        .map(|n| fs::metadata(log.with_extension(format!("log.{n}"))).unwrap().len())
        .to_vec();
    assert!(kept.iter().all(|len| (1..=200).contains(len)), "{kept:?}");
    assert!(!log.with_extension("log.3").exists());
}

#[tokio::test]
async fn output_of_a_removed_revision_is_kept_for_a_while_and_then_deleted() {
    let world = World::new();
    let (supervisor, _) = world.open_with(Settings {
        removed_outputs_kept: 1,
        ..World::settings()
    });
    for revision in ["r1", "r2", "r3"] {
        supervisor
            .ensure("web", revision, &world.spec("exec sleep 60"), 1)
            .unwrap();
        until(&supervisor, "web", |seen| all_ready(seen, 1)).await;
        supervisor.remove("web", revision);
        until(&supervisor, "web", |seen| seen.is_empty()).await;
    }
    let key = |revision: &str| SlotKey {
        service: "web".into(),
        revision: revision.into(),
        slot: 0,
    };
    let (oldest, newest) = (supervisor.output_file(&key("r1")), supervisor.output_file(&key("r3")));
    supervisor.shutdown(Shutdown::Stop).await;
    assert_eq!((oldest.exists(), newest.exists()), (false, true));
}

#[tokio::test]
async fn limits_are_set_before_the_program_runs() {
    let world = World::new();
    // The test binary itself takes the place of `wade __exec`.
    let me = std::env::current_exe().unwrap();
    let launcher = world.script(
        "launcher",
        &format!(
            "#!/bin/sh\nIFS='\n'\nWADE_TEST_EXEC=\"$*\" exec {} --ignored --exact {EXEC_TEST}\n",
            me.display()
        ),
    );
    let launcher = vec![launcher.display().to_string()];
    let (supervisor, _) = world.open_with(Settings {
        launcher,
        ..World::settings()
    });
    let mut spec = world.spec("echo $(ulimit -n) $(ulimit -d) > limits; exec sleep 60");
    spec.limits = Limits {
        memory_bytes: Some(512 * 1024 * 1024),
        open_files: Some(77),
    };
    supervisor.ensure("web", "r1", &spec, 1).unwrap();
    assert_eq!(
        until_file(&world.file("limits"), |text| text.ends_with('\n')).await,
        "77 524288\n"
    );
    let seen = until(&supervisor, "web", |seen| all_ready(seen, 1)).await;
    let row = &world.ledger.all().unwrap()[0];
    assert_eq!(row.phase, Phase::Running(proc::identify(pids(&seen)[0]).unwrap()));
    supervisor.shutdown(Shutdown::Stop).await;
}

const EXEC_TEST: &str = "platforms::local::process::tests::life::becomes_the_limited_program";

#[test]
#[ignore = "not a test: the limits test runs this binary as its launcher"]
fn becomes_the_limited_program() {
    let Ok(words) = std::env::var("WADE_TEST_EXEC") else {
        return;
    };
    panic!("{}", exec_with_limits(words.split('\n').map(std::ffi::OsString::from)));
}

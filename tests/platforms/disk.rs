//! A full disk: nothing goes forward without a record, and the way back needs none.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use wade::clock::stopwatch;
use wade::daemon::api::CommandRequest;
use wade::demo::load::Load;
use wade::engine::{CommandKind, Event, Outcome};
use wade::plan::ALL_STABLE;

use super::yard::{GOOD, Rollout, SERVICE, Yard, request};

/// A small file system of the test's own, gone with it.
struct Small(PathBuf);

impl Small {
    fn mount(path: PathBuf) -> Option<Self> {
        fs::create_dir(&path).expect("a new folder");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=4m,mode=0700", "wade-test"])
            .arg(&path)
            .output();
        mounted
            .is_ok_and(|output| output.status.success())
            .then_some(Self(path))
    }

    /// Writes until nothing more fits.
    fn fill(&self) {
        let mut file = File::create(self.0.join("filler")).expect("an empty file still fits");
        for size in [64 * 1024, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
    }

    fn free(&self) {
        fs::remove_file(self.0.join("filler")).expect("our own file");
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // Lazily: a daemon that is just being killed may still have a file open.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A daemon whose record is on a file system that can be filled; `None`, said aloud, where none can be mounted.
fn yard(steps: &'static str) -> Option<(Yard, Small)> {
    let yard = Yard::new(&Rollout {
        steps,
        ..Rollout::default()
    });
    let small = Small::mount(yard.path("data"));
    if small.is_none() {
        println!("SKIPPED: a small tmpfs cannot be mounted here (it takes root); a full disk is not tested");
    }
    // The mount goes first, or the folder under it could not be removed.
    Some((yard, small?))
}

fn written(path: &Path) -> bool {
    File::create(path.join("probe"))
        .and_then(|mut file| file.write_all(&[0; 8192]))
        .is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_version_is_taken_back_while_the_disk_is_full() {
    let Some((mut yard, small)) = yard("{weight: 20%, min: 60s, max: 60s}") else {
        return;
    };
    let client = yard.start().await;
    yard.release(&client, "1.0.0", GOOD).await;
    let started = client
        .release(SERVICE, &request("1.1.0", "--fail-percent=60"))
        .await
        .expect("a release");
    let key = started.release.expect("a new revision");
    // Nobody asks anything yet, so nothing is known against it.
    yard.phase(&client, "analysing").await;
    small.fill();
    assert!(!written(&small.0), "the disk is full");
    let load = Load::start(yard.address(), 100.0, 1);
    yard.until("back on stable", async || {
        (client.rollout(SERVICE).await.ok()?.split == ALL_STABLE).then_some(())
    })
    .await;
    yard.until("the canary is gone", async || (yard.samples().len() == 2).then_some(()))
        .await;
    let record = client.record(&key).await.expect("it can be read");
    assert_eq!(
        record.state.outcome(),
        None,
        "what happened could not be written down yet"
    );
    small.free();
    let record = yard.over(&client, &key).await;
    assert_eq!(record.state.outcome(), Some(&Outcome::RolledBack));
    let numbers: Vec<u64> = record.history.iter().map(|entry| entry.number).collect();
    assert_eq!(
        numbers,
        (1..=numbers.len() as u64).collect::<Vec<_>>(),
        "and then all of it was"
    );
    let end = load.stop().await;
    assert_eq!((end.lost_total(), end.versions["1.0.0"].failed), (0, 0), "{end:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_abort_is_followed_while_the_disk_is_full() {
    let Some((mut yard, small)) = yard("{weight: 20%, min: 60s, max: 60s}") else {
        return;
    };
    let client = yard.start().await;
    yard.release(&client, "1.0.0", GOOD).await;
    let load = Load::start(yard.address(), 50.0, 1);
    let started = client
        .release(SERVICE, &request("1.1.0", GOOD))
        .await
        .expect("a release");
    let key = started.release.expect("a new revision");
    yard.phase(&client, "analysing").await;
    small.fill();
    let asked = stopwatch();
    let ask = |kind| CommandRequest {
        kind,
        reason: Some("customers call".to_owned()),
    };
    let refused = client.command(SERVICE, &ask(CommandKind::Promote { full: true })).await;
    assert!(refused.is_err(), "nothing goes forward without a record: {refused:?}");
    let answer = client
        .command(SERVICE, &ask(CommandKind::Abort))
        .await
        .expect("an answer");
    let view = client.rollout(SERVICE).await.expect("an answer");
    assert_eq!(
        (answer.followed, view.split),
        (Some(true), ALL_STABLE),
        "{}",
        answer.message
    );
    println!("back on stable {:?} after the abort, with a full disk", asked.elapsed());
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(
        client.rollout(SERVICE).await.expect("an answer").split,
        ALL_STABLE,
        "and it stays there"
    );
    small.free();
    let record = yard.over(&client, &key).await;
    assert_eq!(record.state.outcome(), Some(&Outcome::Aborted));
    let by = record
        .history
        .iter()
        .find(|entry| matches!(entry.event, Event::Retreated { .. }))
        .map(|entry| entry.reason.clone());
    assert!(
        by.is_some_and(|reason| reason.contains("customers call")),
        "who asked is recorded after all"
    );
    let end = load.stop().await;
    assert_eq!((end.lost_total(), end.failed_total()), (0, 0), "{end:?}");
}

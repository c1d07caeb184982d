//! `wade deploy --in-cluster` and `--watchdog`: the same work as a Job in the cluster.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::connect::answered;
use super::exit::{Exit, Failure};
use super::follow::{Codes, FollowArgs, follow};
use super::pipeline::{VARIABLES, environment};
use super::retry::runs;
use super::screen::Screen;
use crate::clock::stopwatch;
use crate::cluster::Cluster;
use crate::cluster::job::{JobSpec, JobStanding, Work};
use crate::daemon::client::Client;
use crate::store::ReleaseKey;

/// A pod that does not start within this is given up, and its Job removed.
const START_WITHIN: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(500);
/// The longest that a step may take, where the plan is made inside of the Job.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// Wade as a Job.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "In a cluster")]
pub(super) struct JobArgs {
    /// Carry the release in a Job in the cluster; this command only follows it, and its end changes nothing
    #[arg(long, requires = "wade_image")]
    in_cluster: bool,
    /// Leave a Job beside the release that takes it back if this command is killed
    #[arg(long, requires = "wade_image", conflicts_with = "in_cluster")]
    watchdog: bool,
    /// The image with wade in it, for --in-cluster and --watchdog
    #[arg(long, env = "WADE_IMAGE", value_name = "IMAGE", hide_env_values = true)]
    wade_image: Option<String>,
    /// The ServiceAccount that the Job runs as; `wade rbac` prints what it needs
    #[arg(long, value_name = "NAME", default_value = "wade")]
    job_account: String,
}

impl JobArgs {
    /// Whether the release is carried in the cluster.
    pub(super) fn in_cluster(&self) -> bool {
        self.in_cluster
    }

    /// The watchdog's Job, if one is wanted.
    pub(super) fn watchdog(&self, rollout: &str, namespace: &str) -> Option<JobSpec> {
        let wait = format!("{}s", LONGEST.as_secs());
        let words = [
            "settle",
            &format!("deployment/{rollout}"),
            "-n",
            namespace,
            "--wait",
            &wait,
        ]
        .map(str::to_owned);
        self.watchdog
            .then(|| self.spec(Work::Watchdog, rollout, words.to_vec(), BTreeMap::new()))
    }

    /// The step's Job.
    pub(super) fn step(&self, rollout: &str, words: Vec<String>, files: BTreeMap<String, String>) -> JobSpec {
        self.spec(Work::Step, rollout, words, files)
    }

    fn spec(&self, work: Work, rollout: &str, words: Vec<String>, files: BTreeMap<String, String>) -> JobSpec {
        JobSpec {
            work,
            rollout: rollout.to_owned(),
            image: self.wade_image.clone().unwrap_or_default(),
            account: self.job_account.clone(),
            words,
            files,
            env: VARIABLES
                .iter()
                .filter_map(|name| Some(((*name).to_owned(), environment(name)?)))
                .collect(),
            longest: LONGEST,
        }
    }
}

/// Carries a release in a Job and follows it from here.
pub(super) async fn run(
    cluster: Arc<Cluster>,
    spec: &JobSpec,
    args: FollowArgs,
    require_proof: bool,
    mut screen: Screen,
) -> Result<Exit, Failure> {
    let client = Client::over(Arc::new(Arc::clone(&cluster)), true);
    let name = &spec.rollout;
    let newest = answered(client.rollout(name)).await.ok().and_then(|view| view.release);
    // A release that is unfinished already may be the one that the Job goes on with.
    let known = newest.map_or(0, |release| match release.outcome {
        Some(_) => release.key.number,
        None => release.key.number - 1,
    });
    cluster.start_job(spec).await?;
    let place = format!("job/{} -n {}", spec.name(), cluster.namespace());
    if !screen.is_json() {
        screen.text(&format!(
            "carried  by {place}, whatever becomes of this command; `kubectl logs {place}`"
        ));
    }
    let key = match begun(&cluster, &client, spec, known, &screen).await? {
        Begun::Release(key) => key,
        Begun::Ended(code, words) => {
            if screen.is_json() {
                screen.json(&serde_json::json!({ "event": "jobEnded", "code": code, "output": words }));
            } else {
                screen.text(words.trim_end());
            }
            return Ok(Exit::from_code(code));
        }
    };
    if args.detach {
        if !screen.is_json() {
            screen.text(&format!("follow   wade status -w {name}{}", client.place()));
        }
        return Ok(Exit::Done);
    }
    screen = screen.with_live();
    let codes = Codes::Shown { require_proof };
    let end = follow(&client, &key, 1, args, codes, &mut screen).await?;
    if screen.is_json() {
        let releases = answered(client.releases(name)).await?;
        releases
            .iter()
            .filter(|release| release.key == key)
            .for_each(|release| screen.json(release));
    }
    Ok(end.exit(require_proof))
}

/// What came of a Job.
enum Begun {
    Release(ReleaseKey),
    /// It ended without a release: refused, or served already.
    Ended(i32, String),
}

async fn begun(
    cluster: &Cluster,
    client: &Client,
    spec: &JobSpec,
    known: u64,
    screen: &Screen,
) -> Result<Begun, Failure> {
    let (job, watch) = (spec.name(), stopwatch());
    let mut told = None;
    loop {
        let standing = cluster.job_standing(&job).await?;
        if !matches!(standing, JobStanding::Starting(_))
            && let Ok(view) = answered(client.rollout(&spec.rollout)).await
            && let Some(release) = view.release.as_ref().filter(|release| release.key.number > known)
            && (runs(&view) || matches!(standing, JobStanding::Ended(..)))
        {
            return Ok(Begun::Release(release.key.clone()));
        }
        match standing {
            JobStanding::Ended(code, words) => return Ok(Begun::Ended(code, words)),
            JobStanding::Running => {}
            JobStanding::Starting(why) => {
                // Each new pod says it anew, with other ids in it.
                let kind =
                    |why: &Option<String>| why.as_deref().and_then(|why| why.split(':').next().map(str::to_owned));
                if why.is_some() && kind(&why) != kind(&told) && !screen.is_json() {
                    screen.text(&format!("starting {}", why.as_deref().unwrap_or_default()));
                }
                told = why.or(told);
                if watch.elapsed() > START_WITHIN {
                    cluster.remove_job(&job).await?;
                    return Err(Failure::other(format!(
                        "the pod of job {job} has not started within {} s, so the Job was removed and nothing was begun{}",
                        START_WITHIN.as_secs(),
                        told.map(|why| format!(": {why}")).unwrap_or_default()
                    )));
                }
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

//! Releases on Kubernetes without a daemon: `wade deploy deployment/checkout` as the last step of a pipeline.
//!
//! A process that carries a release holds the rollout's Lease; everything it knows is in one ConfigMap, and what it
//! needs to put things back is on the Deployment as well. So it may die at any moment: the next `wade` that is called
//! (deploy, abort, settle, …) sees a stale Lease, takes it with a higher epoch and goes on from the record. Commands of
//! other shells are written into the record; an abort that nobody acknowledges takes the Lease by force.
//!
//! In reading order: [`find`] (what is there), [`probe`] (what the pods show), [`admit`] (what is to be done, and what
//! speaks against it), `held` (what others put there: new, the way back, or the same again), `rules` (what those who run
//! the cluster say), [`check`] (all that as one value, to be shown),
//! [`before`] (asking for it), [`carry`] (holding the Lease and driving the controller), [`door`] (what the command line
//! asks), `through` (a daemon that does it instead),
//! [`rbac`] (which permissions that takes), [`wait`] (what a Deployment waits for), [`job`] (the same step as a Job). It
//! decides nothing about a release: the engine does.

pub mod admit;
pub mod before;
pub mod carry;
pub mod check;
mod confine;
pub mod door;
pub mod find;
mod follower;
mod held;
pub mod job;
pub mod observe;
mod order;
pub mod probe;
pub mod rbac;
mod rules;
mod through;
mod views;
pub mod wait;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OnceCell, broadcast};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::apiserver::{ApiError, ApiServer, Fault};
use crate::clock::Clock;
use crate::controller::{Notice, Pass};
use crate::daemon::api::{Problem, ProblemKind};
use crate::engine::Actor;
use crate::plan::Plan;
use crate::spec::targets::AllowedHosts;
use crate::spec::{NotifySpec, Rollout};
use crate::store::ReleaseKey;
use crate::store::lease::Lease;
use crate::telemetry::Telemetry;
use admit::Ask;

/// Notices kept for slow followers; one that falls further behind reads the record again.
const NOTICES: usize = 1024;

/// What one call of `wade` wants of the cluster.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What is to be released.
    pub ask: Ask,
    /// Nothing in particular is to be released: any new version is meant (`wade check`).
    pub any: bool,
    /// The policy, if a file says it.
    pub rollout: Option<Rollout>,
    /// A strategy by name, if the command line says it.
    pub strategy: Option<String>,
    /// Who is told, besides those whom the policy names.
    pub notify: Vec<NotifySpec>,
    /// The namespace in which a daemon lives, if it is not the usual one.
    pub home: Option<String>,
    /// How long the caller's own time goes on (its job, its token); a plan that takes longer is refused.
    pub time_left: Option<jiff::SignedDuration>,
    /// What a daemon keeps to, which acts on what others wrote; a step has its caller's own rights, and keeps to nothing.
    pub confined: Option<AllowedHosts>,
    /// In whose name, where somebody else than this process's own account asks (the API has authenticated them).
    pub actor: Option<Actor>,
    /// What counts the releases that this process carries, and tells the cluster of them.
    pub telemetry: Option<Arc<Telemetry>>,
}

/// The cluster, asked by one process.
pub struct Cluster {
    api: ApiServer,
    clock: Arc<dyn Clock>,
    client: reqwest::Client,
    options: Options,
    /// The strategies that the cluster offers, once they have been asked for.
    offered: OnceCell<rules::Offered>,
    /// The namespace, once it has been asked for.
    surroundings: OnceCell<rules::Surroundings>,
    /// Freezes, as they were a moment ago.
    seen: Mutex<Option<rules::Seen>>,
    /// Who this process is in a Lease.
    identity: String,
    leases: Mutex<BTreeMap<String, Arc<Lease>>>,
    carrying: Mutex<Option<Carrying>>,
    /// What went wrong after a release was over: notifications that could not be sent.
    late: Mutex<Vec<String>>,
}

/// The release that this process carries.
struct Carrying {
    key: ReleaseKey,
    /// Closed once nobody drives it any more, however that ended: whoever follows then reads the record.
    notices: broadcast::WeakSender<Notice>,
    urgent: crate::controller::Urgent,
    stop: CancellationToken,
    /// `None` if it was let go before its end.
    task: JoinHandle<Option<Pass>>,
}

impl Cluster {
    /// A cluster reached through `api`.
    ///
    /// # Errors
    /// No HTTP client can be made.
    pub fn new(api: ApiServer, options: Options, clock: Arc<dyn Clock>) -> Result<Self, Problem> {
        let client = crate::signals::http::http_client()
            .map_err(|error| Problem::new(ProblemKind::Unavailable, error.to_string()))?;
        Ok(Self {
            api,
            clock,
            client,
            options,
            offered: OnceCell::new(),
            surroundings: OnceCell::new(),
            seen: Mutex::default(),
            identity: identity(),
            leases: Mutex::default(),
            carrying: Mutex::new(None),
            late: Mutex::default(),
        })
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        self.api.namespace()
    }

    /// Who asks, as the cluster sees them.
    pub async fn caller(&self) -> Actor {
        if let Some(actor) = &self.options.actor {
            return actor.clone();
        }
        let question = serde_json::json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview",
        });
        let answer = self
            .api
            .review("/apis/authentication.k8s.io/v1/selfsubjectreviews", &question)
            .await
            .unwrap_or_default();
        let user = crate::apiserver::value::text(&answer, "/status/userInfo/username");
        Actor {
            user: if user.is_empty() { "unknown" } else { user }.to_owned(),
            groups: crate::apiserver::value::list(&answer, "/status/userInfo/groups")
                .iter()
                .filter_map(|group| group.as_str().map(str::to_owned))
                .collect(),
            from: None,
        }
    }

    /// Refuses a plan that the caller cannot see to its end.
    fn check_time(&self, plan: &Plan) -> Result<(), Problem> {
        let now = self.clock.now();
        let token = self.api.valid_until().map(|until| until.duration_since(now));
        let longest = jiff::SignedDuration::try_from(plan.longest()).unwrap_or(jiff::SignedDuration::MAX);
        for (what, left) in [("this job", self.options.time_left), ("the credentials", token)] {
            if let Some(left) = left
                && left < longest
            {
                return Err(Problem::new(
                    ProblemKind::Conflict,
                    format!(
                        "the release may take {} and {what} only last{} {} more; use a quicker strategy, or give it more time",
                        crate::spec::Span::secs(longest.as_secs().unsigned_abs()),
                        if what == "this job" { "s" } else { "" },
                        crate::spec::Span::secs(left.as_secs().max(0).unsigned_abs()),
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Whether this process carries a release now.
    pub fn carries(&self) -> bool {
        self.carried(|carrying| !carrying.task.is_finished()).unwrap_or(false)
    }

    fn carried<T>(&self, look: impl FnOnce(&Carrying) -> T) -> Option<T> {
        self.carrying
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .map(look)
    }
}

/// Who this process, or a part of it, is in a Lease: never the same twice.
pub fn identity() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let unique = std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap_or_default();
    format!(
        "{}-{}-{}",
        host.trim(),
        std::process::id(),
        unique.split('-').next().unwrap_or_default()
    )
}

/// What is done for a Deployment that no file describes: the default strategy, nothing else.
pub fn default_rollout(deployment: &str, namespace: &str) -> Rollout {
    let text = format!(
        "apiVersion: wade.dev/v1alpha1\nkind: Rollout\nmetadata: {{name: {deployment}, namespace: {namespace}}}\nspec:\n  workload: {{deployment: {deployment}}}\n"
    );
    crate::spec::read_rollout(&text, "the default").expect("the names are those of objects that exist")
}

/// What the API server said, as a caller of Wade is told.
pub(crate) fn told(error: &ApiError) -> Problem {
    let kind = match &error.fault {
        Fault::Forbidden(_) => ProblemKind::Forbidden,
        Fault::Unreachable(_) => ProblemKind::Unavailable,
        Fault::NotFound => ProblemKind::NotFound,
        Fault::Exists | Fault::Conflict(_) | Fault::Refused(_) => ProblemKind::Conflict,
        Fault::Invalid(_) => ProblemKind::Unavailable,
    };
    Problem::new(kind, error.to_string())
}

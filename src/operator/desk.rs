//! The daemon as the API asks it: one [`Door`] per namespace and caller, over the same cluster that it looks after.
//!
//! What is asked is done in the caller's name: the API has authenticated them and asked the cluster whether they may.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

use super::consider::HoldMode;
use super::fleet::{At, PolicySketch};
use super::{Operator, saying};
use crate::api::Doors;
use crate::apiserver::value::{number, text};
use crate::cluster::Cluster;
use crate::cluster::admit::Ask;
use crate::daemon::api::{
    Acknowledged, CommandRequest, Problem, ProblemKind, ReleaseRequest, ReleaseSummary, ReleaseTarget, RevisionView,
    RolloutView, Started,
};
use crate::daemon::client::{Door, Notices};
use crate::engine::Actor;
use crate::plan::Split;
use crate::platforms::kubernetes::template::For;
use crate::spec::Weight;
use crate::store::{ReleaseKey, ReleaseRecord};

/// Doors to everything that a daemon looks after.
pub struct Desk(pub Arc<Operator>);

#[async_trait]
impl Doors for Desk {
    fn at(&self, namespace: &str, by: &Actor) -> Arc<dyn Door> {
        Arc::new(Counter {
            operator: Arc::clone(&self.0),
            namespace: namespace.to_owned(),
            by: by.clone(),
        })
    }

    async fn rollouts(&self) -> Result<Vec<(String, RolloutView)>, Problem> {
        let policies = self.0.fleet.all_policies();
        Ok(policies
            .iter()
            .map(|policy| (policy.at.namespace.clone(), outline(policy)))
            .collect())
    }
}

/// What a Rollout object says of itself, as the API shows it.
fn outline(policy: &PolicySketch) -> RolloutView {
    let status: Value = serde_json::from_str(&policy.status).unwrap_or_default();
    let revision = |path: &str| {
        let version = text(&status, path);
        (!version.is_empty()).then(|| RevisionView {
            id: String::new(),
            version: version.to_owned(),
            ready: 0,
            wanted: 0,
            requests: 0,
            errors: 0,
            instances: Vec::new(),
        })
    };
    let percent = text(&status, "/weight")
        .trim_end_matches('%')
        .parse::<f64>()
        .unwrap_or(0.0);
    let releasing = text(&status, "/phase") == "Releasing";
    let weight = Weight::from_permille((percent * 10.0) as u16).filter(|_| releasing);
    let phase = text(&status, "/phase").to_owned();
    RolloutView {
        name: policy.at.name.clone(),
        listen: None,
        split: Split::weight(weight.unwrap_or(Weight::ZERO)),
        stable: revision("/stable"),
        canary: revision("/canary").filter(|_| releasing),
        release: number(&status, "/release").map(|number| ReleaseSummary {
            key: ReleaseKey {
                rollout: policy.at.name.clone(),
                number,
            },
            version: text(&status, "/canary").to_owned(),
            revision: String::new(),
            from: None,
            phase,
            split: Split::weight(weight.unwrap_or(Weight::ZERO)),
            summary: text(&status, "/message").to_owned(),
            outcome: Some(text(&status, "/outcome").to_owned()).filter(|outcome| !outcome.is_empty()),
            proven: None,
            stuck: false,
            by: String::new(),
            created: crate::apiserver::value::time(&status, "/conditions/0/lastTransitionTime").unwrap_or_default(),
            ended: None,
        }),
        quarantined: Default::default(),
    }
}

/// The daemon as one caller sees one namespace.
struct Counter {
    operator: Arc<Operator>,
    namespace: String,
    by: Actor,
}

impl Counter {
    fn policy(&self, name: &str) -> Result<PolicySketch, Problem> {
        let at = At {
            namespace: self.namespace.clone(),
            name: name.to_owned(),
        };
        self.operator.fleet.policy(&at).ok_or_else(|| Problem {
            kind: ProblemKind::NotFound,
            message: format!("there is no rollout {name} in namespace {}", self.namespace),
        })
    }

    /// The cluster in the caller's name, and the Deployment that the Rollout is about.
    async fn open(&self, name: &str, ask: Ask) -> Result<(PolicySketch, Arc<Cluster>, At), Problem> {
        let policy = self.policy(name)?;
        let cluster = self.operator.cluster(&policy, ask, self.by.clone()).await?;
        let about = policy.about();
        Ok((policy, cluster, about))
    }

    fn ask(&self, request: &ReleaseRequest) -> Result<Ask, Problem> {
        let mut ask = Ask {
            stays_paused: self.operator.mode() == HoldMode::Paused,
            ..Ask::default()
        };
        let ReleaseTarget::File { set, path } = &request.target else {
            return Ok(ask);
        };
        if path.is_some() {
            return Err(Problem {
                kind: ProblemKind::Invalid,
                message: "target.file.path: the daemon of a cluster reads no files; leave it out".to_owned(),
            });
        }
        for (key, value) in set {
            let container = match key.split_once('/') {
                None if key == "image" => None,
                Some(("image", container)) => Some(container.to_owned()),
                _ => {
                    return Err(Problem {
                        kind: ProblemKind::Invalid,
                        message: format!("target.file.set: `{key}` is not known; write `image`, or `image/CONTAINER`"),
                    });
                }
            };
            ask.images.push(For {
                container,
                value: value.clone(),
            });
        }
        ask.held = ask.images.is_empty();
        Ok(ask)
    }
}

fn named(mut key: ReleaseKey, name: &str) -> ReleaseKey {
    name.clone_into(&mut key.rollout);
    key
}

#[async_trait]
impl Door for Counter {
    async fn rollouts(&self) -> Result<Vec<RolloutView>, Problem> {
        let policies = self.operator.fleet.all_policies();
        let here = policies.iter().filter(|policy| policy.at.namespace == self.namespace);
        Ok(here.map(outline).collect())
    }

    async fn rollout(&self, name: &str) -> Result<RolloutView, Problem> {
        let (_, cluster, about) = self.open(name, Ask::default()).await?;
        let mut view = cluster.rollout(&about.name).await?;
        name.clone_into(&mut view.name);
        Ok(view)
    }

    async fn release(&self, name: &str, request: &ReleaseRequest) -> Result<Started, Problem> {
        let ask = self.ask(request)?;
        let (policy, cluster, about) = self.open(name, ask).await?;
        let started = cluster.release(&about.name, request).await?;
        if let Some(key) = started.release.clone() {
            saying::follow_begun(&self.operator, &about, policy, cluster, key);
        }
        Ok(started)
    }

    async fn preview(&self, name: &str, request: &ReleaseRequest) -> Result<String, Problem> {
        let ask = self.ask(request)?;
        let (_, cluster, about) = self.open(name, ask).await?;
        cluster.preview(&about.name, request).await
    }

    async fn command(&self, name: &str, request: &CommandRequest) -> Result<Acknowledged, Problem> {
        let (_, cluster, about) = self.open(name, Ask::default()).await?;
        cluster.command(&about.name, request).await
    }

    async fn releases(&self, name: &str) -> Result<Vec<ReleaseSummary>, Problem> {
        let (_, cluster, about) = self.open(name, Ask::default()).await?;
        cluster.releases(&about.name).await
    }

    async fn record(&self, key: &ReleaseKey) -> Result<ReleaseRecord, Problem> {
        let (_, cluster, about) = self.open(&key.rollout, Ask::default()).await?;
        cluster.record(&named(key.clone(), &about.name)).await
    }

    async fn events(&self, key: &ReleaseKey, from: u64) -> Result<Box<dyn Notices>, Problem> {
        let (_, cluster, about) = self.open(&key.rollout, Ask::default()).await?;
        cluster.events(&named(key.clone(), &about.name), from).await
    }

    fn place(&self) -> String {
        format!(" -n {}", self.namespace)
    }
}

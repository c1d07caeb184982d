//! What those who run the cluster say of a release: strategies by name, minima, and Freezes. A daemon and a step that
//! works by itself keep to it alike, and refuse with the same sentence.
//!
//! A cluster in which nothing of Wade is installed says nothing, and costs one look. Where the kinds are there but the
//! caller may not read them (a pipeline with the Role of an older version), the release begins all the same and says in
//! one line what it could not look at: whoever lacks that right may change the Deployment without Wade as well, so a
//! refusal would protect nobody and stop everybody. A server that does not answer is no permission, though.
//!
//! A way back asks nobody. It decides nothing itself: [`frozen`] and [`below_minima`] do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Cluster;
use crate::apiserver::value::text;
use crate::apiserver::{ApiServer, Fault, Kind, Selection};
use crate::clock::stopwatch;
use crate::crd::freeze::Whose;
use crate::crd::selector::Labels;
use crate::crd::{self, ClusterStrategySpec, FrozenBy, SYSTEM, below_minima, frozen};
use crate::daemon::api::{Problem, ProblemKind, ReleaseRequest, ReleaseTarget};
use crate::plan::Lane;
use crate::spec::{NamedStrategy, Resolved, Rollout, StrategyChoice, StrategyFile, resolve};

/// How long Freezes that have been read count: one request looks at them more than once.
const FRESH_FOR: Duration = Duration::from_secs(5);

/// The strategies that the cluster's administrators offer.
#[derive(Clone, Debug, Default)]
pub(super) struct Offered {
    strategies: BTreeMap<String, ClusterStrategySpec>,
    /// The permission without which they could not be read.
    unread: Option<String>,
}

/// The Freezes that could count for this namespace.
#[derive(Clone, Debug, Default)]
struct Freezes {
    all: Vec<FrozenBy>,
    /// The permissions without which some could not be read.
    unread: Vec<String>,
}

/// Freezes, and when they were read.
pub(super) struct Seen {
    freezes: Arc<Freezes>,
    at: Instant,
}

/// What is said of one release.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ruling {
    /// Why it must not begin now, one sentence each.
    pub(super) against: Vec<String>,
    /// What could not be looked at, in one sentence.
    pub(super) unseen: Option<String>,
}

/// Objects of a kind, or the permission that reading them takes.
enum Listed {
    There(Vec<Value>),
    NotPermitted(String),
}

impl Cluster {
    /// The policy for a Deployment: the file's, or the default; with what the cluster offers by name.
    pub(crate) async fn policy(&self, deployment: &str) -> Result<(Rollout, Resolved), Problem> {
        let mut rollout = match &self.options.rollout {
            Some(rollout) => rollout.clone(),
            None => super::default_rollout(deployment, self.namespace()),
        };
        if let Some(strategy) = &self.options.strategy {
            rollout.spec.strategy = StrategyChoice::Named(NamedStrategy {
                name: strategy.clone(),
                with: None,
            });
        }
        rollout.spec.notify.extend(self.options.notify.iter().cloned());
        let offered = match rollout.spec.strategy {
            StrategyChoice::Named(_) => Some(self.offered().await?),
            StrategyChoice::Inline(_) => None,
        };
        let files: BTreeMap<String, StrategyFile> = offered
            .iter()
            .flat_map(|offered| &offered.strategies)
            .map(|(name, strategy)| (name.clone(), strategy.file(name)))
            .collect();
        let resolved = resolve(&rollout, &files).map_err(|faults| {
            let unread = offered.and_then(|offered| offered.unread.as_ref());
            let unread = unread.map_or_else(String::new, |right| {
                format!("\nstrategies of this cluster could not be read (missing permission: {right})")
            });
            Problem::new(ProblemKind::Invalid, format!("{faults}{unread}"))
        })?;
        Ok((rollout, resolved))
    }

    /// The strategies that the cluster offers; read once.
    async fn offered(&self) -> Result<&Offered, Problem> {
        self.offered.get_or_try_init(|| self.read_offered()).await
    }

    async fn read_offered(&self) -> Result<Offered, Problem> {
        let mut offered = Offered::default();
        match self.listed(&self.api, Kind::ClusterStrategy).await? {
            Listed::NotPermitted(right) => offered.unread = Some(right),
            Listed::There(objects) => {
                for object in objects {
                    let spec = crd::spec_of(&object).map_err(Problem::unavailable)?;
                    offered
                        .strategies
                        .insert(crate::apiserver::value::name(&object).to_owned(), spec);
                }
            }
        }
        Ok(offered)
    }

    /// The namespace that Wade itself lives in.
    pub(super) fn home(&self) -> &str {
        self.options.home.as_deref().unwrap_or(SYSTEM)
    }

    async fn freezes(&self) -> Result<Arc<Freezes>, Problem> {
        let seen = || self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = seen().as_ref().filter(|seen| seen.at.elapsed() < FRESH_FOR).map(|seen| Arc::clone(&seen.freezes));
        if let Some(freezes) = fresh {
            return Ok(freezes);
        }
        let mut freezes = Freezes::default();
        let places: BTreeSet<&str> = [self.namespace(), self.home()].into();
        for place in places {
            match self.listed(&self.api.in_namespace(place), Kind::Freeze).await? {
                Listed::NotPermitted(right) => freezes.unread.push(format!("{right} in {place}")),
                Listed::There(objects) => {
                    for object in objects {
                        freezes.all.push(FrozenBy::read(&object).map_err(Problem::unavailable)?);
                    }
                }
            }
        }
        let freezes = Arc::new(freezes);
        *seen() = Some(Seen {
            freezes: Arc::clone(&freezes),
            at: stopwatch(),
        });
        Ok(freezes)
    }

    /// Objects of a kind of Wade's; none where it is not installed.
    async fn listed(&self, api: &ApiServer, kind: Kind) -> Result<Listed, Problem> {
        let error = match api.list(kind, &Selection::default()).await {
            Ok(objects) => return Ok(Listed::There(objects)),
            Err(error) if error.is_not_found() => return Ok(Listed::There(Vec::new())),
            Err(error) => error,
        };
        // A daemon has these rights, or does not work.
        if !matches!(error.fault, Fault::Forbidden(_)) || self.options.confined.is_some() {
            return Err(Problem::unavailable(error));
        }
        // Rights are asked for before it is looked up whether there is such a kind; everybody may know which there are.
        match api.serves(&kind.api_version(), kind.plural()).await {
            Ok(false) => Ok(Listed::There(Vec::new())),
            Ok(true) | Err(_) => Ok(Listed::NotPermitted(format!("list {}", kind.resource()))),
        }
    }

    /// Refuses a release that must not begin now; for those who would do much, or harm another one, before they find out.
    ///
    /// # Errors
    /// What stands in its way, or that it cannot be known.
    pub(crate) async fn may_begin(&self, deployment: &str, request: &ReleaseRequest) -> Result<(), Problem> {
        let lane = match (&request.target, request.emergency) {
            (ReleaseTarget::Rollback { .. }, _) => Lane::Rollback,
            (_, true) => Lane::Emergency {
                reason: request.reason.clone().unwrap_or_default(),
            },
            _ => Lane::Normal,
        };
        let ruling = self.ruling(deployment, &lane).await?;
        if ruling.against.is_empty() {
            return Ok(());
        }
        Err(Problem::new(ProblemKind::Conflict, ruling.against.join("\n")))
    }

    /// What those who run the cluster say against a release now: a freeze, or minima that its policy goes below.
    pub(super) async fn ruling(&self, deployment: &str, lane: &Lane) -> Result<Ruling, Problem> {
        if *lane == Lane::Rollback {
            return Ok(Ruling::default());
        }
        let mut unread = Vec::new();
        let mut against: Vec<String> = Vec::new();
        let freezes = match (self.freezes().await, lane) {
            (Ok(freezes), _) => freezes,
            // What cannot be read stops what may wait, and no emergency.
            (Err(problem), Lane::Emergency { .. }) => {
                unread.push(problem.message);
                Arc::default()
            }
            (Err(problem), _) => return Err(problem),
        };
        unread.extend(freezes.unread.iter().cloned());
        against.extend(self.freeze(deployment, &freezes, lane).await?);
        // Minima hold for no other lane.
        if *lane == Lane::Normal {
            let (rollout, resolved) = self.policy(deployment).await?;
            let offered = self.offered().await?;
            unread.extend(offered.unread.clone());
            for (name, strategy) in &offered.strategies {
                if let Some(minima) = strategy.minima_for(name, &rollout) {
                    let below = below_minima(&rollout, &resolved, lane, minima);
                    against.extend(
                        below
                            .into_iter()
                            .map(|what| format!("strategy {name} of this cluster asks for more: {what}")),
                    );
                }
            }
        }
        let unseen = (!unread.is_empty()).then(|| {
            format!(
                "it could not be looked at whether those who run the cluster say something against it (missing permission: {}); \
                 `wade rbac --daemon` prints them",
                unread.join(", ")
            )
        });
        Ok(Ruling { against, unseen })
    }

    /// The freeze that keeps a release from beginning, as a sentence.
    async fn freeze(&self, deployment: &str, freezes: &Freezes, lane: &Lane) -> Result<Option<String>, Problem> {
        let own = |rollout: &Rollout| (rollout.metadata.name.clone(), rollout.metadata.labels.clone());
        let (mut rollout, mut labels) = self
            .options
            .rollout
            .as_ref()
            .map_or_else(|| (deployment.to_owned(), Labels::new()), own);
        let now = self.clock.now();
        let whose = Whose {
            home: self.home(),
            namespace: self.namespace(),
            rollout: &rollout,
            namespace_labels: None,
            rollout_labels: None,
        };
        // Nearly always there is none at all, and then it costs no question what it would be about.
        let any = Whose { rollout: "", ..whose };
        if frozen(&freezes.all, &any, lane, now).is_none() {
            return Ok(None);
        }
        // A step may be about a Deployment that has a Rollout, whether or not it brings a file of its own.
        if self.options.confined.is_none()
            && let Ok(objects) = self.api.list(Kind::Rollout, &Selection::default()).await
            && let Some(object) = objects
                .iter()
                .find(|object| text(object, "/spec/workload/deployment") == deployment)
        {
            crate::apiserver::value::name(object).clone_into(&mut rollout);
            labels = labels_of(object);
        }
        let around = match self.api.get(Kind::Namespace, self.namespace()).await {
            Ok(namespace) => Ok(namespace.as_ref().map(labels_of).unwrap_or_default()),
            Err(error) if matches!(error.fault, Fault::Forbidden(_)) => Err(error),
            Err(error) => return Err(Problem::unavailable(error)),
        };
        let whose = Whose {
            home: self.home(),
            namespace: self.namespace(),
            rollout: &rollout,
            namespace_labels: around.as_ref().ok(),
            rollout_labels: Some(&labels),
        };
        Ok(frozen(&freezes.all, &whose, lane, now).map(|freeze| match &around {
            Err(error) if freeze.spec.namespaces.is_some() => {
                format!("{freeze} (whether it is about this namespace is not known: {error})")
            }
            _ => freeze.to_string(),
        }))
    }
}

fn labels_of(object: &Value) -> Labels {
    serde_json::from_value(object["metadata"]["labels"].clone()).unwrap_or_default()
}

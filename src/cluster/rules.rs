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
use crate::apiserver::value::{annotation, text};
use crate::apiserver::{ApiServer, Fault, Kind, Selection};
use crate::clock::stopwatch;
use crate::crd::freeze::Whose;
use crate::crd::selector::Labels;
use crate::crd::{self, ClusterStrategySpec, FrozenBy, SYSTEM, below_minima, frozen};
use crate::daemon::api::{Problem, ProblemKind, ReleaseRequest, ReleaseTarget};
use crate::plan::Lane;
use crate::spec::{NamedStrategy, Resolved, Rollout, StrategyChoice, StrategyFile, Windows, read_rollout, resolve};

/// Annotation of a namespace: the deploy windows (`spec.windows`, as YAML) of every release in it whose policy says none.
const WINDOWS: &str = "wade.dev/windows";
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

/// The namespace that a release is in.
#[derive(Clone, Debug)]
pub(super) enum Surroundings {
    /// As the cluster has it.
    Seen(Value),
    /// It may not be read: why.
    NotPermitted(String),
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
        if rollout.spec.windows.is_none() {
            rollout.spec.windows = self.inherited_windows().await?;
        }
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

    /// The deploy windows that the namespace says, for whoever says none.
    async fn inherited_windows(&self) -> Result<Option<Windows>, Problem> {
        let Surroundings::Seen(namespace) = self.surroundings().await? else {
            return Ok(None);
        };
        let Some(said) = annotation(namespace, WINDOWS) else {
            return Ok(None);
        };
        let source = format!("annotation {WINDOWS} of namespace {}", self.namespace());
        let wrong = |why: String| Problem::new(ProblemKind::Invalid, why);
        let windows: Value = serde_saphyr::from_str(said).map_err(|error| wrong(format!("{source}: {error}")))?;
        // As a part of a Rollout it is read as strictly as one.
        let mut rollout = serde_json::to_value(super::default_rollout("windows", self.namespace()))
            .expect("a rollout is plain values");
        rollout["spec"]["windows"] = windows;
        let read = read_rollout(&rollout.to_string(), &source).map_err(|faults| wrong(faults.to_string()))?;
        Ok(read.spec.windows)
    }

    /// The namespace; read once.
    async fn surroundings(&self) -> Result<&Surroundings, Problem> {
        let read = || async {
            match self.api.get(Kind::Namespace, self.namespace()).await {
                Ok(namespace) => Ok(Surroundings::Seen(namespace.unwrap_or_default())),
                Err(error) if matches!(error.fault, Fault::Forbidden(_)) => {
                    Ok(Surroundings::NotPermitted(error.to_string()))
                }
                Err(error) => Err(Problem::unavailable(error)),
            }
        };
        self.surroundings.get_or_try_init(read).await
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
        let fresh = seen()
            .as_ref()
            .filter(|seen| seen.at.elapsed() < FRESH_FOR)
            .map(|seen| Arc::clone(&seen.freezes));
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
        // Rights are asked for before it is looked up whether there is such a kind.
        if self.is_installed().await {
            Ok(Listed::NotPermitted(format!("list {}", kind.resource())))
        } else {
            Ok(Listed::There(Vec::new()))
        }
    }

    /// Whether the cluster knows Wade's kinds, which everybody may ask. Without an answer it may.
    async fn is_installed(&self) -> bool {
        let kind = Kind::Freeze;
        let served = self.api.serves(&kind.api_version(), kind.plural()).await;
        served.unwrap_or(true)
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
            // Somebody else has put back what served before: as good as `wade rollback`.
            _ if self.is_undone(deployment).await? => Lane::Rollback,
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
            // Where nothing of Wade is installed, nobody expects its annotations to count.
            if matches!(self.surroundings().await?, Surroundings::NotPermitted(_)) && self.is_installed().await {
                unread.push(format!("get namespaces in {}", self.namespace()));
            }
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
        let around = match self.surroundings().await? {
            Surroundings::Seen(namespace) => Ok(labels_of(namespace)),
            Surroundings::NotPermitted(why) => Err(why),
        };
        let whose = Whose {
            home: self.home(),
            namespace: self.namespace(),
            rollout: &rollout,
            namespace_labels: around.as_ref().ok(),
            rollout_labels: Some(&labels),
        };
        Ok(frozen(&freezes.all, &whose, lane, now).map(|freeze| match &around {
            Err(why) if freeze.spec.namespaces.is_some() => {
                format!("{freeze} (whether it is about this namespace is not known: {why})")
            }
            _ => freeze.to_string(),
        }))
    }
}

fn labels_of(object: &Value) -> Labels {
    serde_json::from_value(object["metadata"]["labels"].clone()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use http::Method;
    use jiff::Timestamp;
    use serde_json::json;

    use super::*;
    use crate::apiserver::testing::{FakeServer, Trouble};
    use crate::clock::ManualClock;
    use crate::cluster::Options;

    const FREEZES: &str = "/apis/wade.dev/v1alpha1/namespaces/shop/freezes";

    fn cluster(fake: &FakeServer) -> Cluster {
        let api = ApiServer::over(fake.client("shop"), "shop");
        let now: Timestamp = "2026-12-24T12:00:00Z".parse().expect("a time");
        Cluster::new(api, Options::default(), Arc::new(ManualClock::new(now))).expect("a client can be made")
    }

    /// Freezes everything that its place and these words make it count for.
    fn freeze(fake: &FakeServer, namespace: &str, more: &Value) {
        let mut spec = json!({"until": "2027-01-02T08:00:00Z", "reason": "holidays", "by": "ops"});
        for (key, value) in more.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        fake.put(
            &format!("/apis/wade.dev/v1alpha1/namespaces/{namespace}/freezes/xmas"),
            json!({"apiVersion": "wade.dev/v1alpha1", "kind": "Freeze",
                "metadata": {"namespace": namespace, "name": "xmas"}, "spec": spec}),
        );
    }

    fn namespace(fake: &FakeServer, tier: &str) {
        fake.put(
            "/api/v1/namespaces/shop",
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": {"tier": tier}}}),
        );
    }

    async fn normal(cluster: &Cluster) -> Ruling {
        cluster.ruling("app", &Lane::Normal).await.expect("it can be looked at")
    }

    const NOT_PERMITTED: Trouble = Trouble::Refused(
        403,
        "Forbidden",
        "freezes.wade.dev is forbidden: User \"ci\" cannot list resource \"freezes\"",
    );

    #[tokio::test]
    async fn a_step_keeps_to_a_freeze_at_home_by_the_labels_of_its_namespace() {
        let by_tier = json!({"namespaces": {"matchLabels": {"tier": "prod"}}});
        for (tier, stopped) in [("prod", true), ("test", false)] {
            let fake = FakeServer::new();
            namespace(&fake, tier);
            freeze(&fake, SYSTEM, &by_tier);
            let cluster = cluster(&fake);
            let against = normal(&cluster).await.against;
            let words = "freeze wade-system/xmas of ops until 2027-01-02T08:00:00Z: holidays";
            assert_eq!(against, if stopped { vec![words] } else { vec![] }, "{tier}");
            let refused = cluster.may_begin("app", &ReleaseRequest::default()).await;
            assert_eq!(
                refused.map_err(|problem| problem.kind).err(),
                stopped.then_some(ProblemKind::Conflict)
            );
        }
    }

    #[tokio::test]
    async fn a_way_back_asks_nobody_and_an_emergency_is_not_stopped_by_what_cannot_be_read() {
        let fake = FakeServer::new();
        namespace(&fake, "prod");
        freeze(&fake, "shop", &json!({"emergencies": "refused", "not": "known"}));
        let cluster = cluster(&fake);
        fake.forget();
        let back = cluster.ruling("app", &Lane::Rollback).await;
        assert_eq!((back, fake.asked().len()), (Ok(Ruling::default()), 0));
        let unreadable = cluster
            .ruling("app", &Lane::Normal)
            .await
            .expect_err("it might say anything");
        assert_eq!(unreadable.kind, ProblemKind::Unavailable);
        let emergency = Lane::Emergency {
            reason: "down".to_owned(),
        };
        let ruling = cluster.ruling("app", &emergency).await.expect("it goes on");
        assert_eq!(ruling.against, Vec::<String>::new());
        assert!(ruling.unseen.is_some_and(|words| words.contains("Freeze xmas")));
        freeze(&fake, "shop", &json!({"emergencies": "refused"}));
        let ruling = cluster.ruling("app", &emergency).await.expect("it can be looked at");
        assert_eq!(ruling.against.len(), 1, "it is told not to");
    }

    #[tokio::test]
    async fn what_may_not_be_read_is_said_and_what_is_not_installed_is_not() {
        let fake = FakeServer::new();
        fake.trouble(Method::GET, FREEZES, NOT_PERMITTED);
        assert_eq!(
            normal(&cluster(&fake)).await,
            Ruling::default(),
            "there is no such kind"
        );
        fake.trouble(Method::GET, FREEZES, NOT_PERMITTED);
        // Then it is asked which kinds there are.
        fake.trouble(Method::GET, "/apis/wade.dev/v1alpha1", Trouble::Unreachable);
        let ruling = normal(&cluster(&fake)).await;
        let unseen = ruling.unseen.expect("it says so");
        assert!(
            ruling.against.is_empty() && unseen.contains("list freezes.wade.dev in shop"),
            "{unseen}"
        );
        // A daemon that may not look begins nothing.
        fake.trouble(Method::GET, FREEZES, NOT_PERMITTED);
        let mut daemon = cluster(&fake);
        daemon.options.confined = Some(Default::default());
        let refused = daemon.ruling("app", &Lane::Normal).await.expect_err("it has to know");
        assert_eq!(refused.kind, ProblemKind::Unavailable);
    }

    #[tokio::test]
    async fn a_freeze_that_may_be_about_this_namespace_is_kept_to_and_says_that_it_is_not_known() {
        let fake = FakeServer::new();
        freeze(&fake, SYSTEM, &json!({"namespaces": {"matchLabels": {"tier": "prod"}}}));
        fake.trouble(Method::GET, "/api/v1/namespaces/shop", NOT_PERMITTED);
        let against = normal(&cluster(&fake)).await.against;
        assert!(
            against[0].contains("is not known") && against[0].contains("get namespaces"),
            "{against:?}"
        );
    }

    #[tokio::test]
    async fn a_rollout_of_the_cluster_says_by_its_name_and_labels_what_a_freeze_is_about() {
        let fake = FakeServer::new();
        namespace(&fake, "prod");
        let rollouts = "/apis/wade.dev/v1alpha1/namespaces/shop/rollouts";
        fake.put(
            &format!("{rollouts}/checkout"),
            json!({"apiVersion": "wade.dev/v1alpha1", "kind": "Rollout", "metadata":
                {"name": "checkout", "namespace": "shop", "labels": {"part": "web"}}, "spec": {"workload": {"deployment": "app"}}}),
        );
        let web = json!({"rollouts": {"matchLabels": {"part": "web"}}});
        freeze(&fake, "shop", &web);
        assert_eq!(normal(&cluster(&fake)).await.against.len(), 1);
        let mut excepted = web;
        excepted["except"] = json!(["checkout"]);
        freeze(&fake, "shop", &excepted);
        assert_eq!(normal(&cluster(&fake)).await.against.len(), 0);
    }

    #[tokio::test]
    async fn deploy_windows_are_the_namespaces_where_a_policy_says_none() {
        let fake = FakeServer::new();
        namespace(&fake, "prod");
        let say = |words: &str| {
            fake.edit("/api/v1/namespaces/shop", |object| {
                object["metadata"]["annotations"] = json!({ WINDOWS: words });
            });
        };
        let windows = async |cluster: &Cluster| {
            let read = cluster.policy("app").await;
            read.map(|(rollout, _)| rollout.spec.windows.map(|windows| windows.open[0].from.clone()))
        };
        assert_eq!(windows(&cluster(&fake)).await, Ok(None));
        say("open: [{from: '09:00', to: '16:30', zone: Europe/Berlin}]");
        assert_eq!(windows(&cluster(&fake)).await, Ok(Some("09:00".to_owned())));
        let mut own = cluster(&fake);
        let mut rollout = crate::cluster::default_rollout("app", "shop");
        let open = json!({"open": [{"from": "10:00", "to": "11:00", "zone": "UTC"}]});
        rollout.spec.windows = serde_json::from_value(open).expect("they are windows");
        own.options.rollout = Some(rollout);
        assert_eq!(windows(&own).await, Ok(Some("10:00".to_owned())));
        say("open: [{from: '9 am', to: '16:30', zone: Berlin}]");
        let wrong = windows(&cluster(&fake)).await.expect_err("these are none");
        assert!(
            wrong.message.contains(WINDOWS) && wrong.message.contains("9 am"),
            "{wrong}"
        );
    }

    #[tokio::test]
    async fn a_step_uses_the_clusters_strategies_by_name_keeps_to_their_minima_and_reads_them_once() {
        let fake = FakeServer::new();
        namespace(&fake, "prod");
        let canary = json!({"canary": {"steps": [{"weight": "10%"}, {"weight": "50%"}], "bake": "1m"}});
        fake.put(
            "/apis/wade.dev/v1alpha1/clusterstrategies/ours",
            json!({"apiVersion": "wade.dev/v1alpha1", "kind": "ClusterStrategy", "metadata": {"name": "ours"},
                "spec": {"strategy": canary, "minima": {"everywhere": true, "bake": "2h"}}}),
        );
        let mut cluster = cluster(&fake);
        cluster.options.strategy = Some("ours".to_owned());
        let (_, resolved) = cluster.policy("app").await.expect("it is known");
        assert!(
            matches!(&resolved.strategy, crate::spec::Strategy::Canary(canary) if canary.steps.len() == 2),
            "{resolved:?}"
        );
        let against = normal(&cluster).await.against;
        assert!(
            against[0].starts_with("strategy ours of this cluster asks for more: the bake takes"),
            "{against:?}"
        );
        let read = fake
            .asked()
            .iter()
            .filter(|asked| asked.path.contains("clusterstrategies"))
            .count();
        assert_eq!(read, 1);
        cluster.options.strategy = Some("theirs".to_owned());
        let unknown = cluster.policy("app").await.expect_err("there is none");
        assert!(unknown.message.contains("theirs"), "{unknown}");
    }
}

//! What is known about a release before it begins, as one value: `wade check` shows it whole, `wade deploy` in a few
//! lines, programs get it as JSON. Nothing is decided here: `admit` decides, this collects and words it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::admit::Admission;
use super::find::Found;
use super::probe::Probe;
use super::rbac::Lacking;
use crate::apiserver::Kind;
use crate::apiserver::value::{name, text};
use crate::plan::{Outlook, Plan, StageKind, early_pass, render, smallest_rise};
use crate::platforms::kubernetes::{Isolation, Release, ScalerKind, budget, managers, workload};
use crate::spec::Source;

/// Everything that is known about a release before it begins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// The Deployment.
    pub deployment: String,
    /// Its namespace.
    pub namespace: String,
    /// The version that serves.
    pub stable: String,
    /// The version that would be released; `None` if nothing was named, and any version is meant.
    pub canary: Option<String>,
    /// The Deployment's full size.
    pub replicas: u32,
    /// Every Service that selects the pods.
    pub services: Vec<ServiceSeen>,
    /// Every route that leads to one of them.
    pub routes: Vec<RouteSeen>,
    /// Traffic that no share of the canary is taken from.
    pub not_canaried: Vec<String>,
    /// How the canary is kept from traffic until its first weight, and why so.
    pub isolation: IsolationSeen,
    /// Who else writes what a release writes.
    pub writers: Vec<Writer>,
    /// Whether there is room for both versions.
    pub room: Vec<String>,
    /// What scales the Deployment and protects its pods, and what becomes of it meanwhile.
    pub around: Vec<String>,
    /// What is measured, and where.
    pub metrics: MetricsSeen,
    /// Whether the judge can prove anything at this traffic.
    pub outlook: String,
    /// The plan as text.
    pub plan: String,
    /// Which permissions the caller lacks.
    pub lacking: Lacking,
    /// What is not as good as it could be, with what would make it so.
    pub warnings: Vec<String>,
    /// Why a release would be refused; empty if it would not.
    pub refusals: Vec<String>,
}

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceSeen {
    /// Its name.
    pub name: String,
    /// Its clients connect to the pods themselves.
    pub headless: bool,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteSeen {
    /// `HTTPRoute`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// The Service that it leads to.
    pub service: String,
    /// The canary's backend stands in it already.
    pub declared: bool,
}

/// How the canary is kept from traffic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IsolationSeen {
    /// `label` or `pin`.
    pub by: String,
    /// Why.
    pub why: String,
}

/// Somebody else who writes an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Writer {
    /// `deployment app`.
    pub object: String,
    /// `spec.template`.
    pub field: String,
    /// Who, as people call it.
    pub tool: String,
    /// It puts back by itself what a release writes.
    pub puts_back: bool,
    /// What to do or to add so that both can live.
    pub advice: String,
}

/// What is measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MetricsSeen {
    /// `:8080/metrics`.
    pub place: Option<String>,
    /// Families of requests that were recognised.
    pub names: Vec<String>,
    /// Requests per second on all of stable's pods.
    pub requests_per_second: Option<f64>,
    /// Why there are none, if there are none.
    pub why_not: Option<String>,
    /// How much of stable's past is known.
    pub history: String,
}

/// How a check ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// A release may begin.
    Ready,
    /// It would be refused.
    Refused,
    /// Permissions are missing.
    NotPermitted,
}

impl Check {
    /// Puts together what was found and worked out. `any` is whether no version was named.
    pub fn new(found: &Found, probe: &Probe, admission: &Admission, lacking: Lacking, any: bool) -> Self {
        let (release, plan) = (&admission.release, &admission.plan);
        let deployment = &found.deployment;
        let replicas = workload::replicas(deployment);
        let mut warnings = admission.report.warnings.clone();
        warnings.extend(lacking.warnings());
        Self {
            deployment: name(deployment).to_owned(),
            namespace: text(deployment, "/metadata/namespace").to_owned(),
            stable: admission.stable.version.clone(),
            canary: (!any).then(|| admission.canary.version.clone()),
            replicas,
            services: found.services.iter().map(service).collect(),
            routes: routes(release),
            not_canaried: not_canaried(found, release),
            isolation: IsolationSeen {
                by: match &release.isolation {
                    Isolation::Label { .. } => "label",
                    Isolation::Pin => "pin",
                }
                .to_owned(),
                why: admission.report.facts.join("; "),
            },
            writers: writers(found, release),
            room: room(found, release, super::admit::most_pods(plan, replicas)),
            around: around(found, release),
            metrics: metrics(probe, plan),
            outlook: prospects(plan, probe),
            plan: render(plan, outlook(probe)),
            lacking,
            warnings,
            refusals: admission.report.refusals.clone(),
        }
    }

    /// How it ends.
    pub fn standing(&self) -> Standing {
        if !self.lacking.needed.is_empty() {
            Standing::NotPermitted
        } else if self.refusals.is_empty() {
            Standing::Ready
        } else {
            Standing::Refused
        }
    }

    /// In a few lines, as a release says it before it begins.
    pub fn brief(&self) -> Vec<String> {
        let mut parts = vec![match self.services.as_slice() {
            [] => "no Service".to_owned(),
            services => {
                let names: Vec<&str> = services.iter().map(|service| service.name.as_str()).collect();
                format!("Service {}", names.join(", "))
            }
        }];
        let routes: Vec<String> = self
            .routes
            .iter()
            .map(|route| format!("{} {}/{}", route.kind, self.namespace, route.name))
            .collect();
        parts.push(if routes.is_empty() {
            "no route: the share of pods is the split".to_owned()
        } else {
            routes.join(", ")
        });
        if let Some(rate) = self.metrics.requests_per_second {
            parts.push(format!("{rate:.0} requests/s"));
        }
        if !self.metrics.names.is_empty() {
            parts.push(format!("read from {}", self.metrics.names.join(", ")));
        }
        let mut lines = vec![parts.join(", "), self.isolation.why.clone()];
        lines.extend(self.warnings.iter().map(|warning| format!("note: {warning}")));
        lines
    }
}

/// What is known of the traffic, for saying what a stage could see.
pub fn outlook(probe: &Probe) -> Option<Outlook> {
    probe.requests_per_second.map(|rate| Outlook {
        requests_per_second: rate,
        error_rate: 0.0,
    })
}

fn service(service: &Value) -> ServiceSeen {
    ServiceSeen {
        name: name(service).to_owned(),
        headless: text(service, "/spec/clusterIP") == "None",
    }
}

fn routes(release: &Release) -> Vec<RouteSeen> {
    let seen = release.routes.iter().map(|part| RouteSeen {
        kind: part.kind.kind().name().to_owned(),
        name: part.name.clone(),
        service: part.service.clone(),
        declared: part.declared,
    });
    seen.collect()
}

/// Where a route divides, only what comes through it is divided. Without one the pods' share is the split of every
/// Service, and what is left out is what does not go by a Service at all.
fn not_canaried(found: &Found, release: &Release) -> Vec<String> {
    if release.routes.is_empty() {
        return Vec::new();
    }
    let by_route = |service: &str| release.routes.iter().any(|part| part.service == service);
    let sentence = |service: &Value| {
        let own = name(service);
        let headless = if text(service, "/spec/clusterIP") == "None" {
            " (headless: its clients go to the pods themselves)"
        } else {
            ""
        };
        if by_route(own) {
            format!(
                "calls straight to Service {own}{headless} and not through its route: they stay on stable until the hand over"
            )
        } else {
            format!("Service {own}{headless}: no route leads to it, so its calls stay on stable until the hand over")
        }
    };
    found.services.iter().map(sentence).collect()
}

fn writers(found: &Found, release: &Release) -> Vec<Writer> {
    let mut seen = Vec::new();
    let mut look = |kind: Kind, object: &Value, path: &[&str]| {
        let puts_back = managers::gitops_owner(object, path);
        let fights = puts_back.is_some();
        if let Some(owner) = puts_back.or_else(|| managers::applied_by(object, path)) {
            seen.push(Writer {
                object: format!("{} {}", kind.word(), name(object)),
                field: path.join("."),
                tool: owner.tool,
                puts_back: fights,
                advice: owner.snippet,
            });
        }
    };
    look(Kind::Deployment, &found.deployment, &["spec", "template"]);
    if found.deployment.pointer("/spec/paused").is_some() {
        look(Kind::Deployment, &found.deployment, &["spec", "paused"]);
    }
    // Only a pin touches the user's own Services.
    if release.isolation == Isolation::Pin {
        for service in &found.services {
            look(Kind::Service, service, &["spec", "selector"]);
        }
    }
    for (part, object) in &found.routes {
        look(part.kind.kind(), object, &["spec", "rules"]);
    }
    seen.dedup();
    seen
}

fn room(found: &Found, release: &Release, replicas: u32) -> Vec<String> {
    let mut lines = Vec::new();
    lines.push(match budget::quota_room(&found.quotas, &release.template, replicas) {
        _ if found.quotas.is_empty() => "no quota in this namespace that could be seen".to_owned(),
        Ok(()) => format!("the quotas leave room for {replicas} more pods"),
        Err(why) => why,
    });
    lines.push(if found.nodes.is_empty() {
        "room on the nodes is not known: nodes may not be listed".to_owned()
    } else {
        let room = budget::node_room(&found.nodes, &found.pods, &release.template, replicas);
        let seen = "as far as the pods of this namespace tell";
        room.shortage()
            .unwrap_or_else(|| format!("the nodes have room for {replicas} more pods, {seen}"))
    });
    lines
}

fn around(found: &Found, release: &Release) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(scaler) = &release.scaler {
        let (kind, how) = match scaler.kind {
            ScalerKind::Hpa => ("HorizontalPodAutoscaler", "does not scale down below the present size"),
            ScalerKind::Keda => ("ScaledObject", "is paused"),
        };
        let most = if scaler.max == u32::MAX {
            String::new()
        } else {
            format!(" to {}", scaler.max)
        };
        lines.push(format!(
            "{kind} {} ({}{most} pods) {how} while a release runs",
            scaler.name,
            scaler.min.unwrap_or(1)
        ));
    }
    for budget in &found.budgets {
        lines.push(format!(
            "PodDisruptionBudget {}: the canary gets one of its own while a release runs",
            name(budget)
        ));
    }
    lines
}

fn metrics(probe: &Probe, plan: &Plan) -> MetricsSeen {
    let early = early_pass(plan);
    MetricsSeen {
        place: probe.metrics.as_ref().map(|at| format!(":{}{}", at.port, at.path)),
        names: probe.names.clone(),
        requests_per_second: probe.requests_per_second,
        why_not: probe.why_not.clone(),
        history: match &plan.measure.source {
            Some(Source::Prometheus(_)) => {
                format!("Prometheus is asked for stable's past when the release begins; early pass {early}")
            }
            Some(Source::Scrape(_)) => format!(
                "Wade reads the pods only while a release runs; early pass {early}; name a Prometheus under analysis.source to have stable's past from the start"
            ),
            None => "none, and nothing to read: nothing can be compared".to_owned(),
        },
    }
}

/// Whether the judge can prove anything at this traffic, in one sentence.
fn prospects(plan: &Plan, probe: &Probe) -> String {
    if !plan.stages.iter().any(|stage| stage.kind == StageKind::Judge) {
        return "nothing is judged by this strategy; smoke tests and readiness are what is left".to_owned();
    }
    let Some(outlook) = outlook(probe) else {
        return "how much can be seen is not known: stable's requests could not be counted".to_owned();
    };
    let rate = outlook.requests_per_second;
    match smallest_rise(plan, outlook) {
        Some(ratio) => {
            format!("at {rate:.0} requests/s the smallest rise in errors that can be seen in any stage is x{ratio:.1}")
        }
        None => format!(
            "at {rate:.1} requests/s no rise in errors can be seen in any stage: the release would end unproven, and only a canary that is down shows"
        ),
    }
}

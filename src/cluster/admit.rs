//! From what is asked and what is there to a release: the new template, how it is isolated, the plan, and every reason
//! against it, all at once, before anything is touched.

use serde_json::{Value, json};

use super::find::Found;
use super::probe::Probe;
use crate::apiserver::value::{annotation, flag, label, name, resource_version, uid};
use crate::apiserver::{ApiError, ApiServer, Fault, Kind, Patch};
use crate::engine::desired::instances;
use crate::plan::{Circumstances, Found as PlanFound, Lane, Plan, lower};
use crate::platforms::kubernetes::isolation::{self, Around};
use crate::platforms::kubernetes::release::Before;
use crate::platforms::kubernetes::template::{For, Obstacle};
use crate::platforms::kubernetes::{CANARY, HASH, Release, budget, managers, route, template, workload};
use crate::spec::{Faults, Finish, MetricsEndpoint, Mode, OnUndecided, Resolved, Rollout};
use crate::store::Revision;

/// What is to be released, as the caller said it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ask {
    /// `[CONTAINER=]IMAGE`.
    pub images: Vec<For<String>>,
    /// `[CONTAINER/]NAME=VALUE`.
    pub env: Vec<For<(String, String)>>,
    /// A changed Deployment, to be applied.
    pub manifest: Option<Value>,
    /// The Deployment is held already, with the new template in it.
    pub held: bool,
    /// And it is to be paused again afterwards: held between releases too, for want of a policy that pauses it in time.
    pub stays_paused: bool,
    /// This very template (rollback, retry).
    pub template: Option<Value>,
    /// Run both versions side by side even where that looks unsafe.
    pub allow_parallel: bool,
    /// Accept that the manifest lowers the number of replicas.
    pub allow_fewer: bool,
}

impl Ask {
    /// Whether nothing is said that would make a new revision.
    pub fn is_empty(&self) -> bool {
        self.images.is_empty()
            && self.env.is_empty()
            && self.manifest.is_none()
            && !self.held
            && self.template.is_none()
    }
}

/// What is known about a release before it begins.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// What was found and chosen.
    pub facts: Vec<String>,
    /// What is not as good as it could be, with what would make it so.
    pub warnings: Vec<String>,
    /// Why it must not begin; empty if it may.
    pub refusals: Vec<String>,
}

/// A release that may begin.
#[derive(Clone, Debug)]
pub struct Admission {
    /// What the platform needs; its number is filled in when it is recorded.
    pub release: Release,
    /// The way.
    pub plan: Plan,
    /// The new revision.
    pub canary: Revision,
    /// The revision that serves.
    pub stable: Revision,
    /// What was found.
    pub report: Report,
    /// Nothing differs from what serves.
    pub unchanged: bool,
}

/// The new template, as the server completes it. Nothing is stored; what admission refuses comes out here.
///
/// # Errors
/// Faults of what was asked, or what the server says to it.
pub async fn new_template(api: &ApiServer, found: &Found, ask: &Ask) -> Result<Value, Vec<String>> {
    let deployment = &found.deployment;
    let own = name(deployment);
    let present = &deployment["spec"]["template"];
    if let Some(manifest) = &ask.manifest {
        // Server-side apply decides which fields the manifest sets and which it leaves alone.
        let patch = Patch::Apply {
            object: manifest.clone(),
            manager: crate::platforms::kubernetes::APPLIER.to_owned(),
            force: true,
        };
        let applied = api
            .try_patch(Kind::Deployment, own, &patch)
            .await
            .map_err(|error| said(&error))?;
        return Ok(template::without_hash(&applied["spec"]["template"]));
    }
    if ask.held {
        return Ok(template::without_hash(present));
    }
    let wanted = match &ask.template {
        Some(template) => template.clone(),
        None => {
            let faults = |faults: Faults| vec![faults.to_string()];
            let changed = template::with_images(present, &ask.images).map_err(faults)?;
            template::with_env(&changed, &ask.env).map_err(faults)?
        }
    };
    if template::same(&wanted, present) {
        return Ok(template::without_hash(&wanted));
    }
    let patch = Patch::Json(json!([
        { "op": "test", "path": "/metadata/resourceVersion", "value": resource_version(deployment) },
        { "op": "add", "path": "/spec/template", "value": template::without_hash(&wanted) },
    ]));
    let tried = api
        .try_patch(Kind::Deployment, own, &patch)
        .await
        .map_err(|error| said(&error))?;
    Ok(template::without_hash(&tried["spec"]["template"]))
}

fn said(error: &ApiError) -> Vec<String> {
    vec![error.to_string()]
}

/// Works out the release. Everything that speaks against it is in the report.
pub fn admit(
    rollout: &Rollout,
    resolved: &Resolved,
    found: &Found,
    ask: &Ask,
    template: &Value,
    probe: &Probe,
    lane: Lane,
    require_proof: bool,
) -> Result<Admission, Vec<String>> {
    let deployment = &found.deployment;
    let own = name(deployment);
    let stable_set = found.stable().map_err(|why| vec![why])?;
    let stable_hash = label(stable_set, HASH).unwrap_or_default().to_owned();
    let stable_template = template::without_hash(&stable_set["spec"]["template"]);
    let unchanged = template::same(template, &stable_template);
    let takes_over = found.with_template(template).filter(|_| !unchanged);
    let hash = takes_over
        .and_then(|set| label(set, HASH))
        .map_or_else(|| template::hash(template), str::to_owned);
    let choice = isolation::choose(
        deployment,
        template,
        Around {
            services: &found.every_service,
            policies: &found.policies,
            others: &[],
        },
        takes_over,
    );
    let release = Release {
        deployment: own.to_owned(),
        uid: uid(deployment).to_owned(),
        number: 0,
        template: template.clone(),
        stable: stable_hash,
        canary: hash,
        takes_over: takes_over.is_some(),
        isolation: choice.isolation,
        services: found.services.iter().map(|service| name(service).to_owned()).collect(),
        routes: found.routes.iter().map(|(part, _)| part.clone()).collect(),
        before: before(deployment, ask, &stable_template),
        scaler: found.scaler.as_ref().map(|(scaler, _)| scaler.clone()),
        budgets: found.budgets.iter().map(|budget| name(budget).to_owned()).collect(),
        metrics: probe.metrics.clone(),
        port: port(found, template),
        template_owner: managers::gitops_owner(deployment, &["spec", "template"]).map(|owner| owner.manager),
        rolling: rollout.spec.finish == Finish::Rolling,
        digests: Default::default(),
        manifest: ask.manifest.clone(),
    };
    let around = Circumstances {
        lane,
        stable_unfit: found.unfit(),
        requests_per_second: probe.requests_per_second,
        found: Some(PlanFound {
            takes_requests: !found.services.is_empty() && release.port.is_some(),
            by_instances: release.routes.is_empty(),
            instances: workload::replicas(deployment),
            metrics: probe.metrics.as_ref().map(|metrics| MetricsEndpoint {
                path: metrics.path.clone(),
            }),
        }),
    };
    let mut plan = lower(
        &rollout.metadata.name,
        &rollout.spec,
        &resolved.strategy,
        &resolved.analysis,
        &resolved.limits,
        &around,
    );
    if require_proof {
        plan.on_undecided = OnUndecided::Gate;
    }
    let mut report = Report::default();
    report.facts.push(choice.why);
    report
        .refusals
        .extend(refusals(rollout, found, ask, template, unchanged, &release, &plan));
    let most = most_pods(&plan, workload::replicas(deployment));
    warn(&mut report, found, probe, &release, most);
    let version = |template: &Value| template::version_of(template, None);
    let revision = |id: String, template: &Value| Revision {
        id,
        version: version(template),
        variables: Default::default(),
        workload: json!({ "template": template }),
    };
    Ok(Admission {
        canary: revision(template::hash(template), template),
        stable: revision(template::hash(&stable_template), &stable_template),
        release,
        plan,
        report,
        unchanged,
    })
}

/// Why a Deployment that no release holds is paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pause {
    /// It is not.
    None,
    /// Wade keeps it from rolling out what nobody has judged: it was left so after a way back, the policy has paused it
    /// with a change, which leaves no name, or it is held between releases.
    Wades,
    /// Somebody wants it so.
    Others,
}

fn pause(deployment: &Value) -> Pause {
    use crate::platforms::kubernetes::{HOLD, LEFT_PAUSED};
    if !flag(deployment, "/spec/paused") {
        return Pause::None;
    }
    let by = managers::managers_of(deployment, &["spec", "paused"]);
    let nobody_else = by.iter().all(|one| one.manager == crate::apiserver::MANAGER);
    let adopted = label(deployment, HOLD) == Some("true");
    if (adopted && nobody_else) || annotation(deployment, LEFT_PAUSED).is_some() {
        Pause::Wades
    } else {
        Pause::Others
    }
}

fn before(deployment: &Value, ask: &Ask, stable: &Value) -> Before {
    let of = |path: &str| deployment.pointer(path).cloned().unwrap_or(Value::Null);
    if let Some(held) = workload::held(deployment) {
        return held.before;
    }
    // Who says --held has paused it for this release, and wants it to go on afterwards.
    let paused = !ask.held
        && match pause(deployment) {
            Pause::None => false,
            // With a change that waits it is paused for that alone; with what serves it is held between releases.
            Pause::Wades => template::same(&deployment["spec"]["template"], stable),
            Pause::Others => true,
        };
    // What a manifest says is what is to be there afterwards.
    let of = |path: &str| {
        let manifest = ask.manifest.as_ref();
        manifest
            .and_then(|manifest| manifest.pointer(path).cloned())
            .unwrap_or_else(|| of(path))
    };
    Before {
        paused: ask.stays_paused || paused,
        max_surge: of("/spec/strategy/rollingUpdate/maxSurge"),
        max_unavailable: of("/spec/strategy/rollingUpdate/maxUnavailable"),
        history_limit: of("/spec/revisionHistoryLimit"),
    }
}

/// Why a canary backend that the user has declared leads nowhere, if it does not lead to the canary.
fn undeclared(found: &Found, canary: &str) -> Option<String> {
    let mark = name(&found.deployment);
    let service = found.every_service.iter().find(|service| name(service) == canary);
    let wanted = json!({ CANARY: mark });
    let selects = service.is_some_and(|service| service.pointer("/spec/selector") == Some(&wanted));
    (!selects).then(|| {
        format!(
            "the route declares the backend {canary}; declare a service of that name as well, with the same ports and the selector {{{CANARY}: {mark}}}"
        )
    })
}

/// The port that smoke tests ask: what the first Service leads to.
fn port(found: &Found, template: &Value) -> Option<u16> {
    let ports = template["spec"]["containers"].as_array()?;
    let named = |wanted: &str| {
        ports
            .iter()
            .flat_map(|container| crate::apiserver::value::list(container, "/ports"))
            .find(|port| crate::apiserver::value::text(port, "/name") == wanted)
            .and_then(|port| crate::apiserver::value::number(port, "/containerPort"))
    };
    let of_service = found.services.iter().find_map(|service| {
        let port = crate::apiserver::value::list(service, "/spec/ports").first()?;
        match &port["targetPort"] {
            Value::Number(number) => number.as_u64(),
            Value::String(wanted) => named(wanted),
            _ => port["port"].as_u64(),
        }
    });
    let first = || {
        ports
            .iter()
            .flat_map(|container| crate::apiserver::value::list(container, "/ports"))
            .find_map(|port| crate::apiserver::value::number(port, "/containerPort"))
    };
    of_service.or_else(first).and_then(|port| u16::try_from(port).ok())
}

fn refusals(
    rollout: &Rollout,
    found: &Found,
    ask: &Ask,
    template: &Value,
    unchanged: bool,
    release: &Release,
    plan: &Plan,
) -> Vec<String> {
    let deployment = &found.deployment;
    let own = name(deployment);
    let mut refusals = Vec::new();
    if plan.mode == Mode::Observe {
        refusals.push(format!(
            "the policy says `mode: observe`, which acts on nothing; roll out with your own tool and run `wade observe deployment/{own}` beside it"
        ));
    }
    let mut with_new = deployment.clone();
    with_new["spec"]["template"] = template.clone();
    for refusal in template::refusals(&with_new, &found.claims) {
        let wanted = match refusal.obstacle {
            Obstacle::Recreate | Obstacle::HostPort | Obstacle::Volume => !ask.allow_parallel,
            Obstacle::NoReplicas => true,
            // Looked at below and before, with what is known of holds.
            Obstacle::Paused | Obstacle::Unfinished => false,
        };
        if wanted {
            refusals.push(refusal.sentence);
        }
    }
    // What serves already is not released.
    let faults = if unchanged {
        Vec::new()
    } else {
        template::refused_images(template, &rollout.spec.versions)
    };
    refusals.extend(
        faults
            .iter()
            .map(|fault| format!("{}: {} ({}); {}", fault.path, fault.problem, fault.found, fault.help)),
    );
    if let Some(held) = workload::held(deployment) {
        refusals.push(format!(
            "deployment {own} is held by release {} already; `wade status deployment/{own} -n {}` shows it, `wade settle` finishes or undoes what a dead run left",
            held.number,
            crate::apiserver::value::text(deployment, "/metadata/namespace"),
        ));
    } else if pause(deployment) == Pause::Others && !ask.held {
        refusals.push(format!(
            "deployment {own} is paused by somebody else{}; `kubectl rollout resume deployment/{own}` first, or --held if it holds the new revision",
            managers::last_writer(deployment, &["spec", "paused"]).unwrap_or_default()
        ));
    }
    if let Some(manifest) = &ask.manifest
        && !ask.allow_fewer
    {
        let least = found.scaler.as_ref().and_then(|(scaler, _)| scaler.min);
        let after =
            crate::apiserver::value::number(manifest, "/spec/replicas").and_then(|after| u32::try_from(after).ok());
        refusals.extend(template::replica_drop(workload::replicas(deployment), after, least));
    }
    let splits: Vec<_> = plan.stages.iter().map(|stage| stage.split.clone()).collect();
    if release.routes.is_empty() {
        let needs_route = splits
            .iter()
            .any(|split| split.matching.is_some() || !split.mirror.is_zero());
        if needs_route {
            refusals.push(format!(
                "the strategy divides by header, cookie or copies, which needs an HTTPRoute that leads to a Service of deployment {own}; there is none in this namespace"
            ));
        }
    }
    for (part, object) in &found.routes {
        let canary = release.canary_service(&part.service);
        refusals.extend(route::refusals(object, &part.service, &canary, &splits));
        if part.declared {
            refusals.extend(undeclared(found, &canary));
        }
        if !part.declared
            && let Some(owner) = managers::gitops_owner(object, &["spec", "rules"])
        {
            refusals.push(format!(
                "{} {} is kept by {}, which would take the canary's backend away again; {}",
                part.kind.kind().word(),
                part.name,
                owner.tool,
                owner.snippet
            ));
        }
    }
    let most = most_pods(plan, workload::replicas(deployment));
    if let Err(why) = budget::quota_room(&found.quotas, template, most) {
        let rolling = if release.rolling {
            "begin with a smaller weight"
        } else {
            "let the Deployment's own rolling update end the release (`spec.finish: rolling`)"
        };
        refusals.push(format!(
            "there is no room for both versions: {why}; raise the quota, {rolling}, or scale deployment {own} down first"
        ));
    }
    refusals
}

/// The most pods that the canary has before the old ones go.
pub fn most_pods(plan: &Plan, full: u32) -> u32 {
    let sizes = plan.stages.iter().map(|stage| instances(stage.capacity, full));
    sizes.max().unwrap_or(full)
}

fn warn(report: &mut Report, found: &Found, probe: &Probe, release: &Release, most: u32) {
    // What may not be read is said with the other missing permissions.
    let unread = found
        .unread
        .iter()
        .filter(|error| !matches!(error.fault, Fault::Forbidden(_)));
    report.warnings.extend(unread.map(ToString::to_string));
    if let Some(why) = found.unfit() {
        report.warnings.push(why);
    }
    if let Some(why) = &probe.why_not {
        report.warnings.push(format!("no metrics of the pods: {why}"));
    }
    if !found.nodes.is_empty()
        && let Some(words) = budget::node_room(&found.nodes, &found.pods, &release.template, most).shortage()
    {
        report.warnings.push(words);
    }
}

/// The template of the revision before the present one, from the Deployment's own history.
pub fn earlier_template(found: &Found) -> Option<Value> {
    let number = |set: &&Value| {
        annotation(set, crate::platforms::kubernetes::REVISION)
            .and_then(|number| number.parse::<u64>().ok())
            .unwrap_or(0)
    };
    let stable = found.stable().ok()?;
    let now = number(&stable);
    let earlier = found.sets.iter().filter(|set| number(set) < now).max_by_key(number)?;
    Some(template::without_hash(&earlier["spec"]["template"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A paused Deployment of which this manager says so, if one does.
    fn paused(by: Option<&str>, adopted: bool, image: &str) -> Value {
        let said = |manager| json!({ "manager": manager, "operation": "Update", "fieldsV1": { "f:spec": { "f:paused": {} } } });
        let labels = if adopted {
            json!({ "wade.dev/hold": "true" })
        } else {
            json!({})
        };
        json!({
            "metadata": { "name": "app", "labels": labels, "managedFields": by.map(said).into_iter().collect::<Vec<_>>() },
            "spec": { "paused": true, "template": template(image) },
        })
    }

    fn template(image: &str) -> Value {
        json!({ "spec": { "containers": [{ "name": "app", "image": image }] } })
    }

    #[test]
    fn a_pause_of_wades_own_is_no_somebody_elses() {
        let cases = [
            (
                "the policy has paused it with a change",
                None,
                true,
                "2.0",
                Pause::Wades,
                false,
            ),
            (
                "the daemon holds it between releases",
                Some("wade"),
                true,
                "1.0",
                Pause::Wades,
                true,
            ),
            (
                "somebody wants it paused",
                Some("kubectl-rollout"),
                true,
                "1.0",
                Pause::Others,
                true,
            ),
            ("nobody has adopted it", None, false, "1.0", Pause::Others, true),
        ];
        for (what, by, adopted, image, expected, stays) in cases {
            let deployment = paused(by, adopted, image);
            assert_eq!(pause(&deployment), expected, "{what}");
            let before = before(&deployment, &Ask::default(), &template("1.0"));
            assert_eq!(before.paused, stays, "{what}: afterwards");
        }
        let held = Ask {
            held: true,
            ..Ask::default()
        };
        assert!(!before(&paused(None, false, "2.0"), &held, &template("1.0")).paused);
    }
}

//! Who else writes an object: read from `metadata.managedFields`, which every API server keeps.
//!
//! It answers two questions. Who wrote a field last, for the sentence about a change in mid-release. And whether a tool
//! keeps the object as it is in Git, which would undo what Wade writes within minutes; then what to add there so that
//! it does not. Helm and kubectl write only when somebody runs them, so they fight with nobody.

use jiff::Timestamp;
use serde_json::Value;

use crate::apiserver::value::{annotation, label, list, text, time};

/// Wade's own name among the managers.
const OURS: &str = "wade";

/// One entry of `managedFields` that covers a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manager {
    /// Who.
    pub manager: String,
    /// By server-side apply; else by an ordinary write.
    pub applies: bool,
    /// Through which subresource, `scale`; empty for the object itself.
    pub subresource: String,
    /// When last.
    pub time: Option<Timestamp>,
}

/// A tool that looks after an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// As it calls itself among the managers.
    pub manager: String,
    /// What people call it.
    pub tool: String,
    /// What to add so that it and Wade do not undo each other's writes.
    pub snippet: String,
}

/// Everybody who has a say in the field at `path`, the latest first.
pub fn managers_of(object: &Value, path: &[&str]) -> Vec<Manager> {
    let covering = list(object, "/metadata/managedFields")
        .iter()
        .filter(|entry| entry.get("fieldsV1").is_some_and(|fields| covers(fields, path)));
    let mut found: Vec<Manager> = covering
        .map(|entry| Manager {
            manager: text(entry, "/manager").to_owned(),
            applies: text(entry, "/operation") == "Apply",
            subresource: text(entry, "/subresource").to_owned(),
            time: time(entry, "/time"),
        })
        .collect();
    found.sort_by_key(|manager| std::cmp::Reverse(manager.time));
    found
}

/// Who wrote the field last, besides Wade, to be added to a sentence: ` (last written by kubectl-edit at …)`. A field
/// that somebody removed has no writer any more.
pub fn last_writer(object: &Value, path: &[&str]) -> Option<String> {
    let last = managers_of(object, path).into_iter().find(|one| one.manager != OURS)?;
    Some(match last.time {
        Some(time) => format!(" (last written by {} at {time})", last.manager),
        None => format!(" (last written by {})", last.manager),
    })
}

/// Whether somebody else has written the field since Wade did: whoever changes a field takes it over. Where nothing is
/// known of its writers, nobody has.
pub fn is_taken(object: &Value, path: &[&str]) -> bool {
    let writers = managers_of(object, path);
    !writers.is_empty() && writers.iter().all(|one| one.manager != OURS)
}

/// The tool that keeps the field as it is in Git and puts it back by itself: Argo CD or Flux.
pub fn gitops_owner(object: &Value, path: &[&str]) -> Option<Owner> {
    let writers = managers_of(object, path);
    let writer = writers.iter().find_map(|one| {
        let tool = Tool::by_manager(&one.manager).filter(|tool| tool.puts_back())?;
        Some((tool, one.manager.clone()))
    });
    let orphan = writers.iter().all(|one| one.manager == OURS);
    // After an earlier release nobody may own the field; the tool's own mark on the object still says whose it is.
    let marked = || {
        Tool::by_mark(object)
            .filter(|_| orphan)
            .map(|tool| (tool, tool.managers()[0].to_owned()))
    };
    let (tool, manager) = writer.or_else(marked)?;
    Some(tool.owner(manager, object, path))
}

/// The tool by which the field got its value, whether or not it puts it back: also Helm and kubectl.
pub fn applied_by(object: &Value, path: &[&str]) -> Option<Owner> {
    let writers = managers_of(object, path);
    let found = writers
        .iter()
        .find_map(|one| Tool::by_manager(&one.manager).map(|tool| (tool, one)));
    found.map(|(tool, one)| tool.owner(one.manager.clone(), object, path))
}

/// Whether a set of fields covers a path. A field without fields of its own stands for all below it.
fn covers(fields: &Value, path: &[&str]) -> bool {
    let Some((first, rest)) = path.split_first() else {
        return true;
    };
    match fields.get(format!("f:{first}")) {
        None => false,
        Some(Value::Object(below)) if below.is_empty() => true,
        Some(below) => covers(below, rest),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tool {
    ArgoCd,
    FluxKustomize,
    FluxHelm,
    Helm,
    Kubectl,
}

impl Tool {
    const ALL: [Self; 5] = [
        Self::ArgoCd,
        Self::FluxKustomize,
        Self::FluxHelm,
        Self::Helm,
        Self::Kubectl,
    ];

    /// What it calls itself when it writes, the usual name first.
    const fn managers(self) -> &'static [&'static str] {
        match self {
            Self::ArgoCd => &["argocd-controller", "argocd-application-controller"],
            Self::FluxKustomize => &["kustomize-controller"],
            Self::FluxHelm => &["helm-controller"],
            Self::Helm => &["helm"],
            // Not kubectl-edit, -rollout and the like: by these a person changes, and keeps nothing.
            Self::Kubectl => &["kubectl-client-side-apply", "kubectl"],
        }
    }

    fn by_manager(manager: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tool| tool.managers().contains(&manager))
    }

    fn by_mark(object: &Value) -> Option<Self> {
        if annotation(object, "argocd.argoproj.io/tracking-id").is_some()
            || label(object, "argocd.argoproj.io/instance").is_some()
        {
            Some(Self::ArgoCd)
        } else if label(object, "kustomize.toolkit.fluxcd.io/name").is_some() {
            Some(Self::FluxKustomize)
        } else if label(object, "helm.toolkit.fluxcd.io/name").is_some() {
            Some(Self::FluxHelm)
        } else {
            None
        }
    }

    const fn puts_back(self) -> bool {
        match self {
            Self::ArgoCd | Self::FluxKustomize | Self::FluxHelm => true,
            Self::Helm | Self::Kubectl => false,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::ArgoCd => "Argo CD",
            Self::FluxKustomize => "Flux",
            Self::FluxHelm => "Flux (HelmRelease)",
            Self::Helm => "Helm",
            Self::Kubectl => "kubectl apply",
        }
    }

    fn owner(self, manager: String, object: &Value, path: &[&str]) -> Owner {
        Owner {
            manager,
            tool: self.name().to_owned(),
            snippet: self.snippet(object, path),
        }
    }

    fn snippet(self, object: &Value, path: &[&str]) -> String {
        const DECLARE: &str = "declare the backend `<service>-canary` at weight 0 beside each `<service>` in its rules";
        let is_rules = path == ["spec", "rules"];
        match self {
            Self::ArgoCd => {
                let ignore = ignore_differences(object, path);
                let so = "let the Application leave alone what a release changes";
                let first = if is_rules {
                    format!("{DECLARE}, and {so}")
                } else {
                    so.to_owned()
                };
                format!("{first}:\n{ignore}")
            }
            Self::FluxKustomize | Self::FluxHelm if is_rules => format!(
                "{DECLARE}, so that a reconciliation in mid-release costs a weight, which Wade writes again, and never \
                 the backend"
            ),
            Self::FluxKustomize => {
                "suspend it for the release: `flux suspend kustomization NAME`, `flux resume` afterwards".to_owned()
            }
            Self::FluxHelm => {
                "suspend it for the release: `flux suspend helmrelease NAME`, `flux resume` afterwards".to_owned()
            }
            Self::Helm if is_rules => format!("{DECLARE} in the chart, so that an upgrade in mid-release keeps it"),
            Self::Helm => {
                "do not run `helm upgrade` in mid-release; with a hold use the post-renderer `wade-hold`".to_owned()
            }
            Self::Kubectl => "do not run `kubectl apply` on it in mid-release".to_owned(),
        }
    }
}

/// What an Argo CD Application needs to leave a field alone.
fn ignore_differences(object: &Value, path: &[&str]) -> String {
    let group = text(object, "/apiVersion")
        .split_once('/')
        .map_or("", |(group, _)| group);
    let kind = text(object, "/kind");
    let name = text(object, "/metadata/name");
    let pointer: String = path
        .iter()
        .map(|part| format!("/{}", part.replace('~', "~0").replace('/', "~1")))
        .collect();
    format!(
        "spec:\n  ignoreDifferences:\n  - {{group: {group:?}, kind: {kind}, name: {name}, jsonPointers: [{pointer}]}}\n  \
         syncPolicy: {{syncOptions: [RespectIgnoreDifferences=true]}}"
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entry(manager: &str, operation: &str, time: &str, fields: Value) -> Value {
        let mut entry = json!({"manager": manager, "operation": operation, "time": time, "fieldsType": "FieldsV1"});
        entry["fieldsV1"] = fields;
        entry
    }

    fn route(entries: Vec<Value>) -> Value {
        let mut route =
            json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "web"}});
        route["metadata"]["managedFields"] = Value::Array(entries);
        route
    }

    const RULES: [&str; 2] = ["spec", "rules"];
    const MORNING: &str = "2026-03-01T08:00:00Z";
    const NOON: &str = "2026-03-01T12:00:00Z";

    fn rules() -> Value {
        json!({"f:spec": {"f:rules": {}}})
    }

    #[test]
    fn managers_are_those_whose_fields_cover_the_path() {
        let template = json!({"f:spec": {"f:template": {"f:spec": {"f:containers": {}}}}});
        let mut scaled = entry(
            "kube-controller-manager",
            "Update",
            NOON,
            json!({"f:spec": {"f:replicas": {}}}),
        );
        scaled["subresource"] = json!("scale");
        let object = route(vec![
            entry("helm", "Apply", MORNING, template),
            scaled,
            entry("edge", "Update", NOON, json!({"f:status": {"f:parents": {}}})),
        ]);
        let of = |path: &[&str]| {
            let found = managers_of(&object, path).into_iter();
            found
                .map(|one| (one.manager, one.applies, one.subresource))
                .collect::<Vec<_>>()
        };
        assert_eq!(of(&["spec", "template"]), [("helm".to_owned(), true, String::new())]);
        assert_eq!(
            of(&["spec", "replicas"]),
            [("kube-controller-manager".to_owned(), false, "scale".to_owned())]
        );
        assert_eq!(of(&["spec", "paused"]), []);
        assert_eq!(
            of(&["status", "parents", "0"]).len(),
            1,
            "a field stands for all below it"
        );
        assert_eq!(managers_of(&json!({}), &RULES), []);
    }

    #[test]
    fn the_last_writer_is_never_wade() {
        let object = route(vec![
            entry("kubectl-edit", "Update", MORNING, rules()),
            entry("wade", "Update", NOON, rules()),
        ]);
        assert_eq!(
            last_writer(&object, &RULES).unwrap(),
            format!(" (last written by kubectl-edit at {MORNING})")
        );
        assert_eq!(
            last_writer(&route(vec![entry("wade", "Update", NOON, rules())]), &RULES),
            None
        );
    }

    #[test]
    fn only_tools_that_put_back_are_fought_with() {
        let cases = [
            ("argocd-controller", "Update", Some("Argo CD"), "Argo CD"),
            ("kustomize-controller", "Apply", Some("Flux"), "Flux"),
            (
                "helm-controller",
                "Apply",
                Some("Flux (HelmRelease)"),
                "Flux (HelmRelease)",
            ),
            ("helm", "Apply", None, "Helm"),
            ("kubectl-client-side-apply", "Update", None, "kubectl apply"),
        ];
        for (manager, operation, fights, applied) in cases {
            let object = route(vec![entry(manager, operation, NOON, rules())]);
            let owner = gitops_owner(&object, &RULES);
            assert_eq!(owner.as_ref().map(|owner| owner.tool.as_str()), fights, "{manager}");
            assert!(owner.is_none_or(|owner| owner.manager == manager));
            assert_eq!(applied_by(&object, &RULES).unwrap().tool, applied);
        }
        let edited = route(vec![entry("kubectl-edit", "Update", NOON, rules())]);
        assert_eq!(
            (gitops_owner(&edited, &RULES), applied_by(&edited, &RULES)),
            (None, None)
        );
    }

    #[test]
    fn a_mark_tells_whose_an_orphaned_field_is() {
        let mut object = route(vec![entry("wade", "Update", NOON, rules())]);
        object["metadata"]["annotations"] =
            json!({"argocd.argoproj.io/tracking-id": "shop:gateway/HTTPRoute:shop/web"});
        assert_eq!(gitops_owner(&object, &RULES).unwrap().manager, "argocd-controller");
        object["metadata"]["managedFields"] = json!([entry("kubectl-edit", "Update", NOON, rules())]);
        assert_eq!(gitops_owner(&object, &RULES), None, "a person has taken the field over");
    }

    #[test]
    fn a_snippet_says_what_to_add() {
        let object = route(vec![entry("argocd-controller", "Update", NOON, rules())]);
        let snippet = gitops_owner(&object, &RULES).unwrap().snippet;
        assert!(
            snippet.starts_with("declare the backend `<service>-canary` at weight 0"),
            "{snippet}"
        );
        let wanted = "  - {group: \"gateway.networking.k8s.io\", kind: HTTPRoute, name: web, jsonPointers: [/spec/rules]}\n  \
                      syncPolicy: {syncOptions: [RespectIgnoreDifferences=true]}";
        assert!(snippet.ends_with(wanted), "{snippet}");
    }
}

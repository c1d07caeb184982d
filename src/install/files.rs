//! The same objects as files: plain manifests and a Helm chart, as they lie in deploy/.
//!
//! A chart's template is the object's own YAML with a few values replaced by references; nothing in it decides anything
//! that [`super::manifests`] does not. The definitions are templates too, so that an upgrade brings them along, and are
//! kept when the chart is uninstalled: deleting them would delete every Rollout.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{HoldApi, Settings, policies, rights, workload};
use crate::crd::definitions;

const HEAD: &str =
    "# Written from src/install/ by `wade install --write-deploy deploy`; a test compares. Change it there.\n";

/// Every file, by its path below deploy/.
pub fn all() -> BTreeMap<String, String> {
    let settings = Settings::default();
    let mut files = BTreeMap::new();
    let mut put = |path: &str, text: String| {
        files.insert(path.to_owned(), text);
    };
    let mut base = vec![workload::namespace()];
    base.extend(rights::all());
    put("manifests/00-definitions.yaml", yaml(&definitions()));
    put("manifests/10-rights.yaml", yaml(&base));
    put("manifests/20-policies.yaml", yaml(&policies::validating()));
    put("manifests/30-daemon.yaml", yaml(&workload::all(&settings)));
    // Not beside the others: where the API server does not know the kind, `kubectl apply -f manifests/` would fail.
    put("manifests/hold/v1.yaml", yaml(&policies::hold(HoldApi::V1)));
    put("manifests/hold/v1beta1.yaml", yaml(&policies::hold(HoldApi::V1Beta1)));
    put("chart/Chart.yaml", chart());
    put("chart/values.yaml", values(&settings));
    put("chart/templates/definitions.yaml", templated(&kept(definitions())));
    // The namespace is helm's to make (`--create-namespace`).
    put("chart/templates/rights.yaml", templated(&rights::all()));
    put("chart/templates/daemon.yaml", daemon(&settings));
    put(
        "chart/templates/policies.yaml",
        when(".Values.policies.guard", &templated(&policies::validating())),
    );
    put("chart/templates/hold.yaml", when(".Values.policies.hold", &hold()));
    put("chart/templates/NOTES.txt", NOTES.to_owned());
    files
}

const NOTES: &str = "\
Wade watches Rollouts now: kubectl get wro -A
{{- if ne .Release.Namespace \"wade-system\" }}
The daemon itself runs in namespace wade-system, wherever this release of the chart is kept.
{{- end }}
Before you uninstall: `wade uninstall` first takes running releases back and lifts holds; `helm uninstall` alone does not.
";

/// The objects as one YAML file.
pub fn yaml(objects: &[Value]) -> String {
    HEAD.to_owned() + &documents(objects)
}

fn documents(objects: &[Value]) -> String {
    let mut out = String::new();
    for object in objects {
        out.push_str("---\n");
        out.push_str(&serde_saphyr::to_string(object).expect("a JSON value has a YAML form"));
    }
    out
}

/// The same for a template: what looks like one is put so that helm leaves it alone.
fn templated(objects: &[Value]) -> String {
    yaml(objects).replace("{{", "{{ \"{{\" }}")
}

fn when(condition: &str, text: &str) -> String {
    format!("{{{{- if {condition} }}}}\n{text}{{{{- end }}}}\n")
}

/// Definitions that helm leaves in the cluster.
fn kept(mut objects: Vec<Value>) -> Vec<Value> {
    for object in &mut objects {
        object["metadata"]["annotations"] = json!({ "helm.sh/resource-policy": "keep" });
    }
    objects
}

fn daemon(settings: &Settings) -> String {
    let mut objects = workload::all(settings);
    for object in &mut objects {
        if object["kind"] == "Deployment" {
            object["spec"]["replicas"] = json!("@replicas@");
            let container = &mut object["spec"]["template"]["spec"]["containers"][0];
            container["image"] = json!("@image@");
            container["imagePullPolicy"] = json!("@pull@");
            container["resources"] = json!("@resources@");
        }
    }
    let mut text = templated(&objects);
    for (mark, value) in [
        ("@replicas@", "{{ .Values.replicas }}"),
        ("@image@", "{{ .Values.image | quote }}"),
        ("@pull@", "{{ .Values.imagePullPolicy }}"),
        ("@resources@", "{{ toJson .Values.resources }}"),
    ] {
        // A mark begins with a sign that YAML wants quoted.
        for quoted in [format!("'{mark}'"), format!("\"{mark}\""), mark.to_owned()] {
            text = text.replace(&quoted, value);
        }
    }
    text
}

/// Both versions of the holding policy; which one is helm's to find out.
fn hold() -> String {
    let served = |version: &str| {
        format!(".Capabilities.APIVersions.Has \"admissionregistration.k8s.io/{version}/MutatingAdmissionPolicy\"")
    };
    format!(
        "{{{{- if {} }}}}\n{}{{{{- else if {} }}}}\n{}{{{{- end }}}}\n",
        served("v1"),
        templated(&policies::hold(HoldApi::V1)),
        served("v1beta1"),
        templated(&policies::hold(HoldApi::V1Beta1)),
    )
}

fn chart() -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "{HEAD}apiVersion: v2\nname: wade\ndescription: {}\ntype: application\nversion: {version}\nappVersion: \"{version}\"\nkubeVersion: \">=1.30.0-0\"\n",
        env!("CARGO_PKG_DESCRIPTION")
    )
}

fn values(settings: &Settings) -> String {
    let container = &workload::deployment(settings)["spec"]["template"]["spec"]["containers"][0];
    let resources =
        serde_saphyr::to_string(&json!({ "resources": container["resources"] })).expect("a JSON value has a YAML form");
    format!(
        "{HEAD}# The daemon's image, with its tag or digest.\nimage: {}\nimagePullPolicy: {}\n\
         # One leads, the others are warm.\nreplicas: {}\n{resources}policies:\n\
         \x20 # Pause changes that others make to opted-in Deployments, where the API server can.\n  hold: true\n\
         \x20 # Warn, and refuse in namespaces with the label wade.dev/enforce: \"true\".\n  guard: true\n",
        settings.image,
        container["imagePullPolicy"].as_str().unwrap_or_default(),
        settings.replicas,
    )
}

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::*;

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy")
}

/// What lies below a folder, by path.
fn lying(folder: &Path, below: &Path, found: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            lying(&path, below, found);
        } else {
            let name = path.strip_prefix(below).expect("it lies below").display().to_string();
            found.insert(name, fs::read_to_string(&path).expect("it is text"));
        }
    }
}

#[test]
fn what_lies_in_deploy_is_what_is_installed() {
    let files = files::all();
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        for (path, text) in &files {
            let path = deploy().join(path);
            fs::create_dir_all(path.parent().expect("it is in a folder")).expect("a folder");
            fs::write(path, text).expect("a file");
        }
    }
    for folder in ["manifests", "chart"] {
        let mut found = BTreeMap::new();
        lying(&deploy().join(folder), &deploy(), &mut found);
        for (path, text) in &found {
            assert!(
                files.get(path) == Some(text),
                "deploy/{path} is not what src/install/ makes; UPDATE_EXPECT=1 writes it anew"
            );
        }
        let wanted = files.keys().filter(|path| path.starts_with(folder)).count();
        assert_eq!(found.len(), wanted, "a file is missing in deploy/{folder}");
    }
}

#[test]
fn files_say_the_same_as_the_objects() {
    let settings = Settings {
        hold: HoldApi::V1Beta1,
        ..Settings::default()
    };
    let mut written: Vec<Value> = Vec::new();
    let files = files::all();
    for (path, text) in files.iter().filter(|(path, _)| path.starts_with("manifests/")) {
        if path.ends_with("hold/v1.yaml") {
            continue;
        }
        for document in text.split("---\n").skip(1) {
            written
                .push(serde_saphyr::from_str(document).unwrap_or_else(|error| panic!("{path}: {error}\n{document}")));
        }
    }
    let objects = manifests(&settings);
    assert_eq!(written.len(), objects.len());
    for object in &objects {
        assert!(written.contains(object), "{object}");
    }
}

#[test]
fn every_object_has_a_kind_and_one_name() {
    let settings = Settings {
        hold: HoldApi::V1,
        ..Settings::default()
    };
    let mut names = std::collections::BTreeSet::new();
    for object in manifests(&settings) {
        let kind = kind_of(&object).unwrap_or_else(|| panic!("no kind for {object}"));
        let name = object["metadata"]["name"].as_str().expect("a name").to_owned();
        assert!(names.insert((kind, name.clone())), "{kind:?} {name} is there twice");
    }
}

/// Every right that the daemon has in the whole cluster.
fn granted() -> Vec<Value> {
    rights::all()
        .into_iter()
        .filter(|object| matches!(object["metadata"]["name"].as_str(), Some("wade" | "wade-watch")))
        .filter(|object| object["kind"] == "ClusterRole")
        .flat_map(|object| object["rules"].as_array().cloned().unwrap_or_default())
        .collect()
}

#[test]
fn the_daemon_has_no_wildcards_no_secrets_and_no_way_to_more_rights() {
    let granted = granted();
    assert!(granted.len() > 20);
    for rule in &granted {
        let text = rule.to_string();
        for banned in [
            "\"*\"",
            "secrets",
            "pods/exec",
            "pods/proxy",
            "serviceaccounts",
            "impersonate",
            "escalate",
            "\"bind\"",
            "jobs",
        ] {
            assert!(!text.contains(banned), "{banned} in {text}");
        }
        let writes = ["create", "update", "patch", "delete"]
            .iter()
            .any(|verb| text.contains(&format!("\"{verb}\"")));
        let group = rule["apiGroups"][0].as_str().unwrap_or_default();
        assert!(
            !writes || !["rbac", "admission"].iter().any(|start| group.starts_with(start)),
            "{text}"
        );
    }
}

#[test]
fn whatever_a_release_takes_the_daemon_may() {
    let granted = granted();
    for need in crate::cluster::rbac::needed_always("app") {
        let right = need.right;
        let has = granted.iter().any(|rule| {
            let says = |field: &str, word: &str| rule[field].as_array().into_iter().flatten().any(|said| said == word);
            says("apiGroups", &right.group) && says("resources", &right.resource) && says("verbs", &right.verb)
        });
        assert!(has, "{right}");
    }
}

#[test]
fn the_image_and_the_manifests_agree() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dockerfile = fs::read_to_string(root.join("Dockerfile")).expect("there is a Dockerfile");
    let last = dockerfile.rsplit("\nFROM ").next().expect("it has a last stage");
    let user = format!("USER {0}:{0}", workload::USER);
    assert!(last.lines().any(|line| line == user), "{user}");
    let entrypoint = format!("ENTRYPOINT [\"{}\"]", workload::ENTRYPOINT);
    assert!(last.lines().any(|line| line == entrypoint), "{entrypoint}");
    // The image that the cluster tests write without a builder.
    let image = fs::read_to_string(root.join("tests/cluster/node/image.py")).expect("it is there");
    assert!(image.contains(&format!("USER = \"{0}:{0}\"", workload::USER)));
    let deployment = workload::deployment(&Settings::default());
    let pod = &deployment["spec"]["template"]["spec"];
    assert_eq!(pod["securityContext"]["runAsUser"], workload::USER);
    assert_eq!(pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"], true);
    assert_eq!(pod["containers"][0].get("command"), None, "the image's own entrypoint");
}

#[test]
fn the_chart_refers_to_values_that_exist() {
    let files = files::all();
    let values: Value = serde_saphyr::from_str(&files["chart/values.yaml"]).expect("values are YAML");
    let mut used = 0;
    for (path, text) in files.iter().filter(|(path, _)| path.starts_with("chart/templates/")) {
        // A column that shows a condition asks with one of its own.
        let left = text
            .lines()
            .find(|line| line.contains('@') && !line.contains("jsonPath: "));
        assert!(
            left.is_none() || path.ends_with("policies.yaml"),
            "a mark is left in {path}: {left:?}"
        );
        for reference in text.split(".Values.").skip(1) {
            let end = reference.find([' ', '}', '\n']).unwrap_or(reference.len());
            let pointer = format!("/{}", reference[..end].replace('.', "/"));
            assert!(values.pointer(&pointer).is_some(), "{path}: {pointer}");
            used += 1;
        }
    }
    assert_eq!(used, 9);
}

/// A JSON value as Lua writes it.
fn lua(value: &Value) -> String {
    match value {
        Value::Null => "nil".to_owned(),
        Value::Array(items) => format!("{{{}}}", items.iter().map(lua).collect::<Vec<_>>().join(", ")),
        Value::Object(fields) => {
            let field = |(key, value): (&String, &Value)| format!("[\"{key}\"] = {}", lua(value));
            format!("{{{}}}", fields.iter().map(field).collect::<Vec<_>>().join(", "))
        }
        plain => plain.to_string(),
    }
}

#[test]
fn argo_cd_sees_how_a_rollout_and_a_release_are() {
    let Some(program) = ["lua5.1", "luajit", "lua5.4", "lua"].into_iter().find(|program| {
        let asked = std::process::Command::new(program).arg("-v").output();
        asked.is_ok_and(|output| output.status.success())
    }) else {
        assert!(std::env::var_os("WADE_REQUIRE_LUA").is_none(), "there is no lua here");
        return;
    };
    let check = fs::read_to_string(deploy().join("argocd/health.lua")).expect("it is there");
    let rollout = |phase: &str, releasing: bool, outcome: Value| {
        let releasing = if releasing { "True" } else { "False" };
        json!({"kind": "Rollout", "metadata": {"generation": 2}, "status": {
            "observedGeneration": 2, "phase": phase, "outcome": outcome, "message": "why",
            "conditions": [{"type": "Valid", "status": "True"}, {"type": "Releasing", "status": releasing}],
        }})
    };
    let release = |phase: &str, outcome: Value| {
        json!({"kind": "Release", "metadata": {"generation": 1}, "status": {
            "phase": phase, "outcome": outcome, "message": "why",
        }})
    };
    let mut stale = rollout("Idle", false, json!("Promoted"));
    stale["metadata"]["generation"] = json!(3);
    let mut invalid = rollout("Invalid", false, Value::Null);
    invalid["status"]["conditions"][0]["status"] = json!("False");
    let cases = [
        (json!({"kind": "Rollout", "metadata": {}}), "Progressing"),
        (stale, "Progressing"),
        (invalid, "Degraded"),
        (rollout("Idle", false, Value::Null), "Healthy"),
        (rollout("Releasing", true, Value::Null), "Progressing"),
        (rollout("Releasing", true, json!("RolledBack")), "Progressing"),
        (rollout("Waiting", false, json!("Promoted")), "Progressing"),
        (rollout("Refused", false, json!("Promoted")), "Degraded"),
        (rollout("Idle", false, json!("Promoted")), "Healthy"),
        (rollout("Idle", false, json!("RolledBack")), "Degraded"),
        (release("shifting", Value::Null), "Progressing"),
        (release("gated", Value::Null), "Suspended"),
        (release("unchanged", Value::Null), "Healthy"),
        (release("refused", Value::Null), "Degraded"),
        (release("done", json!("Promoted")), "Healthy"),
        (release("done", json!("Superseded")), "Healthy"),
        (release("done", json!("Aborted")), "Degraded"),
    ];
    for (object, expected) in cases {
        let script = format!(
            "local obj = {}\nlocal function check()\n{check}\nend\nio.write(check().status)\n",
            lua(&object)
        );
        let output = std::process::Command::new(program)
            .arg("-e")
            .arg(&script)
            .output()
            .expect("lua runs");
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(said, expected, "{object}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn the_page_names_everything_that_is_granted_and_every_policy() {
    let page = fs::read_to_string(deploy().join("../docs/install.md")).expect("it is there");
    let mut unsaid = Vec::new();
    for object in rights::all()
        .into_iter()
        .filter(|object| object["kind"] == "ClusterRole")
    {
        let rules = object["rules"].as_array().cloned().unwrap_or_default();
        for resource in rules
            .iter()
            .flat_map(|rule| rule["resources"].as_array().cloned().unwrap_or_default())
        {
            let word = resource.as_str().unwrap_or_default().to_owned();
            // Said in words: the policies.
            if !page.contains(&format!("`{word}`")) && !word.contains("admissionpolic") {
                unsaid.push(word);
            }
        }
    }
    for policy in policies::validating()
        .iter()
        .filter(|object| object["kind"] == "ValidatingAdmissionPolicy")
    {
        let name = policy["metadata"]["name"].as_str().expect("a name");
        if !page.contains(&format!("| `{name}` |")) {
            unsaid.push(name.to_owned());
        }
    }
    assert_eq!(unsaid, Vec::<String>::new());
}

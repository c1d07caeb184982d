//! The way in: text to a checked Rollout, Strategy or Config, or every fault with its line.
//!
//! Pure: the caller reads the file (and reports a file that is not UTF-8, which cannot get here).

use serde::de::DeserializeOwned;

use super::config::Config;
use super::fault::{Fault, Faults, Path, did_you_mean};
use super::nodes::{self, Kind, Node};
use super::rollout::{API_VERSION, Rollout, StrategyFile};
use super::schema::definition;
use super::validate::{validate, validate_config, validate_strategy};
use super::walk::walk;

/// What a file can hold.
#[derive(Clone, Debug, PartialEq)]
pub enum Document {
    /// The policy of one service.
    Rollout(Box<Rollout>),
    /// A strategy to be used by name.
    Strategy(Box<StrategyFile>),
    /// What the daemon is told.
    Config(Box<Config>),
}

/// Reads a Rollout, a Strategy or a Config.
///
/// # Errors
/// Every fault of the first station that finds any: YAML, then fields and values, then meaning.
pub fn read(text: &str, source_name: &str) -> Result<Document, Faults> {
    let root = parse(text, source_name)?;
    match kind(&root, &["Rollout", "Strategy", "Config"]).map_err(|faults| Faults::new(source_name, faults))? {
        "Config" => config(&root, source_name).map(Document::Config),
        "Strategy" => strategy(&root, source_name).map(Document::Strategy),
        _ => rollout(&root, source_name).map(Document::Rollout),
    }
}

/// Reads a Rollout; anything else is a fault.
///
/// # Errors
/// As [`read`].
pub fn read_rollout(text: &str, source_name: &str) -> Result<Rollout, Faults> {
    let root = parse(text, source_name)?;
    kind(&root, &["Rollout"]).map_err(|faults| Faults::new(source_name, faults))?;
    rollout(&root, source_name).map(|rollout| *rollout)
}

/// Reads a Strategy; anything else is a fault.
///
/// # Errors
/// As [`read`].
pub fn read_strategy(text: &str, source_name: &str) -> Result<StrategyFile, Faults> {
    let root = parse(text, source_name)?;
    kind(&root, &["Strategy"]).map_err(|faults| Faults::new(source_name, faults))?;
    strategy(&root, source_name).map(|strategy| *strategy)
}

/// Reads the daemon's Config; anything else is a fault.
///
/// # Errors
/// As [`read`].
pub fn read_config(text: &str, source_name: &str) -> Result<Config, Faults> {
    let root = parse(text, source_name)?;
    kind(&root, &["Config"]).map_err(|faults| Faults::new(source_name, faults))?;
    config(&root, source_name).map(|config| *config)
}

fn rollout(root: &Node, source_name: &str) -> Result<Box<Rollout>, Faults> {
    typed(root, "Rollout", source_name, validate)
}

fn strategy(root: &Node, source_name: &str) -> Result<Box<StrategyFile>, Faults> {
    typed(root, "StrategyFile", source_name, validate_strategy)
}

fn config(root: &Node, source_name: &str) -> Result<Box<Config>, Faults> {
    typed(root, "Config", source_name, validate_config)
}

fn typed<T: DeserializeOwned>(
    root: &Node,
    type_name: &str,
    source_name: &str,
    meaning: fn(&T) -> Vec<Fault>,
) -> Result<Box<T>, Faults> {
    let value = walk(definition(type_name), root).map_err(|faults| Faults::new(source_name, faults))?;
    let typed: T = serde_json::from_value(value).map_err(|error| {
        // The walk accepted what the types refuse: our mistake, so it must not look like the user's.
        let fault = Fault::new(Path::root(), format!("internal fault: {error}"))
            .at(root.place)
            .help("the file agrees with Wade's schema but not with Wade's types; please report this with the file");
        Faults::new(source_name, vec![fault])
    })?;
    let faults = meaning(&typed).into_iter().map(|fault| root.place(fault)).collect();
    Faults::check(source_name, faults)?;
    Ok(Box::new(typed))
}

/// The smallest file that means something, shown to whoever has an empty one.
pub(super) const MINIMAL: &str = r#"apiVersion: wade.dev/v1alpha1
kind: Rollout
metadata: {name: hello}
spec:
  workload:
    process: {command: ["./hello-${version}"], port: auto}
  traffic: {listen: 127.0.0.1:8080}"#;

fn parse(text: &str, source_name: &str) -> Result<Node, Faults> {
    let root = nodes::parse(text).map_err(|faults| Faults::new(source_name, faults))?;
    root.ok_or_else(|| {
        let indented = MINIMAL.replace('\n', "\n          ");
        let fault = Fault::new(Path::root(), "the file is empty")
            .help(format!("a minimal rollout looks like this:\n          {indented}"));
        Faults::new(source_name, vec![fault])
    })
}

/// The document's kind, one of `wanted`. Checked before all fields, because another tool's file would otherwise drown
/// its reader in unknown fields.
fn kind<'w>(root: &Node, wanted: &[&'w str]) -> Result<&'w str, Vec<Fault>> {
    let Kind::Map(entries) = &root.kind else {
        let fault = Fault::new(Path::root(), "the file is not a mapping")
            .at(root.place)
            .found(root.describe())
            .help(format!(
                "begin with `apiVersion: {API_VERSION}` and `kind: {}`",
                wanted[0]
            ));
        return Err(vec![fault]);
    };
    let find = |name: &str| entries.iter().find(|(key, _)| key.text == name).map(|(_, node)| node);
    let text = |name: &str| match find(name).map(|node| &node.kind) {
        Some(Kind::Scalar { text, .. }) => Some(text.as_str()),
        _ => None,
    };
    let fault = |name: &str, help: String| {
        let node = find(name);
        let problem = if node.is_some() {
            "Wade does not read this"
        } else {
            "the field is missing"
        };
        Fault::new(Path::of(name), problem)
            .at(node.map_or(root.place, |node| node.place))
            .found(node.map_or_else(|| root.describe(), Node::describe))
            .help(help)
    };

    let api = text("apiVersion");
    if let Some(foreign) = api.and_then(foreign_api) {
        return Err(vec![fault("apiVersion", foreign.to_owned())]);
    }
    let mut faults = Vec::new();
    if api != Some(API_VERSION) {
        faults.push(fault("apiVersion", format!("write `apiVersion: {API_VERSION}`")));
    }
    let found = wanted.iter().find(|kind| text("kind") == Some(**kind));
    if found.is_none() {
        let help = match (text("kind"), wanted) {
            (Some(written), [_, _, ..]) => did_you_mean(written, wanted),
            (Some("Strategy"), _) => {
                "a Strategy is used by a Rollout (`strategy: {use: NAME}`), not by itself; give a file with `kind: Rollout`".to_owned()
            }
            (Some("Config"), _) => {
                "this is what the daemon is told; give it to `wade serve --config`".to_owned()
            }
            (Some("Rollout"), ["Config"]) => "this is a Rollout; put it into the `rollouts` folder that the Config names".to_owned(),
            (Some("Rollout"), _) => "this is a whole Rollout; write `kind: Strategy` with a `spec.strategy`".to_owned(),
            _ => format!("write `kind: {}`", wanted.join("` or `kind: ")),
        };
        faults.push(fault("kind", help));
    }
    match found {
        Some(kind) if faults.is_empty() => Ok(kind),
        _ => Err(faults),
    }
}

/// What is different in the files of tools that people come from.
fn foreign_api(api: &str) -> Option<&'static str> {
    let (group, _) = api.split_once('/')?;
    match group {
        "argoproj.io" => Some(
            "this is Argo's file. In Wade the workload stays your own (`spec.workload`), `setWeight: 20` becomes the step `weight: 20%`, `pause` stays `pause: 5m` and AnalysisTemplates become `spec.analysis`; begin a new file with `apiVersion: wade.dev/v1alpha1`",
        ),
        "flagger.app" => Some(
            "this is Flagger's file. In Wade `targetRef` becomes `spec.workload`, `stepWeight`/`maxWeight` become the steps `weight: 5%`, …, and metric thresholds become comparisons with stable in `spec.analysis`; begin a new file with `apiVersion: wade.dev/v1alpha1`",
        ),
        "rollouts.kruise.io" => Some(
            "this is OpenKruise's file. In Wade `workloadRef` becomes `spec.workload` and `steps[].traffic: 5%` becomes the step `weight: 5%`; begin a new file with `apiVersion: wade.dev/v1alpha1`",
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests;

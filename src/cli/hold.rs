//! `wade hold`: a Helm post-renderer that holds Deployments.
//!
//! Manifests come in on standard input, the same manifests go out on standard output, with `spec.paused: true` in the
//! Deployments that are to be released. Only that line is written; every other byte stays. A YAML document cannot simply
//! be read and written again: what a `0644` or a `yes` means depends on who reads it, and comments would go. So the line
//! is put in as text, and then both texts are read and compared; where that does not fit (a Deployment in flow style)
//! nothing is guessed: it is refused.

use std::collections::BTreeSet;
use std::io::Read as _;

use serde_json::{Value, json};

use super::exit::{Exit, Failure};
use super::screen::{Format, Screen};
use crate::apiserver::value::{list, name, text};

/// The most manifests that are taken.
const MOST: u64 = 64 << 20;

/// Hold the Deployments in manifests (a Helm post-renderer)
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  helm upgrade shop ./chart --post-renderer wade --post-renderer-args hold --post-renderer-args checkout
  helm template shop ./chart | wade hold checkout | kubectl apply -f -
  wade deploy deployment/checkout -n shop --held      afterwards: release what is held

Only `spec.paused: true` is written; every other byte stays as it is. Leave it out at the first installation: there is
nothing to compare with yet, and nothing would start. A link to wade called wade-hold does the same.")]
pub(super) struct Args {
    /// The Deployments to hold; all of them if left out
    #[arg(value_name = "DEPLOYMENT")]
    names: Vec<String>,
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let mut manifests = String::new();
    std::io::stdin()
        .take(MOST + 1)
        .read_to_string(&mut manifests)
        .map_err(|error| Failure::usage(format!("standard input: {error}")))?;
    if manifests.len() as u64 > MOST {
        return Err(Failure::usage(format!(
            "more than {MOST} bytes came in; hold fewer manifests at once"
        )));
    }
    let held = hold(&manifests, &args.names).map_err(Failure::usage)?;
    let written = Screen::new(Format::Text).exact(&held);
    written.map_err(|error| Failure::other(format!("standard output: {error}")))?;
    Ok(Exit::Done)
}

/// The manifests with these Deployments held.
fn hold(manifests: &str, names: &[String]) -> Result<String, String> {
    let mut out = String::with_capacity(manifests.len() + 64);
    let mut seen = BTreeSet::new();
    for document in documents(manifests) {
        out.push_str(&held(document, names, &mut seen)?);
    }
    let missing: Vec<&str> = names
        .iter()
        .map(String::as_str)
        .filter(|name| !seen.contains(*name))
        .collect();
    if !missing.is_empty() {
        return Err(format!(
            "no Deployment called {} came in; name those that the chart has",
            missing.join(" or ")
        ));
    }
    Ok(out)
}

/// The documents, each with the marker before it. A `---` at the beginning of a line is always a marker: the text of a
/// block is indented.
fn documents(manifests: &str) -> Vec<&str> {
    let mut starts = vec![0];
    let mut at = 0;
    for line in manifests.split_inclusive('\n') {
        let is_marker = line
            .strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        if is_marker && at > 0 {
            starts.push(at);
        }
        at += line.len();
    }
    let ends = starts.iter().copied().skip(1).chain([manifests.len()]);
    starts
        .iter()
        .zip(ends)
        .map(|(start, end)| &manifests[*start..end])
        .collect()
}

fn held(document: &str, names: &[String], seen: &mut BTreeSet<String>) -> Result<String, String> {
    // Most documents are something else, and need not be read.
    if !document.contains("Deployment") {
        return Ok(document.to_owned());
    }
    let object = read(document)?;
    let wanted = |object: &Value| {
        let own = name(object);
        let is_deployment = text(object, "/kind") == "Deployment" && text(object, "/apiVersion").starts_with("apps/");
        is_deployment && (names.is_empty() || names.iter().any(|name| name == own))
    };
    if let Some(item) = list(&object, "/items").iter().find(|item| wanted(item)) {
        return Err(format!(
            "deployment {} is in a List, which cannot be changed line by line; write it as a document of its own",
            name(item)
        ));
    }
    if !wanted(&object) {
        return Ok(document.to_owned());
    }
    seen.insert(name(&object).to_owned());
    let mut expected = object.clone();
    expected["spec"]["paused"] = json!(true);
    if object == expected {
        return Ok(document.to_owned());
    }
    let changed = with_line(document);
    match changed {
        Some(changed) if read(&changed).is_ok_and(|changed| changed == expected) => Ok(changed),
        _ => Err(format!(
            "deployment {} is not written line by line (`spec:` with its fields below it), so it cannot be held without touching the rest; write it so, or set spec.paused: true in the chart",
            name(&object)
        )),
    }
}

fn read(document: &str) -> Result<Value, String> {
    let values: Vec<Value> =
        serde_saphyr::from_multiple(document).map_err(|error| format!("a manifest cannot be read: {error}"))?;
    Ok(values.into_iter().find(|value| !value.is_null()).unwrap_or(Value::Null))
}

/// The document with `paused: true` below its `spec:`, in place of another `paused` there.
fn with_line(document: &str) -> Option<String> {
    let lines: Vec<&str> = document.split_inclusive('\n').collect();
    let is_spec = |line: &&str| {
        line.strip_prefix("spec:")
            .is_some_and(|rest| rest.trim().is_empty() || rest.trim_start().starts_with('#'))
    };
    let spec = lines.iter().position(is_spec)?;
    let says = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    let first = lines[spec + 1..].iter().find(|line| says(line))?;
    let indent = &first[..first.len() - first.trim_start_matches(' ').len()];
    if indent.is_empty() {
        return None;
    }
    let end = if lines[spec].ends_with("\r\n") { "\r\n" } else { "\n" };
    let line = format!("{indent}paused: true{end}");
    let below = lines[spec + 1..]
        .iter()
        .take_while(|line| !says(line) || line.starts_with(' '));
    let old = below.enumerate().find_map(|(index, other)| {
        let key = other.strip_prefix(indent)?;
        key.starts_with("paused:").then_some(spec + 1 + index)
    });
    let mut out: Vec<&str> = lines.clone();
    match old {
        Some(old) => out[old] = &line,
        None => out.insert(spec + 1, &line),
    }
    Some(out.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHART: &str = "\
---
# Source: shop/templates/service.yaml
apiVersion: v1
kind: Service
metadata: {name: checkout}
---
# Source: shop/templates/checkout.yaml
apiVersion: apps/v1
kind: Deployment
metadata:
  name: checkout   # the one that is released
spec:
  # four of them
  replicas: 4
  template:
    spec:
      paused: no
      volumes: [{name: v, secret: {defaultMode: 0644}}]
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: other
spec:
    replicas: 1
    paused: false
...
";

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn only_one_line_of_the_named_deployment_changes() {
        let held = hold(CHART, &names(&["checkout"])).expect("it can be held");
        let expected = CHART.replace("spec:\n  # four", "spec:\n  paused: true\n  # four");
        assert_eq!(held, expected);
        assert_eq!(
            hold(&held, &names(&["checkout"])),
            Ok(expected),
            "held already: nothing changes"
        );
    }

    #[test]
    fn without_names_all_are_held_and_a_false_is_replaced() {
        let held = hold(CHART, &[]).expect("both can be held");
        let expected = CHART
            .replace("spec:\n  # four", "spec:\n  paused: true\n  # four")
            .replace("    paused: false\n", "    paused: true\n");
        assert_eq!(held, expected);
    }

    #[test]
    fn line_ends_and_what_is_no_deployment_stay() {
        let crlf = CHART.replace('\n', "\r\n");
        let held = hold(&crlf, &names(&["checkout"])).expect("it can be held");
        assert_eq!(
            held,
            crlf.replace("spec:\r\n  # four", "spec:\r\n  paused: true\r\n  # four")
        );
        for other in ["", "# nothing\n", "kind: ConfigMap\ndata: {a: Deployment}\n"] {
            assert_eq!(hold(other, &[]).as_deref(), Ok(other));
        }
    }

    #[test]
    fn what_cannot_be_held_safely_is_refused() {
        let flow = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: x}, spec: {replicas: 1}}\n";
        assert!(
            hold(flow, &[])
                .expect_err("flow style")
                .contains("not written line by line")
        );
        let many = format!("kind: List\nitems:\n- {flow}");
        assert!(hold(&many, &[]).expect_err("a list").contains("in a List"));
        assert!(
            hold(CHART, &names(&["chekout"]))
                .expect_err("a typo")
                .contains("called chekout")
        );
        assert!(
            hold("kind: Deployment\n  x: y\n", &[])
                .expect_err("no YAML")
                .contains("cannot be read")
        );
    }
}

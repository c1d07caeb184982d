//! Variables: what a caller sets for one release (`--set version=1.4.2`), and `${name}` in what is started.
//!
//! Binding decides the values once, with the version policy; expanding is plain replacement without nesting, defaults
//! or shell. `$${` writes a literal `${`; a `$` that stands alone is left as it is, so that shell snippets in `sh -c`
//! arguments keep working.

use std::collections::BTreeMap;

use super::fault::{Fault, Faults, Path, clip, did_you_mean};
use super::rollout::Rollout;

/// The variable that is always declared.
pub const VERSION: &str = "version";

/// What Wade itself gives to every process, as environment and as `${NAME}`; nobody may declare these.
pub const CONTRACT: [&str; 4] = ["PORT", "WADE_SERVICE", "WADE_REVISION", "WADE_INSTANCE"];

/// The longest version, in bytes: it ends up in labels, file names and headers.
pub const MAX_VERSION: usize = 128;
/// The longest value of any other variable, in bytes.
pub const MAX_VALUE: usize = 4096;
/// The longest text that `expand` makes, in bytes.
pub const MAX_EXPANDED: usize = 64 * 1024;

/// The values of one release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// The version as it is shown; empty only where the policy allows it.
    pub version: String,
    /// All variables with their values, `version` among them.
    pub values: BTreeMap<String, String>,
}

/// Decides the values of all variables of `rollout` from what the caller `set`, what is declared, and the version
/// policy.
///
/// # Errors
/// Every fault at once, under the source name `--set`: an undeclared name, a missing or unacceptable value, a version
/// that the policy refuses.
pub fn bind(rollout: &Rollout, set: &BTreeMap<String, String>) -> Result<Bound, Faults> {
    let declared = &rollout.spec.variables;
    let mut faults = Vec::new();
    let mut values = BTreeMap::new();

    let names: Vec<&str> = std::iter::once(VERSION)
        .chain(declared.keys().map(String::as_str))
        .collect();
    for name in set.keys().filter(|name| !names.contains(&name.as_str())) {
        let help = if CONTRACT.contains(&name.as_str()) {
            "Wade gives this one to every process itself; leave it out".to_owned()
        } else {
            format!("{}; declare others under `spec.variables`", did_you_mean(name, &names))
        };
        let problem = format!("`{}` is not a variable of {}", clip(name), rollout.metadata.name);
        faults.push(Fault::new(Path::root().key(name), problem).help(help));
    }

    let version = set.get(VERSION).cloned().unwrap_or_default();
    faults.extend(refuse_version(rollout, &version));
    values.insert(VERSION.to_owned(), version.clone());

    for (name, variable) in declared {
        let path = Path::root().key(name);
        let Some(value) = set.get(name).or(variable.default.as_ref()) else {
            let about = variable
                .about
                .as_ref()
                .map(|about| format!(" ({})", clip(about)))
                .unwrap_or_default();
            let fault = Fault::new(
                path,
                format!("the variable `{name}`{about} is not set and has no default"),
            );
            faults.push(fault.help(format!("add `--set {name}=VALUE`")));
            continue;
        };
        if !variable.one_of.is_empty() && !variable.one_of.contains(value) {
            let known: Vec<_> = variable.one_of.iter().map(String::as_str).collect();
            let fault = Fault::new(path.clone(), format!("`{name}` does not take this value"));
            faults.push(fault.found(format!("`{value}`")).help(did_you_mean(value, &known)));
        }
        if value.len() > MAX_VALUE || value.contains('\0') {
            let fault = Fault::new(path, format!("the value of `{name}` is too long or holds a zero byte"));
            faults.push(
                fault
                    .found(format!("{} bytes", value.len()))
                    .help(format!("at most {MAX_VALUE} bytes of text")),
            );
        }
        values.insert(name.clone(), value.clone());
    }
    Faults::check("--set", faults)?;
    Ok(Bound { version, values })
}

fn refuse_version(rollout: &Rollout, version: &str) -> Option<Fault> {
    let policy = &rollout.spec.versions;
    let fault = |problem: &str| Fault::new(Path::of(VERSION), problem).found(format!("`{version}`"));
    if policy.forbid.iter().any(|forbidden| forbidden == version) {
        return Some(fault("this version is refused by `spec.versions.forbid`").help("release another version"));
    }
    if version.is_empty() && !policy.allow_latest {
        let problem = "no version is given, so nobody could tell later what was released";
        return Some(Fault::new(Path::of(VERSION), problem).help("add `--set version=1.4.2`"));
    }
    if version.eq_ignore_ascii_case("latest") && !policy.allow_latest {
        return Some(
            fault("`latest` means something else tomorrow, so there would be no way back to it")
                .help("name the version itself, or say `spec.versions.allowLatest: true`"),
        );
    }
    if version.len() > MAX_VERSION || version.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Some(fault("this is no usable version").help(format!(
            "at most {MAX_VERSION} characters, without spaces or line breaks"
        )));
    }
    None
}

/// Why a text cannot be expanded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExpandError {
    /// `${name}` with a name that has no value.
    #[error("`${{{name}}}` is not known; {help}")]
    Unknown {
        /// The name as written.
        name: String,
        /// The nearest, and all that are known.
        help: String,
    },
    /// `${` without `}`.
    #[error("`${{` is not closed in `{text}`; write `${{name}}`, or `$${{` for the two characters themselves")]
    Unclosed {
        /// What follows the opening.
        text: String,
    },
    /// The result would be longer than [`MAX_EXPANDED`].
    #[error("the text with its variables replaced is longer than {MAX_EXPANDED} bytes; use shorter values")]
    TooLong,
}

/// `text` with every `${name}` replaced. Values are not expanded again.
///
/// # Errors
/// See [`ExpandError`].
pub fn expand(text: &str, values: &BTreeMap<String, String>) -> Result<String, ExpandError> {
    let mut expanded = String::with_capacity(text.len());
    for part in parts(text) {
        match part? {
            Part::Text(text) => expanded.push_str(text),
            Part::Name(name) => {
                let value = values.get(name).ok_or_else(|| {
                    let known: Vec<_> = values.keys().map(String::as_str).collect();
                    unknown(name, &known)
                })?;
                expanded.push_str(value);
            }
        }
        if expanded.len() > MAX_EXPANDED {
            return Err(ExpandError::TooLong);
        }
    }
    Ok(expanded)
}

/// The error for `${name}` where only `known` names have values.
fn unknown(name: &str, known: &[&str]) -> ExpandError {
    ExpandError::Unknown {
        name: clip(name),
        help: did_you_mean(name, known),
    }
}

/// Checks the names in `text` without values: what `validate` asks.
pub(super) fn check(text: &str, known: &[&str]) -> Result<(), ExpandError> {
    for part in parts(text) {
        match part? {
            Part::Name(name) if !known.contains(&name) => return Err(unknown(name, known)),
            Part::Name(_) | Part::Text(_) => {}
        }
    }
    Ok(())
}

enum Part<'t> {
    Text(&'t str),
    Name(&'t str),
}

fn parts(text: &str) -> impl Iterator<Item = Result<Part<'_>, ExpandError>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        if let Some(after) = rest.strip_prefix("$${") {
            let literal = &rest[1..3];
            rest = after;
            return Some(Ok(Part::Text(literal)));
        }
        if let Some(after) = rest.strip_prefix("${") {
            let Some((name, after)) = after.split_once('}') else {
                let text = clip(after);
                rest = "";
                return Some(Err(ExpandError::Unclosed { text }));
            };
            rest = after;
            return Some(Ok(Part::Name(name)));
        }
        // Up to the next place where something could begin.
        let end = ["$${", "${"]
            .iter()
            .filter_map(|mark| rest.find(mark))
            .min()
            .unwrap_or(rest.len());
        let (text, after) = rest.split_at(end);
        rest = after;
        Some(Ok(Part::Text(text)))
    })
}

#[cfg(test)]
mod tests {
    use super::super::read_rollout;
    use super::*;

    fn values(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn rollout(spec: &str) -> Rollout {
        let text = format!(
            "apiVersion: wade.dev/v1alpha1\nkind: Rollout\nmetadata: {{name: hello}}\nspec:\n  workload: {{process: {{command: [x]}}}}\n{spec}"
        );
        read_rollout(&text, "test.yaml").unwrap_or_else(|faults| panic!("{faults}"))
    }

    #[test]
    fn names_are_replaced_once_and_dollars_kept() {
        let values = values(&[("version", "1.10"), ("a", "${version}"), ("b", "")]);
        for (text, expected) in [
            ("", Ok("")),
            ("./run-${version}", Ok("./run-1.10")),
            ("${a}${b}${version}", Ok("${version}1.10")),
            ("$${version} $$ $ $x $", Ok("${version} $$ $ $x $")),
            ("$$${version}", Ok("$${version}")),
            (
                "${",
                Err("`${` is not closed in ``; write `${name}`, or `$${` for the two characters themselves"),
            ),
            (
                "${verison}",
                Err("`${verison}` is not known; did you mean `version`? known here: a, b, version"),
            ),
        ] {
            let expanded = expand(text, &values).map_err(|error| error.to_string());
            assert_eq!(expanded.as_deref().map_err(String::as_str), expected, "{text}");
        }
        let bomb = values_of("x", &"y".repeat(MAX_VALUE));
        assert_eq!(expand(&"${x}".repeat(17), &bomb), Err(ExpandError::TooLong));
    }

    fn values_of(name: &str, value: &str) -> BTreeMap<String, String> {
        values(&[(name, value)])
    }

    #[test]
    fn defaults_fill_in_and_the_caller_wins() {
        let rollout = rollout("  variables: {region: {default: eu, oneOf: [eu, us]}, flag: {default: \"\"}}");
        let bound = bind(&rollout, &values(&[("version", "1.10"), ("region", "us")])).unwrap();
        let expected = Bound {
            version: "1.10".to_owned(),
            values: values(&[("version", "1.10"), ("region", "us"), ("flag", "")]),
        };
        assert_eq!(bound, expected);
    }

    #[test]
    fn every_wrong_value_is_reported_at_once() {
        let rollout = rollout("  variables: {region: {oneOf: [eu, us]}, tier: {about: which queue}}");
        let faults = bind(&rollout, &values(&[("verison", "1"), ("region", "ue"), ("PORT", "80")])).unwrap_err();
        insta::assert_snapshot!(faults);
    }

    #[test]
    fn the_version_policy_is_kept() {
        let strict = rollout("  versions: {forbid: [1.3.0]}");
        let lax = rollout("  versions: {allowLatest: true, forbid: [1.3.0]}");
        let refused = |rollout: &Rollout, version: &str| bind(rollout, &values_of(VERSION, version)).is_err();
        for (version, strict_refuses, lax_refuses) in [
            ("1.4.2", false, false),
            ("latest", true, false),
            ("LATEST", true, false),
            ("", true, false),
            ("1.3.0", true, true),
            ("1 2", true, true),
            ("1\n2", true, true),
        ] {
            assert_eq!(
                (refused(&strict, version), refused(&lax, version)),
                (strict_refuses, lax_refuses),
                "{version:?}"
            );
        }
        insta::assert_snapshot!(bind(&strict, &values_of(VERSION, "latest")).unwrap_err());
    }
}

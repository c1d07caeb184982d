//! The list of permissions as a Role in YAML, for people to read, change and apply.

use super::{ALL, Part, Rule, resource};

/// What the Role is to be for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleFor {
    /// The namespace.
    pub namespace: String,
    /// The ServiceAccount that gets it, `NAME` or `NAMESPACE/NAME`.
    pub account: String,
    /// With the right to ask the pods through the API server.
    pub scrape: bool,
    /// With the right to make Jobs for hooks.
    pub hooks: bool,
    /// With what asking a daemon takes, and minding Freezes.
    pub daemon: bool,
    /// Secrets that hold the addresses of notifications.
    pub secrets: Vec<String>,
}

/// The Role and its RoleBinding as YAML, each rule with its reason.
pub fn role(of: &RoleFor) -> String {
    let (namespace, account) = of.account.split_once('/').unwrap_or((&of.namespace, &of.account));
    let mut out = format!(
        "# What `wade` needs in namespace {}: no more, and nothing outside of it. Every rule says what it is for; one for\n\
         # a kind that you do not use may go. The account, if it is not there: kubectl -n {namespace} create serviceaccount {account}\n\
         apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata:\n  name: {account}\n  namespace: {}\nrules:\n",
        of.namespace, of.namespace
    );
    let wanted = |rule: &&Rule| match rule.part {
        Part::Scrape => of.scrape,
        Part::Hooks => of.hooks,
        Part::Daemon => of.daemon,
        _ => true,
    };
    for rule in ALL.iter().filter(wanted) {
        out.push_str(&comment(rule));
        out.push_str(&entry(rule.kind.group(), &resource(rule), &[], rule.verbs));
    }
    if !of.secrets.is_empty() {
        out.push_str("# The addresses of notifications (spec.notify with secretRef).\n");
        out.push_str(&entry("", "secrets", &of.secrets, &["get"]));
    }
    if !of.scrape {
        out.push_str(
            "# Not given: pods/proxy (--scrape). Without it `wade` outside of the cluster can read no metrics of the pods and\n\
             # run no smoke tests; name a Prometheus under analysis.source, or run it inside of the cluster.\n",
        );
    }
    if of.daemon {
        out.push_str(
            "# Given to everybody by `wade install`: whether a daemon leads (its Lease), Freezes of its namespace, ClusterStrategies.\n",
        );
    }
    out.push_str(&format!(
        "---\napiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata:\n  name: {account}\n  namespace: {}\n\
         roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: {account}}}\n\
         subjects:\n- {{kind: ServiceAccount, name: {account}, namespace: {namespace}}}\n",
        of.namespace
    ));
    out
}

fn entry(group: &str, resource: &str, names: &[String], verbs: &[&str]) -> String {
    let group = if group.is_empty() { "\"\"" } else { group };
    let names = match names {
        [] => String::new(),
        names => format!("  resourceNames: [{}]\n", names.join(", ")),
    };
    format!(
        "- apiGroups: [{group}]\n  resources: [{resource}]\n{names}  verbs: [{}]\n",
        verbs.join(", ")
    )
}

/// The reason as a comment, and what is worse without it.
fn comment(rule: &Rule) -> String {
    const WIDTH: usize = 110;
    let mut text = format!("{}.", capital(rule.why));
    if !rule.without.is_empty() && rule.part != Part::Scrape {
        text.push_str(&format!(" Without it {}.", rule.without));
    }
    let mut out = String::new();
    let mut line = String::from("#");
    for word in text.split_whitespace() {
        if line.len() + 1 + word.len() > WIDTH {
            out.push_str(&line);
            out.push('\n');
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    out + &line + "\n"
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_uppercase().chain(letters).collect(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_role_as_it_is_printed() {
        let of = RoleFor {
            namespace: "shop".to_owned(),
            account: "ci/deployer".to_owned(),
            scrape: true,
            hooks: true,
            daemon: true,
            secrets: vec!["shop-slack".to_owned()],
        };
        insta::assert_snapshot!(role(&of));
        let plain = role(&RoleFor {
            scrape: false,
            hooks: false,
            daemon: false,
            secrets: Vec::new(),
            ..of
        });
        assert!(
            !plain.contains("resources: [pods/proxy]")
                && !plain.contains("secrets")
                && !plain.contains("wade.dev")
                && !plain.contains("jobs"),
            "{plain}"
        );
        assert!(plain.contains("# Not given: pods/proxy (--scrape)"));
    }
}

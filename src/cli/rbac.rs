//! `wade rbac`: the least Role that a release takes.

use super::exit::{Exit, Failure};
use super::screen::{Format, Screen};
use crate::cluster::rbac::{RoleFor, role};

/// Print the least Role that releases in a namespace take, each rule with its reason
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  wade rbac -n shop | kubectl apply -f -
  wade rbac -n shop --scrape --service-account ci/deployer
  wade rbac -n shop --notify-secret shop-slack
  wade rbac -n shop --daemon              where `wade install` has been run

Nothing is asked and nothing is changed: it prints YAML. `wade check deployment/NAME` says whether the caller has
what a release takes; `wade deploy` asks the same before it touches anything.")]
pub(super) struct Args {
    /// The namespace
    #[arg(long, short, env = "WADE_NAMESPACE", value_name = "NAME", default_value = "default", value_parser = word, hide_env_values = true)]
    namespace: String,
    /// The ServiceAccount that gets it: NAME in the namespace, or NAMESPACE/NAME; the Role is called the same
    #[arg(long, value_name = "ACCOUNT", default_value = "wade", value_parser = account)]
    service_account: String,
    /// Also pods/proxy: metrics and smoke tests from outside of the cluster. A strong right, see its comment
    #[arg(long, alias = "proxy")]
    scrape: bool,
    /// With the right to make Jobs, for rollouts that have hooks
    #[arg(long)]
    hooks: bool,
    /// Also asking a daemon for the release, and minding Freezes where a step works by itself
    #[arg(long)]
    daemon: bool,
    /// Also reading this Secret, which `spec.notify` names; may be repeated
    #[arg(long, value_name = "NAME", value_parser = word)]
    notify_secret: Vec<String>,
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    Screen::new(Format::Text).text(&role(&RoleFor {
        namespace: args.namespace.clone(),
        account: args.service_account.clone(),
        scrape: args.scrape,
        hooks: args.hooks,
        daemon: args.daemon,
        secrets: args.notify_secret.clone(),
    }));
    Ok(Exit::Done)
}

/// What Kubernetes takes as a name; it stands in YAML as it is.
fn word(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    if !text.is_empty() && text.len() <= 253 && text.bytes().all(plain) {
        Ok(text.to_owned())
    } else {
        Err("lower-case letters, digits, `-` and `.`, as Kubernetes has it".to_owned())
    }
}

fn account(text: &str) -> Result<String, String> {
    let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
    word(namespace).and(word(name)).map(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_come_into_the_yaml() {
        assert!(account("wade").is_ok() && account("ci/wade").is_ok());
        for wrong in ["", "a b", "A", "a/b/c", "x\ny", "a: b", "/a"] {
            assert!(account(wrong).is_err(), "{wrong}");
        }
    }
}

//! `wade deploy`: the last step of a pipeline.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::connect::{Connection, answered};
use super::exit::{Exit, Failure};
use super::files::text;
use super::follow::{Codes, FollowArgs, follow};
use super::pipeline::{deploy_window, environment, pipeline};
use super::render::status::head;
use super::screen::{OutputArg, Screen};
use crate::daemon::api::{ReleaseRequest, ReleaseTarget};
use crate::daemon::client::Client;
use crate::spec::read_rollout;
use crate::spec::vars::VERSION;

/// Release a new version and follow it to its end
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  wade deploy checkout --version 1.4.2
  wade deploy -f rollouts/checkout.yaml --set version=1.4.2 --set region=eu
  wade deploy checkout --version 1.4.2 --dry-run
  wade deploy checkout --version 1.4.3 --emergency --reason \"payments are down\"
  wade deploy checkout --version 1.4.2 --output json | jq -c .event

In a pipeline the exit code says how it ended: 0 promoted, 3 rolled back, 4 aborted,
5 rejected, 6 still waiting, 7 not reachable, 8 superseded, 9 stuck, 10 not proven.
Commit, author and pipeline page are taken from GitLab CI, GitHub Actions, Jenkins, Drone
and CircleCI. DEPLOY_WINDOW=true|false says whether a release may begin now.")]
pub(super) struct Args {
    /// The rollout's name; with -f it may be left out
    #[arg(value_name = "NAME", required_unless_present = "file")]
    name: Option<String>,
    /// The rollout's file, which must be the one that the daemon has; checked before anything is asked
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Set a declared variable; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    set: Vec<(String, String)>,
    /// The version to release; the same as --set version=VERSION
    #[arg(long, value_name = "VERSION")]
    version: Option<String>,
    /// No windows, gates or comparison with stable; smoke tests run all the same. Audited
    #[arg(long, requires = "reason")]
    emergency: bool,
    /// Why, for the record
    #[arg(long, value_name = "WORDS")]
    reason: Option<String>,
    /// A stage that ends without proof asks a person; if the release ends unproven, exit 10
    #[arg(long)]
    require_proof: bool,
    /// Show the plan and touch nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    follow: FollowArgs,
    #[command(flatten)]
    pub(super) output: OutputArg,
    #[command(flatten)]
    connection: Connection,
}

pub(super) async fn run(args: Args) -> Result<Exit, Failure> {
    let name = name(args.name.as_deref(), args.file.as_deref())?;
    let set = variables(&args.set, args.version.as_deref())?;
    let request = ReleaseRequest {
        target: ReleaseTarget::File {
            set,
            path: args.file.as_deref().map(absolute).transpose()?,
        },
        reason: args.reason,
        emergency: args.emergency,
        require_proof: args.require_proof,
        deploy_window: deploy_window(environment)?,
        pipeline: pipeline(environment),
    };
    let client = args.connection.client()?;
    let screen = Screen::new(args.output.output);
    if args.dry_run {
        let plan = answered(client.preview(&name, &request)).await?;
        if screen.is_json() {
            screen.json(&serde_json::json!({ "plan": plan }));
        } else {
            screen.text(&plan);
        }
        return Ok(Exit::Done);
    }
    begin(&client, &name, &request, args.follow, screen).await
}

/// Asks for a release, says what was found, and follows it. What `deploy`, `rollback` and `retry` share.
pub(super) async fn begin(
    client: &Client,
    name: &str,
    request: &ReleaseRequest,
    args: FollowArgs,
    mut screen: Screen,
) -> Result<Exit, Failure> {
    // Unbounded on purpose: the daemon may have to wait for the release that runs.
    let started = client.release(name, request).await?;
    if screen.is_json() {
        screen.json(&started);
    } else {
        screen.text(&head(name, &started));
    }
    let Some(key) = &started.release else {
        return Ok(Exit::Done);
    };
    if args.detach {
        if !screen.is_json() {
            screen.text(&format!("follow   wade status -w {name}"));
        }
        return Ok(Exit::Done);
    }
    screen = screen.with_live();
    let end = follow(
        client,
        key,
        1,
        args,
        Codes::Shown {
            require_proof: request.require_proof,
        },
        &mut screen,
    )
    .await?;
    if screen.is_json() {
        // The last line is the release as `wade history` lists it.
        let releases = answered(client.releases(name)).await?;
        releases
            .iter()
            .filter(|release| release.key == *key)
            .for_each(|release| screen.json(release));
    }
    Ok(end.exit(request.require_proof))
}

/// The rollout's name, from the word or the file; both must agree.
fn name(name: Option<&str>, file: Option<&Path>) -> Result<String, Failure> {
    let Some(file) = file else {
        return name
            .map(str::to_owned)
            .ok_or_else(|| Failure::usage("name a rollout, or its file with -f"));
    };
    let source = file.display().to_string();
    let rollout = read_rollout(&text(file)?, &source).map_err(|faults| Failure::usage(faults.to_string()))?;
    let own = rollout.metadata.name;
    match name {
        Some(name) if name != own => Err(Failure::usage(format!(
            "{source} describes the rollout {own}, not {name}; leave the name out or name the right file"
        ))),
        _ => Ok(own),
    }
}

fn variables(set: &[(String, String)], version: Option<&str>) -> Result<BTreeMap<String, String>, Failure> {
    let mut values: BTreeMap<String, String> = BTreeMap::new();
    let version = version.map(|version| (VERSION.to_owned(), version.to_owned()));
    for (name, value) in set.iter().cloned().chain(version) {
        if let Some(earlier) = values.get(&name).filter(|earlier| **earlier != value) {
            return Err(Failure::usage(format!(
                "{name} is set to `{earlier}` and to `{value}`; set it once"
            )));
        }
        values.insert(name, value);
    }
    Ok(values)
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => Ok((name.trim().to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE, like version=1.4.2".to_owned()),
    }
}

fn absolute(path: &Path) -> Result<String, Failure> {
    let path = std::fs::canonicalize(path).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
    path.into_os_string()
        .into_string()
        .map_err(|path| Failure::usage(format!("{} is not UTF-8; rename the file", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_is_set_once_and_version_is_one_of_them() {
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        let set: Vec<_> = [("version", "1.4.2"), ("region", "eu=1")]
            .into_iter()
            .map(owned)
            .collect();
        let both = BTreeMap::from([owned(("version", "1.4.2")), owned(("region", "eu=1"))]);
        assert_eq!(variables(&set, None), Ok(both.clone()));
        assert_eq!(variables(&set, Some("1.4.2")), Ok(both));
        let message = variables(&set, Some("1.4.3")).unwrap_err().problem.message;
        assert_eq!(message, "version is set to `1.4.2` and to `1.4.3`; set it once");
        assert_eq!(pair("a=b=c"), Ok(owned(("a", "b=c"))));
        assert!(pair("=x").is_err() && pair("x").is_err());
    }
}

//! `wade deploy`: the last step of a pipeline.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::connect::{Connection, answered, deployment};
use super::exit::{Exit, Failure};
use super::files::{policy, text};
use super::follow::{Codes, FollowArgs, follow};
use super::job::{self, JobArgs};
use super::pipeline::{deploy_window, environment, pipeline, time_left};
use super::render::status::head;
use super::screen::{Format, OutputArg, Screen};
use crate::clock::{Clock as _, SystemClock};
use crate::cluster::Options;
use crate::cluster::admit::Ask;
use crate::cluster::job::FILES;
use crate::daemon::api::{ReleaseRequest, ReleaseTarget};
use crate::daemon::client::Client;
use crate::platforms::kubernetes::template::For;
use crate::spec::vars::VERSION;
use crate::spec::{AddressFrom, NotifySpec, Span, UrlFrom, Workload};

/// Release a new version and follow it to its end
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  wade deploy checkout --version 1.4.2
  wade deploy -f rollouts/checkout.yaml --set version=1.4.2 --set region=eu
  wade deploy checkout --version 1.4.2 --dry-run
  wade deploy checkout --version 1.4.3 --emergency --reason \"payments are down\"
  wade deploy checkout --version 1.4.2 --output json | jq -c .event
  wade deploy deployment/checkout -n shop --image registry.example/checkout:1.4.2
  wade deploy deployment/checkout -n shop -f rollout.yaml --set-image app=registry.example/checkout:1.4.2

In a pipeline the exit code says how it ended: 0 promoted, 3 rolled back, 4 aborted,
5 rejected, 6 still waiting, 7 not reachable, 8 superseded, 9 stuck, 10 not proven.
Commit, author and pipeline page are taken from GitLab CI, GitHub Actions, Jenkins, Drone
and CircleCI. DEPLOY_WINDOW=true|false says whether a release may begin now.")]
pub(super) struct Args {
    /// The rollout's name, or deployment/NAME in a cluster; with -f it may be left out
    #[arg(value_name = "NAME", required_unless_present_any = ["file", "from_file"])]
    name: Option<String>,
    /// The rollout's file: with a daemon the one that it has, checked before anything is asked; in a cluster the policy
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
    revision: RevisionArgs,
    #[command(flatten)]
    job: JobArgs,
    /// Print the policy that is applied, to be written down, and touch nothing
    #[arg(long, help_heading = "In a cluster")]
    print_rollout: bool,
    #[command(flatten)]
    follow: FollowArgs,
    #[command(flatten)]
    pub(super) output: OutputArg,
    #[command(flatten)]
    connection: Connection,
}

/// What is new, in a cluster.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "In a cluster")]
pub(super) struct RevisionArgs {
    /// The image to release, where the pods have one container
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// The image of one container; may be repeated
    #[arg(long, value_name = "CONTAINER=IMAGE", value_parser = pair)]
    set_image: Vec<(String, String)>,
    /// A variable of the only container, or of CONTAINER/NAME; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    env: Vec<(String, String)>,
    /// A changed Deployment (YAML or JSON, - for standard input), applied server-side
    #[arg(long, value_name = "FILE")]
    from_file: Option<PathBuf>,
    /// The Deployment has been changed and is held already (`wade-hold` in Helm): release what is in it
    #[arg(long, conflicts_with_all = ["image", "set_image", "env", "from_file"])]
    held: bool,
    /// A strategy by name, instead of the policy's own
    #[arg(long, value_name = "NAME")]
    strategy: Option<String>,
    /// Run both versions side by side even where the Deployment looks as if they must not
    #[arg(long)]
    allow_parallel: bool,
    /// Accept that the manifest lowers the number of replicas by half or more
    #[arg(long)]
    allow_fewer: bool,
    /// Tell slack or a webhook, whose address is in a FILE, in env:NAME or in the key `url` of secret:NAME; may be
    /// repeated
    #[arg(long, value_name = "slack|webhook=WHERE", value_parser = notify)]
    notify: Vec<NotifySpec>,
    /// How long this job goes on (GitLab CI says it itself); a plan that may take longer is refused before anything is
    /// touched
    #[arg(long, value_name = "TIME")]
    time_left: Option<Span>,
}

impl RevisionArgs {
    /// Whether anything is said that only a cluster understands.
    fn is_said(&self) -> bool {
        self.held
            || self.image.is_some()
            || !self.set_image.is_empty()
            || !self.env.is_empty()
            || self.from_file.is_some()
    }

    fn ask(&self) -> Result<Ask, Failure> {
        let only = |value: &String| For {
            container: None,
            value: value.clone(),
        };
        let of = |(container, image): &(String, String)| For {
            container: Some(container.clone()),
            value: image.clone(),
        };
        let env = |(name, value): &(String, String)| match name.split_once('/') {
            Some((container, name)) => For {
                container: Some(container.to_owned()),
                value: (name.to_owned(), value.clone()),
            },
            None => For {
                container: None,
                value: (name.clone(), value.clone()),
            },
        };
        Ok(Ask {
            images: self
                .image
                .iter()
                .map(only)
                .chain(self.set_image.iter().map(of))
                .collect(),
            env: self.env.iter().map(env).collect(),
            manifest: self.from_file.as_deref().map(super::manifest::deployment).transpose()?,
            held: self.held,
            stays_paused: false,
            template: None,
            allow_parallel: self.allow_parallel,
            allow_fewer: self.allow_fewer,
        })
    }
}

/// What a cluster needs to know.
pub(super) fn options(file: Option<&Path>, revision: &RevisionArgs) -> Result<Options, Failure> {
    Ok(Options {
        ask: revision.ask()?,
        any: false,
        rollout: file.map(policy).transpose()?,
        strategy: revision.strategy.clone(),
        notify: revision.notify.clone(),
        home: None,
        confined: None,
        actor: None,
        time_left: revision
            .time_left
            .map(Span::signed)
            .or_else(|| time_left(environment, SystemClock.now())),
        telemetry: None,
    })
}

/// Whether a release goes to a cluster, and to which Deployment there.
fn target(args: &Args) -> Result<Option<String>, Failure> {
    if let Some(name) = &args.name
        && let Some(own) = deployment(name)
    {
        return Ok(Some(own.to_owned()));
    }
    if let Some(file) = &args.file
        && let Workload::Deployment(own) = policy(file)?.spec.workload
    {
        return Ok(Some(own));
    }
    if let Some(file) = &args.revision.from_file {
        let manifest = super::manifest::deployment(file)?;
        let own = crate::apiserver::value::name(&manifest).to_owned();
        return Ok(Some(own));
    }
    if args.revision.is_said() || args.print_rollout || args.connection.cluster.namespace.is_some() {
        return Ok(args.name.clone());
    }
    Ok(None)
}

pub(super) async fn run(args: Args) -> Result<Exit, Failure> {
    if let Some(own) = target(&args)? {
        return in_cluster(args, &own).await;
    }
    if !args.revision.notify.is_empty() {
        return Err(Failure::usage(
            "--notify is for a Deployment; with a daemon the rollout's file says it: `spec.notify`",
        ));
    }
    let name = name(args.name.as_deref(), args.file.as_deref())?;
    let set = variables(&args.set, args.version.as_deref())?;
    let target = ReleaseTarget::File {
        set,
        path: args.file.as_deref().map(absolute).transpose()?,
    };
    // What is wrong with the call itself is said before anybody is asked.
    let request = args.request(target)?;
    let (client, name) = args.connection.open(Some(&name)).await?;
    ask(args, &client, &name, &request).await
}

async fn in_cluster(args: Args, own: &str) -> Result<Exit, Failure> {
    let options = options(args.file.as_deref(), &args.revision)?;
    if args.print_rollout {
        let namespace = args.connection.cluster.namespace.as_deref().unwrap_or("default");
        Screen::new(args.output.output).text(&print_rollout(own, namespace, &options));
        return Ok(Exit::Done);
    }
    let place = format!("deployment/{own}");
    if args.job.in_cluster() && !args.dry_run {
        let (cluster, own) = args.connection.cluster(&place, options).await?;
        let (words, files) = args.words(&own, cluster.namespace())?;
        let step = args.job.step(&own, words, files);
        let screen = Screen::new(args.output.output);
        return job::run(cluster, &step, args.follow, args.require_proof, screen).await;
    }
    let request = args.request(ReleaseTarget::default())?;
    let (cluster, own) = args.connection.cluster(&place, options).await?;
    let client = Client::over(Arc::new(Arc::clone(&cluster)), false);
    let Some(watchdog) = args.job.watchdog(&own, cluster.namespace()).filter(|_| !args.dry_run) else {
        return ask(args, &client, &own, &request).await;
    };
    // What cannot be left behind is said before anything is touched.
    cluster.try_job(&watchdog).await?;
    let json = args.output.output == Format::Json;
    let leave = async {
        // It ends with the release that it finds, so it may not come before one.
        while !cluster.carries() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        match cluster.start_job(&watchdog).await {
            Ok(job) if !json => Screen::new(Format::Text).text(&format!(
                "watched  by job/{} -n {}, which takes the release back if this command is killed",
                crate::apiserver::value::name(&job),
                cluster.namespace()
            )),
            Ok(_) => {}
            Err(error) => super::warn(&format!("no watchdog: {}", error.message)),
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        end = ask(args, &client, &own, &request) => end,
        () = leave => Err(Failure::other("the watchdog was waited for")),
    }
}

impl Args {
    fn request(&self, target: ReleaseTarget) -> Result<ReleaseRequest, Failure> {
        Ok(ReleaseRequest {
            target,
            reason: self.reason.clone(),
            emergency: self.emergency,
            require_proof: self.require_proof,
            deploy_window: deploy_window(environment)?,
            pipeline: pipeline(environment),
        })
    }

    /// The same command as it is given to a Job, and the files that it reads.
    fn words(&self, own: &str, namespace: &str) -> Result<(Vec<String>, BTreeMap<String, String>), Failure> {
        let (mut words, mut files) = (Vec::new(), BTreeMap::new());
        let mut say = |parts: &[&str]| words.extend(parts.iter().map(|part| (*part).to_owned()));
        say(&["deploy", &format!("deployment/{own}"), "-n", namespace]);
        // Its pod may be taken away; the next one goes on with the release.
        say(&["--on-interrupt", "detach"]);
        let mut hand_over = |name: &str, path: &Path| -> Result<String, Failure> {
            files.insert(name.to_owned(), text(path)?);
            Ok(format!("{FILES}/{name}"))
        };
        if let Some(file) = &self.file {
            policy(file)?;
            say(&["-f", &hand_over("rollout.yaml", file)?]);
        }
        let revision = &self.revision;
        if let Some(file) = &revision.from_file {
            let manifest = super::manifest::deployment(file)?;
            say(&["--from-file", &format!("{FILES}/deployment.json")]);
            files.insert("deployment.json".to_owned(), manifest.to_string());
        }
        if let Some(image) = &revision.image {
            say(&["--image", image]);
        }
        for (flag, pairs) in [("--set-image", &revision.set_image), ("--env", &revision.env)] {
            for (name, value) in pairs {
                say(&[flag, &format!("{name}={value}")]);
            }
        }
        for (flag, named) in [("--strategy", &revision.strategy), ("--reason", &self.reason)] {
            if let Some(named) = named {
                say(&[flag, named]);
            }
        }
        for (flag, is_said) in [
            ("--held", revision.held),
            ("--allow-parallel", revision.allow_parallel),
            ("--allow-fewer", revision.allow_fewer),
            ("--emergency", self.emergency),
            ("--require-proof", self.require_proof),
        ] {
            if is_said {
                say(&[flag]);
            }
        }
        for spec in &revision.notify {
            let (kind, from) = match spec {
                NotifySpec::Slack(from) => ("slack", from),
                NotifySpec::Webhook(from) => ("webhook", from),
            };
            let AddressFrom::SecretRef(secret) = from else {
                return Err(Failure::usage(format!(
                    "with --in-cluster the address must be in the cluster too: --notify {kind}=secret:NAME"
                )));
            };
            say(&["--notify", &format!("{kind}=secret:{secret}")]);
        }
        Ok((words, files))
    }
}

/// Shows the plan, or begins the release.
async fn ask(args: Args, client: &Client, name: &str, request: &ReleaseRequest) -> Result<Exit, Failure> {
    let screen = Screen::new(args.output.output);
    if args.dry_run {
        let plan = answered(client.preview(name, request)).await?;
        if screen.is_json() {
            screen.json(&serde_json::json!({ "plan": plan }));
        } else {
            screen.text(&plan);
        }
        return Ok(Exit::Done);
    }
    begin(client, name, request, args.follow, screen).await
}

/// The policy as a file, to be kept beside the service's sources.
fn print_rollout(deployment: &str, namespace: &str, options: &Options) -> String {
    let strategy = options.strategy.as_deref().unwrap_or("careful");
    match &options.rollout {
        Some(rollout) => serde_json::to_string_pretty(rollout).unwrap_or_default(),
        None => format!(
            "apiVersion: wade.dev/v1alpha1\nkind: Rollout\nmetadata: {{name: {deployment}, namespace: {namespace}}}\nspec:\n  workload: {{deployment: {deployment}}}\n  strategy: {{use: {strategy}}}\n  # smoke: [{{http: /healthz}}]\n  # gates: [{{before: 50%, approvers: [\"group:payments\"]}}]\n"
        ),
    }
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
    let started = if args.detach {
        client.release_detached(name, request).await?
    } else {
        client.release(name, request).await?
    };
    // A daemon of the cluster may have been asked: then it is its release, whatever becomes of this command.
    let client = &client.as_carried_now();
    if screen.is_json() {
        screen.json(&started);
    } else {
        screen.text(&head(name, &client.place(), &started));
    }
    let Some(key) = &started.release else {
        return Ok(Exit::Done);
    };
    if args.detach {
        if !screen.is_json() {
            screen.text(&format!("follow   wade status -w {name}{}", client.place()));
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
    for late in client.finished().await {
        super::warn(&late);
    }
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
    let own = policy(file)?.metadata.name;
    match name {
        Some(name) if name != own => Err(Failure::usage(format!(
            "{} describes the rollout {own}, not {name}; leave the name out or name the right file",
            file.display()
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

/// Where an address is kept. What is here must be there now: a typo should not show when a release has failed.
fn notify(text: &str) -> Result<NotifySpec, String> {
    const FORM: &str = "write slack=FILE, slack=env:NAME or slack=secret:NAME, or the same with webhook";
    let (kind, place) = text.split_once('=').ok_or(FORM)?;
    if place.contains("://") || place.is_empty() {
        return Err(format!(
            "the address is a secret and must not be on a command line; {FORM}"
        ));
    }
    let from = match place.split_once(':') {
        Some(("env", name)) if environment(name).is_none() => return Err(format!("the variable {name} is not set")),
        Some(("env", name)) => AddressFrom::UrlFrom(UrlFrom::Env(name.to_owned())),
        Some(("secret", name)) => AddressFrom::SecretRef(name.to_owned()),
        _ => AddressFrom::UrlFrom(UrlFrom::File(
            absolute(Path::new(place)).map_err(|failure| failure.problem.message)?,
        )),
    };
    match kind {
        "slack" => Ok(NotifySpec::Slack(from)),
        "webhook" => Ok(NotifySpec::Webhook(from)),
        _ => Err(FORM.to_owned()),
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

    #[test]
    fn an_address_is_referred_to_and_never_said() {
        let secret = AddressFrom::SecretRef("shop-slack".to_owned());
        assert_eq!(notify("slack=secret:shop-slack"), Ok(NotifySpec::Slack(secret)));
        let path = AddressFrom::UrlFrom(UrlFrom::Env("PATH".to_owned()));
        assert_eq!(notify("webhook=env:PATH"), Ok(NotifySpec::Webhook(path)));
        for wrong in [
            "slack",
            "mail=env:PATH",
            "slack=",
            "slack=env:NO_SUCH_NAME",
            "webhook=/no/such/file",
        ] {
            assert!(notify(wrong).is_err(), "{wrong}");
        }
        let said = notify("webhook=https://hooks.example/T0/secret").expect_err("it is a secret");
        assert!(!said.contains("hooks.example"), "{said}");
    }
}

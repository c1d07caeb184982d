//! `wade install`: the daemon into a cluster.

use std::path::PathBuf;

use super::connect::ClusterArgs;
use super::exit::{Exit, Failure};
use super::screen::{OutputArg, Screen};
use crate::apiserver::Kind;
use crate::install::apply::{Change, available, hold_api, install};
use crate::install::{HoldApi, SYSTEM, Settings, files, manifests};
use crate::spec::Span;

/// Install the daemon into a cluster: definitions, rights, policies, two replicas
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  wade install --dry-run                      what would be created or changed, object by object
  wade install --image registry.example/wade:0.1.0
  wade install --manifests > wade.yaml        the same as YAML, for somebody else to apply

Running it again changes nothing, or upgrades. Releases go on in the meantime: the leader hands over. It needs
cluster-admin once; `docs/install.md` lists what the daemon itself may do. `wade uninstall` takes all of it out again.")]
pub(super) struct Args {
    /// Say what would change; the server checks each object and stores none
    #[arg(long)]
    dry_run: bool,
    /// The daemon's image, with a tag or digest
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// How many of the daemon run; one leads
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=5))]
    replicas: u32,
    /// Wait so long until the daemon's pods are ready; 0s for not at all
    #[arg(long, value_name = "TIME", default_value = "3m")]
    wait: Span,
    /// Print the manifests instead, for the newest API server; asks no cluster
    #[arg(long, conflicts_with = "dry_run")]
    manifests: bool,
    /// With --manifests: which MutatingAdmissionPolicy the cluster serves
    #[arg(long, value_enum, default_value_t, value_name = "VERSION", requires = "manifests")]
    hold: HoldArg,
    /// Write deploy/ anew (for those who work on Wade)
    #[arg(long, hide = true, value_name = "DIR")]
    write_deploy: Option<PathBuf>,
    #[command(flatten)]
    pub(super) output: OutputArg,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Which version of the holding policy is written.
#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum HoldArg {
    /// Kubernetes 1.36 and later
    V1,
    /// Before, with the feature gate
    V1beta1,
    /// None is served
    #[default]
    None,
}

pub(super) async fn run(args: Args) -> Result<Exit, Failure> {
    if let Some(folder) = &args.write_deploy {
        return write(folder);
    }
    let screen = Screen::new(args.output.output);
    let mut settings = Settings {
        replicas: args.replicas,
        ..Settings::default()
    };
    if let Some(image) = &args.image {
        settings.image.clone_from(image);
    }
    if args.manifests {
        settings.hold = match args.hold {
            HoldArg::V1 => HoldApi::V1,
            HoldArg::V1beta1 => HoldApi::V1Beta1,
            HoldArg::None => HoldApi::None,
        };
        screen.text(&files::yaml(&manifests(&settings)));
        return Ok(Exit::Done);
    }
    let api = args.cluster.api().await?;
    settings.hold = hold_api(&api).await?;
    let would = if args.dry_run { "would be " } else { "" };
    let mut say = |kind: Kind, name: &str, change: Change| super::uninstall::line(&screen, would, kind, name, change);
    install(&api, &settings, args.dry_run, &mut say).await?;
    if screen.is_json() {
        return finish(&args, &api, &screen).await;
    }
    screen.text(match settings.hold {
        HoldApi::None => {
            "hold      this API server has no MutatingAdmissionPolicy: Deployments that are released stay paused between releases"
        }
        HoldApi::V1 | HoldApi::V1Beta1 => {
            "hold      a policy in the API server pauses changes by others until their release"
        }
    });
    finish(&args, &api, &screen).await
}

async fn finish(args: &Args, api: &crate::apiserver::ApiServer, screen: &Screen) -> Result<Exit, Failure> {
    if args.dry_run {
        return Ok(Exit::Done);
    }
    if !args.wait.0.is_zero() {
        available(api, args.wait.0).await?;
        if !screen.is_json() {
            screen.text(&format!(
                "ready     {} of {} pods in namespace {SYSTEM}",
                args.replicas, args.replicas
            ));
        }
    }
    Ok(Exit::Done)
}

fn write(folder: &std::path::Path) -> Result<Exit, Failure> {
    for (path, text) in files::all() {
        let path = folder.join(path);
        let written = path.parent().map_or(Ok(()), std::fs::create_dir_all);
        written
            .and_then(|()| std::fs::write(&path, text))
            .map_err(|error| Failure::other(format!("{} cannot be written: {error}", path.display())))?;
    }
    Ok(Exit::Done)
}

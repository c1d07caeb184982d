//! What can be asked: one list, from which requests are routed, rights are asked for and the OpenAPI document is made.

use axum::http::Method;

/// The group of Wade's resources, for rights.
pub const ROLLOUTS: &str = "rollouts.wade.dev";
/// Releases, for rights.
pub const RELEASES: &str = "releases.wade.dev";

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// All rollouts that the caller may see.
    Fleet,
    /// The rollouts of a namespace.
    Rollouts,
    /// One rollout.
    Rollout,
    /// The plan of a release, without touching anything.
    Plan,
    /// The releases that are kept.
    Releases,
    /// A new release.
    Release,
    /// A release's record.
    Record,
    /// What happened, in order.
    Timeline,
    /// What was measured and judged.
    Evidence,
    /// What happens, as it happens.
    Events,
    /// Something of a running release.
    Command,
    /// What happens to all rollouts that the caller may see.
    FleetEvents,
    /// The description of all this.
    OpenApi,
    /// Whether anybody is there.
    Health,
}

/// What a request takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing, not even a name.
    Open,
    /// This verb on this resource, in the namespace of the path.
    Needs(&'static str, &'static str),
    /// This verb on this resource in all namespaces; or else only those namespaces are shown where it is permitted.
    Shown(&'static str, &'static str),
    /// `create` on releases, and `emergency` if that is asked for.
    Release,
    /// The command's own word on releases.
    Command,
}

/// What stands in a request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Nothing.
    Nothing,
    /// A `ReleaseRequest`.
    Release,
    /// A `CommandRequest`.
    Command,
}

/// One row of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// GET or POST.
    pub method: Method,
    /// With its parameters in braces.
    pub path: &'static str,
    /// What is asked for.
    pub act: Act,
    /// What it takes.
    pub access: Access,
    /// What is sent along.
    pub sent: Sent,
    /// In one sentence.
    pub summary: &'static str,
}

const fn read(path: &'static str, act: Act, access: Access, summary: &'static str) -> Route {
    Route {
        method: Method::GET,
        path,
        act,
        access,
        sent: Sent::Nothing,
        summary,
    }
}

const fn write(path: &'static str, act: Act, access: Access, sent: Sent, summary: &'static str) -> Route {
    Route {
        method: Method::POST,
        path,
        act,
        access,
        sent,
        summary,
    }
}

/// Every route.
pub static ROUTES: [Route; 14] = [
    read(
        "/api/v1/rollouts",
        Act::Fleet,
        Access::Shown("list", ROLLOUTS),
        "All rollouts that the caller may see",
    ),
    read(
        "/api/v1/events",
        Act::FleetEvents,
        Access::Shown("watch", ROLLOUTS),
        "What happens to them, as server-sent events",
    ),
    read(
        "/api/v1/namespaces/{namespace}/rollouts",
        Act::Rollouts,
        Access::Needs("list", ROLLOUTS),
        "The rollouts of a namespace",
    ),
    read(
        "/api/v1/namespaces/{namespace}/rollouts/{rollout}",
        Act::Rollout,
        Access::Needs("get", ROLLOUTS),
        "One rollout",
    ),
    write(
        "/api/v1/namespaces/{namespace}/rollouts/{rollout}/plan",
        Act::Plan,
        Access::Needs("get", ROLLOUTS),
        Sent::Release,
        "The plan that such a release would have; nothing is touched",
    ),
    read(
        "/api/v1/namespaces/{namespace}/rollouts/{rollout}/releases",
        Act::Releases,
        Access::Needs("list", RELEASES),
        "The releases that are kept, newest first",
    ),
    write(
        "/api/v1/namespaces/{namespace}/rollouts/{rollout}/releases",
        Act::Release,
        Access::Release,
        Sent::Release,
        "Asks for a release",
    ),
    read(
        "/api/v1/namespaces/{namespace}/rollouts/{rollout}/releases/{number}",
        Act::Record,
        Access::Needs("get", RELEASES),
        "The record of a release",
    ),
    read(
        "/api/v1/namespaces/{namespace}/rollouts/{rollout}/releases/{number}/timeline",
        Act::Timeline,
        Access::Needs("get", RELEASES),
        "What happened in a release, and why",
    ),
    read(
        "/api/v1/namespaces/{namespace}/rollouts/{rollout}/releases/{number}/evidence",
        Act::Evidence,
        Access::Needs("get", RELEASES),
        "What was measured and judged in a release",
    ),
    read(
        "/api/v1/namespaces/{namespace}/rollouts/{rollout}/releases/{number}/events",
        Act::Events,
        Access::Needs("watch", RELEASES),
        "What happens in a release, until it is over",
    ),
    write(
        "/api/v1/namespaces/{namespace}/rollouts/{rollout}/commands",
        Act::Command,
        Access::Command,
        Sent::Command,
        "Asks something of the release that runs",
    ),
    read(
        "/api/v1/openapi.json",
        Act::OpenApi,
        Access::Open,
        "This description, as OpenAPI 3.1",
    ),
    read("/healthz", Act::Health, Access::Open, "Whether the API answers"),
];

impl Access {
    /// The right in words, as documents show it.
    pub fn words(self) -> String {
        match self {
            Self::Open => "none".to_owned(),
            Self::Needs(verb, resource) => format!("{verb} {resource}"),
            Self::Shown(verb, resource) => format!("{verb} {resource} (everywhere, or by namespace)"),
            Self::Release => format!("create {RELEASES} (and emergency {RELEASES})"),
            Self::Command => format!("the command's own verb on {RELEASES}"),
        }
    }
}

/// The verbs of Wade's own: what somebody may ask of a release that runs, and what an emergency takes.
pub const VERBS: [(&str, &str); 7] = [
    (
        "approve",
        "opens the gate that the release waits at (the gate's own approvers decide as well)",
    ),
    ("promote", "ends the present stage, or with `full` all of them"),
    ("pause", "keeps the weight"),
    ("resume", "ends a pause"),
    ("abort", "takes all traffic back to stable"),
    ("retry", "tries again what is stuck"),
    (
        "emergency",
        "releases without windows, gates and comparison; together with create",
    ),
];

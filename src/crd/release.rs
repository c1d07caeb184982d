//! `Release`: what is asked of the daemon, and what shows how far it is.
//!
//! Whoever creates one asks for a release, as `wade deploy` does; the spec never changes afterwards. A release that
//! nobody asked for by one (a change that somebody made to the Deployment) gets one from the daemon, which asks for
//! nothing and only shows (`target: held`). The record itself, with its evidence,
//! stays where the step keeps it (a ConfigMap), so that step and daemon can hand over to each other.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::condition::Condition;
use crate::cluster::admit::Ask;
use crate::daemon::api::{ReleaseRequest, ReleaseTarget};
use crate::platforms::kubernetes::template::For;
use crate::store::Pipeline;

/// What is asked for. Nothing in it can be changed; a new wish is a new Release.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReleaseSpec {
    /// The Rollout, in the same namespace.
    #[schemars(length(min = 1, max = 63))]
    pub rollout: String,
    /// Who asks: the user as the API server knows them. Others cannot be named.
    #[schemars(length(min = 1, max = 512))]
    pub by: String,
    /// Why, for the audit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub reason: Option<String>,
    /// Which way: `deploy` (the image, images and env below), `rollback` or `retry`. `held` is the daemon's: it shows a
    /// release of what the Deployment says already.
    #[serde(default)]
    pub target: Target,
    /// For `rollback`: to what this release promoted; to the revision before the present one if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<u64>,
    /// The new image of the only container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub image: Option<String>,
    /// New images by container.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub images: BTreeMap<String, String>,
    /// Environment variables: `NAME` in the only container, or `CONTAINER/NAME`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// No windows, gates or comparison; needs a reason. Smoke tests run all the same.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub emergency: bool,
    /// A stage that ends without proof asks a person instead of going on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub require_proof: bool,
    /// What `DEPLOY_WINDOW` says where the request comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deploy_window: Option<bool>,
    /// Run both versions side by side even where that looks unsafe.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_parallel: bool,
    /// Where the request comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pipeline: Option<PipelineRef>,
}

/// Which way a release goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Target {
    /// The image, images and environment that the Release names.
    #[default]
    Deploy,
    /// What the held Deployment says already; only the daemon writes it, to show such a release.
    Held,
    /// Back to an earlier revision.
    Rollback,
    /// The revision that the last release failed with.
    Retry,
}

/// Where a request comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PipelineRef {
    /// The commit that is released.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Who wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// The pipeline's page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The W3C trace context that the release's trace joins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub traceparent: Option<String>,
}

/// How far it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReleaseStatus {
    /// Its number in the history of the Rollout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<u64>,
    /// The phase, as everywhere: `waiting`, `starting`, …, `done`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// The canary's share, `20%`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<String>,
    /// The version that served when it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stable: Option<String>,
    /// The version that is released.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<String>,
    /// How it ended; not there before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// Whether a promotion was proven.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proven: Option<bool>,
    /// What it waits for, or why it ended so, in one sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::structural::moment")]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::structural::moment")]
    pub finished_at: Option<Timestamp>,
    /// What was found and chosen, line by line.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub found: Vec<String>,
    /// The plan as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    /// If it was refused: the kind of problem, as the API says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// `Accepted`, `Complete`, `Stuck`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

impl ReleaseSpec {
    /// The request as every door of Wade takes it.
    pub fn request(&self) -> ReleaseRequest {
        let pipeline = self.pipeline.clone().unwrap_or_default();
        ReleaseRequest {
            target: match self.target {
                Target::Deploy | Target::Held => ReleaseTarget::default(),
                Target::Rollback => ReleaseTarget::Rollback { number: self.number },
                Target::Retry => ReleaseTarget::Retry,
            },
            reason: self.reason.clone(),
            emergency: self.emergency,
            require_proof: self.require_proof,
            deploy_window: self.deploy_window,
            pipeline: Pipeline {
                commit: pipeline.commit,
                author: pipeline.author,
                url: pipeline.url,
                traceparent: pipeline.traceparent,
            },
        }
    }

    /// What the Deployment is to become.
    pub fn ask(&self) -> Ask {
        let only = self.image.iter().map(|image| For {
            container: None,
            value: image.clone(),
        });
        let named = self.images.iter().map(|(container, image)| For {
            container: Some(container.clone()),
            value: image.clone(),
        });
        let env = self.env.iter().map(|(key, value)| {
            let (container, name) = match key.split_once('/') {
                Some((container, name)) => (Some(container.to_owned()), name),
                None => (None, key.as_str()),
            };
            For {
                container,
                value: (name.to_owned(), value.clone()),
            }
        });
        Ask {
            images: only.chain(named).collect(),
            env: env.collect(),
            held: self.target == Target::Held,
            allow_parallel: self.allow_parallel,
            ..Ask::default()
        }
    }

    /// What is asked, as an object's spec.
    pub fn from_parts(rollout: &str, by: &str, request: &ReleaseRequest, ask: &Ask) -> Self {
        let (target, number) = match &request.target {
            ReleaseTarget::File { .. } if ask.held => (Target::Held, None),
            ReleaseTarget::File { .. } => (Target::Deploy, None),
            ReleaseTarget::Rollback { number } => (Target::Rollback, *number),
            ReleaseTarget::Retry => (Target::Retry, None),
        };
        let unnamed = ask.images.iter().find(|image| image.container.is_none());
        let named = ask
            .images
            .iter()
            .filter_map(|image| Some((image.container.clone()?, image.value.clone())));
        let env = ask.env.iter().map(|variable| {
            let (name, value) = &variable.value;
            match &variable.container {
                Some(container) => (format!("{container}/{name}"), value.clone()),
                None => (name.clone(), value.clone()),
            }
        });
        let pipeline = PipelineRef {
            commit: request.pipeline.commit.clone(),
            author: request.pipeline.author.clone(),
            url: request.pipeline.url.clone(),
            traceparent: request.pipeline.traceparent.clone(),
        };
        Self {
            rollout: rollout.to_owned(),
            by: by.to_owned(),
            reason: request.reason.clone(),
            target,
            number,
            image: unnamed.map(|image| image.value.clone()),
            images: named.collect(),
            env: env.collect(),
            emergency: request.emergency,
            require_proof: request.require_proof,
            allow_parallel: ask.allow_parallel,
            deploy_window: request.deploy_window,
            pipeline: (pipeline != PipelineRef::default()).then_some(pipeline),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_survives_being_an_object() {
        let spec: ReleaseSpec = serde_json::from_value(serde_json::json!({
            "rollout": "checkout", "by": "ada", "reason": "a fix", "image": "shop/checkout:2",
            "images": {"proxy": "shop/proxy:3"}, "env": {"LEVEL": "debug", "proxy/MODE": "a/b"},
            "emergency": true, "deployWindow": true, "pipeline": {"commit": "3fa9c1e"},
        }))
        .expect("it is one");
        assert_eq!(
            ReleaseSpec::from_parts("checkout", "ada", &spec.request(), &spec.ask()),
            spec
        );
        assert_eq!(spec.ask().env[1].container.as_deref(), Some("proxy"));
        for target in [Target::Held, Target::Retry, Target::Rollback] {
            let spec = ReleaseSpec {
                target,
                number: (target == Target::Rollback).then_some(7),
                ..ReleaseSpec::default()
            };
            assert_eq!(ReleaseSpec::from_parts("", "", &spec.request(), &spec.ask()), spec);
        }
    }
}

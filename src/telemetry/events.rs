//! Kubernetes Events of a release, on its Deployment and on its Rollout where there is one: what `kubectl describe` and
//! `kubectl get events` show, in the same sentences as everywhere.
//!
//! An Event's name follows from the release and the entry, so one that is written twice (after a carrier died) is the
//! same Event. What is trouble and comes back is said once in ten minutes; steps that come too fast are left out, but
//! never the begin, the way back, being stuck and the end. Writing needs `create events`; without it, and without an
//! API server that answers, nothing is written and everything else goes on.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::About;
use super::progress::{Seen, Step};
use crate::apiserver::value::text;
use crate::apiserver::{ApiError, ApiServer, Fault, Kind};
use crate::engine::{Event, Phase};
use crate::redact::redact;

/// Who an Event comes from.
const COMPONENT: &str = "wade";
/// Steps that may come at once, and how long it takes until one more may.
const BURST: u32 = 20;
/// See [`BURST`].
const REFILL: SignedDuration = SignedDuration::from_secs(30);
/// The same trouble is said again after this.
const AGAIN: SignedDuration = SignedDuration::from_mins(10);
/// Different troubles that are remembered.
const MOST_TROUBLES: usize = 32;
/// The longest message; Kubernetes takes 1024 bytes.
const MOST_MESSAGE: usize = 1000;

/// Where the Events of a release are written.
#[derive(Clone, Debug)]
pub struct EventSink {
    api: ApiServer,
    deployment: String,
    /// The Rollout object to write them on as well, by name.
    rollout: Option<String>,
}

impl EventSink {
    /// Events on a Deployment of the handle's namespace.
    pub fn on(api: ApiServer, deployment: &str) -> Self {
        Self {
            api,
            deployment: deployment.to_owned(),
            rollout: None,
        }
    }

    /// And on the Rollout object of this name.
    #[must_use]
    pub fn and_on_rollout(mut self, name: &str) -> Self {
        self.rollout = Some(name.to_owned());
        self
    }

    /// What the Events are about, with the `uid` by which `kubectl describe` finds them.
    pub(super) async fn objects(&self) -> Vec<Value> {
        let mut found = Vec::new();
        let wanted = std::iter::once((Kind::Deployment, &self.deployment))
            .chain(self.rollout.iter().map(|name| (Kind::Rollout, name)));
        for (kind, name) in wanted {
            let object = match self.api.get(kind, name).await {
                Ok(None) => continue,
                Ok(object) => object,
                // An Event without the uid is better than none; a Rollout that cannot be seen may not be there.
                Err(_) if kind == Kind::Deployment => None,
                Err(_) => continue,
            };
            found.push(reference(kind, self.api.namespace(), name, object.as_ref()));
        }
        found
    }

    /// Writes one; one that is there already is written.
    pub(super) async fn write(&self, object: &Value, said: &Said) -> Result<(), ApiError> {
        match self.api.create(Kind::Event, &event(object, said)).await {
            Err(ApiError {
                fault: Fault::Exists, ..
            }) => Ok(()),
            written => written.map(drop),
        }
    }
}

/// One thing to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) reason: &'static str,
    pub(super) is_warning: bool,
    pub(super) message: String,
    pub(super) at: Timestamp,
    /// What makes it this Event and no other.
    pub(super) id: String,
}

/// What comes of something that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Words {
    /// Say it.
    Say(Said),
    /// It has been said, or there is too much to say.
    Drop,
    /// It is nothing to say.
    Nothing,
}

/// Chooses what is said of one release, and how often.
pub(super) struct Speaker {
    release: String,
    versions: String,
    room: u32,
    /// When the last one was taken or given back.
    counted: Option<Timestamp>,
    troubles: BTreeMap<String, Timestamp>,
}

impl Speaker {
    pub(super) fn about(about: &About) -> Self {
        let record = &about.record;
        let versions = match &record.stable {
            Some(stable) => format!("{} → {}", stable.version, record.canary.version),
            None => record.canary.version.clone(),
        };
        Self {
            release: format!("{}/{}/{}", record.key.rollout, record.key.number, record.created),
            versions: format!("release {} ({versions})", record.key.number),
            room: BURST,
            counted: None,
            troubles: BTreeMap::new(),
        }
    }

    /// What to say of what was seen.
    pub(super) fn of(&mut self, seen: &Seen<'_>) -> Words {
        match seen {
            Seen::Look { .. } => Words::Nothing,
            Seen::Step(step) => {
                let Some((reason, is_warning)) = reason(step) else {
                    return Words::Nothing;
                };
                let always = is_warning || step.entry.event == Event::Admitted || step.after.outcome().is_some();
                if !self.has_room(step.entry.at) && !always {
                    return Words::Drop;
                }
                let id = format!("{}", step.entry.number);
                Words::Say(self.said(reason, is_warning, &step.entry.reason, step.entry.at, &id))
            }
            Seen::Trouble { at, message } => {
                let recently = |said: &Timestamp| at.duration_since(*said) < AGAIN;
                if self.troubles.get(*message).is_some_and(recently) {
                    return Words::Drop;
                }
                self.troubles.retain(|_, said| recently(said));
                if self.troubles.len() >= MOST_TROUBLES || !self.has_room(*at) {
                    return Words::Drop;
                }
                self.troubles.insert((*message).to_owned(), *at);
                let id = format!("{message}{at}");
                Words::Say(self.said("ReleaseTrouble", true, message, *at, &id))
            }
        }
    }

    fn said(&self, reason: &'static str, is_warning: bool, sentence: &str, at: Timestamp, id: &str) -> Said {
        let message: String = redact(&format!("{}: {sentence}", self.versions))
            .char_indices()
            .take_while(|(at, letter)| at + letter.len_utf8() <= MOST_MESSAGE)
            .map(|(_, letter)| letter)
            .collect();
        Said {
            reason,
            is_warning,
            message,
            at,
            id: format!("{}/{id}", self.release),
        }
    }

    fn has_room(&mut self, now: Timestamp) -> bool {
        let since = *self.counted.get_or_insert(now);
        let refilled = now.duration_since(since).as_secs().max(0) / REFILL.as_secs();
        if refilled > 0 {
            self.room = BURST.min(self.room.saturating_add(u32::try_from(refilled).unwrap_or(BURST)));
            self.counted = Some(now);
        }
        let had = self.room > 0;
        self.room = self.room.saturating_sub(1);
        had
    }
}

/// The reason of a step, and whether it is a warning; `None` if it is nothing that others should hear of.
fn reason(step: &Step<'_>) -> Option<(&'static str, bool)> {
    Some(match (&step.entry.event, &step.after.phase) {
        (_, Phase::Done(outcome)) => {
            let calm = outcome.is_forward() || *outcome == crate::engine::Outcome::Superseded;
            (outcome.label(), !calm)
        }
        (Event::Admitted, _) => ("ReleaseBegan", false),
        (Event::SmokePassed | Event::StageEnded { .. } | Event::AskedForProof, Phase::Gated { .. }) => {
            ("ReleaseWaits", false)
        }
        (Event::Shifted { .. }, _) => ("StageBegan", false),
        (Event::Paused { .. }, _) => ("ReleasePaused", false),
        (Event::Resumed { .. }, _) => ("ReleaseResumed", false),
        (Event::SignalsLost { .. }, _) => ("SignalsLost", true),
        (Event::SignalsBack, _) => ("SignalsBack", false),
        (Event::Retreated { .. }, _) => ("GoingBack", true),
        (Event::GotStuck { .. }, _) => ("ReleaseStuck", true),
        _ => return None,
    })
}

fn reference(kind: Kind, namespace: &str, name: &str, object: Option<&Value>) -> Value {
    let mut reference = json!({
        "apiVersion": kind.api_version(), "kind": kind.name(), "namespace": namespace, "name": name,
    });
    let uid = object
        .map(|object| text(object, "/metadata/uid"))
        .filter(|uid| !uid.is_empty());
    if let Some(uid) = uid {
        reference["uid"] = json!(uid);
    }
    reference
}

/// The Event as it is written.
fn event(object: &Value, said: &Said) -> Value {
    let digest = Sha256::digest(format!("{}/{}", text(object, "/kind"), said.id).as_bytes());
    let hash: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let name: String = text(object, "/name").chars().take(200).collect();
    let at = Timestamp::from_second(said.at.as_second())
        .unwrap_or(said.at)
        .to_string();
    json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": format!("{name}.{hash}"), "namespace": text(object, "/namespace")},
        "involvedObject": object,
        "reason": said.reason,
        "message": said.message,
        "type": if said.is_warning { "Warning" } else { "Normal" },
        "source": {"component": COMPONENT},
        "reportingComponent": COMPONENT,
        "firstTimestamp": at,
        "lastTimestamp": at,
        "count": 1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said() -> Said {
        Said {
            reason: "ReleaseBegan",
            is_warning: false,
            message: "release 3 (1 → 2): it may begin".to_owned(),
            at: Timestamp::from_millisecond(1_700_000_000_250).expect("a time"),
            id: "checkout/3/then/1".to_owned(),
        }
    }

    #[test]
    fn an_event_is_about_its_object_and_is_the_same_when_written_again() {
        let object = json!({"metadata": {"uid": "u-1"}});
        let about = reference(Kind::Deployment, "shop", "checkout", Some(&object));
        let once = event(&about, &said());
        assert_eq!(
            once,
            json!({
                "apiVersion": "v1", "kind": "Event",
                "metadata": {"name": once["metadata"]["name"].clone(), "namespace": "shop"},
                "involvedObject": {
                    "apiVersion": "apps/v1", "kind": "Deployment", "namespace": "shop", "name": "checkout", "uid": "u-1",
                },
                "reason": "ReleaseBegan", "message": "release 3 (1 → 2): it may begin", "type": "Normal",
                "source": {"component": "wade"}, "reportingComponent": "wade",
                "firstTimestamp": "2023-11-14T22:13:20Z", "lastTimestamp": "2023-11-14T22:13:20Z", "count": 1,
            })
        );
        assert_eq!(once, event(&about, &said()));
        let rollout = reference(Kind::Rollout, "shop", "checkout", None);
        let other = event(&rollout, &said());
        assert_ne!(once["metadata"]["name"], other["metadata"]["name"], "one per object");
        assert!(other["involvedObject"].get("uid").is_none());
    }
}

//! What the record says of a template that others have put into a held Deployment.
//!
//! Nobody asked for a release by name: somebody changed the template, and nothing in it says why. Two cases are told
//! from a new version by what is on record. *The way back*: `kubectl rollout undo` and a revert in Git write what served
//! right before the revision that serves now, so that is a release in the fast lane, as `wade rollback` is. Only one
//! step back: what served before that may not fit its data any more, and whoever wants it says so by name. And not
//! forward again: what has been gone back from is an ordinary release, or a GitOps tool that comes round with it would
//! bring it back past every freeze. *The same again*: a tool applies what it has, also after a person has aborted it; a
//! person's word counts until the template is another one, or a person says `wade retry`.
//!
//! It does not look at the quarantine: a revision that failed is refused whoever asks for it.

use jiff::{SignedDuration, Timestamp};

use super::find::Found;
use super::{Cluster, told};
use crate::apiserver::Kind;
use crate::daemon::api::Problem;
use crate::engine::Outcome;
use crate::plan::Lane;
use crate::platforms::kubernetes::template;
use crate::store::ReleaseRecord;
use crate::store::configmap::ConfigMapStore;

/// A release that came back without a verdict is tried again after this, and then after twice as long each time.
const AGAIN_AFTER: SignedDuration = SignedDuration::from_mins(2);
/// It never takes longer than this.
const AGAIN_WITHIN: SignedDuration = SignedDuration::from_hours(1);

impl Cluster {
    /// Whether the template that waits in the Deployment is the revision that served right before the present one.
    ///
    /// # Errors
    /// The record or the Deployment cannot be read.
    pub(crate) async fn is_undone(&self, deployment: &str) -> Result<bool, Problem> {
        if !self.options.ask.held {
            return Ok(false);
        }
        let releases = self.store(deployment).releases().await.map_err(Problem::unavailable)?;
        let read = self.api.get(Kind::Deployment, deployment).await;
        let Some(object) = read.map_err(|error| told(&error))? else {
            return Ok(false);
        };
        let waits = template::revision_of(&object);
        if before_the_present(&releases).is_none_or(|(_, before)| before != waits) {
            return Ok(false);
        }
        // What the record takes for stable may have been replaced without Wade.
        let found = Found::read(&self.api, deployment).await.map_err(|error| told(&error))?;
        Ok(found.is_some_and(|found| is_way_back(&releases, &found, &waits)))
    }

    /// The lane of what is asked for: another one than `lane` if what waits in the Deployment is the way back.
    pub(super) async fn lane_of_held(
        &self,
        found: &Found,
        store: &ConfigMapStore,
        lane: Lane,
    ) -> Result<Lane, Problem> {
        if !self.options.ask.held || lane != Lane::Normal {
            return Ok(lane);
        }
        let releases = store.releases().await.map_err(Problem::unavailable)?;
        let waits = template::revision_of(&found.deployment);
        let back = is_way_back(&releases, found, &waits);
        Ok(if back { Lane::Rollback } else { lane })
    }

    /// Why the template that waits in the Deployment is not released as long as nobody says so by name.
    ///
    /// # Errors
    /// The record or the Deployment cannot be read.
    pub(crate) async fn not_again(&self, deployment: &str) -> Result<Option<String>, Problem> {
        let releases = self.store(deployment).releases().await.map_err(Problem::unavailable)?;
        let read = self.api.get(Kind::Deployment, deployment).await;
        let object = read.map_err(|error| told(&error))?.unwrap_or_default();
        let waits = template::revision_of(&object);
        let place = format!("deployment/{deployment} -n {}", self.namespace());
        Ok(not_again(&releases, &waits, self.clock.now(), &place))
    }
}

/// Whether this template is the way back from what serves, by the releases that are kept, newest first.
pub(super) fn is_way_back(releases: &[ReleaseRecord], found: &Found, template: &str) -> bool {
    let Ok(stable) = found.stable() else { return false };
    let stable = template::revision_of(stable);
    before_the_present(releases).is_some_and(|(present, before)| present == stable && before == template)
}

/// The revision that serves by the record, and the one that served before it and has not been gone back from.
fn before_the_present(releases: &[ReleaseRecord]) -> Option<(&str, &str)> {
    let mut served: Vec<&str> = Vec::new();
    let forward = |record: &&ReleaseRecord| record.state.outcome().is_some_and(Outcome::is_forward);
    for record in releases.iter().rev().filter(forward) {
        // One that others rolled out in between has served as well.
        if let Some(stable) = &record.stable
            && served.last() != Some(&stable.id.as_str())
        {
            served.push(&stable.id);
        }
        let known = served.iter().rposition(|id| *id == record.canary.id);
        match known.filter(|_| record.plan.lane == Lane::Rollback) {
            Some(known) => served.truncate(known + 1),
            None => served.push(&record.canary.id),
        }
    }
    match served.as_slice() {
        [.., before, present] => Some((present, before)),
        _ => None,
    }
}

/// Why this template is not tried again by itself now, by the releases that are kept, newest first.
fn not_again(releases: &[ReleaseRecord], template: &str, now: Timestamp, place: &str) -> Option<String> {
    let last = releases.first().filter(|record| record.canary.id == template)?;
    let (version, number) = (&last.canary.version, last.key.number);
    match last.state.outcome()? {
        Outcome::Aborted => Some(format!(
            "release {number} of {version} was aborted; a new revision is released, and `wade retry {place}` tries this one again"
        )),
        Outcome::Returned => {
            let returned = |record: &&ReleaseRecord| {
                record.canary.id == template && record.state.outcome() == Some(&Outcome::Returned)
            };
            let times = releases.iter().take_while(returned).count();
            let doubled = i32::try_from(times).unwrap_or(i32::MAX).saturating_sub(1).min(10);
            let wait = (AGAIN_AFTER * (1 << doubled)).min(AGAIN_WITHIN);
            let until = last.ended? + wait;
            (now < until).then(|| {
                format!(
                    "release {number} of {version} came back without a verdict; it is tried again at {}, or now with `wade retry {place}`",
                    until.strftime("%H:%M:%SZ")
                )
            })
        }
        // A revision that failed is in quarantine; one that was superseded is as good as new.
        Outcome::Promoted { .. }
        | Outcome::FirstDeploy
        | Outcome::RolledBack
        | Outcome::Rejected
        | Outcome::Superseded => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::default_rollout;
    use crate::engine::{Actor, Phase, State};
    use crate::plan::{Circumstances, lower};
    use crate::spec::resolve;
    use crate::store::{Pipeline, ReleaseKey, Revision};

    fn start() -> Timestamp {
        "2026-11-22T12:00:00Z".parse().expect("a time")
    }

    fn revision(id: &str) -> Revision {
        Revision {
            id: id.to_owned(),
            version: format!("version {id}"),
            variables: Default::default(),
            workload: Default::default(),
        }
    }

    /// A release that ended ten minutes after [`start`], by its number.
    fn release(number: u64, stable: &str, canary: &str, lane: Lane, outcome: Outcome) -> ReleaseRecord {
        let rollout = default_rollout("app", "shop");
        let resolved = resolve(&rollout, &Default::default()).expect("the default is known");
        let around = Circumstances {
            lane,
            ..Circumstances::default()
        };
        let plan = lower(
            "app",
            &rollout.spec,
            &resolved.strategy,
            &resolved.analysis,
            &resolved.limits,
            &around,
        );
        let mut state = State::new(start());
        state.phase = Phase::Done(outcome);
        let ended = start() + SignedDuration::from_mins(10 * i64::try_from(number).expect("a few"));
        ReleaseRecord {
            key: ReleaseKey {
                rollout: "app".to_owned(),
                number,
            },
            canary: revision(canary),
            stable: Some(revision(stable)),
            plan,
            state,
            history: Vec::new(),
            judge: None,
            verdict: None,
            course: Default::default(),
            by: Actor::named("argocd"),
            reason: None,
            deploy_window: None,
            pipeline: Pipeline::default(),
            created: start(),
            ended: Some(ended),
        }
    }

    /// The record after these releases, oldest first: `(stable, canary, lane, outcome)`.
    fn record(releases: &[(&str, &str, Lane, Outcome)]) -> Vec<ReleaseRecord> {
        let numbered = (1..).zip(releases);
        let mut all: Vec<ReleaseRecord> = numbered
            .map(|(number, (stable, canary, lane, outcome))| {
                release(number, stable, canary, lane.clone(), outcome.clone())
            })
            .collect();
        all.reverse();
        all
    }

    const PROMOTED: Outcome = Outcome::Promoted { proven: true };
    use Lane::{Normal, Rollback};

    #[test]
    fn the_way_back_is_one_step_and_never_forward_again() {
        let cases = [
            ("nothing is known", record(&[]), None),
            (
                "what served before Wade came counts",
                record(&[("a", "b", Normal, PROMOTED)]),
                Some(("b", "a")),
            ),
            (
                "one step, not two",
                record(&[("a", "b", Normal, PROMOTED), ("b", "c", Normal, PROMOTED)]),
                Some(("c", "b")),
            ),
            (
                "what failed or was aborted has not served",
                record(&[
                    ("a", "b", Normal, PROMOTED),
                    ("b", "c", Normal, Outcome::RolledBack),
                    ("b", "d", Normal, Outcome::Aborted),
                ]),
                Some(("b", "a")),
            ),
            (
                "having gone back from c to b, c is no way back, but a is",
                record(&[
                    ("a", "b", Normal, PROMOTED),
                    ("b", "c", Normal, PROMOTED),
                    ("c", "b", Rollback, PROMOTED),
                ]),
                Some(("b", "a")),
            ),
            (
                "having gone back to where everything began, nothing is left",
                record(&[("a", "b", Normal, PROMOTED), ("b", "a", Rollback, PROMOTED)]),
                None,
            ),
            (
                "an old version that was asked for by name is a new one",
                record(&[("a", "b", Normal, PROMOTED), ("b", "a", Normal, PROMOTED)]),
                Some(("a", "b")),
            ),
            (
                "what others rolled out in between has served",
                record(&[("a", "b", Normal, PROMOTED), ("x", "c", Normal, PROMOTED)]),
                Some(("c", "x")),
            ),
            (
                "a release that runs changes nothing yet",
                {
                    let mut all = record(&[("a", "b", Normal, PROMOTED), ("b", "c", Normal, PROMOTED)]);
                    all[0].state.phase = Phase::Waiting;
                    all
                },
                Some(("b", "a")),
            ),
        ];
        for (what, releases, expected) in cases {
            assert_eq!(before_the_present(&releases), expected, "{what}");
        }
    }

    #[test]
    fn what_a_person_has_aborted_waits_for_a_person() {
        let releases = record(&[("a", "b", Normal, Outcome::Aborted)]);
        let late = start() + SignedDuration::from_hours(100);
        let why = not_again(&releases, "b", late, "deployment/app -n shop").expect("it waits");
        assert_eq!(
            why,
            "release 1 of version b was aborted; a new revision is released, and `wade retry deployment/app -n shop` tries this one again"
        );
        assert_eq!(not_again(&releases, "c", late, ""), None, "another revision");
        let superseded = record(&[("a", "b", Normal, Outcome::Superseded)]);
        assert_eq!(not_again(&superseded, "b", late, ""), None);
        let later = record(&[("a", "b", Normal, Outcome::Aborted), ("a", "c", Normal, PROMOTED)]);
        assert_eq!(not_again(&later, "b", late, ""), None, "the world has moved on");
    }

    #[test]
    fn what_came_back_without_a_verdict_is_tried_again_less_and_less_often() {
        let once = ("a", "b", Normal, Outcome::Returned);
        let minutes = |times: usize| {
            let releases = record(&vec![once.clone(); times]);
            let ended = releases[0].ended.expect("it is over");
            let waits = |minutes: &i64| {
                let now = ended + SignedDuration::from_mins(*minutes);
                not_again(&releases, "b", now, "").is_some()
            };
            (0..100).take_while(waits).count()
        };
        assert_eq!([1, 2, 3, 5, 6, 10].map(minutes), [2, 4, 8, 32, 60, 60]);
    }
}

//! What is to be done about one Deployment now: a plain function of what is seen and what is remembered.
//!
//! It decides nothing about a release, only whether there should be one: the engine does the rest.

use super::fleet::{DeploymentSketch, PolicySketch};

/// How a change by others is kept from rolling out by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldMode {
    /// A policy in the API server pauses the Deployment in the very write that changes its template.
    Policy,
    /// The Deployment stays paused between releases.
    Paused,
}

/// What this process remembers about a Deployment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Somebody of this process works on it.
    pub busy: bool,
    /// The template that was looked at last, and what came of it.
    pub looked: Option<(String, Looked)>,
}

/// What came of looking at a template that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Looked {
    /// It is what serves already.
    Serves,
    /// It cannot begin yet: something else has to be over first, or an answer was missing.
    Waits,
    /// It was refused, for a reason that will not pass by waiting a moment.
    Refused,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing.
    Rest,
    /// Opt it in: from now on only a release puts its template into force. No pod is touched.
    Adopt,
    /// Opt it out: there is no Rollout about it any more.
    LetGo,
    /// Pause it until somebody changes its template.
    Pause,
    /// Let it go on: it is paused for a change that is not there any more.
    Resume,
    /// A template waits to be released.
    Release,
    /// A release holds it and nobody of this process carries it: see whether somebody else does.
    TakeUp,
}

/// What is to be done about a Deployment with these Rollouts about it.
pub fn next(policies: &[PolicySketch], deployment: &DeploymentSketch, memory: &Memory, mode: HoldMode) -> Next {
    if memory.busy {
        return Next::Rest;
    }
    if deployment.held {
        return Next::TakeUp;
    }
    let usable = matches!(policies, [one] if one.deployment.is_ok() && !one.leaving);
    if policies.iter().all(|policy| policy.leaving) && deployment.labelled {
        return Next::LetGo;
    }
    if !usable {
        return Next::Rest;
    }
    // In the middle of a rolling update there is nothing stable yet; what others began they may finish.
    let settled = deployment.complete || deployment.paused;
    if !deployment.labelled {
        return if settled { Next::Adopt } else { Next::Rest };
    }
    let looked = memory
        .looked
        .as_ref()
        .filter(|(template, _)| *template == deployment.template)
        .map(|(_, looked)| *looked);
    match (deployment.paused, looked, mode) {
        (true, None, _) => Next::Release,
        // Somebody who paused it by name wants it paused.
        (true, Some(Looked::Serves), HoldMode::Policy) if deployment.paused_by.is_none() || deployment.left_paused => {
            Next::Resume
        }
        (false, _, HoldMode::Paused) if deployment.complete && deployment.replicas > 0 => Next::Pause,
        _ => Next::Rest,
    }
}

#[cfg(test)]
mod tests {
    use super::super::fleet::At;
    use super::*;

    fn policy() -> PolicySketch {
        PolicySketch {
            at: At {
                namespace: "shop".to_owned(),
                name: "app".to_owned(),
            },
            uid: "u".to_owned(),
            generation: 1,
            deployment: Ok("app".to_owned()),
            status: Box::default(),
            leaving: false,
            group: None,
        }
    }

    fn deployment() -> DeploymentSketch {
        DeploymentSketch {
            uid: "d".to_owned(),
            paused: false,
            paused_by: None,
            held: false,
            left_paused: false,
            labelled: true,
            template: "t1".to_owned(),
            writer: None,
            complete: true,
            replicas: 3,
        }
    }

    fn looked(what: Looked) -> Memory {
        Memory {
            busy: false,
            looked: Some(("t1".to_owned(), what)),
        }
    }

    #[test]
    fn a_deployment_is_opted_in_when_it_stands_still() {
        let new = DeploymentSketch {
            labelled: false,
            ..deployment()
        };
        let rolling = DeploymentSketch {
            complete: false,
            ..new.clone()
        };
        let none = Memory::default();
        assert_eq!(next(&[policy()], &new, &none, HoldMode::Policy), Next::Adopt);
        assert_eq!(next(&[policy()], &rolling, &none, HoldMode::Policy), Next::Rest);
        assert_eq!(
            next(&[], &new, &none, HoldMode::Policy),
            Next::Rest,
            "nobody asks for it"
        );
    }

    #[test]
    fn a_template_that_waits_is_released_once() {
        let waits = DeploymentSketch {
            paused: true,
            complete: false,
            ..deployment()
        };
        let none = Memory::default();
        assert_eq!(next(&[policy()], &waits, &none, HoldMode::Policy), Next::Release);
        assert_eq!(
            next(&[policy()], &waits, &looked(Looked::Refused), HoldMode::Policy),
            Next::Rest
        );
        let another = DeploymentSketch {
            template: "t2".to_owned(),
            ..waits.clone()
        };
        assert_eq!(
            next(&[policy()], &another, &looked(Looked::Refused), HoldMode::Policy),
            Next::Release,
            "a new template is a new chance"
        );
        let busy = Memory {
            busy: true,
            looked: None,
        };
        assert_eq!(next(&[policy()], &waits, &busy, HoldMode::Policy), Next::Rest);
    }

    #[test]
    fn a_pause_without_a_change_is_lifted_unless_somebody_wants_it() {
        let paused = DeploymentSketch {
            paused: true,
            ..deployment()
        };
        let serves = looked(Looked::Serves);
        assert_eq!(next(&[policy()], &paused, &serves, HoldMode::Policy), Next::Resume);
        let by_hand = DeploymentSketch {
            paused_by: Some("kubectl-rollout".to_owned()),
            ..paused.clone()
        };
        assert_eq!(next(&[policy()], &by_hand, &serves, HoldMode::Policy), Next::Rest);
        let undone = DeploymentSketch {
            left_paused: true,
            paused_by: Some("wade".to_owned()),
            ..paused.clone()
        };
        assert_eq!(
            next(&[policy()], &undone, &serves, HoldMode::Policy),
            Next::Resume,
            "what Wade left paused has been put back where it belongs"
        );
        assert_eq!(
            next(&[policy()], &paused, &serves, HoldMode::Paused),
            Next::Rest,
            "paused between releases is how it is held there"
        );
    }

    #[test]
    fn without_a_policy_in_the_server_it_stays_paused_between_releases() {
        let none = Memory::default();
        assert_eq!(next(&[policy()], &deployment(), &none, HoldMode::Paused), Next::Pause);
        let rolling = DeploymentSketch {
            complete: false,
            ..deployment()
        };
        assert_eq!(next(&[policy()], &rolling, &none, HoldMode::Paused), Next::Rest);
        assert_eq!(next(&[policy()], &deployment(), &none, HoldMode::Policy), Next::Rest);
    }

    #[test]
    fn what_a_release_holds_is_looked_after_whatever_else() {
        let held = DeploymentSketch {
            held: true,
            paused: true,
            ..deployment()
        };
        assert_eq!(next(&[], &held, &Memory::default(), HoldMode::Policy), Next::TakeUp);
    }

    #[test]
    fn a_rollout_that_goes_lets_its_deployment_go() {
        let leaving = PolicySketch {
            leaving: true,
            ..policy()
        };
        let none = Memory::default();
        assert_eq!(next(&[leaving], &deployment(), &none, HoldMode::Policy), Next::LetGo);
        assert_eq!(next(&[], &deployment(), &none, HoldMode::Policy), Next::LetGo);
    }

    #[test]
    fn two_rollouts_about_one_deployment_do_nothing() {
        let none = Memory::default();
        let waits = DeploymentSketch {
            paused: true,
            ..deployment()
        };
        assert_eq!(next(&[policy(), policy()], &waits, &none, HoldMode::Policy), Next::Rest);
    }
}

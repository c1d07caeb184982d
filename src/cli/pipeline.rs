//! What the pipeline says about itself: commit, author and page, whether its deploy window is open, and how long it lasts.

use jiff::{SignedDuration, Timestamp};

use super::exit::Failure;
use crate::store::Pipeline;
use crate::telemetry::spans::TraceParent;

/// Reads the variables of GitLab CI, GitHub Actions, Jenkins, Drone and CircleCI. `variable` is the environment; an
/// empty value counts as none. Outside of these, and by hand, nothing is known but `TRACEPARENT`, which any tool that
/// traces pipelines may set; one that is not as W3C trace context wants it counts as none.
pub fn pipeline(variable: impl Fn(&str) -> Option<String>) -> Pipeline {
    let traceparent = variable("TRACEPARENT").filter(|text| TraceParent::read(text).is_some());
    Pipeline {
        traceparent: traceparent.map(|text| text.trim().to_owned()),
        ..of_the_ci(variable)
    }
}

fn of_the_ci(variable: impl Fn(&str) -> Option<String>) -> Pipeline {
    let get = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
    let on = |name: &str| get(name).is_some();
    if on("GITLAB_CI") {
        Pipeline {
            commit: get("CI_COMMIT_SHA"),
            author: get("CI_COMMIT_AUTHOR"),
            url: get("CI_PIPELINE_URL").or_else(|| get("CI_JOB_URL")),
            ..Pipeline::default()
        }
    } else if on("GITHUB_ACTIONS") {
        let page = || {
            let (server, repository, run) = (
                get("GITHUB_SERVER_URL")?,
                get("GITHUB_REPOSITORY")?,
                get("GITHUB_RUN_ID")?,
            );
            Some(format!("{server}/{repository}/actions/runs/{run}"))
        };
        Pipeline {
            commit: get("GITHUB_SHA"),
            author: get("GITHUB_ACTOR"),
            url: page(),
            ..Pipeline::default()
        }
    } else if on("JENKINS_URL") {
        Pipeline {
            commit: get("GIT_COMMIT"),
            author: get("CHANGE_AUTHOR").or_else(|| get("GIT_AUTHOR_NAME")),
            url: get("BUILD_URL"),
            ..Pipeline::default()
        }
    } else if on("DRONE") {
        Pipeline {
            commit: get("DRONE_COMMIT_SHA"),
            author: get("DRONE_COMMIT_AUTHOR"),
            url: get("DRONE_BUILD_LINK"),
            ..Pipeline::default()
        }
    } else if on("CIRCLECI") {
        Pipeline {
            commit: get("CIRCLE_SHA1"),
            author: get("CIRCLE_USERNAME"),
            url: get("CIRCLE_BUILD_URL"),
            ..Pipeline::default()
        }
    } else {
        Pipeline::default()
    }
}

/// Every variable that [`pipeline`] and [`deploy_window`] read, and where spans go: what a Job in the cluster is given of
/// them. Not `OTEL_EXPORTER_OTLP_HEADERS`: a token must not stand in a Job.
pub const VARIABLES: [&str; 29] = [
    "GITLAB_CI",
    "CI_COMMIT_SHA",
    "CI_COMMIT_AUTHOR",
    "CI_PIPELINE_URL",
    "CI_JOB_URL",
    "GITHUB_ACTIONS",
    "GITHUB_SERVER_URL",
    "GITHUB_REPOSITORY",
    "GITHUB_RUN_ID",
    "GITHUB_SHA",
    "GITHUB_ACTOR",
    "JENKINS_URL",
    "GIT_COMMIT",
    "CHANGE_AUTHOR",
    "GIT_AUTHOR_NAME",
    "BUILD_URL",
    "DRONE",
    "DRONE_COMMIT_SHA",
    "DRONE_COMMIT_AUTHOR",
    "DRONE_BUILD_LINK",
    "CIRCLECI",
    "CIRCLE_SHA1",
    "CIRCLE_USERNAME",
    "CIRCLE_BUILD_URL",
    "DEPLOY_WINDOW",
    "TRACEPARENT",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_SERVICE_NAME",
];

/// How long this job goes on, where the CI says it: GitLab does (`CI_JOB_TIMEOUT` in seconds, `CI_JOB_STARTED_AT`).
/// GitHub Actions, Jenkins, Drone and CircleCI have no such variable; there `--time-left` says it.
pub fn time_left(variable: impl Fn(&str) -> Option<String>, now: Timestamp) -> Option<SignedDuration> {
    variable("GITLAB_CI")?;
    let limit: i64 = variable("CI_JOB_TIMEOUT")?.trim().parse().ok()?;
    let limit = SignedDuration::from_secs(limit.max(0));
    let started = variable("CI_JOB_STARTED_AT").and_then(|at| at.trim().parse::<Timestamp>().ok());
    // A clock that runs ahead of GitLab's must not make the job longer than it is.
    let spent = started.map_or(SignedDuration::ZERO, |at| {
        now.duration_since(at).max(SignedDuration::ZERO)
    });
    Some(limit - spent)
}

/// What `DEPLOY_WINDOW` says; `None` if it is not set.
///
/// # Errors
/// Any word but `true` and `false`: a typo must not open a window, nor look as if it had been closed on purpose.
pub fn deploy_window(variable: impl Fn(&str) -> Option<String>) -> Result<Option<bool>, Failure> {
    match variable("DEPLOY_WINDOW").as_deref() {
        None => Ok(None),
        Some("true") => Ok(Some(true)),
        Some("false") => Ok(Some(false)),
        Some(other) => Err(Failure::usage(format!(
            "DEPLOY_WINDOW is `{other}`; set it to `true` or `false`, or unset it where no window applies"
        ))),
    }
}

/// The environment of this process; a value that is not UTF-8 counts as none.
pub fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Pipeline {
        pipeline(|name| {
            variables
                .iter()
                .find(|(own, _)| *own == name)
                .map(|(_, value)| (*value).to_owned())
        })
    }

    fn known(commit: &str, author: &str, url: &str) -> Pipeline {
        Pipeline {
            commit: Some(commit.to_owned()),
            author: Some(author.to_owned()),
            url: Some(url.to_owned()),
            ..Pipeline::default()
        }
    }

    #[test]
    fn each_ci_says_where_a_release_comes_from() {
        let cases = [
            [
                ("GITLAB_CI", "true"),
                ("CI_COMMIT_SHA", "3fa9"),
                ("CI_COMMIT_AUTHOR", "Ann <a@x>"),
                ("CI_PIPELINE_URL", "https://gl/1"),
            ],
            [
                ("JENKINS_URL", "https://j"),
                ("GIT_COMMIT", "3fa9"),
                ("GIT_AUTHOR_NAME", "Ann <a@x>"),
                ("BUILD_URL", "https://gl/1"),
            ],
            [
                ("DRONE", "true"),
                ("DRONE_COMMIT_SHA", "3fa9"),
                ("DRONE_COMMIT_AUTHOR", "Ann <a@x>"),
                ("DRONE_BUILD_LINK", "https://gl/1"),
            ],
            [
                ("CIRCLECI", "true"),
                ("CIRCLE_SHA1", "3fa9"),
                ("CIRCLE_USERNAME", "Ann <a@x>"),
                ("CIRCLE_BUILD_URL", "https://gl/1"),
            ],
        ];
        for variables in cases {
            assert_eq!(
                of(&variables),
                known("3fa9", "Ann <a@x>", "https://gl/1"),
                "{variables:?}"
            );
        }
        let github = [
            ("GITHUB_ACTIONS", "true"),
            ("GITHUB_SHA", "3fa9"),
            ("GITHUB_ACTOR", "ann"),
            ("GITHUB_SERVER_URL", "https://github.com"),
            ("GITHUB_REPOSITORY", "shop/checkout"),
            ("GITHUB_RUN_ID", "7"),
        ];
        assert_eq!(
            of(&github),
            known("3fa9", "ann", "https://github.com/shop/checkout/actions/runs/7")
        );
    }

    #[test]
    fn a_pipelines_span_is_known_everywhere_and_nonsense_is_nothing() {
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(of(&[("TRACEPARENT", parent)]).traceparent.as_deref(), Some(parent));
        let gitlab = of(&[
            ("GITLAB_CI", "true"),
            ("CI_COMMIT_SHA", "3fa9"),
            ("TRACEPARENT", parent),
        ]);
        assert_eq!(
            (gitlab.traceparent.as_deref(), gitlab.commit.as_deref()),
            (Some(parent), Some("3fa9"))
        );
        assert_eq!(of(&[("TRACEPARENT", "x; rm -rf")]), Pipeline::default());
    }

    #[test]
    fn by_hand_nothing_is_claimed_and_empty_is_nothing() {
        assert_eq!(of(&[("GIT_COMMIT", "3fa9")]), Pipeline::default());
        assert_eq!(
            of(&[("GITLAB_CI", "true"), ("CI_COMMIT_SHA", " ")]),
            Pipeline::default()
        );
    }

    #[test]
    fn the_time_left_is_the_limit_less_what_is_spent() {
        let now: Timestamp = "2026-03-01T12:10:00Z".parse().expect("a time");
        let left = |variables: &[(&str, &str)]| {
            let of = |name: &str| {
                variables
                    .iter()
                    .find(|(own, _)| *own == name)
                    .map(|(_, value)| (*value).to_owned())
            };
            time_left(of, now).map(|left| left.as_secs())
        };
        let gitlab = [
            ("GITLAB_CI", "true"),
            ("CI_JOB_TIMEOUT", "3600"),
            ("CI_JOB_STARTED_AT", "2026-03-01T12:00:00Z"),
        ];
        assert_eq!(left(&gitlab), Some(3000));
        assert_eq!(left(&gitlab[..2]), Some(3600), "the limit is all that is known");
        assert_eq!(left(&gitlab[1..]), None, "not GitLab's");
        let early = [gitlab[0], gitlab[1], ("CI_JOB_STARTED_AT", "2026-03-01T12:20:00Z")];
        assert_eq!(left(&early), Some(3600));
        let late = [gitlab[0], ("CI_JOB_TIMEOUT", "60"), gitlab[2]];
        assert_eq!(left(&late), Some(-540), "it should be over already");
        assert_eq!(left(&[gitlab[0], ("CI_JOB_TIMEOUT", "1h")]), None);
    }

    #[test]
    fn a_deploy_window_is_true_false_or_unset_and_nothing_else() {
        let window =
            |value: Option<&str>| deploy_window(|_| value.map(str::to_owned)).map_err(|failure| failure.exit as u8);
        assert_eq!(window(None), Ok(None));
        assert_eq!(window(Some("true")), Ok(Some(true)));
        assert_eq!(window(Some("false")), Ok(Some(false)));
        for wrong in ["", "TRUE", "yes", "1", "ture"] {
            assert_eq!(window(Some(wrong)), Err(2), "{wrong}");
        }
    }
}

//! What a release would meet, as a person reads it: a word in the margin, then sentences.

use super::numbers::clean;
use crate::cluster::check::{Check, Standing, Writer};

/// The width of the margin.
const MARGIN: usize = 13;

/// The whole check.
pub fn check(seen: &Check) -> String {
    let mut out = Page::default();
    let to = match &seen.canary {
        Some(canary) => format!("{} → {}", seen.stable, canary),
        None => format!("{}, any new version", seen.stable),
    };
    out.head(&format!(
        "{}   {}   {to}   {} pods",
        seen.deployment, seen.namespace, seen.replicas
    ));
    let services: Vec<String> = seen
        .services
        .iter()
        .map(|service| format!("{}{}", service.name, if service.headless { " (headless)" } else { "" }))
        .collect();
    out.say("services", &one_line(&services, "none selects the pods"));
    let routes: Vec<String> = seen
        .routes
        .iter()
        .map(|route| {
            let declared = if route.declared { ", canary declared in it" } else { "" };
            format!("{} {} → {}{declared}", route.kind, route.name, route.service)
        })
        .collect();
    out.say("routes", &one_line(&routes, "none: the share of pods is the split"));
    for line in &seen.not_canaried {
        out.say("not canaried", line);
    }
    out.say("isolation", &seen.isolation.why);
    for writer in &seen.writers {
        out.say("written by", &sentence(writer));
    }
    for line in seen.room.iter() {
        out.say("room", line);
    }
    for line in &seen.around {
        out.say("around", line);
    }
    out.say("metrics", &metrics(seen));
    out.say("history", &seen.metrics.history);
    out.say("judge", &seen.outlook);
    for (index, line) in seen.plan.lines().enumerate() {
        out.say(if index == 0 { "plan" } else { "" }, line);
    }
    for warning in &seen.warnings {
        out.say("note", warning);
    }
    for right in &seen.lacking.needed {
        out.say("missing", &format!("permission: {right}"));
    }
    for refusal in &seen.refusals {
        out.say("REFUSED", refusal);
    }
    let end = match seen.standing() {
        Standing::Ready => "a release may begin (exit 0)".to_owned(),
        Standing::Refused => "a release would be refused (exit 5)".to_owned(),
        Standing::NotPermitted => format!(
            "permissions are missing; `{}` prints the Role that gives them (exit 7)",
            seen.lacking.remedy(&seen.namespace)
        ),
    };
    out.say("", &end);
    out.0
}

#[derive(Default)]
struct Page(String);

impl Page {
    fn head(&mut self, text: &str) {
        self.0.push_str(&clean(text));
        self.0.push('\n');
    }

    /// A word once for the lines that belong to it.
    fn say(&mut self, word: &str, text: &str) {
        for (index, line) in text.lines().enumerate() {
            let word = if index == 0 { word } else { "" };
            self.0.push_str(format!("{word:<MARGIN$}{}", clean(line)).trim_end());
            self.0.push('\n');
        }
    }
}

fn one_line(parts: &[String], none: &str) -> String {
    if parts.is_empty() {
        none.to_owned()
    } else {
        parts.join(", ")
    }
}

fn sentence(writer: &Writer) -> String {
    let fights = if writer.puts_back {
        ", which puts it back by itself"
    } else {
        ""
    };
    format!(
        "{}: {} is written by {}{fights}; {}",
        writer.object, writer.field, writer.tool, writer.advice
    )
}

fn metrics(seen: &Check) -> String {
    let metrics = &seen.metrics;
    let mut parts = Vec::new();
    parts.extend(metrics.place.clone());
    if !metrics.names.is_empty() {
        parts.push(metrics.names.join(", "));
    }
    parts.extend(metrics.requests_per_second.map(|rate| format!("{rate:.1} requests/s")));
    parts.extend(metrics.why_not.clone());
    one_line(&parts, "none")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::check::{IsolationSeen, MetricsSeen, RouteSeen, ServiceSeen};
    use crate::cluster::rbac::{Lacking, Right};

    fn seen() -> Check {
        Check {
            deployment: "checkout".to_owned(),
            namespace: "shop".to_owned(),
            stable: "1.4.1".to_owned(),
            canary: Some("1.4.2".to_owned()),
            replicas: 4,
            services: [("checkout", false), ("checkout-peers", true)]
                .map(|(name, headless)| ServiceSeen {
                    name: name.to_owned(),
                    headless,
                })
                .to_vec(),
            routes: vec![RouteSeen {
                kind: "HTTPRoute".to_owned(),
                name: "web".to_owned(),
                service: "checkout".to_owned(),
                declared: false,
            }],
            not_canaried: vec!["calls straight to Service checkout".to_owned()],
            isolation: IsolationSeen {
                by: "label".to_owned(),
                why: "by label, app=checkout-canary".to_owned(),
            },
            writers: vec![Writer {
                object: "httproute web".to_owned(),
                field: "spec.rules".to_owned(),
                tool: "Argo CD".to_owned(),
                puts_back: true,
                advice: "let the Application leave it alone:\nspec:\n  ignoreDifferences: []".to_owned(),
            }],
            room: vec!["the quotas leave room for 4 more pods".to_owned()],
            around: vec!["PodDisruptionBudget checkout: the canary gets one of its own".to_owned()],
            metrics: MetricsSeen {
                place: Some(":8080/metrics".to_owned()),
                names: vec!["http_requests_total".to_owned()],
                requests_per_second: Some(1020.0),
                why_not: None,
                history: "none".to_owned(),
            },
            outlook: "a rise of x1.4 can be seen".to_owned(),
            plan: "checkout by careful\n  stage 1  5%\n".to_owned(),
            lacking: Lacking::default(),
            warnings: vec!["a warning".to_owned()],
            refusals: Vec::new(),
        }
    }

    #[test]
    fn a_check_as_a_person_reads_it() {
        insta::assert_snapshot!(check(&seen()));
    }

    #[test]
    fn its_last_line_says_how_it_ends() {
        let refused = Check {
            refusals: vec!["it is held already".to_owned()],
            canary: None,
            routes: Vec::new(),
            ..seen()
        };
        let text = check(&refused);
        assert!(
            text.ends_with("REFUSED      it is held already\n             a release would be refused (exit 5)\n"),
            "{text}"
        );
        assert!(
            text.starts_with("checkout   shop   1.4.1, any new version   4 pods\n"),
            "{text}"
        );
        let right = Right {
            verb: "patch".to_owned(),
            group: "apps".to_owned(),
            resource: "deployments".to_owned(),
            name: None,
        };
        let forbidden = Check {
            lacking: Lacking {
                needed: vec![right],
                ..Lacking::default()
            },
            ..refused
        };
        let text = check(&forbidden);
        assert!(
            text.contains("missing      permission: patch deployments.apps\n"),
            "{text}"
        );
        assert!(text.ends_with("(exit 7)\n"), "missing permissions come first: {text}");
    }
}

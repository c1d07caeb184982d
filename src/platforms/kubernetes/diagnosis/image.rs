//! Images that cannot be pulled: not there, not allowed, or nobody answers. The texts are containerd's and the
//! registries'; the kubelet passes them on.

use serde_json::Value;

use super::text::clip;
use super::{Finding, Problem, Seen, when};
use crate::apiserver::value::{list, number, text};

/// So many failed tries, and a registry that cannot be reached is not waited for any longer (about 30 s).
const TRIES: u64 = 3;

/// Words of a registry that did not answer, or not in a way that says anything of the image.
const UNREACHABLE: [&str; 12] = [
    "dial tcp",
    "i/o timeout",
    "connection refused",
    "connection reset",
    "no such host",
    "TLS handshake",
    "x509",
    "deadline exceeded",
    "Too Many Requests",
    "toomanyrequests",
    "500 Internal Server Error",
    "503 Service Unavailable",
];
/// Words of a registry that wants to know who asks.
const FORBIDDEN: [&str; 8] = [
    "401 Unauthorized",
    "403 Forbidden",
    "unauthorized",
    "pull access denied",
    "denied:",
    "no basic auth credentials",
    "authorization failed",
    "authentication required",
];
/// Words of a registry that has no such image.
const NOT_FOUND: [&str; 4] = ["not found", "NotFound", "manifest unknown", "no match for platform"];

/// What a container that waits for its image waits for.
pub(super) fn pulling(seen: &Seen<'_>, status: &Value, reason: &str, message: &str) -> Option<Finding> {
    let object = seen.container_named(status);
    let container = seen.spec_of(text(status, "/name"));
    let image = match text(container, "/image") {
        "" => text(status, "/image"),
        image => image,
    };
    match reason {
        "InvalidImageName" => {
            let what = format!("has an image that is none, `{image}`");
            let advice = "write it as `registry.example/app:1.4.2`";
            Some(seen.find(Problem::InvalidImage, true, object, what, advice))
        }
        "ErrImageNeverPull" => {
            let what = format!("may not pull image {image} (imagePullPolicy Never), and its node does not have it");
            let advice = "load the image on every node, or set imagePullPolicy to IfNotPresent";
            Some(seen.find(Problem::ImageNotFound, true, object, what, advice))
        }
        "SignatureValidationFailed" => {
            let what = format!("may not run image {image}: {}", clip(message));
            Some(seen.find(
                Problem::ImagePull,
                true,
                object,
                what,
                "sign the image, or correct the node's policy",
            ))
        }
        "ErrImagePull" | "ImagePullBackOff" | "RegistryUnavailable" | "ImageInspectError" => {
            Some(refused(seen, object, image, reason, message))
        }
        _ => None,
    }
}

fn refused(seen: &Seen<'_>, object: String, image: &str, reason: &str, message: &str) -> Finding {
    // While it backs off, an older kubelet says only that; the event still has the registry's words.
    let failed = |event: &&&Value| text(event, "/message").starts_with("Failed to pull image");
    let event = seen.events.iter().filter(failed).max_by_key(|event| when(event));
    let told = event.map_or("", |event| text(event, "/message"));
    let detail = if message.contains(": ") { message } else { told };
    let has = |words: &[&str]| words.iter().any(|word| detail.contains(word));
    let why = clip(innermost(detail));
    if reason == "RegistryUnavailable" || has(&UNREACHABLE) {
        let tries = event.map_or(1, |event| {
            let counted = number(event, "/count").or_else(|| number(event, "/series/count"));
            counted.unwrap_or(1)
        });
        let what = format!("cannot pull image {image}, its registry cannot be reached: {why}");
        let advice = "look at the registry, and at the node's network and certificates";
        return seen.find(Problem::RegistryUnreachable, tries >= TRIES, object, what, advice);
    }
    if has(&FORBIDDEN) {
        return forbidden(seen, object, image, &why);
    }
    if has(&NOT_FOUND) {
        let what = format!("cannot pull image {image}, the registry does not have it: {why}");
        let advice = "look at the tag, and whether the pipeline has pushed it for the nodes' architecture";
        return seen.find(Problem::ImageNotFound, true, object, what, advice);
    }
    let what = format!("cannot pull image {image}: {why}");
    seen.find(
        Problem::ImagePull,
        false,
        object,
        what,
        "the kubelet tries again; look at the registry",
    )
}

/// The registry's own words, without those of everybody who passed them on.
fn innermost(detail: &str) -> &str {
    let from = ["failed to resolve reference ", "desc = "].iter().find_map(|head| {
        let rest = &detail[detail.rfind(head)? + head.len()..];
        Some(rest.split_once("\": ").map_or(rest, |(_, words)| words))
    });
    from.unwrap_or(detail)
}

fn forbidden(seen: &Seen<'_>, object: String, image: &str, why: &str) -> Finding {
    let secrets: Vec<&str> = list(seen.pod, "/spec/imagePullSecrets")
        .iter()
        .map(|one| text(one, "/name"))
        .collect();
    let lost = seen.event("FailedToRetrieveImagePullSecret").is_some();
    let (so, advice) = match (secrets.join(", "), lost) {
        (none, _) if none.is_empty() => (
            "and the pods name no pull secret".to_owned(),
            "add imagePullSecrets to the template or its ServiceAccount, or correct the repository's name",
        ),
        (names, true) => (
            format!("and pull secret {names} is not there"),
            "create it in this namespace",
        ),
        (names, false) => (
            format!("and does not accept pull secret {names}"),
            "renew the credentials in it, or correct the repository's name",
        ),
    };
    let what = format!("cannot pull image {image}, the registry refuses it {so}: {why}");
    seen.find(Problem::ImageForbidden, true, object, what, advice)
}

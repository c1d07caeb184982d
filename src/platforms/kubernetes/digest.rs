//! Which image a pod really runs: the digest that its tag meant when it was pulled, as the kubelet says.

use std::borrow::Borrow;
use std::collections::BTreeMap;

use serde_json::Value;

use crate::apiserver::value::{is_leaving, list, name, text};
use crate::engine::Diagnosis;

/// The digest of each container of a pod, as far as it is known yet.
pub fn running(pod: &Value) -> BTreeMap<String, String> {
    list(pod, "/status/containerStatuses")
        .iter()
        .chain(list(pod, "/status/initContainerStatuses"))
        .filter_map(|status| {
            let digest = digest(text(status, "/imageID"))?;
            Some((text(status, "/name").to_owned(), digest.to_owned()))
        })
        .collect()
}

/// The digest in a reference or an image's id: `sha256:…` of `registry/app@sha256:…`.
pub fn digest(reference: &str) -> Option<&str> {
    let digest = reference.rsplit_once('@').map_or(reference, |(_, digest)| digest);
    digest
        .contains(':')
        .then_some(digest)
        .filter(|digest| !digest.contains('/'))
}

/// That a pod runs something else than what was promoted elsewhere; nothing helps but the right image.
pub fn wrong<P: Borrow<Value>>(wanted: &BTreeMap<String, String>, pods: &[P]) -> Option<Diagnosis> {
    if wanted.is_empty() {
        return None;
    }
    let staying = pods.iter().map(Borrow::borrow).filter(|pod| !is_leaving(pod));
    staying.into_iter().find_map(|pod| {
        let running = running(pod);
        let (container, is, should) = wanted.iter().find_map(|(container, should)| {
            let is = running.get(container)?;
            (is != should).then_some((container, is, should))
        })?;
        Some(Diagnosis {
            kind: "otherImage".to_owned(),
            message: format!(
                "container {container} of pod {} runs {}, and what was promoted where this rollout requires it is {}: \
                 the tag has been moved, or it is another registry's; release the image that was promoted, by digest",
                name(pod),
                short(is),
                short(should)
            ),
            fatal: true,
        })
    })
}

/// Enough of a digest to tell it from another one.
fn short(digest: &str) -> &str {
    digest.get(..19).unwrap_or(digest)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_that_runs_another_digest_is_found_out() {
        let pod = |id: &str| json!({"metadata": {"name": "app-1"}, "status": {"containerStatuses": [{"name": "app", "imageID": id}]}});
        let wanted = BTreeMap::from([("app".to_owned(), "sha256:aaa".to_owned())]);
        assert_eq!(
            wrong(&wanted, &[pod("docker.io/x/app@sha256:aaa"), pod("sha256:aaa")]),
            None
        );
        assert_eq!(wrong(&wanted, &[pod("")]), None, "not pulled yet");
        let found = wrong(&wanted, &[pod("sha256:aaa"), pod("mirror/x/app@sha256:bbb")]).expect("another image");
        assert!(found.fatal && found.message.contains("sha256:bbb"), "{found:?}");
        assert_eq!(
            wrong(&BTreeMap::new(), &[pod("sha256:bbb")]),
            None,
            "nothing is required"
        );
    }
}

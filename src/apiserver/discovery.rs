//! What an API server offers: which kinds, in which versions.

use http::Method;

use super::{ApiError, ApiServer, Fault, parsed, request};
use crate::apiserver::value::{list, text};

impl ApiServer {
    /// Whether `plural` is served in `group/version`, as `admissionregistration.k8s.io/v1`.
    ///
    /// # Errors
    /// Not reachable, not permitted. A group that is not served at all is no error.
    pub async fn serves(&self, group_version: &str, plural: &str) -> Result<bool, ApiError> {
        let path = format!("/apis/{group_version}");
        let failed = |fault| ApiError::other("look up", format!("the kinds of {group_version}"), fault);
        let answer = match self.send("get", request(Method::GET, &path, None)).await {
            Ok(answer) => parsed(&answer).map_err(failed)?,
            Err(Fault::NotFound) => return Ok(false),
            Err(fault) => return Err(failed(fault)),
        };
        Ok(list(&answer, "/resources")
            .iter()
            .any(|kind| text(kind, "/name") == plural))
    }
}

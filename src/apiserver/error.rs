//! What can go wrong when the API server is asked.

/// A request that failed: what was tried, with what, and why it failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot {verb} {what}: {fault}{}", self.missing())]
pub struct ApiError {
    /// `get`, `patch`.
    pub verb: &'static str,
    /// `deployment app`.
    pub what: String,
    /// The permission it takes: verb and resource.
    pub needs: Option<(String, String)>,
    /// What came back.
    pub fault: Fault,
}

impl ApiError {
    /// A failure that no single permission would mend.
    pub fn other(verb: &'static str, what: impl Into<String>, fault: Fault) -> Self {
        Self {
            verb,
            what: what.into(),
            needs: None,
            fault,
        }
    }

    /// Whether a precondition did not hold: reading again and deciding again is the answer.
    pub fn is_conflict(&self) -> bool {
        matches!(self.fault, Fault::Conflict(_))
    }

    /// Whether there is no such object (or kind).
    pub fn is_not_found(&self) -> bool {
        self.fault == Fault::NotFound
    }

    /// Whether asking again later may help without anybody changing anything.
    pub fn is_passing(&self) -> bool {
        matches!(self.fault, Fault::Unreachable(_) | Fault::Conflict(_))
    }

    fn missing(&self) -> String {
        match (&self.fault, &self.needs) {
            (Fault::Forbidden(_), Some((verb, resource))) => {
                format!(" (missing permission: {verb} {resource}; `wade rbac` prints what is needed)")
            }
            _ => String::new(),
        }
    }
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// No answer, or one that says "later".
    #[error("{0}")]
    Unreachable(String),
    /// The credentials are not accepted, or do not permit it.
    #[error("not permitted: {0}")]
    Forbidden(String),
    /// There is no such object, or the cluster does not know the kind.
    #[error("not found")]
    NotFound,
    /// There is one of that name already.
    #[error("it exists already")]
    Exists,
    /// It has changed since it was read, or a test in the patch failed.
    #[error("it has been changed by somebody else in the meantime: {0}")]
    Conflict(String),
    /// The server, a quota or an admission policy refuses what it says.
    #[error("refused: {0}")]
    Refused(String),
    /// What came back could not be understood, or what was sent.
    #[error("{0}")]
    Invalid(String),
}

/// What the server says of a JSON patch that could not be carried out, a failed `test` included. It keeps the cause to
/// itself (`NewGenericServerResponse` in its errors.go); an object that it finds invalid is refused with other words.
const PATCH_FAILED: &str = "the server rejected our request due to an error in our request";

impl Fault {
    /// The stable word for it, as metrics say it.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Forbidden(_) => "forbidden",
            Self::NotFound => "notFound",
            Self::Exists => "exists",
            Self::Conflict(_) => "conflict",
            Self::Refused(_) => "refused",
            Self::Invalid(_) => "invalid",
        }
    }

    /// From a status as the API server writes it.
    pub fn of_status(code: u16, reason: &str, message: &str) -> Self {
        let message = message.to_owned();
        match (code, reason) {
            (409, "AlreadyExists") => Self::Exists,
            (409, _) => Self::Conflict(message),
            (422, _) if message == PATCH_FAILED => {
                Self::Conflict("a test in the patch failed, or what it changes is not there".to_owned())
            }
            (404, _) => Self::NotFound,
            (401, _) => Self::Forbidden(format!("the credentials were not accepted: {message}")),
            // A quota and an admission policy answer 403 as well; only the authorizer says who may not what.
            (403, _) if message.contains(" cannot ") => Self::Forbidden(message),
            (403, _) => Self::Refused(message),
            (429 | 500 | 502 | 503 | 504, _) => Self::Unreachable(format!("{code} {message}")),
            _ => Self::Refused(message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_permission_names_verb_and_resource() {
        let message = "deployments.apps \"app\" is forbidden: User \"ci\" cannot patch resource \"deployments\"";
        let error = ApiError {
            verb: "patch",
            what: "deployment app".to_owned(),
            needs: Some(("patch".to_owned(), "deployments.apps".to_owned())),
            fault: Fault::of_status(403, "Forbidden", message),
        };
        assert!(
            error.to_string().contains("missing permission: patch deployments.apps"),
            "{error}"
        );
    }

    #[test]
    fn a_failed_test_in_a_patch_is_a_conflict_and_an_invalid_object_is_not() {
        let patched = Fault::of_status(
            422,
            "Invalid",
            "the server rejected our request due to an error in our request",
        );
        assert!(matches!(patched, Fault::Conflict(_)), "{patched:?}");
        let invalid = Fault::of_status(422, "Invalid", "ConfigMap \"x\" is invalid: []: Too long");
        assert!(matches!(invalid, Fault::Refused(_)), "{invalid:?}");
    }

    #[test]
    fn a_quota_is_a_refusal_and_not_a_missing_permission() {
        let message =
            "pods \"x\" is forbidden: exceeded quota: small, requested: pods=1, used: pods=4, limited: pods=4";
        assert!(matches!(Fault::of_status(403, "Forbidden", message), Fault::Refused(_)));
    }
}

//! What a refusal by the running service, or none that answers, means to whoever asked it on the command line.

use super::{Exit, Failure, RESUME, causes};
use crate::{
    engine::Denial,
    hubspot::wire::status::BAD_REDIRECT_URI,
    socket::{ListenError, client::AskError},
};

/// `status` is not answered either then.
const AUDIT: &str =
    "See that the disk of the file in [audit] is not full; the service's own log says more.";

const NOT_GOOD: &str = "Nothing was stored. Have the customer connect the app again, and use the code at once and only once.";
pub(super) const REDIRECT: &str = "Nothing was stored, and the code is not used up: give --redirect-uri exactly as the app had it when it asked for the code.";
const UNSAVED: &str =
    "Don't use the code again; `grantkeeper portal show` tells when it is stored.";
const LEAVING: &str = "Wait for the other order; `grantkeeper portal list` shows what came of it.";
const REPLACED: &str = "Look at the grant that is stored now (`grantkeeper portal show`), and remove it if you mean that one.";
const STORE_DENIED: &str = "Allow the service to remove records of portals (docs/policies, the agent's), then remove it again.";
const NOT_REMOVED: &str = "Remove it again when the store is back.";
const TOO_SOON: &str = "Wait as long as it says, then ask again.";

impl From<Denial> for Failure {
    fn from(denial: Denial) -> Self {
        let (exit, hint) = match denial {
            Denial::Forbidden | Denial::NotYours(_) => (
                Exit::Refused,
                "Run it as the service's own user, or add an [[access]] entry for this one.",
            ),
            Denial::UnknownPortal => {
                (Exit::NotFound, "`grantkeeper portal list` shows the portals there are.")
            }
            Denial::UnknownIncident | Denial::UnknownReceiver => {
                (Exit::NotFound, "`grantkeeper alert list` shows what there is.")
            }
            Denial::BadRequest(_) => (
                Exit::Usage,
                "Change what the message names; `--help` says what the command takes.",
            ),
            Denial::Paused => (Exit::Failed, RESUME),
            Denial::Ended(_) => (
                Exit::NeedsPerson,
                "Ask the customer to connect the app again, then store the new refresh token.",
            ),
            Denial::AppRejected(_) => {
                (Exit::Invalid, "Correct the client secret: `grantkeeper rotate client-secret`.")
            }
            Denial::NoTokenYet(_) | Denial::HubspotUnreachable(_) | Denial::StoreUnreachable(_) => {
                (Exit::TryAgain, "Try again in a while; `grantkeeper status` says what is wrong.")
            }
            Denial::NotGood(_) => (Exit::NeedsPerson, NOT_GOOD),
            Denial::Unsaved { .. } => (Exit::TryAgain, UNSAVED),
            Denial::TooSoon(_) | Denial::TooMany(_) => (Exit::TryAgain, TOO_SOON),
            Denial::Leaving => (Exit::Failed, LEAVING),
            Denial::Replaced => (Exit::Failed, REPLACED),
            Denial::NotRemoved { denied: true, .. } => (Exit::Refused, STORE_DENIED),
            Denial::NotRemoved { denied: false, .. } => (Exit::TryAgain, NOT_REMOVED),
            Denial::AuditFailing => (Exit::TryAgain, AUDIT),
        };
        Self::new(exit, denial.code(), denial.to_string(), hint)
    }
}

impl From<AskError> for Failure {
    fn from(error: AskError) -> Self {
        let cause = causes(&error);
        let failure = match &error {
            AskError::Refused(problem) => {
                let (exit, code, hint) = match problem.code.as_str() {
                    "forbidden" => (
                        Exit::Refused,
                        "forbidden",
                        "Run it as the service's own user, or add an [[access]] entry for this one.",
                    ),
                    "unknown_portal" => (
                        Exit::NotFound,
                        "unknown_portal",
                        "`grantkeeper portal list` shows the portals there are.",
                    ),
                    "grant_revoked" => (
                        Exit::NeedsPerson,
                        "grant_revoked",
                        "Ask the customer to connect the app again, then store the new refresh token.",
                    ),
                    "app_rejected" => (
                        Exit::Invalid,
                        "app_rejected",
                        "Correct the client secret: `grantkeeper rotate client-secret`.",
                    ),
                    "portal_paused" => (Exit::Failed, "portal_paused", RESUME),
                    "bad_request" => (
                        Exit::Usage,
                        "bad_request",
                        "Change what the message names; `--help` says what the command takes.",
                    ),
                    "grant_not_good" if problem.detail.contains(BAD_REDIRECT_URI) => {
                        (Exit::Usage, "grant_not_good", REDIRECT)
                    }
                    "grant_not_good" => (Exit::NeedsPerson, "grant_not_good", NOT_GOOD),
                    "grant_unsaved" => (Exit::TryAgain, "grant_unsaved", UNSAVED),
                    "too_many_requests" => (Exit::TryAgain, "too_many_requests", TOO_SOON),
                    "audit_failing" => (Exit::TryAgain, "audit_failing", AUDIT),
                    "portal_leaving" => (Exit::Failed, "portal_leaving", LEAVING),
                    "record_replaced" => (Exit::Failed, "record_replaced", REPLACED),
                    "store_denied" => (Exit::Refused, "store_denied", STORE_DENIED),
                    _ if problem.retry_after.is_some() => (
                        Exit::TryAgain,
                        "try_again",
                        "Try again in a while; `grantkeeper status` says what is wrong.",
                    ),
                    _ => (Exit::Failed, "refused", "`grantkeeper status` says how the service is."),
                };
                let again =
                    problem.retry_after.map(|seconds| format!("; ask again in {seconds} s"));
                let again = again.unwrap_or_default();
                let (status, word) = (problem.status, &problem.code);
                Self::new(exit, code, problem.detail.clone(), hint)
                    .because(format!("the service answered {status} {word}{again}"))
            }
            AskError::Unreachable { source, .. }
                if source.kind() == std::io::ErrorKind::PermissionDenied =>
            {
                Self::new(
                    Exit::NoService,
                    "service_unreachable",
                    error.to_string(),
                    "This user may not open the socket: join the group it is given to (socket.group), or run it as the service's own user.",
                )
            }
            AskError::Unreachable { .. } => Self::new(
                Exit::NoService,
                "service_unreachable",
                error.to_string(),
                "Start it with `grantkeeper run`, or name its socket with --socket or GRANTKEEPER_SOCKET.",
            ),
            AskError::TooSlow => Self {
                // A code, for one, is used up by then.
                retryable: false,
                ..Self::new(
                    Exit::TryAgain,
                    "service_slow",
                    error.to_string(),
                    "`grantkeeper doctor` says whether it hangs. What was ordered may still be carried out: `grantkeeper portal list` shows what came of it; look before you order it again.",
                )
            },
            AskError::BrokeOff(_) | AskError::NotUnderstood(_) => Self::new(
                Exit::NoService,
                "service_unreachable",
                error.to_string(),
                "See the service's log, and that service and command are of the same version.",
            ),
        };
        Self { cause: cause.or(failure.cause), ..failure }
    }
}

impl From<ListenError> for Failure {
    fn from(error: ListenError) -> Self {
        let exit = match error {
            ListenError::NotASocket(_)
            | ListenError::NoFolder(_)
            | ListenError::Passed(_)
            | ListenError::OpenToAll(_) => Exit::Invalid,
            // Around a restart the former one may not have gone yet.
            ListenError::InUse(_) => Exit::TryAgain,
            ListenError::Io { .. } => Exit::Refused,
        };
        let cause = causes(&error);
        Self { cause, ..Self::new(exit, "socket", error.to_string(), error.hint()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_that_is_slow_is_not_called_unreachable_and_may_still_do_what_was_ordered() {
        let failure = Failure::from(AskError::TooSlow);
        assert_eq!((failure.exit, failure.code), (Exit::TryAgain, "service_slow"));
        assert!(!failure.retryable, "not before somebody has looked");
        assert!(failure.hint.contains("may still be carried out"), "{}", failure.hint);
    }
}

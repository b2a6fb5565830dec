//! What the AWS SDK says went wrong, sorted by AWS's own codes, never by HTTP status and never
//! formatted: the raw answer behind an error may hold the secret. Knows no records.

use std::error::Error;

use aws_sdk_secretsmanager::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
};

use crate::store::{StoreError, StoreErrorKind};

/// A call that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fault(pub(super) Cause);

/// Why, in the terms a decision needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    Missing,
    Exists,
    ScheduledForDeletion,
    BadParameter,
    NotAllowed,
    BadCredentials,
    NoCredentials,
    Kms,
    Throttled,
    TooManyVersions,
    Outage,
    TimedOut,
    NoConnection,
    Unknown,
}

impl Fault {
    pub(super) fn of<E>(error: &SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        Self(match error {
            // A refusal without a code is not AWS's own: an endpoint's policy, or a proxy.
            SdkError::ServiceError(answer)
                if answer.err().code().is_none() && answer.raw().status().as_u16() == 403 =>
            {
                Cause::NotAllowed
            }
            SdkError::ServiceError(answer) => of_code(answer.err().code()),
            SdkError::TimeoutError(_) => Cause::TimedOut,
            SdkError::DispatchFailure(failure) if failure.is_timeout() => Cause::TimedOut,
            SdkError::DispatchFailure(failure) if failure.is_io() => Cause::NoConnection,
            SdkError::DispatchFailure(_) | SdkError::ConstructionFailure(_) => {
                if speaks_of_credentials(error) {
                    Cause::NoCredentials
                } else {
                    Cause::NoConnection
                }
            }
            _ => Cause::Outage,
        })
    }

    /// The fault in our own words; `action` is the IAM action that `doing` needs on secret `name`.
    pub(super) fn explain(self, doing: &str, action: &str, name: &str) -> StoreError {
        use StoreErrorKind::{Conflict, Denied, Misconfigured, Missing, Unreachable};
        let (kind, why, hint) = match self.0 {
            Cause::Missing => (
                Missing,
                "there is no such secret",
                "See that `prefix` is right; else store it: `grantkeeper app set` for the app, `grantkeeper enroll` for a portal.",
            ),
            Cause::Exists => {
                (Conflict, "the secret is there already", "Read it again and decide anew.")
            }
            Cause::ScheduledForDeletion => (
                Missing,
                "the secret is scheduled for deletion",
                "If it is still wanted, bring it back: `aws secretsmanager restore-secret`.",
            ),
            Cause::BadParameter => (
                Misconfigured,
                "AWS does not accept the request",
                "See the prefix, the size of the record (64 KiB at most), and the region.",
            ),
            Cause::NotAllowed => {
                // A secret's ARN ends in six characters of AWS's own.
                let resource = match name {
                    "*" => "*".to_owned(),
                    name => format!("arn:aws:secretsmanager:*:*:secret:{name}-??????"),
                };
                let hint = format!(
                    "Add to the IAM policy of this role: {{\"Effect\": \"Allow\", \"Action\": \"secretsmanager:{action}\", \"Resource\": \"{resource}\"}}"
                );
                return StoreError::new(
                    Denied,
                    format!("{doing} failed: IAM does not allow it"),
                    hint,
                );
            }
            Cause::BadCredentials => (
                Denied,
                "AWS refuses the credentials: unknown, expired or wrongly signed",
                "Renew the credentials of this role or user, and see that the machine's clock is right.",
            ),
            Cause::NoCredentials => (
                Denied,
                "no AWS credentials could be had",
                "See with `aws sts get-caller-identity` what this user and environment get; give the service a role (instance, container or web identity), a profile, or AWS_ACCESS_KEY_ID with AWS_SECRET_ACCESS_KEY.",
            ),
            Cause::Kms => (
                Denied,
                "AWS can't use the KMS key of the secret",
                "Allow `kms:Decrypt` and `kms:GenerateDataKey` on that key, and see that it is enabled.",
            ),
            Cause::Throttled => (
                Unreachable,
                "AWS throttles the account's requests",
                "It passes by itself; spread large imports.",
            ),
            Cause::TooManyVersions => (
                Unreachable,
                "the secret has as many versions as AWS allows",
                "AWS drops old ones after a day; find out what else writes to it so often.",
            ),
            Cause::Outage => (
                Unreachable,
                "AWS Secrets Manager has trouble of its own",
                "It passes by itself; see the AWS health page.",
            ),
            Cause::TimedOut => (
                Unreachable,
                "AWS Secrets Manager did not answer in time",
                "See whether a firewall, a proxy or a missing VPC endpoint swallows the requests.",
            ),
            Cause::NoConnection => (
                Unreachable,
                "no connection to AWS Secrets Manager",
                "See the network, `store.aws.endpoint_url` and the region.",
            ),
            Cause::Unknown => (
                Unreachable,
                "AWS Secrets Manager answered with an error unknown to this version",
                "See CloudTrail for the request.",
            ),
        };
        StoreError::new(kind, format!("{doing} failed: {why}"), hint)
    }
}

fn of_code(code: Option<&str>) -> Cause {
    match code.unwrap_or_default() {
        "ResourceNotFoundException" => Cause::Missing,
        "ResourceExistsException" => Cause::Exists,
        // Of all its reasons, the one a caller of ours can meet.
        "InvalidRequestException" => Cause::ScheduledForDeletion,
        "InvalidParameterException"
        | "ValidationException"
        | "ValidationError"
        | "InvalidNextTokenException"
        | "PreconditionNotMetException" => Cause::BadParameter,
        "AccessDeniedException" | "AccessDenied" | "NotAuthorized" | "UnauthorizedOperation" => {
            Cause::NotAllowed
        }
        "UnrecognizedClientException"
        | "InvalidClientTokenId"
        | "InvalidSignatureException"
        | "SignatureDoesNotMatch"
        | "IncompleteSignature"
        | "ExpiredToken"
        | "ExpiredTokenException"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException"
        | "RequestExpired"
        | "OptInRequired" => Cause::BadCredentials,
        "DecryptionFailure" | "EncryptionFailure" => Cause::Kms,
        "ThrottlingException"
        | "Throttling"
        | "RequestLimitExceeded"
        | "TooManyRequestsException"
        | "SlowDown" => Cause::Throttled,
        "LimitExceededException" => Cause::TooManyVersions,
        "InternalServiceError"
        | "InternalServiceErrorException"
        | "InternalFailure"
        | "ServiceUnavailable"
        | "ServiceUnavailableException" => Cause::Outage,
        _ => Cause::Unknown,
    }
}

/// The type of that error belongs to a crate of the SDK's own; its words decide, and are not shown.
fn speaks_of_credentials(error: &dyn Error) -> bool {
    let mut cause = error.source();
    while let Some(inner) = cause {
        let said = inner.to_string();
        if said.contains("credential") || said.contains("identity") {
            return true;
        }
        cause = inner.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_sorted_by_what_follows_from_them() {
        for (code, kind) in [
            ("ResourceNotFoundException", "missing"),
            ("ResourceExistsException", "conflict"),
            ("InvalidRequestException", "missing"),
            ("AccessDeniedException", "denied"),
            ("ExpiredTokenException", "denied"),
            ("DecryptionFailure", "denied"),
            ("ThrottlingException", "unreachable"),
            ("InternalServiceError", "unreachable"),
            ("InvalidParameterException", "misconfigured"),
            ("SomethingNew", "unreachable"),
            ("", "unreachable"),
        ] {
            let error = Fault(of_code(Some(code))).explain(
                "reading `client`",
                "GetSecretValue",
                "p/client",
            );
            assert_eq!(error.kind.as_str(), kind, "{code}");
            assert!(error.what.starts_with("reading `client` failed: "), "{error}");
        }
    }
}

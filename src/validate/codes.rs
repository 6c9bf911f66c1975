//! The codes of the findings this room makes, each with what it means.

use crate::model::Code;

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $constant:ident = $name:literal,)+) => {
        $($(#[doc = $doc])+ pub const $constant: Code = Code::new($name);)+

        /// Every code of this room, with its explanation.
        pub const ALL: &[(Code, &str)] = &[$(($constant, concat!($($doc,)+)),)+];
    };
}

codes! {
    /// `apiVersion` is none that this Plumb knows.
    UNKNOWN_VERSION = "UnknownVersion",
    /// `kind` is none that this Plumb knows.
    UNKNOWN_KIND = "UnknownKind",
    /// A field that must be there is not.
    MISSING_FIELD = "MissingField",
    /// A field that the kind does not have.
    UNKNOWN_FIELD = "UnknownField",
    /// A value that the field cannot take.
    INVALID_VALUE = "InvalidValue",
    /// An annotation below plumb.dev/ that does not exist.
    UNKNOWN_ANNOTATION = "UnknownAnnotation",
    /// An annotation of Plumb with a value it cannot take.
    INVALID_ANNOTATION = "InvalidAnnotation",
    /// A role that is called like the owning role.
    RESERVED_ROLE = "ReservedRole",
    /// A list names the same member twice.
    DUPLICATE_MEMBER = "DuplicateMember",
    /// The path and the metadata name different environments.
    ENVIRONMENT_MISMATCH = "EnvironmentMismatch",
    /// Nothing says which environment a resource belongs to.
    ENVIRONMENT_MISSING = "EnvironmentMissing",
    /// The environment is none of the tenant's, or of any tenant.
    UNKNOWN_ENVIRONMENT = "UnknownEnvironment",
    /// Two documents describe the same resource.
    DUPLICATE_RESOURCE = "DuplicateResource",
    /// Two resources, or two spellings of a member, compute to one name on one provider.
    NAME_COLLISION = "NameCollision",
    /// The platform has no such Provider.
    PROVIDER_MISSING = "ProviderMissing",
    /// The resource names no Provider, and not exactly one serves its kind there.
    NO_DEFAULT_PROVIDER = "NoDefaultProvider",
    /// The tenant may not use the Provider.
    PROVIDER_NOT_ALLOWED = "ProviderNotAllowed",
    /// The Provider cannot do what is asked.
    UNSUPPORTED_BY_PROVIDER = "UnsupportedByProvider",
    /// `dependsOn` names a resource that is not there.
    DEPENDENCY_MISSING = "DependencyMissing",
    /// Resources depend on each other in a circle.
    DEPENDENCY_CYCLE = "DependencyCycle",
    /// A key prefix through which a tenant could reach another's keys.
    FOREIGN_KEY_PREFIX = "ForeignKeyPrefix",
    /// A kind of the platform repository in a tenant's, or the other way round.
    WRONG_REPOSITORY = "WrongRepository",
    /// More resources of a kind than the tenant may have.
    QUOTA_EXCEEDED = "QuotaExceeded",
    /// A policy denies the resource.
    POLICY_DENIED = "PolicyDenied",
    /// A policy warns of the resource.
    POLICY_WARNING = "PolicyWarning",
    /// A policy cannot be used.
    INVALID_POLICY = "InvalidPolicy",
    /// Two documents of the platform bear one name.
    DUPLICATE_NAME = "DuplicateName",
    /// An address that does not fit what it is the address of.
    INVALID_URL = "InvalidUrl",
    /// An address that carries a password.
    PASSWORD_IN_URL = "PasswordInUrl",
    /// A schedule that is no cron expression of five fields, or that never comes.
    INVALID_SCHEDULE = "InvalidSchedule",
    /// A time zone that does not exist.
    UNKNOWN_TIMEZONE = "UnknownTimezone",
    /// Two tenants read the same documents.
    OVERLAPPING_TENANTS = "OverlappingTenants",
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn codes_are_unique_and_explained() {
        let names: BTreeSet<_> = ALL.iter().map(|(code, _)| code).collect();
        assert_eq!(names.len(), ALL.len());
        for (code, explanation) in ALL {
            assert!(explanation.trim().ends_with('.'), "{code}");
        }
    }
}

//! The documents of the platform repository: who the tenants are, where things live, what is allowed.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::key::Kind;
use super::resource::DriftMode;

/// Who made an object: part of every mark. From `spec.id` of the Platform document, else the first twelve digits of
/// the platform repository's first commit, so that it outlives the state database.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PlatformId(pub String);

impl fmt::Display for PlatformId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Where a secret is read from. Never the secret itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum CredentialRef {
    /// The name of an environment variable of the Plumb process.
    Env(String),
    /// A file whose content, less a final line break, is the secret.
    File(PathBuf),
}

/// A length of time as people write it: `30s`, `10m`, `8h`, `30d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
#[schemars(transparent)]
pub struct Span(#[schemars(with = "String", regex(pattern = r"^[1-9][0-9]{0,6}(ms|s|m|h|d)$"))] pub Duration);

impl Serialize for Span {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}ms", self.0.as_millis()))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let span = parse_span(text).filter(|span| !span.is_zero());
        span.map(Self).ok_or_else(|| format!("{text:?} is no length of time; write one like 30s, 10m, 8h or 30d"))
    }
}

fn parse_span(text: &str) -> Option<Duration> {
    const UNITS: &[(&str, u64)] = &[("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let (_, millis) = UNITS.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*millis).map(Duration::from_millis)
}

/// `spec` of the Platform document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct PlatformSpec {
    /// The platform's id in every mark; must never change while it has resources.
    #[schemars(regex(pattern = r"^[a-z0-9][a-z0-9-]{2,31}$"))]
    pub id: Option<String>,
    /// How often each repository is asked for its head.
    pub poll_interval: Span,
    /// When live systems are scanned for drift.
    pub drift: DriftSchedule,
    /// From how many deletions on a person has to approve (R6).
    pub deletion_guard: Guard,
    /// When changes may be applied; always, when empty.
    pub windows: Vec<Window>,
    /// How long executions and their events are kept.
    pub retention: Span,
    /// How long the audit log is kept.
    pub audit_retention: Span,
    /// Whether repositories may be fetched over unencrypted http from other hosts than this one.
    pub allow_plain_http: bool,
}

impl Default for PlatformSpec {
    fn default() -> Self {
        Self {
            id: None,
            poll_interval: Span(Duration::from_secs(30)),
            drift: DriftSchedule::default(),
            deletion_guard: Guard::default(),
            windows: Vec::new(),
            retention: Span(Duration::from_secs(30 * 86_400)),
            audit_retention: Span(Duration::from_secs(400 * 86_400)),
            allow_plain_http: false,
        }
    }
}

/// When drift is looked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct DriftSchedule {
    /// Cron, five fields, UTC.
    pub schedule: String,
    /// Each tenant's scan is put off by up to this much, so that not all start at once.
    pub jitter: Span,
}

impl Default for DriftSchedule {
    fn default() -> Self {
        Self { schedule: "*/10 * * * *".to_owned(), jitter: Span(Duration::from_secs(60)) }
    }
}

/// The deletion guard (R6): held when more than `count` and more than `percent` of a tenant's resources go, or all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Guard {
    pub count: usize,
    #[schemars(range(max = 100))]
    pub percent: usize,
}

impl Default for Guard {
    fn default() -> Self {
        Self { count: 5, percent: 10 }
    }
}

/// A time in which changes are applied, or are not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Window {
    /// Whether changes are applied only in it (`allow`) or never in it (`deny`).
    pub mode: WindowMode,
    /// When it opens: cron, five fields, in `timezone`. Where clocks are changed, a time that is skipped counts as the
    /// moment after the change, and one that comes twice opens the window both times.
    pub schedule: String,
    /// How long it stays open, whatever clocks do meanwhile.
    pub duration: Span,
    /// The IANA name of the time zone that `schedule` is in, such as `Europe/Berlin`.
    #[serde(default = "default_timezone", skip_serializing_if = "is_default_timezone")]
    pub timezone: String,
    /// The environments that it speaks of; all, when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub environments: Vec<String>,
}

fn default_timezone() -> String {
    "UTC".to_owned()
}

fn is_default_timezone(name: &String) -> bool {
    *name == default_timezone()
}

/// What a window does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum WindowMode {
    Allow,
    Deny,
}

/// `spec` of a Tenant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TenantSpec {
    /// The team's repository.
    pub repository: Repository,
    /// The forge of that repository; inferred from the URL when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forge: Option<ForgeSpec>,
    /// The environments its resources may name.
    #[schemars(length(min = 1), inner(regex(pattern = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")))]
    pub environments: Vec<String>,
    /// The Providers it may use.
    pub providers: Vec<String>,
    /// How many resources of a kind it may have; no limit for kinds not named.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub quotas: BTreeMap<Kind, usize>,
    /// What is done about drift where the resource does not say.
    #[serde(default)]
    pub drift: DriftMode,
    /// What closing a proposal without merging it means.
    #[serde(default)]
    pub on_close: OnClose,
    /// Who answers for it; shown on the status page.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub owners: Vec<String>,
    /// Where nothing is written to live systems and nobody is asked about drift for now: everywhere (`true`), or in
    /// these environments. Looks, plans and drift scans go on.
    #[serde(default, skip_serializing_if = "Suspend::is_nothing")]
    pub suspend: Suspend,
    /// Why it is suspended; shown with whatever that holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 500))]
    pub suspend_reason: Option<String>,
    /// How many of its steps run at once.
    #[serde(default = "default_tenant_concurrency")]
    #[schemars(range(min = 1, max = 256))]
    pub max_concurrency: usize,
}

fn default_tenant_concurrency() -> usize {
    8
}

/// Where a tenant is suspended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Suspend {
    /// Everywhere, or nowhere.
    Everywhere(bool),
    /// In these environments.
    Environments(Vec<String>),
}

impl Default for Suspend {
    fn default() -> Self {
        Self::Everywhere(false)
    }
}

impl Suspend {
    /// Whether it speaks of `environment`.
    pub fn covers(&self, environment: &str) -> bool {
        match self {
            Self::Everywhere(all) => *all,
            Self::Environments(names) => names.iter().any(|name| name == environment),
        }
    }

    /// Whether nothing is suspended.
    pub fn is_nothing(&self) -> bool {
        match self {
            Self::Everywhere(all) => !all,
            Self::Environments(names) => names.is_empty(),
        }
    }
}

/// What closing a proposal without merging it means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnClose {
    /// Git's value is put back on the live system.
    #[default]
    Restore,
    /// The difference is left alone until it changes again.
    Ignore,
}

/// Where a git repository is and what of it is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Repository {
    /// https, ssh, or a path on this machine.
    #[schemars(length(min = 1))]
    pub url: String,
    /// The branch that is the truth.
    #[serde(default = "default_branch")]
    pub branch: String,
    /// The folder inside the repository; the whole of it when `.`.
    #[serde(default = "default_path")]
    pub path: String,
    /// The password or token for the remote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<CredentialRef>,
}

fn default_branch() -> String {
    "main".to_owned()
}

fn default_path() -> String {
    ".".to_owned()
}

/// The forge's API, apart from the git remote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ForgeSpec {
    #[serde(rename = "type")]
    pub forge_type: ForgeType,
}

/// Which forge a repository lives on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ForgeType {
    /// No forge API: the branch is the proposal.
    #[default]
    Git,
}

/// `spec` of a Provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(extend("dependentRequired" = {"readLogin": ["readCredentials"]}))]
pub struct ProviderSpec {
    /// What kind of system it is.
    #[serde(rename = "type")]
    pub provider_type: ProviderType,
    /// Where it is, with the login but never the password: `postgres://plumb@db:5432/postgres`,
    /// `redis://default@cache:6379`, `sqlite:///srv/databases` (a folder).
    #[schemars(length(min = 1))]
    pub url: String,
    /// The login's password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<CredentialRef>,
    /// What planning for a pull request may use instead of `credentials`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_credentials: Option<CredentialRef>,
    /// The login that `readCredentials` are of, where it is not the one in `url`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub read_login: Option<String>,
    /// The kinds and environments whose resources get this Provider when they name none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub serves: Vec<Serves>,
    /// How many steps run on it at once.
    #[serde(default = "default_provider_concurrency")]
    #[schemars(range(min = 1, max = 256))]
    pub max_concurrency: usize,
    /// How long one question to it may take. Long enough for `CREATE DATABASE` on a busy server, short enough that a
    /// stuck one is seen within a poll or two.
    #[serde(default = "default_provider_timeout")]
    pub timeout: Span,
    /// Confirms the identity of a server that was replaced on purpose (R11): the new one, as the finding shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
}

fn default_provider_concurrency() -> usize {
    8
}

fn default_provider_timeout() -> Span {
    Span(Duration::from_secs(30))
}

/// A kind, and the environments in which a Provider is its default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Serves {
    pub kind: Kind,
    /// All environments, when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub environments: Vec<String>,
}

impl Serves {
    /// Whether it speaks of `kind` in `environment`.
    pub fn covers(&self, kind: Kind, environment: &str) -> bool {
        self.kind == kind && (self.environments.is_empty() || self.environments.iter().any(|e| e == environment))
    }
}

/// The types of provider there is a manager for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProviderType {
    Postgres,
    Sqlite,
    Redis,
}

impl ProviderType {
    /// How `spec.type` spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            ProviderType::Postgres => "postgres",
            ProviderType::Sqlite => "sqlite",
            ProviderType::Redis => "redis",
        }
    }

    /// The longest name, in bytes, an object may have there: PostgreSQL's NAMEDATALEN less one; a file name less
    /// the ending; for Redis, which sets none, one that keeps `ACL LIST` readable.
    pub const fn name_limit(self) -> usize {
        match self {
            ProviderType::Postgres => 63,
            ProviderType::Sqlite => 200,
            ProviderType::Redis => 128,
        }
    }
}

impl fmt::Display for ProviderType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A revision of the platform repository that validated: what is in force.
#[derive(Clone, Debug, PartialEq)]
pub struct Platform {
    pub id: PlatformId,
    /// The commit it was read from; `None` for a working tree.
    pub commit: Option<String>,
    pub spec: PlatformSpec,
    pub tenants: BTreeMap<String, TenantSpec>,
    pub providers: BTreeMap<String, ProviderSpec>,
    /// Rego modules of the platform's own, by path.
    pub policies: BTreeMap<String, String>,
}

impl Platform {
    /// The provider a resource gets that names none: the one provider of the tenant that serves its kind there.
    ///
    /// # Errors
    /// The candidates' names, when there is none or more than one.
    pub fn default_provider(&self, tenant: &TenantSpec, kind: Kind, environment: &str) -> Result<&str, Vec<&str>> {
        let candidates: Vec<&str> = tenant
            .providers
            .iter()
            .filter_map(|name| self.providers.get_key_value(name))
            .filter(|(_, provider)| provider.serves.iter().any(|serves| serves.covers(kind, environment)))
            .map(|(name, _)| name.as_str())
            .collect();
        match candidates[..] {
            [one] => Ok(one),
            _ => Err(candidates),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_of_time_read_as_people_write_them() {
        assert_eq!(parse_span("30s"), Some(Duration::from_secs(30)));
        assert_eq!(parse_span("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(parse_span("2d"), Some(Duration::from_secs(172_800)));
        for text in ["", "s", "5", "5 s", "-5s", "5y", "99999999999999999999d"] {
            assert_eq!(parse_span(text), None, "{text}");
        }
    }
}

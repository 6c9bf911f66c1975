//! Why a resource is not as git says: one answer, the chain of what it waits for, down to the root.
//!
//! The command, the page and the API say the same, since all of them ask [`explain`]. It reads what was recorded and
//! guesses nothing.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

use super::facts::{Facts, scope_of, trailer};
use crate::model::{
    Circuit, Clock, ConditionStatus, ConditionType, Diagnostic, Place, Reason, ResourceKey, ResourceStatus,
};
use crate::store::{Store, StoreError, TenantState};

/// How many findings stand for a document that cannot be used.
const FINDINGS_SHOWN: usize = 3;

/// One answer to "why isn't this applied?".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    pub key: ResourceKey,
    /// Whether live is what git says.
    pub ready: ConditionStatus,
    /// The whole chain in one sentence.
    pub answer: String,
    /// The resource itself first, each one waiting for the next; the last is the root. Empty when nothing is waited for.
    pub chain: Vec<Cause>,
    /// What happens beside that, such as a look that is under way.
    pub notes: Vec<Cause>,
}

/// What a link of the chain is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SubjectKind {
    Resource,
    Provider,
    Tenant,
    Platform,
}

/// One link of the chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cause {
    pub kind: SubjectKind,
    /// A key, or a name.
    pub subject: String,
    pub reason: Reason,
    /// The rule about live data that it comes from.
    pub rule: Option<String>,
    pub message: String,
    /// What the reason means, in a sentence.
    pub explanation: String,
    pub since: Option<DateTime<Utc>>,
    /// When it goes on by itself: it is tried again, or a window opens.
    pub next_at: Option<DateTime<Utc>>,
    /// What a person can do, where the message does not say.
    pub help: Option<String>,
}

impl Cause {
    fn new(kind: SubjectKind, subject: impl Into<String>, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            kind,
            subject: subject.into(),
            reason,
            rule: reason.rule().map(str::to_owned),
            message: message.into(),
            explanation: reason.explain().trim().to_owned(),
            since: None,
            next_at: None,
            help: None,
        }
    }

    /// How a sentence names what it is about.
    pub fn name(&self) -> String {
        match self.kind {
            SubjectKind::Resource => self.subject.clone(),
            SubjectKind::Provider => format!("provider {}", self.subject),
            SubjectKind::Tenant => format!("tenant {}", self.subject),
            SubjectKind::Platform => "the platform".to_owned(),
        }
    }

    /// When it goes on by itself, where the message does not say so already.
    pub fn goes_on(&self) -> Option<String> {
        let next = self.next_at?.to_rfc3339_opts(SecondsFormat::Secs, true);
        (!self.message.contains(&next)).then(|| format!("tried again at {next}"))
    }
}

/// Explains how `key` stands; `None` when nothing is known of it, nor of its tenant.
///
/// # Errors
/// When the store does not answer.
pub async fn explain(
    store: &dyn Store,
    key: &ResourceKey,
    clock: &dyn Clock,
) -> Result<Option<Explanation>, StoreError> {
    let facts = match Facts::around(store, key).await? {
        Some(facts) => facts,
        None => Facts::load(store, scope_of(Some(&key.tenant))).await?,
    };
    let place = store.place(&key.tenant).await?;
    Ok(from_facts(&facts, place.as_ref(), key, clock.now()))
}

pub(super) fn from_facts(
    facts: &Facts,
    place: Option<&Place>,
    key: &ResourceKey,
    now: DateTime<Utc>,
) -> Option<Explanation> {
    let tenant = facts.tenants.get(&key.tenant);
    let status = facts.statuses.get(key);
    if tenant.is_none() && status.is_none() {
        return None;
    }
    let ready = status
        .and_then(|status| status.condition(ConditionType::Ready))
        .map_or(ConditionStatus::Unknown, |ready| ready.status);
    let chain = chain(facts, key, tenant);
    let mut notes = notes(facts, place, tenant, now);
    if let (Some(tenant), true) = (tenant, chain.is_empty())
        && let Some(unread) = unread(tenant)
    {
        // What git says now nobody knows.
        notes.retain(|note| *note != unread);
        let answer = answer_unread(key, tenant, ready, &unread);
        let ready = ConditionStatus::Unknown;
        return Some(Explanation { key: key.clone(), ready, answer, chain: vec![unread], notes });
    }
    let answer = answer(key, status, &chain);
    Some(Explanation { key: key.clone(), ready, answer, chain, notes })
}

/// Why git is not read for a tenant.
fn unread(tenant: &TenantState) -> Option<Cause> {
    let removed = || {
        let message = "it is not in the platform any more; its resources are frozen, and nobody looks at them";
        Cause::new(SubjectKind::Tenant, &tenant.tenant, Reason::TenantRemoved, message)
    };
    let failing = || (!tenant.error.is_empty()).then(|| unreadable(tenant));
    if tenant.removed { Some(removed()) } else { failing() }
}

/// What is known of a resource that nothing kept from being as git said when that was read last.
fn answer_unread(key: &ResourceKey, tenant: &TenantState, ready: ConditionStatus, unread: &Cause) -> String {
    let known = match (&tenant.head, ready) {
        (Some(head), ConditionStatus::True) => format!("it was at {head}, the last that was read"),
        (Some(head), ConditionStatus::False | ConditionStatus::Unknown) => format!("{head} is the last that was read"),
        (None, _) => "its repository was never read".to_owned(),
    };
    format!("it is not known whether {key} is as git says: {known}; {}: {}", unread.name(), unread.message)
}

/// The links from `key` to the root.
fn chain(facts: &Facts, key: &ResourceKey, tenant: Option<&TenantState>) -> Vec<Cause> {
    let mut chain = Vec::new();
    let mut seen = BTreeSet::new();
    let mut next = Some(key.clone());
    while let Some(key) = next.take().filter(|key| seen.insert(key.clone())) {
        let Some(status) = facts.statuses.get(&key) else {
            chain.extend(unknown_resource(facts, &key, tenant));
            break;
        };
        let Some(ready) = status.condition(ConditionType::Ready) else { break };
        if ready.status == ConditionStatus::True {
            chain.extend(drift_beside(facts, status));
            break;
        }
        let mut link = Cause::new(SubjectKind::Resource, key.to_string(), ready.reason, &ready.message);
        link.since = Some(ready.last_transition_time);
        // Somebody may have had it tried again since the status was written.
        link.next_at = next_try(facts, &key, ready.reason).or(status.until);
        link.help = help(facts, &key, ready.reason);
        let root = match ready.reason {
            Reason::DependencyNotReady => {
                next = waited_for(facts, status, &ready.message, &seen);
                None
            }
            Reason::CircuitOpen
            | Reason::ProviderUnreachable
            | Reason::TimedOut
            | Reason::AuthenticationFailed
            | Reason::CredentialMissing
            | Reason::ProviderMissing
            | Reason::ProviderIdentityChanged => {
                let root = provider(facts, &status.provider, ready.reason, &ready.message);
                Some(Cause { next_at: root.next_at.or(link.next_at), ..root })
            }
            Reason::InvalidManifest | Reason::UnreadableManifest => tenant.and_then(findings),
            _ => None,
        };
        chain.push(link);
        chain.extend(root);
    }
    chain
}

/// When a step that failed, for this reason or one that says so, is tried again.
fn next_try(facts: &Facts, key: &ResourceKey, reason: Reason) -> Option<DateTime<Utc>> {
    let attempt = facts.attempts.get(key)?;
    let is_of_it = reason == attempt.reason || matches!(reason, Reason::BackingOff | Reason::DeadLetter);
    attempt.next_at.filter(|_| is_of_it)
}

/// What a resource waits for: what was said when it was held, else what is not ready of what it needs, or of what needs
/// one that is to go.
fn waited_for(
    facts: &Facts,
    status: &ResourceStatus,
    message: &str,
    seen: &BTreeSet<ResourceKey>,
) -> Option<ResourceKey> {
    let needing = || {
        let others = facts.statuses.values().filter(|other| other.depends_on.contains(&status.key));
        others.map(|other| &other.key).find(|key| !is_ready(&facts.statuses, key) && !seen.contains(*key)).cloned()
    };
    named_or_needed(&facts.statuses, status, message, seen).or_else(needing)
}

/// The same, where it is named or needed: no other statuses than of those are asked.
pub(super) fn named_or_needed(
    statuses: &BTreeMap<ResourceKey, ResourceStatus>,
    status: &ResourceStatus,
    message: &str,
    seen: &BTreeSet<ResourceKey>,
) -> Option<ResourceKey> {
    let mut named = named(message).filter(|key| statuses.contains_key(key) && !seen.contains(key));
    let needed = || status.depends_on.iter().find(|key| !is_ready(statuses, key) && !seen.contains(*key)).cloned();
    named.next().or_else(needed)
}

/// The resources that a message speaks of.
pub(super) fn named(message: &str) -> impl Iterator<Item = ResourceKey> {
    message.split([' ', ',']).filter_map(|word| word.parse().ok())
}

fn is_ready(statuses: &BTreeMap<ResourceKey, ResourceStatus>, key: &ResourceKey) -> bool {
    let ready = statuses.get(key).and_then(|status| status.condition(ConditionType::Ready));
    ready.is_some_and(|ready| ready.status == ConditionStatus::True)
}

/// A resource of which no look has said anything.
fn unknown_resource(facts: &Facts, key: &ResourceKey, tenant: Option<&TenantState>) -> Vec<Cause> {
    let mut causes = Vec::new();
    let looked = tenant.and_then(|tenant| tenant.head.as_deref());
    let message = match (facts.strays.get(key), looked) {
        (Some(stray), _) => {
            format!("{} on {} bears its mark, and git does not speak of it", stray.object_name, stray.provider)
        }
        (None, Some(head)) => format!("git does not speak of it at {head}"),
        (None, None) => "its repository was not looked at yet".to_owned(),
    };
    let reason = match (facts.strays.get(key), looked) {
        (Some(_), _) => Reason::Orphaned,
        (None, Some(_)) => Reason::Gone,
        (None, None) => Reason::Pending,
    };
    causes.push(Cause::new(SubjectKind::Resource, key.to_string(), reason, message));
    causes.extend(tenant.filter(|tenant| !tenant.error.is_empty()).map(unreadable));
    causes.extend(tenant.and_then(findings));
    causes
}

/// A resource that is ready and differs all the same, which is only told.
fn drift_beside(facts: &Facts, status: &ResourceStatus) -> Option<Cause> {
    let drifted = status.condition(ConditionType::Drifted).filter(|drifted| drifted.status == ConditionStatus::True)?;
    let mut link = Cause::new(SubjectKind::Resource, status.key.to_string(), drifted.reason, &drifted.message);
    link.since = Some(drifted.last_transition_time);
    link.help = help(facts, &status.key, drifted.reason);
    Some(link)
}

fn provider(facts: &Facts, name: &str, reason: Reason, message: &str) -> Cause {
    // Silences from before say nothing of what it answers now.
    let silent = facts.circuits.get(name).filter(|c| reason == Reason::CircuitOpen || reason == c.reason);
    match silent {
        Some(Circuit { failures, reason, message, since, retry_at, .. }) => Cause {
            since: Some(*since),
            next_at: *retry_at,
            ..Cause::new(
                SubjectKind::Provider,
                name,
                *reason,
                format!("{message}; it did not answer {failures} times in a row"),
            )
        },
        None => Cause::new(SubjectKind::Provider, name, reason, message),
    }
}

/// The documents of a tenant that cannot be used.
fn findings(tenant: &TenantState) -> Option<Cause> {
    let errors: Vec<&Diagnostic> = tenant.findings.iter().filter(|finding| finding.is_error()).collect();
    if errors.is_empty() {
        return None;
    }
    let mut said: Vec<String> = errors.iter().take(FINDINGS_SHOWN).map(|finding| finding.located()).collect();
    if errors.len() > FINDINGS_SHOWN {
        said.push(format!("and {} more", errors.len() - FINDINGS_SHOWN));
    }
    let help = errors.iter().find_map(|finding| finding.help.clone());
    Some(Cause { help, ..Cause::new(SubjectKind::Tenant, &tenant.tenant, Reason::InvalidManifest, said.join("; ")) })
}

fn unreadable(tenant: &TenantState) -> Cause {
    Cause {
        since: Some(tenant.updated_at),
        ..Cause::new(SubjectKind::Tenant, &tenant.tenant, Reason::SourceUnavailable, &tenant.error)
    }
}

/// What a person can do, beyond what the message says.
fn help(facts: &Facts, key: &ResourceKey, reason: Reason) -> Option<String> {
    let approvals: Vec<String> = facts.held_for(key).map(|plan| format!("\"{}\"", trailer(plan))).collect();
    if !approvals.is_empty() {
        return Some(format!("A commit whose message ends with {} approves it.", approvals.join(" or ")));
    }
    let open = facts.proposals.get(key).filter(|proposal| proposal.status.is_undecided() && proposal.pushed.is_some());
    match (reason, open) {
        (Reason::DeadLetter, _) => Some(format!("plumb retry {key} tries it again now.")),
        (_, Some(proposal)) => {
            Some(format!("Merge {0} to accept what is live, delete {0} to restore git's.", proposal.branch))
        }
        (_, None) => None,
    }
}

/// What is going on around it.
fn notes(facts: &Facts, place: Option<&Place>, tenant: Option<&TenantState>, now: DateTime<Utc>) -> Vec<Cause> {
    let mut notes = Vec::new();
    if let Some(platform) = &facts.platform
        && let Some(rejected) = &platform.rejected
    {
        let message = format!("its head {rejected} does not validate; {} stays in force", platform.commit);
        notes.push(Cause::new(SubjectKind::Platform, "platform", Reason::InvalidManifest, message));
    }
    notes.extend(tenant.and_then(unread));
    notes.extend(tenant.filter(|tenant| tenant.removed && !tenant.error.is_empty()).map(unreadable));
    if let Some(place) = place {
        let of_tenant = |message: String| Cause::new(SubjectKind::Tenant, &place.tenant, Reason::Pending, message);
        let at = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Secs, true);
        if let (Some(holder), Some(since)) = (&place.holder, place.claimed_at) {
            let lease =
                place.lease_until.map(|until| format!(", with a lease until {}", at(until))).unwrap_or_default();
            notes.push(Cause { since: Some(since), ..of_tenant(format!("{holder} looks at it now{lease}")) });
        } else if let (Some(_), Some(due)) = (&place.asked, place.due) {
            let message = match due > now {
                true => format!("the next look is due at {}", at(due)),
                false => "a look is due; a replica that is free takes it".to_owned(),
            };
            notes.push(Cause { next_at: Some(due), ..of_tenant(message) });
        }
    }
    notes
}

/// The chain in one sentence.
fn answer(key: &ResourceKey, status: Option<&ResourceStatus>, chain: &[Cause]) -> String {
    let is_ready = status
        .and_then(|status| status.condition(ConditionType::Ready))
        .is_some_and(|ready| ready.status == ConditionStatus::True);
    let Some((last, before)) = chain.split_last() else {
        return match is_ready {
            true => format!("{key} is as git says"),
            false => format!("nothing is known that keeps {key} from being as git says"),
        };
    };
    if is_ready {
        return format!("{key} is ready, and differs: {}", last.message);
    }
    let mut sentence = format!("{key} is not as git says: ");
    let waited_for = before.iter().skip(1).chain((!before.is_empty()).then_some(last));
    let links: Vec<String> = waited_for.map(|link| format!("waits for {}", link.name())).collect();
    if !links.is_empty() {
        sentence.push_str(&format!("it {} ({}): ", links.join(", which "), last.reason));
    }
    sentence.push_str(&last.message);
    if let Some(when) = last.goes_on() {
        sentence.push_str(&format!("; {when}"));
    }
    sentence
}

//! Why a resource is not as git says: one answer, the chain of what it waits for, down to the root.
//!
//! The command, the page and the API say the same, since all of them ask [`explain`]. It reads what was recorded and
//! guesses nothing. What a list of things that wait says of one of them, and what a proposal says of its question, are
//! words of the same links.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

use super::attempt::{self, LetterState};
use super::facts::{Facts, scope_of, trailer};
use super::look::Around;
use crate::engine::attempts::times;
use crate::engine::{propose, status};
use crate::model::{
    Circuit, Clock, ConditionStatus, ConditionType, Diagnostic, Drift, DriftMode, DriftedField, Failure, Proposal,
    ProposalKind, ProposalStatus, ProposedField, Reason, ResourceKey, ResourceStatus, Saga,
};
use crate::store::{HeldPlan, PlatformState, Store, StoreError, TenantState};
use crate::validate::codes;
use crate::{diag, source};

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
    /// When it goes on by itself: it is tried again, a window opens, a lease ends.
    pub next_at: Option<DateTime<Utc>>,
    /// What a person can do, where the message does not say.
    pub help: Option<String>,
}

impl Cause {
    pub(super) fn new(
        kind: SubjectKind,
        subject: impl Into<String>,
        reason: Reason,
        message: impl Into<String>,
    ) -> Self {
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

    /// Why a person is asked about a drift, on `branch`. The commit of its proposal says this, and so do the page and
    /// `plumb explain`.
    pub(in crate::engine) fn of_drift(drift: &Drift, branch: &str) -> Self {
        let kind = if drift.missing { ProposalKind::Missing } else { ProposalKind::Drift };
        let reason = status::drift_reason(drift);
        Self {
            rule: rule_of(reason, drift.fields.iter().map(|field| field.base.is_some())),
            help: Some(how_to_decide(kind, &drift.key, branch)),
            ..Self::new(SubjectKind::Resource, drift.key.to_string(), reason, propose::sentence(drift))
        }
    }

    /// The same, of the question as it is out.
    pub(super) fn of_proposal(proposal: &Proposal) -> Self {
        let Proposal { key, kind, fields, branch, opened_at, .. } = proposal;
        let asked = fields.iter().map(|ProposedField { path, base, git, live }| DriftedField {
            path: path.clone(),
            conflict: base.is_none() || git != base,
            base: base.clone(),
            git: git.clone(),
            live: live.clone(),
        });
        let drift = Drift {
            key: key.clone(),
            mode: DriftMode::Propose,
            fields: asked.collect(),
            missing: *kind == ProposalKind::Missing,
            silenced: false,
        };
        Self { since: Some(*opened_at), ..Self::of_drift(&drift, branch) }
    }

    /// The reason, the rule, and what it means: the same words wherever they stand.
    pub fn why(&self) -> String {
        let rule = self.rule.as_ref().map(|rule| format!(" ({rule})")).unwrap_or_default();
        format!("{}{rule}: {}", self.reason, self.explanation)
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

    /// How a sentence goes on from a link to the next one.
    fn leads_to(&self, next: &Cause) -> String {
        match (self.reason, next.reason) {
            (_, Reason::LeaseHeld | Reason::LookDue) => format!("waits for a look at {}", next.name()),
            (_, Reason::LimitReached) => format!("waits for room on {}", next.name()),
            (Reason::RolledBack, _) => format!("is undone with {}", next.name()),
            (_, _) => format!("waits for {}", next.name()),
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
    let now = clock.now();
    let around = Around::of(store, key, now).await?;
    Ok(from_facts(&facts, &around, key, now))
}

pub(super) fn from_facts(facts: &Facts, around: &Around, key: &ResourceKey, now: DateTime<Utc>) -> Option<Explanation> {
    let tenant = facts.tenants.get(&key.tenant);
    let status = facts.statuses.get(key);
    if tenant.is_none() && status.is_none() && around.is_nothing() {
        return None;
    }
    let ready = status
        .and_then(|status| status.condition(ConditionType::Ready))
        .map_or(ConditionStatus::Unknown, |ready| ready.status);
    let mut chain = chain(facts, around, key, tenant);
    let mut notes = notes(facts, key, tenant);
    let provider = status.map(|status| status.provider.as_str()).filter(|provider| !provider.is_empty());
    let look = around.links(key, provider, now);
    if let (Some(tenant), true) = (tenant, chain.is_empty()) {
        let is_unread = unread(tenant);
        let is_news = || around.has_news() && !look.is_empty();
        if is_unread.is_some() || is_news() {
            // What git says now nobody knows.
            let chain = match is_unread {
                Some(unread) => {
                    notes.retain(|note| *note != unread);
                    notes.extend(look);
                    vec![unread]
                }
                None => look,
            };
            let answer = answer_unread(key, tenant, ready, &chain[0]);
            let ready = ConditionStatus::Unknown;
            return Some(Explanation { key: key.clone(), ready, answer, chain, notes });
        }
    }
    match ready != ConditionStatus::True && chain.last().is_some_and(|root| ends_with_a_look(root, around, now)) {
        true => chain.extend(look),
        false => notes.extend(look),
    }
    let answer = answer(key, status, &chain);
    Some(Explanation { key: key.clone(), ready, answer, chain, notes })
}

/// Whether the look that is asked for, or under way, is what comes next for whatever waits for `root`.
fn ends_with_a_look(root: &Cause, around: &Around, now: DateTime<Utc>) -> bool {
    // Whether a provider is back is asked beside looks.
    if root.kind == SubjectKind::Provider {
        return false;
    }
    let is_due = root.next_at.is_some_and(|next| next <= now);
    // What is new may be the way out, where that is no matter of time.
    let is_mended = around.has_news() && root.next_at.is_none();
    // What it waited for is there by now, or was only not come to.
    let waits_for_nothing_else =
        matches!(root.reason, Reason::Pending | Reason::DependencyNotReady | Reason::DependencyUnfinished);
    is_due || is_mended || waits_for_nothing_else
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
fn chain(facts: &Facts, around: &Around, key: &ResourceKey, tenant: Option<&TenantState>) -> Vec<Cause> {
    let mut chain = Vec::new();
    let mut seen = BTreeSet::new();
    let mut next = Some(key.clone());
    while let Some(key) = next.take().filter(|key| seen.insert(key.clone())) {
        let Some(status) = facts.statuses.get(&key) else {
            chain.extend(unknown_resource(facts, around, &key, tenant));
            break;
        };
        let Some(ready) = status.condition(ConditionType::Ready) else { break };
        if ready.status == ConditionStatus::True {
            chain.extend(drift_beside(facts, status));
            break;
        }
        let mut link = Cause::new(SubjectKind::Resource, key.to_string(), ready.reason, &ready.message);
        link.since = status.reason_since;
        // Somebody may have had it tried again since the status was written.
        link.next_at = next_try(facts, &key, ready.reason).or(status.until);
        link.rule =
            rule_of(ready.reason, has_bases(facts, &key)).or_else(|| rule_of_failure(facts, &key, ready.reason));
        link.help = help(facts, &key, ready.reason);
        let root = match ready.reason {
            Reason::DependencyNotReady | Reason::DependencyUnfinished => {
                next = waited_for(facts, status, &ready.message, &seen);
                Vec::new()
            }
            Reason::RolledBack => undone_with(facts, &key),
            Reason::CircuitOpen
            | Reason::ProviderUnreachable
            | Reason::TimedOut
            | Reason::AuthenticationFailed
            | Reason::CredentialMissing
            | Reason::ProviderMissing
            | Reason::ProviderIdentityChanged => {
                let root = provider(facts, &status.provider, ready.reason, &ready.message);
                vec![Cause { next_at: root.next_at.or(link.next_at), ..root }]
            }
            Reason::InvalidManifest | Reason::UnreadableManifest => {
                Vec::from_iter(tenant.and_then(|tenant| findings(tenant, &key, &ready.message, &status.file)))
            }
            _ => Vec::new(),
        };
        chain.push(link);
        chain.extend(root);
    }
    chain
}

/// The resource whose failure undid this one, where that is another, and its provider where that does not answer.
fn undone_with(facts: &Facts, key: &ResourceKey) -> Vec<Cause> {
    let failed = undoing(facts, key).map(|(_, failure)| failure).filter(|failure| failure.key != *key);
    let Some(Failure { key, provider: server, reason, message, failures, at }) = failed else { return Vec::new() };
    let link = Cause {
        since: Some(*at),
        help: Some(attempt::help(key, LetterState::Undone)),
        ..Cause::new(
            SubjectKind::Resource,
            key.to_string(),
            *reason,
            format!("{message}. It failed {}, for good", times(*failures)),
        )
    };
    let silent = facts.circuits.get(server).filter(|circuit| circuit.reason == *reason);
    let silent = silent.map(|circuit| provider(facts, server, circuit.reason, &circuit.message));
    std::iter::once(link).chain(silent).collect()
}

/// The change that was undone in the environment of a resource, and why.
fn undoing<'a>(facts: &'a Facts, key: &ResourceKey) -> Option<(&'a Saga, &'a Failure)> {
    let is_there = |saga: &&Saga| (&saga.tenant, &saga.environment) == (&key.tenant, &key.environment);
    facts.sagas.iter().filter(is_there).find_map(|saga| Some((saga, saga.failure.as_ref()?)))
}

/// The rule that a reason comes from. Both sides changed (R3), or nobody knows which: the base is lost (R4).
fn rule_of(reason: Reason, mut has_bases: impl Iterator<Item = bool>) -> Option<String> {
    let is_lost = reason == Reason::ConflictHeld && has_bases.any(|has_base| !has_base);
    let rule = if is_lost { Some("R4") } else { reason.rule() };
    rule.map(str::to_owned)
}

/// The rule that a failure comes from, of a resource whose reason only says that it failed.
fn rule_of_failure(facts: &Facts, key: &ResourceKey, reason: Reason) -> Option<String> {
    let failed = match reason {
        Reason::BackingOff | Reason::DeadLetter => facts.attempts.get(key).map(|attempt| attempt.reason),
        Reason::RolledBack => {
            undoing(facts, key).filter(|(_, failure)| failure.key == *key).map(|(_, failure)| failure.reason)
        }
        _ => None,
    };
    failed.and_then(Reason::rule).map(str::to_owned)
}

/// Whether the base is known, of each field that a person is asked about.
fn has_bases<'a>(facts: &'a Facts, key: &ResourceKey) -> impl Iterator<Item = bool> + use<'a> {
    let asked = facts.proposals.get(key).into_iter().flat_map(|proposal| &proposal.fields);
    asked.map(|ProposedField { base, .. }| base.is_some())
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
fn unknown_resource(facts: &Facts, around: &Around, key: &ResourceKey, tenant: Option<&TenantState>) -> Vec<Cause> {
    let mut causes = Vec::new();
    // The head is known before the look at it has ended.
    let looked = tenant.filter(|_| !around.is_looked_at()).and_then(|tenant| tenant.head.as_deref());
    let message = match (facts.orphans.get(key), looked) {
        (Some(stray), _) => {
            format!("{} on {} bears its mark, and git does not speak of it", stray.object_name, stray.provider)
        }
        (None, Some(head)) => format!("git does not speak of it at {head}"),
        (None, None) => "no look that has ended speaks of it".to_owned(),
    };
    let reason = match (facts.orphans.get(key), looked) {
        (Some(_), _) => Reason::Orphaned,
        (None, Some(_)) => Reason::Gone,
        (None, None) => Reason::Pending,
    };
    causes.push(Cause::new(SubjectKind::Resource, key.to_string(), reason, message));
    causes.extend(tenant.filter(|tenant| !tenant.error.is_empty()).map(unreadable));
    causes.extend(tenant.and_then(|tenant| findings_beside(tenant, key)));
    causes
}

/// A resource that is ready and differs all the same, which is only told.
fn drift_beside(facts: &Facts, status: &ResourceStatus) -> Option<Cause> {
    let drifted = status.condition(ConditionType::Drifted).filter(|drifted| drifted.status == ConditionStatus::True)?;
    let mut link = Cause::new(SubjectKind::Resource, status.key.to_string(), drifted.reason, &drifted.message);
    // That it is only told may have begun later than the drift: with that, it became ready.
    let ready = status.condition(ConditionType::Ready).map(|ready| ready.last_transition_time);
    link.since = ready.max(Some(drifted.last_transition_time));
    link.rule = rule_of(drifted.reason, has_bases(facts, &status.key));
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

/// What is wrong with the documents of a tenant: with those of `key`, where anything is, of which it was `said` why it cannot
/// be used, and which is in `file`; else with all. What speaks of the resource comes before what is in its file.
fn findings(tenant: &TenantState, key: &ResourceKey, said: &str, file: &str) -> Option<Cause> {
    let errors: Vec<&Diagnostic> = tenant.findings.iter().filter(|finding| finding.is_error()).collect();
    if errors.is_empty() {
        return None;
    }
    let is_of_it = |finding: &Diagnostic| finding.message == said || speaks_of(&finding.message, &key.to_string());
    let is_in_its_file =
        |finding: &Diagnostic| finding.files().any(|named| speaks_of(file, named) || speaks_of(said, named));
    let (own, others): (Vec<_>, Vec<_>) = errors.iter().copied().partition(|finding| is_of_it(finding));
    let own: Vec<&Diagnostic> = own.into_iter().chain(others.into_iter().filter(|one| is_in_its_file(one))).collect();
    let errors = if own.is_empty() { errors } else { own };
    let (said, help) = told(&errors);
    Some(Cause { help, ..Cause::new(SubjectKind::Tenant, &tenant.tenant, Reason::InvalidManifest, said) })
}

/// What is wrong with documents that may be the one of a resource that git does not speak of: they name it, or nobody can tell
/// which resource they are of. What is wrong with others is no reason.
fn findings_beside(tenant: &TenantState, key: &ResourceKey) -> Option<Cause> {
    let unread = || diag::codes::ALL.iter().map(|(code, _)| code).chain(source::ALL);
    let untold = [codes::UNKNOWN_KIND, codes::UNKNOWN_VERSION, codes::ENVIRONMENT_MISSING, codes::UNKNOWN_ENVIRONMENT];
    let may_be_it = |finding: &&Diagnostic| {
        speaks_of(&finding.message, &key.to_string())
            || finding.message.contains("metadata")
            || unread().chain(&untold).any(|code| *code == finding.code)
    };
    let errors: Vec<&Diagnostic> =
        tenant.findings.iter().filter(|finding| finding.is_error()).filter(may_be_it).collect();
    if errors.is_empty() {
        return None;
    }
    let (said, help) = told(&errors);
    Some(Cause { help, ..Cause::new(SubjectKind::Tenant, &tenant.tenant, Reason::InvalidManifest, said) })
}

/// The first findings in one line, and what to do about them.
fn told(errors: &[&Diagnostic]) -> (String, Option<String>) {
    let shown = || errors.iter().take(FINDINGS_SHOWN);
    let mut said: Vec<String> = shown().map(|finding| finding.located()).collect();
    if errors.len() > FINDINGS_SHOWN {
        said.push(format!("and {} more", errors.len() - FINDINGS_SHOWN));
    }
    (said.join("; "), shown().find_map(|finding| finding.help.clone()))
}

/// Whether a text names a file or a key, and not one whose name only begins or ends like it.
fn speaks_of(text: &str, name: &str) -> bool {
    let goes_on = |other: Option<char>| other.is_some_and(|other| other.is_alphanumeric() || "/_-".contains(other));
    !name.is_empty()
        && text
            .match_indices(name)
            .any(|(at, _)| !goes_on(text[..at].chars().next_back()) && !goes_on(text[at + name.len()..].chars().next()))
}

fn unreadable(tenant: &TenantState) -> Cause {
    Cause {
        since: Some(tenant.updated_at),
        ..Cause::new(SubjectKind::Tenant, &tenant.tenant, Reason::SourceUnavailable, &tenant.error)
    }
}

/// What a person can do, beyond what the message says.
pub(super) fn help(facts: &Facts, key: &ResourceKey, reason: Reason) -> Option<String> {
    let undoing = undoing(facts, key);
    let open = facts.proposals.get(key).filter(|proposal| proposal.status.is_undecided() && proposal.pushed.is_some());
    let way_out = match (reason, undoing, open) {
        (Reason::DeadLetter, Some((saga, _)), _) if saga.parts.contains_key(key) => {
            Some(attempt::help(key, LetterState::NotUndone))
        }
        (Reason::DeadLetter, _, _) => Some(attempt::help(key, LetterState::Failed)),
        (Reason::RolledBack, Some((_, failure)), _) => Some(attempt::help(&failure.key, LetterState::Undone)),
        (_, _, Some(proposal)) => Some(how_to_answer(facts, key, proposal)),
        (Reason::NotExpressible, _, None) => Some(
            "Change it back on the server, or let plumb do that: annotate the document with plumb.dev/drift: revert."
                .to_owned(),
        ),
        (_, _, None) => None,
    };
    let said: Vec<String> = approved_by(facts.held_for(key)).into_iter().chain(way_out).collect();
    (!said.is_empty()).then(|| said.join(" "))
}

/// The commit that lets held plans pass.
pub(super) fn approved_by<'a>(plans: impl Iterator<Item = &'a HeldPlan>) -> Option<String> {
    let lines: Vec<String> = plans.map(|plan| format!("\"{}\"", trailer(plan))).collect();
    (!lines.is_empty()).then(|| format!("A commit whose message ends with {} approves it.", lines.join(" or ")))
}

/// How a person answers the question about `key` on a branch.
pub(in crate::engine) fn how_to_decide(kind: ProposalKind, key: &ResourceKey, branch: &str) -> String {
    match kind {
        ProposalKind::Drift => format!("Merge {branch} to accept what is live, delete it to put git's value back."),
        ProposalKind::Missing => format!(
            "Merge {branch} to let go of it. To have it made again, empty, delete the branch and follow what `plumb \
             explain {key}` says."
        ),
    }
}

/// The same of a question that is out, which may be about what is not live any more: a person has committed to its branch,
/// or the remote takes no update of it.
fn how_to_answer(facts: &Facts, key: &ResourceKey, proposal: &Proposal) -> String {
    let Proposal { kind, fields, branch, .. } = proposal;
    let has_moved = |status: &ResourceStatus, field: &ProposedField| {
        status.desired.0.contains_key(&field.path) && status.live.0.get(&field.path) != field.live.as_ref()
    };
    let moved = facts.statuses.get(key).filter(|_| *kind == ProposalKind::Drift).map_or_else(Vec::new, |status| {
        fields.iter().filter(|field| has_moved(status, field)).map(propose::offered).collect::<Vec<_>>()
    });
    if moved.is_empty() {
        return how_to_decide(*kind, key, branch);
    }
    format!(
        "{branch} offers {}, which is not live any more: to merge it as it was offered, or to delete it, settles nothing, and \
         what is live is asked about then. Commit the live value to accept it, or a new one to have that applied.",
        moved.join(" and ")
    )
}

/// What is going on around it.
fn notes(facts: &Facts, key: &ResourceKey, tenant: Option<&TenantState>) -> Vec<Cause> {
    let mut notes = Vec::new();
    notes.extend(facts.platform.as_ref().and_then(refused));
    notes.extend(tenant.and_then(unread));
    notes.extend(tenant.filter(|tenant| tenant.removed && !tenant.error.is_empty()).map(unreadable));
    notes.extend(facts.proposals.get(key).and_then(no_answer));
    notes.extend(facts.statuses.get(key).and_then(warning));
    notes
}

/// A head of the platform repository that is not in force.
fn refused(platform: &PlatformState) -> Option<Cause> {
    let head = platform.rejected.as_ref()?;
    let errors: Vec<&Diagnostic> = platform.findings.iter().filter(|finding| finding.is_error()).collect();
    let (said, help) = told(&errors);
    let message = format!("its head {head} does not validate, and {} stays in force: {said}", platform.commit);
    Some(Cause { help, ..Cause::new(SubjectKind::Platform, "platform", Reason::InvalidManifest, message) })
}

/// What is told of a resource that is as git says all the same; the message has the way out.
fn warning(status: &ResourceStatus) -> Option<Cause> {
    let ready = status.condition(ConditionType::Ready).filter(|ready| ready.status == ConditionStatus::True)?;
    let is_warning =
        matches!(ready.reason, Reason::PasswordUnknown | Reason::LeftoverAdopt | Reason::DeletionProtected);
    is_warning.then(|| Cause {
        since: status.reason_since,
        ..Cause::new(SubjectKind::Resource, status.key.to_string(), ready.reason, &ready.message)
    })
}

/// What looked like the answer to an open question, and is none.
fn no_answer(proposal: &Proposal) -> Option<Cause> {
    let Proposal { key, status, failed, message, updated_at, .. } = proposal;
    let stands = matches!(status, ProposalStatus::Pending | ProposalStatus::Open) && !failed;
    (stands && !message.is_empty()).then(|| Cause {
        since: Some(*updated_at),
        ..Cause::new(SubjectKind::Resource, key.to_string(), Reason::NoAnswer, message)
    })
}

/// The chain in one sentence.
fn answer(key: &ResourceKey, status: Option<&ResourceStatus>, chain: &[Cause]) -> String {
    let is_ready = status
        .and_then(|status| status.condition(ConditionType::Ready))
        .is_some_and(|ready| ready.status == ConditionStatus::True);
    let Some(last) = chain.last() else {
        return match is_ready {
            true => format!("{key} is as git says"),
            false => format!("nothing is known that keeps {key} from being as git says"),
        };
    };
    if is_ready {
        return format!("{key} is ready, and differs: {}", last.message);
    }
    let mut sentence = format!("{key} is not as git says: ");
    let links: Vec<String> = chain.windows(2).map(|pair| pair[0].leads_to(&pair[1])).collect();
    if !links.is_empty() {
        sentence.push_str(&format!("it {} ({}): ", links.join(", which "), last.reason));
    }
    sentence.push_str(&last.message);
    if let Some(when) = last.goes_on() {
        sentence.push_str(&format!("; {when}"));
    }
    sentence
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Condition, Fields};
    use serde_json::json;

    #[test]
    fn whatever_a_rule_holds_names_it() {
        let key: ResourceKey = "checkout/staging/Database/orders".parse().unwrap();
        let at = DateTime::<Utc>::UNIX_EPOCH;
        let mut named = BTreeSet::new();
        for reason in Reason::ALL {
            let ready = Condition {
                condition_type: ConditionType::Ready,
                status: ConditionStatus::False,
                reason: *reason,
                message: "it is held".to_owned(),
                last_transition_time: at,
            };
            let status = ResourceStatus {
                key: key.clone(),
                revision: String::new(),
                provider: "pg".to_owned(),
                object_name: String::new(),
                depends_on: Vec::new(),
                conditions: vec![ready],
                reason_since: None,
                until: None,
                desired: Fields::new(),
                live: Fields::new(),
                outputs: BTreeMap::new(),
                file: String::new(),
                updated_at: at,
            };
            let facts = Facts::of_statuses(BTreeMap::from([(key.clone(), status)]));
            let explained = from_facts(&facts, &Around::default(), &key, at).expect("it has a status");
            let link = &explained.chain[0];
            assert_eq!((link.reason, link.rule.as_deref()), (*reason, reason.rule()));
            let words = reason.rule().map_or_else(|| format!("{reason}: "), |rule| format!("{reason} ({rule}): "));
            assert!(link.why().starts_with(&words), "{}", link.why());
            assert_eq!(serde_json::to_value(&explained).unwrap()["chain"][0]["rule"], json!(reason.rule()));
            named.extend(link.rule.clone());
        }
        assert_eq!(named, (1..=14).map(|number| format!("R{number}")).collect());
    }
}

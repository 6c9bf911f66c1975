//! Asks the policies about each resource, on all cores, and only about what has changed.

use std::sync::Arc;

use serde_json::Value;

use super::check::CheckedFile;
use super::codes;
use super::parallel::in_portions;
use super::policy::{Basis, Effect, Evaluator, PolicyFinding, PolicyInput, PolicySet, TenantInput, tenant_input};
use super::references::type_of;
use super::tenant::{Assembly, Entry, TenantCache, TenantContext};
use crate::model::{AppliedDocument, Diagnostic, ListShape, Platform, ProviderType, Resource};

/// What policies said of a resource, and of what exactly.
#[derive(Debug)]
pub(super) struct Judged {
    resource: Arc<Resource>,
    previous: Option<AppliedDocument>,
    frame: Arc<Frame>,
    provider_type: Option<ProviderType>,
    findings: Vec<PolicyFinding>,
    /// The findings where the file says what they are about.
    file: Arc<CheckedFile>,
    diagnostics: Vec<Diagnostic>,
}

/// What is the same for all resources of one assembly.
#[derive(Debug, PartialEq)]
struct Frame {
    policies: String,
    tenant: TenantInput,
}

/// Asks the policies and records what they say.
pub(super) fn ask_policies(assembly: &mut Assembly<'_>, cache: &mut TenantCache) {
    let cx = assembly.cx;
    let frame = frame(cx.policies, tenant_input(cx.tenant, cx.spec), cache);
    let open: Vec<usize> = (0..assembly.entries.len())
        .filter(|at| {
            let entry = &assembly.entries[*at];
            entry.is_usable() && !is_known(entry, cache, &frame, cx.previous.get(&entry.key), cx.platform)
        })
        .collect();
    let findings = ask_all(cx, &assembly.entries, &open, &frame);
    let mut fresh = open.into_iter().zip(findings).peekable();
    for at in 0..assembly.entries.len() {
        let entry = &assembly.entries[at];
        let Some(resource) = entry.resource.as_ref().filter(|_| entry.is_usable()) else { continue };
        let mut judged = match fresh.next_if(|(open, _)| *open == at) {
            Some((_, findings)) => Judged {
                resource: resource.clone(),
                previous: cx.previous.get(&entry.key).cloned(),
                frame: frame.clone(),
                provider_type: type_of(cx.platform, &resource.provider),
                diagnostics: findings.iter().map(|finding| diagnostic(entry, finding)).collect(),
                findings,
                file: entry.file.clone(),
            },
            None => match cache.kept.get_mut(&entry.key).and_then(|kept| kept.judged.take()) {
                Some(judged) => judged,
                None => continue,
            },
        };
        // The same document may stand elsewhere in its file by now.
        if !Arc::ptr_eq(&judged.file, entry.file) {
            judged.diagnostics = judged.findings.iter().map(|finding| diagnostic(entry, finding)).collect();
            judged.file = entry.file.clone();
        }
        let denials = judged.findings.iter().filter(|finding| finding.effect == Effect::Deny);
        let denials: Vec<String> = denials.map(|finding| format!("{}: {}", finding.policy, finding.message)).collect();
        if !denials.is_empty() {
            assembly.denied.insert(entry.key.clone(), denials.join("; "));
        }
        assembly.diagnostics.extend(judged.diagnostics.iter().cloned());
        keep(cache, &assembly.entries[at], judged);
    }
}

/// The frame of this assembly: the one already kept when it says the same, so that comparing is comparing pointers.
fn frame(policies: &PolicySet, tenant: TenantInput, cache: &TenantCache) -> Arc<Frame> {
    let frame = Frame { policies: policies.id().to_owned(), tenant };
    let kept = cache.kept.values().find_map(|kept| kept.judged.as_ref()).map(|judged| judged.frame.clone());
    kept.filter(|kept| **kept == frame).unwrap_or_else(|| Arc::new(frame))
}

fn is_known(
    entry: &Entry<'_>,
    cache: &TenantCache,
    frame: &Arc<Frame>,
    previous: Option<&AppliedDocument>,
    platform: Option<&Platform>,
) -> bool {
    let Some(judged) = cache.kept.get(&entry.key).and_then(|kept| kept.judged.as_ref()) else { return false };
    let Some(resource) = &entry.resource else { return false };
    let same_resource = Arc::ptr_eq(&judged.resource, resource)
        || (judged.resource.provider == resource.provider && judged.resource.document == resource.document);
    same_resource
        && Arc::ptr_eq(&judged.frame, frame)
        && judged.provider_type == type_of(platform, &resource.provider)
        && judged.previous.as_ref() == previous
        // What failed may do better this time.
        && judged.findings.iter().all(|finding| finding.basis == Basis::Answer)
}

fn ask_all(cx: &TenantContext<'_>, entries: &[Entry<'_>], open: &[usize], frame: &Frame) -> Vec<Vec<PolicyFinding>> {
    let ask = |evaluator: &mut Evaluator<'_>, at: &usize| {
        let entry = &entries[*at];
        let Some(resource) = &entry.resource else { return Vec::new() };
        let provider = type_of(cx.platform, &resource.provider).map(|kind| (resource.provider.as_str(), kind));
        let previous = cx.previous.get(&entry.key).map(|applied| match applied.is(&resource.document) {
            true => Arc::clone(&resource.document),
            false => Arc::new(applied.value()),
        });
        evaluator.evaluate(&PolicyInput {
            key: &entry.key,
            resource: &resource.document,
            previous: previous.as_deref(),
            tenant: &frame.tenant,
            provider,
        })
    };
    if open.is_empty() {
        return Vec::new();
    }
    let timeouts = cx.policies.timeouts();
    in_portions(open, || cx.policies.evaluator(&timeouts), ask)
}

fn keep(cache: &mut TenantCache, entry: &Entry<'_>, judged: Judged) {
    match cache.kept.get_mut(&entry.key) {
        Some(kept) => kept.judged = Some(judged),
        None => cache.remember(entry, judged),
    }
}

fn diagnostic(entry: &Entry<'_>, finding: &PolicyFinding) -> Diagnostic {
    let pointer = finding.path.as_deref().map_or_else(String::new, |path| pointer_of(entry, path));
    let span = entry.span(&pointer);
    let message = format!("{}: {}", finding.policy, finding.message);
    match finding.effect {
        Effect::Deny => Diagnostic::error(codes::POLICY_DENIED, &entry.file.file, message)
            .help("nothing is done to this resource until the policy is content"),
        Effect::Warn => {
            Diagnostic::warning(codes::POLICY_WARNING, &entry.file.file, message).help("a warning holds nothing back")
        }
    }
    .at(span)
}

/// The JSON pointer that a policy's `path` means: a pointer, or `spec.connectionLimit`; members of keyed lists by
/// their place or their name.
fn pointer_of(entry: &Entry<'_>, path: &str) -> String {
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{}", path.replace('.', "/")) };
    let mut pointer = String::new();
    let mut value = &*entry.document.value;
    for segment in path.split('/').skip(1) {
        let below = format!("{pointer}/{segment}");
        let name = segment.replace("~1", "/").replace("~0", "~");
        match value.pointer(&format!("/{segment}")) {
            Some(inner) => (pointer, value) = (below, inner),
            None => match member(entry, &pointer, value, &name) {
                Some((at, inner)) => (pointer, value) = (format!("{pointer}/{at}"), inner),
                None => break,
            },
        }
    }
    pointer
}

fn member<'a>(entry: &Entry<'_>, list: &str, value: &'a Value, name: &str) -> Option<(usize, &'a Value)> {
    let members = value.as_array()?;
    let key = match entry.key.kind.info().list(list) {
        Some(ListShape::Keyed(key)) => Some(key),
        Some(ListShape::Set) | None => None,
    };
    members.iter().enumerate().find(|(_, member)| {
        let named = key.map_or(Some(*member), |key| member.get(key));
        named.and_then(Value::as_str) == Some(name)
    })
}

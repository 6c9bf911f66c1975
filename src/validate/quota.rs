//! Quotas: how many resources of a kind a tenant may have. Over it, the new ones wait; nothing that is there goes.

use super::codes;
use super::suggest::list;
use super::tenant::Assembly;
use crate::model::{Diagnostic, Kind, ResourceKey, Severity};

/// Says which keys are over the quota. It rejects nothing: holding them back is the gate's.
pub(super) fn check(assembly: &mut Assembly<'_>) {
    let Some(spec) = assembly.cx.spec else { return };
    for (kind, quota) in &spec.quotas {
        if let Some(finding) = over(assembly, *kind, *quota) {
            assembly.diagnostics.push(finding);
        }
    }
}

fn over(assembly: &Assembly<'_>, kind: Kind, quota: usize) -> Option<Diagnostic> {
    /// How many keys a message names.
    const SHOWN: usize = 5;
    let of_kind = || assembly.entries.iter().filter(move |entry| entry.key.kind == kind);
    let count = of_kind().count();
    if count <= quota {
        return None;
    }
    let previous = assembly.cx.previous;
    let mut new: Vec<_> = of_kind().filter(|entry| !previous.contains_key(&entry.key)).collect();
    let room = quota.saturating_sub(count - new.len());
    let beyond = new.split_off(room.min(new.len()));
    let message =
        format!("the tenant {} has {count} resources of kind {kind}; its quota is {quota}", assembly.cx.tenant);
    let help = "remove some, or ask the platform to raise spec.quotas of the Tenant";
    let Some(first) = beyond.first() else {
        // The quota was lowered: what is there stays.
        let error = of_kind().next_back()?.error(codes::QUOTA_EXCEEDED, "/metadata/name", message);
        return Some(Diagnostic { severity: Severity::Warning, ..error }.help(help));
    };
    let mut keys: Vec<String> = beyond.iter().take(SHOWN).map(|entry| ResourceKey::to_string(&entry.key)).collect();
    if beyond.len() > SHOWN {
        keys.push(format!("{} more", beyond.len() - SHOWN));
    }
    let message = format!("{message}; over it {} {}", if keys.len() == 1 { "is" } else { "are" }, list(&keys));
    Some(first.error(codes::QUOTA_EXCEEDED, "/metadata/name", message).help(help))
}

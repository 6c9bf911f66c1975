//! What must hold of the audit log wherever Plumb was at work.

use std::collections::BTreeMap;

use plumb::model::{Event, EventKind, ResourceKey};
use plumb::store::Tx;
use plumb::store::audit::{AuditAction, AuditEntry, AuditFilter, ChainWalk};

/// All rows of the audit log, and what does not hold of its chains.
pub async fn chains(tx: &mut dyn Tx) -> (Vec<AuditEntry>, Vec<String>) {
    let all = AuditFilter { limit: u32::MAX, ..AuditFilter::default() };
    let rows = tx.audit(&all).await.expect("it answers");
    let mut broken = Vec::new();
    for head in tx.audit_heads().await.expect("it answers") {
        let chain = rows.iter().filter(|row| row.tenant == head.tenant);
        let mut walk = ChainWalk::from(head.clone());
        let walked = chain.map(|row| walk.step(row)).collect::<Result<Vec<()>, _>>().and_then(|_| walk.end());
        broken.extend(walked.err().map(|error| error.to_string()));
    }
    (rows, broken)
}

/// Each step that was begun has one row, however it ended, and also where nobody knows; one that is told to begin and is not
/// begun after all changes nothing. Gives what does not hold.
pub fn steps(events: &[Event], rows: &[AuditEntry]) -> Vec<String> {
    let mut counts: BTreeMap<&ResourceKey, (i32, i32)> = BTreeMap::new();
    for event in events {
        let begun = match &event.kind {
            EventKind::StepStarted { .. } => 1,
            EventKind::StepFailed { message, .. } if message.starts_with("not begun: ") => -1,
            _ => continue,
        };
        counts.entry(event.key.as_ref().expect("a step has one")).or_default().0 += begun;
    }
    for row in rows.iter().filter(|row| row.action == AuditAction::Change) {
        counts.entry(row.key.as_ref().expect("a step has one")).or_default().1 += 1;
    }
    let differing = counts.into_iter().filter(|(_, (begun, rows))| begun != rows);
    differing.map(|(key, (begun, rows))| format!("{begun} steps of {key} have {rows} rows in the audit log")).collect()
}

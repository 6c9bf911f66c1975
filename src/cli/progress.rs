//! What is happening, as lines on stderr while it happens.

use std::sync::Arc;

use crate::engine::Listener;
use crate::model::{Event, EventKind};

use super::args::Common;
use super::output::{Paint, count, readable};

/// A listener that prints what an apply does; silent with `--quiet`.
pub fn listener(common: &Common) -> Listener {
    if common.quiet {
        return Arc::new(|_| {});
    }
    let paint = Paint::stderr(common);
    let verbose = common.verbose > 0;
    Arc::new(move |event| {
        if let Some(line) = line(event, paint, verbose) {
            eprintln!("{line}");
        }
    })
}

/// The line of an event, if it is worth one.
pub fn line(event: &Event, paint: Paint, verbose: bool) -> Option<String> {
    let key = event.key.as_ref().map(|key| key.to_string()).unwrap_or_else(|| event.tenant.clone());
    let text = match &event.kind {
        // A command has read nothing before, so that all are new to it.
        EventKind::SourceRead { commit, files, changed: _ } => {
            let short = commit.get(..12).unwrap_or(commit);
            paint.dim(&format!("read {} at {short}", count(*files, "manifest")))
        }
        EventKind::SourceFailed { reason, message } => paint.red(&format!("{reason}: {message}")),
        EventKind::StepStarted { action, new_passwords, .. } => {
            let passwords = if new_passwords.is_empty() { "" } else { ", with new passwords" };
            paint.dim(&format!("{action}{passwords} ..."))
        }
        EventKind::StepDone { action, millis } => paint.green(&format!("{action} done in {millis} ms")),
        EventKind::StepFailed { action, reason, message, .. } => {
            paint.red(&format!("{action} failed, {reason}: {message}"))
        }
        EventKind::ProposalOpened { branch, .. } => paint.cyan(&format!("proposed on branch {branch}")),
        EventKind::ProposalUpdated { branch, .. } => paint.cyan(&format!("proposal updated on branch {branch}")),
        EventKind::ProposalDecided { status, message, .. } => paint.cyan(&if message.is_empty() {
            format!("proposal {status:?}")
        } else {
            format!("proposal {status:?}: {message}")
        }),
        EventKind::ProposalFailed { message, .. } => paint.red(&format!("proposal failed: {message}")),
        EventKind::Warning { reason, message } => paint.yellow(&format!("{reason}: {message}")),
        EventKind::RollbackStarted { keys, .. } => {
            paint.red(&format!("failed for good: what the commit did to {} resources is undone", keys.len()))
        }
        EventKind::DriftFound { reason, message } => paint.yellow(&format!("drift, {reason}: {message}")),
        EventKind::Invalid { .. }
        | EventKind::Planned { .. }
        | EventKind::Blocked { .. }
        | EventKind::Unknown { .. }
        | EventKind::Recorded { .. }
        | EventKind::SecretShown { .. }
        | EventKind::Unfamiliar => {
            // The result that follows says these.
            return verbose.then(|| paint.dim(&readable(&format!("{key}: {:?}", event.kind))));
        }
    };
    Some(format!("{}: {}", readable(&key), readable_with_colors(&text)))
}

/// Keeps the colours that `paint` put in; messages were made readable where they came in.
fn readable_with_colors(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\x1b' { ' ' } else { c }).collect()
}

//! What a proposal says to people.

use std::fmt::Write as _;

use crate::engine::view::Cause;
use crate::model::{Drift, DriftedField, FieldPath, LeftOut, ProposedField};

use super::About;

/// A value as people read it.
fn spoken(value: Option<&serde_json::Value>) -> String {
    match value {
        None => "absent".to_owned(),
        Some(serde_json::Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// `/spec/roles/app/access` as `roles.app.access`.
pub(super) fn spoken_path(path: &FieldPath) -> String {
    path.segments().into_iter().skip(1).collect::<Vec<_>>().join(".")
}

/// One line about a drift.
pub(in super::super) fn sentence(drift: &Drift) -> String {
    if drift.missing {
        return "the object is gone from the live system".to_owned();
    }
    drift
        .fields
        .iter()
        .map(|field| {
            let (path, git, live) = (spoken_path(&field.path), spoken(field.git.as_ref()), spoken(field.live.as_ref()));
            match (&field.base, field.conflict) {
                (Some(base), true) => format!("{path} was {}, git says {git}, live is {live}", spoken(Some(base))),
                (_, _) => format!("{path} is {live}, git says {git}"),
            }
        })
        .collect::<Vec<_>>()
        .join("; ")
}

/// What is offered of one field.
pub(in super::super) fn offered(field: &ProposedField) -> String {
    format!("{} {}", spoken_path(&field.path), spoken(field.live.as_ref()))
}

/// What is not offered, and why.
pub(super) fn not_offered(left_out: &[LeftOut]) -> String {
    left_out
        .iter()
        .map(|LeftOut { field, message }| format!("{}: {message}", spoken_path(&field.path)))
        .collect::<Vec<_>>()
        .join("; ")
}

/// The commit message of a proposal: what differs, why that waits, how to decide, and whose it is.
pub(super) fn commit_message(drift: &Drift, left_out: &[LeftOut], about: &About, branch: &str) -> String {
    let key = &about.key;
    let place = format!("{}/{}", key.environment, key.local());
    let mut text = String::new();
    if drift.missing {
        let _ = write!(
            text,
            "Remove {place}, which is gone\n\nThe object behind this document is gone from the live system.\n"
        );
    } else {
        let _ = write!(text, "Accept the live value of {place}\n\nLive differs from git here:\n\n");
        let is_left_out = |field: &DriftedField| left_out.iter().any(|left| left.field.path == field.path);
        for field in drift.fields.iter().filter(|field| !is_left_out(field)) {
            let (git, live) = (spoken(field.git.as_ref()), spoken(field.live.as_ref()));
            let _ = write!(text, "  {}: git {git}, live {live}", spoken_path(&field.path));
            if let (true, Some(base)) = (field.conflict, &field.base) {
                let _ = write!(text, ", before {}", spoken(Some(base)));
            }
            text.push('\n');
        }
        if !left_out.is_empty() {
            text.push_str("\nThese differ too. They are not offered here, and stay as they are:\n\n");
            for LeftOut { field, message } in left_out {
                let (git, live) = (spoken(field.git.as_ref()), spoken(field.live.as_ref()));
                let _ = writeln!(text, "  {}: git {git}, live {live} ({message})", spoken_path(&field.path));
            }
        }
    }
    let cause = Cause::of_drift(drift, branch);
    let _ = writeln!(text, "\nWhy it waits: {}", cause.why());
    if let Some(help) = &cause.help {
        let _ = writeln!(text, "\n{help}");
    }
    let info = key.kind.info();
    let fixed = drift.fields.iter().map(|field| &field.path).filter(|path| info.is_immutable(path));
    for path in fixed.filter(|_| info.data_bearing) {
        let path = spoken_path(path);
        let _ = write!(
            text,
            "\n{path} can only go back by deleting the object with its data, which waits for an\n\
             approval of that: deleting this branch alone does not do it.\n"
        );
    }
    let _ = write!(text, "\n{about}");
    text
}

//! The annotations Plumb acts on, read from text. Others are free.

use serde_json::Value;

use super::check::{Findings, annotation_pointer};
use super::codes;
use super::schema::{DocumentKind, spec_fields};
use super::sentence::{clipped, shown};
use super::suggest::did_you_mean;
use crate::model::{Annotations, Deletion, DriftMode, FieldPath, OnFailure};

const PREFIX: &str = "plumb.dev/";
const KNOWN: &[&str] = &["drift", "drift-ignore", "deletion", "adopt", "suspend", "rotate", "on-failure"];

/// Reads the annotations of a document of `kind`.
pub(super) fn read(kind: DocumentKind, document: &Value, findings: &mut Findings<'_>) -> Annotations {
    let mut annotations = Annotations::default();
    let entries = document.pointer("/metadata/annotations").and_then(Value::as_object);
    for (name, value) in entries.into_iter().flatten() {
        let Some(short) = name.strip_prefix(PREFIX) else { continue };
        let pointer = annotation_pointer(name);
        if !matches!(kind, DocumentKind::Resource(_)) {
            let message = format!("{:?} means nothing on a {}", clipped(name), kind.as_str());
            findings.key_error(codes::UNKNOWN_ANNOTATION, &pointer, message, "it belongs on the resources of tenants");
            continue;
        }
        if !KNOWN.contains(&short) {
            let message = format!("there is no annotation {:?}", clipped(name));
            let known: Vec<String> = KNOWN.iter().map(|known| format!("{PREFIX}{known}")).collect();
            let known: Vec<&str> = known.iter().map(String::as_str).collect();
            findings.key_error(codes::UNKNOWN_ANNOTATION, &pointer, message, did_you_mean(name, "annotations", &known));
            continue;
        }
        let Some(text) = value.as_str() else {
            let message = format!("{name} must be text, not {}", shown(value));
            findings.error(codes::INVALID_ANNOTATION, &pointer, message, quoting_help(value));
            continue;
        };
        if let Err(wrong) = set(&mut annotations, kind, short, text) {
            findings.error(codes::INVALID_ANNOTATION, &pointer, format!("{name} {}", wrong.message), wrong.help);
        }
    }
    annotations
}

fn quoting_help(value: &Value) -> String {
    match value {
        Value::Bool(_) | Value::Number(_) => format!("put it in quotes: \"{value}\""),
        Value::Null | Value::String(_) | Value::Array(_) | Value::Object(_) => "annotations are text".to_owned(),
    }
}

struct Wrong {
    message: String,
    help: String,
}

impl Wrong {
    fn choice(text: &str, options: &[&str]) -> Self {
        Self { message: format!("cannot be {:?}", clipped(text)), help: did_you_mean(text, "its values", options) }
    }
}

fn set(annotations: &mut Annotations, kind: DocumentKind, name: &str, text: &str) -> Result<(), Wrong> {
    match name {
        "drift" => annotations.drift = Some(drift(text)?),
        "drift-ignore" => annotations.drift_ignore = ignored_fields(kind, text)?,
        "deletion" => annotations.deletion = Some(deletion(text)?),
        "adopt" => annotations.adopt = flag(text)?,
        "suspend" => annotations.suspend = flag(text)?,
        "on-failure" => annotations.on_failure = on_failure(text)?,
        // Any text will do: what counts is that it is another one than before.
        _rotate => annotations.rotate = Some(text.to_owned()),
    }
    Ok(())
}

fn drift(text: &str) -> Result<DriftMode, Wrong> {
    match text {
        "propose" => Ok(DriftMode::Propose),
        "revert" => Ok(DriftMode::Revert),
        "observe" => Ok(DriftMode::Observe),
        other => Err(Wrong::choice(other, &["propose", "revert", "observe"])),
    }
}

fn deletion(text: &str) -> Result<Deletion, Wrong> {
    match text {
        "protect" => Ok(Deletion::Protect),
        "delete" => Ok(Deletion::Delete),
        "retain" => Ok(Deletion::Retain),
        other => Err(Wrong::choice(other, &["protect", "delete", "retain"])),
    }
}

fn on_failure(text: &str) -> Result<OnFailure, Wrong> {
    match text {
        "keep" => Ok(OnFailure::Keep),
        "rollback" => Ok(OnFailure::Rollback),
        other => Err(Wrong::choice(other, &["keep", "rollback"])),
    }
}

fn flag(text: &str) -> Result<bool, Wrong> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        other => Err(Wrong::choice(other, &["true", "false"])),
    }
}

/// `/spec/x,/spec/y`: each must lie in a field that the kind has.
fn ignored_fields(kind: DocumentKind, text: &str) -> Result<Vec<FieldPath>, Wrong> {
    let mut paths = Vec::new();
    for path in text.split(',').map(str::trim).filter(|path| !path.is_empty()) {
        let segments = FieldPath::new(path).segments();
        let field = match &segments[..] {
            [spec, field, ..] if spec == "spec" && path.starts_with('/') => field,
            _ => {
                return Err(Wrong {
                    message: format!("cannot read {:?}", clipped(path)),
                    help: "write paths of fields, separated by commas: /spec/connectionLimit,/spec/settings".to_owned(),
                });
            }
        };
        let known = spec_fields(kind);
        if !known.contains(&field.as_str()) {
            return Err(Wrong {
                message: format!("names {:?}, which a {} does not have", clipped(path), kind.as_str()),
                help: did_you_mean(field, "its fields", known),
            });
        }
        paths.push(FieldPath::new(path));
    }
    Ok(paths)
}

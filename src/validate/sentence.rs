//! Schema violations in plain words. A schema says what a value breaks; a person wants to know what to write.

use jsonschema::error::{TypeKind, ValidationErrorKind};
use jsonschema::{JsonType, ValidationError};
use serde_json::Value;

use super::codes;
use super::schema::NAME_PATTERN;
use super::suggest::did_you_mean;
use crate::model::Code;

/// What a violation is about, before it has a span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Violation {
    pub code: Code,
    pub place: Place,
    pub message: String,
    pub help: Option<String>,
}

/// Where in a document; pointers are JSON pointers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Key(String),
    Value(String),
}

/// Everything `error` says, against the document `schema` it broke.
pub(super) fn violations(schema: &Value, error: &ValidationError<'_>) -> Vec<Violation> {
    let pointer = error.instance_path().as_str();
    let node = Node::of(schema, error);
    let invalid = |what: String| {
        vec![Violation {
            code: codes::INVALID_VALUE,
            place: Place::Value(pointer.to_owned()),
            message: format!("{} {what}", readable(pointer)),
            help: node.help(pointer),
        }]
    };
    let found = found_at(pointer, error.instance());
    match error.kind() {
        ValidationErrorKind::AdditionalProperties { unexpected } => {
            unexpected.iter().map(|field| unknown_field(pointer, field, &node)).collect()
        }
        ValidationErrorKind::Required { property } => {
            let field = property.as_str().unwrap_or_default();
            let parent = if pointer.is_empty() { "the document".to_owned() } else { readable(pointer) };
            vec![Violation {
                code: codes::MISSING_FIELD,
                place: Place::Value(pointer.to_owned()),
                message: format!("{parent} needs the field {field:?}"),
                help: node.property(field).and_then(description).map(|text| about(field, text)),
            }]
        }
        ValidationErrorKind::Type { kind } => invalid(format!("must be {}, not {found}", types_in_words(kind))),
        ValidationErrorKind::Enum { options } => {
            let options: Vec<String> =
                options.as_array().into_iter().flatten().filter(|v| !v.is_null()).map(shown).collect();
            invalid(one_of(&options, &found))
        }
        ValidationErrorKind::Constant { expected_value } => {
            invalid(format!("must be {}, not {found}", shown(expected_value)))
        }
        ValidationErrorKind::Minimum { limit } => invalid(format!("must be at least {limit}, not {found}")),
        ValidationErrorKind::Maximum { limit } => invalid(format!("must be at most {limit}, not {found}")),
        ValidationErrorKind::ExclusiveMinimum { limit } => invalid(format!("must be more than {limit}, not {found}")),
        ValidationErrorKind::ExclusiveMaximum { limit } => invalid(format!("must be less than {limit}, not {found}")),
        ValidationErrorKind::MinLength { limit: 1 } => invalid("must not be empty".to_owned()),
        ValidationErrorKind::MinLength { limit } => invalid(format!("must be at least {limit} characters long")),
        ValidationErrorKind::MaxLength { limit } => invalid(format!("must be at most {limit} characters long")),
        ValidationErrorKind::MinItems { limit: 1 } => invalid("must name at least one".to_owned()),
        ValidationErrorKind::MinItems { limit } => invalid(format!("must have at least {limit} members")),
        ValidationErrorKind::MaxItems { limit } => invalid(format!("must have at most {limit} members")),
        ValidationErrorKind::UniqueItems => invalid("must not name a member twice".to_owned()),
        ValidationErrorKind::Pattern { pattern } => invalid(format!("{}, not {found}", pattern_in_words(pattern))),
        ValidationErrorKind::AnyOf { context } | ValidationErrorKind::OneOfNotValid { context } => {
            alternatives(schema, error, context, &node)
        }
        // Keywords that the schemas of this room do not use.
        other => invalid(format!("breaks the rule {:?} of its schema", other.keyword())),
    }
}

fn unknown_field(parent: &str, field: &str, node: &Node<'_>) -> Violation {
    let candidates = node.property_names();
    let inside = if parent.is_empty() { "the document".to_owned() } else { readable(parent) };
    Violation {
        code: codes::UNKNOWN_FIELD,
        place: Place::Key(format!("{parent}/{}", escape(field))),
        message: format!("{inside} has no field {:?}", clipped(field)),
        help: Some(did_you_mean(field, "its fields", &candidates)),
    }
}

/// A value that fits none of several shapes: speaks of the one it was meant to be, where that is plain, else lists
/// what there is.
fn alternatives(
    schema: &Value,
    error: &ValidationError<'_>,
    context: &[Vec<ValidationError<'static>>],
    node: &Node<'_>,
) -> Vec<Violation> {
    let pointer = error.instance_path().as_str();
    // A branch whose very shape fits is what was meant; its own findings lie deeper.
    let meant: Vec<&Vec<ValidationError<'static>>> = context
        .iter()
        .filter(|branch| {
            !branch.iter().any(|inner| inner.instance_path().as_str() == pointer && is_shape(inner.kind()))
        })
        .collect();
    if let [branch] = meta_free(&meant)[..] {
        return branch.iter().flat_map(|inner| violations(schema, inner)).collect();
    }
    let mut options = Vec::new();
    node.options(&mut options);
    options.dedup();
    vec![Violation {
        code: codes::INVALID_VALUE,
        place: Place::Value(pointer.to_owned()),
        message: format!("{} {}", readable(pointer), one_of(&options, &found_at(pointer, error.instance()))),
        help: node.help(pointer),
    }]
}

fn meta_free<'a, T>(branches: &[&'a Vec<T>]) -> Vec<&'a Vec<T>> {
    branches.iter().copied().filter(|branch| !branch.is_empty()).collect()
}

/// Whether the keyword tells shapes apart, rather than finding fault inside one.
fn is_shape(kind: &ValidationErrorKind) -> bool {
    matches!(
        kind,
        ValidationErrorKind::Type { .. }
            | ValidationErrorKind::Constant { .. }
            | ValidationErrorKind::Enum { .. }
            | ValidationErrorKind::OneOfNotValid { .. }
            | ValidationErrorKind::AnyOf { .. }
            | ValidationErrorKind::Required { .. }
    )
}

fn one_of(options: &[String], found: &str) -> String {
    match options {
        [] => format!("cannot be {found}"),
        [one] => format!("must be {one}, not {found}"),
        [first @ .., last] => format!("must be {} or {last}, not {found}", first.join(", ")),
    }
}

/// The part of the schema that an error comes from.
struct Node<'a>(Option<&'a Value>);

impl<'a> Node<'a> {
    fn of(schema: &'a Value, error: &ValidationError<'_>) -> Self {
        let path = error.schema_path().as_str();
        Self(path.rsplit_once('/').and_then(|(parent, _keyword)| schema.pointer(parent)))
    }

    fn property(&self, name: &str) -> Option<&'a Value> {
        self.0?.get("properties")?.get(name)
    }

    fn property_names(&self) -> Vec<&'a str> {
        let properties = self.0.and_then(|node| node.get("properties")).and_then(Value::as_object);
        properties.into_iter().flat_map(|fields| fields.keys().map(String::as_str)).collect()
    }

    fn help(&self, pointer: &str) -> Option<String> {
        let text = self.0.and_then(description)?;
        Some(about(&last_name(pointer), text))
    }

    /// What the alternatives of this node allow, in words.
    fn options(&self, options: &mut Vec<String>) {
        let Some(node) = self.0 else { return };
        for branch in ["anyOf", "oneOf"].iter().filter_map(|key| node.get(key)).filter_map(Value::as_array).flatten() {
            if let Some(only) = branch.get("const") {
                options.push(shown(only));
            } else if let Some(several) = branch.get("enum").and_then(Value::as_array) {
                options.extend(several.iter().filter(|option| !option.is_null()).map(shown));
            } else if branch.get("anyOf").is_some() || branch.get("oneOf").is_some() {
                Node(Some(branch)).options(options);
            } else if let Some(field) = branch.pointer("/required/0").and_then(Value::as_str) {
                options.push(format!("{{{field}: ...}}"));
            } else if let Some(name) = branch.get("type").and_then(Value::as_str).filter(|name| *name != "null") {
                options.push(type_name(name).to_owned());
            }
        }
    }
}

/// A field with what its schema says of it. What begins with the one system that knows the field, as in `SQLite: ...`,
/// has that beside the name, so that one colon is left.
fn about(field: &str, text: &str) -> String {
    match text.split_once(": ") {
        Some((system, rest)) if !system.contains(' ') => format!("{field} ({system}): {rest}"),
        Some(_) | None => format!("{field}: {text}"),
    }
}

fn description(node: &Value) -> Option<&str> {
    node.get("description").and_then(Value::as_str)
}

/// Patterns of the schemas, in words.
fn pattern_in_words(pattern: &str) -> String {
    match pattern {
        NAME_PATTERN => "must be lower-case letters, digits and dashes, with a letter or digit at both ends, \
                         at most 63 characters"
            .to_owned(),
        "^[a-z][a-z0-9_-]{0,30}$" => {
            "must be lower-case letters, digits, dashes and underscores, beginning with a letter, at most 31 characters"
                .to_owned()
        }
        "^[a-z0-9][a-z0-9-]{2,31}$" => {
            "must be lower-case letters, digits and dashes, beginning with a letter or digit, 3 to 32 characters"
                .to_owned()
        }
        "^[1-9][0-9]{0,6}(ms|s|m|h|d)$" => "must be a length of time such as 30s, 10m, 8h or 30d".to_owned(),
        other => format!("must match {other}"),
    }
}

fn types_in_words(kind: &TypeKind) -> String {
    let names: Vec<&str> = match kind {
        TypeKind::Single(one) => vec![json_type_name(*one)],
        TypeKind::Multiple(several) => {
            several.iter().filter(|one| *one != JsonType::Null).map(json_type_name).collect()
        }
    };
    match &names[..] {
        [] => "empty".to_owned(),
        [one] => (*one).to_owned(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

fn json_type_name(json_type: JsonType) -> &'static str {
    match json_type {
        JsonType::Array => "a list",
        JsonType::Boolean => "true or false",
        JsonType::Integer => "a whole number",
        JsonType::Null => "empty",
        JsonType::Number => "a number",
        JsonType::Object => "a mapping",
        JsonType::String => "text",
    }
}

fn type_name(name: &str) -> &str {
    match name {
        "array" => "a list",
        "boolean" => "true or false",
        "integer" => "a whole number",
        "number" => "a number",
        "object" => "a mapping",
        "string" => "text",
        other => other,
    }
}

/// `/spec/roles/0/access` as people write it: `roles[0].access`. Fields outside of the spec keep their whole path.
pub(super) fn readable(pointer: &str) -> String {
    let mut text = String::new();
    let segments: Vec<String> = pointer.split('/').skip(1).map(unescape).collect();
    let shown = match segments.split_first() {
        Some((first, rest)) if first == "spec" && !rest.is_empty() => rest,
        _ => &segments[..],
    };
    for segment in shown {
        if !text.is_empty() && segment.bytes().all(|byte| byte.is_ascii_digit()) {
            text.push_str(&format!("[{segment}]"));
        } else {
            if !text.is_empty() {
                text.push('.');
            }
            text.push_str(&clipped(segment));
        }
    }
    if text.is_empty() { "the document".to_owned() } else { text }
}

fn last_name(pointer: &str) -> String {
    pointer
        .rsplit('/')
        .map(unescape)
        .find(|segment| !segment.bytes().all(|byte| byte.is_ascii_digit()))
        .map_or_else(String::new, |segment| clipped(&segment))
}

/// A segment as JSON pointers write it.
pub(super) fn escape(segment: &str) -> String {
    segment.replace('~', "~0").replace('/', "~1")
}

fn unescape(segment: &str) -> String {
    segment.replace("~1", "/").replace("~0", "~")
}

/// A value as a message shows it: scalars as they are, the rest by its shape.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::Null => "empty".to_owned(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => format!("{:?}", clipped(text)),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a mapping".to_owned(),
    }
}

/// The value at `pointer`, for a message; where a secret might have been written by mistake, only its shape.
fn found_at(pointer: &str, value: &Value) -> String {
    match value {
        Value::String(_) if pointer.contains("redentials") => "a text".to_owned(),
        other => shown(other),
    }
}

/// `text`, cut to what fits on a line.
pub(super) fn clipped(text: &str) -> String {
    const LONGEST: usize = 60;
    match text.char_indices().nth(LONGEST) {
        Some((cut, _)) => format!("{}...", &text[..cut]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_read_as_people_write_them() {
        assert_eq!(readable("/spec/roles/0/access"), "roles[0].access");
        assert_eq!(readable("/metadata/labels/a~1b"), "metadata.labels.a/b");
        assert_eq!(readable("/spec"), "spec");
        assert_eq!(readable(""), "the document");
    }

    #[test]
    fn long_values_are_cut() {
        assert_eq!(shown(&Value::from("x".repeat(1000))).len(), 65);
    }
}

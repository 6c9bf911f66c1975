//! Desired against live: field by field, three ways, and as a text that reads like the manifest.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use similar::TextDiff;

use crate::model::{FieldPath, Fields, Kind, ListShape, Record};

/// How one field stands, three ways (R3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FieldState {
    /// Live is what git says, as the server spells it.
    Same,
    /// Git changed and live did not: to be applied.
    Pending,
    /// Live changed and git did not.
    Drifted,
    /// Live changed, and drift of this field is not looked at.
    Ignored,
    /// Both changed, or nothing is known of what was applied.
    Conflict,
    /// Live could not be seen.
    Unknown,
}

/// One field of a resource.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FieldRow {
    pub path: FieldPath,
    /// What git sets.
    pub desired: Option<Value>,
    /// What is there.
    pub live: Option<Value>,
    /// What was applied last.
    pub applied: Option<Value>,
    pub state: FieldState,
}

/// Whether live values were seen at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sight {
    Seen,
    Unseen,
}

/// Every field that git, the live system or the last apply speaks of, in path order.
pub(super) fn rows(desired: &Fields, live: &Fields, record: Option<&Record>, sight: Sight) -> Vec<FieldRow> {
    let nothing = Fields::new();
    let applied = record.map_or(&nothing, |record| &record.applied);
    let mut paths: Vec<&FieldPath> =
        desired.iter().chain(live.iter()).chain(applied.iter()).map(|(path, _)| path).collect();
    paths.sort();
    paths.dedup();
    paths
        .into_iter()
        .map(|path| {
            let at = path.as_str();
            FieldRow {
                path: path.clone(),
                desired: desired.get(at).cloned(),
                live: live.get(at).cloned(),
                applied: applied.get(at).cloned(),
                state: state_of(path, desired, live, record, sight),
            }
        })
        .collect()
}

fn state_of(path: &FieldPath, desired: &Fields, live: &Fields, record: Option<&Record>, sight: Sight) -> FieldState {
    let (wanted, seen) = (desired.get(path.as_str()), live.get(path.as_str()));
    if sight == Sight::Unseen {
        return FieldState::Unknown;
    }
    if wanted == seen {
        return FieldState::Same;
    }
    let Some(record) = record else {
        // Without a record there is no base: what is not there is still to be made, the rest nobody can decide.
        return if seen.is_none() { FieldState::Pending } else { FieldState::Conflict };
    };
    let git_changed = record.applied.get(path.as_str()) != wanted;
    // Drift is live against what was read back, so that what a server spells its own way is none.
    let live_changed = record.readback.get(path.as_str()) != seen;
    match (git_changed, live_changed) {
        (false, false) => FieldState::Same,
        (true, false) => FieldState::Pending,
        (_, true) if record.annotations.ignores(path) => FieldState::Ignored,
        (false, true) => FieldState::Drifted,
        (true, true) => FieldState::Conflict,
    }
}

/// A unified diff from what git says to what is live; empty when they are the same. A field that the server merely
/// spells its own way is no difference.
pub(super) fn text(kind: Kind, rows: &[FieldRow], git_name: &str, live_name: &str) -> String {
    let (mut desired, mut live) = (Fields::new(), Fields::new());
    for FieldRow { path, desired: wanted, live: seen, applied: _, state } in rows {
        let seen = match state {
            // An unseen value is no difference either.
            FieldState::Same | FieldState::Unknown => wanted,
            FieldState::Pending | FieldState::Drifted | FieldState::Ignored | FieldState::Conflict => seen,
        };
        if let Some(value) = wanted {
            desired.insert(path.clone(), value.clone());
        }
        if let Some(value) = seen {
            live.insert(path.clone(), value.clone());
        }
    }
    unified(&document(kind, &desired), &document(kind, &live), git_name, live_name)
}

/// A unified diff of two texts; empty when they are equal.
pub fn unified(from: &str, to: &str, from_name: &str, to_name: &str) -> String {
    const CONTEXT_LINES: usize = 3;
    if from == to {
        return String::new();
    }
    TextDiff::from_lines(from, to).unified_diff().context_radius(CONTEXT_LINES).header(from_name, to_name).to_string()
}

/// Fields as YAML, lists and all, as a person would have written them. Empty when there are none.
pub fn document(kind: Kind, fields: &Fields) -> String {
    let mut root = Map::new();
    for (path, value) in fields.iter() {
        place(&mut root, &path.segments(), value);
    }
    if root.is_empty() {
        return String::new();
    }
    let tree = with_lists(kind, &FieldPath::of::<&str>(&[]), Value::Object(root));
    serde_yaml::to_string(&tree).unwrap_or_default()
}

/// Puts a value where its path says. A field below a scalar cannot come from a document; the deeper one is shown.
fn place(map: &mut Map<String, Value>, segments: &[String], value: &Value) {
    match segments {
        [] => {}
        [last] => {
            map.insert(last.clone(), value.clone());
        }
        [first, rest @ ..] => {
            let below = map.entry(first.clone()).or_insert(Value::Null);
            if !below.is_object() {
                *below = Value::Object(Map::new());
            }
            if let Value::Object(below) = below {
                place(below, rest, value);
            }
        }
    }
}

/// Turns the members of lists, which fields hold by name, back into lists.
fn with_lists(kind: Kind, path: &FieldPath, value: Value) -> Value {
    let Value::Object(map) = value else { return value };
    match kind.info().list(path.as_str()) {
        Some(ListShape::Keyed(name)) => Value::Array(
            map.into_iter()
                .map(|(member, value)| {
                    let mut entry = Map::from_iter([(name.to_owned(), Value::String(member.clone()))]);
                    if let Value::Object(fields) = with_lists(kind, &path.child(&member), value) {
                        entry.extend(fields);
                    }
                    Value::Object(entry)
                })
                .collect(),
        ),
        Some(ListShape::Set) => Value::Array(map.into_iter().map(|(member, _)| Value::String(member)).collect()),
        None => Value::Object(
            map.into_iter()
                .map(|(name, value)| {
                    let below = path.child(&name);
                    (name, with_lists(kind, &below, value))
                })
                .collect(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Utc};

    use super::*;
    use crate::model::{Annotations, ObjectId, ProviderIdentity, ResourceKey};

    fn fields(pairs: &[(&str, i64)]) -> Fields {
        pairs.iter().map(|(path, value)| (FieldPath::from(*path), Value::from(*value))).collect()
    }

    fn record(applied: Fields, readback: Fields) -> Record {
        Record {
            key: ResourceKey::new("checkout", "staging", Kind::Database, "orders"),
            provider: "pg-main".into(),
            identity: ProviderIdentity("1".into()),
            object_name: "checkout_staging_orders".into(),
            object: ObjectId("1".into()),
            applied,
            readback,
            unsettled: Default::default(),
            begun: Default::default(),
            document: Default::default(),
            annotations: Annotations { drift_ignore: vec!["/spec/quiet".into()], ..Annotations::default() },
            depends_on: Vec::new(),
            file: "orders.yaml".into(),
            commit: String::new(),
            retained: false,
            updated_at: DateTime::<Utc>::UNIX_EPOCH,
        }
    }

    fn state(record: Option<&Record>, path: &str, desired: Option<i64>, live: Option<i64>) -> FieldState {
        let one = |value: Option<i64>| value.map_or_else(Fields::new, |value| fields(&[(path, value)]));
        state_of(&path.into(), &one(desired), &one(live), record, Sight::Seen)
    }

    #[test]
    fn each_field_is_compared_three_ways() {
        let base =
            record(fields(&[("/spec/a", 1), ("/spec/quiet", 1)]), fields(&[("/spec/a", 10), ("/spec/quiet", 1)]));
        let base = Some(&base);
        assert_eq!(state(base, "/spec/a", Some(1), Some(10)), FieldState::Same, "the server spells it its own way");
        assert_eq!(state(base, "/spec/a", Some(2), Some(2)), FieldState::Same, "converged");
        assert_eq!(state(base, "/spec/a", Some(2), Some(10)), FieldState::Pending);
        assert_eq!(state(base, "/spec/a", Some(1), Some(11)), FieldState::Drifted);
        assert_eq!(state(base, "/spec/a", Some(2), Some(11)), FieldState::Conflict);
        assert_eq!(state(base, "/spec/quiet", Some(1), Some(3)), FieldState::Ignored);
    }

    #[test]
    fn without_a_record_only_what_is_absent_is_pending() {
        assert_eq!(state(None, "/spec/a", Some(1), None), FieldState::Pending);
        assert_eq!(state(None, "/spec/a", Some(1), Some(2)), FieldState::Conflict);
    }

    #[test]
    fn an_unseen_value_is_neither_the_same_nor_a_difference() {
        let desired = fields(&[("/spec/connectionLimit", 5)]);
        let rows = rows(&desired, &Fields::new(), None, Sight::Unseen);
        assert_eq!(rows[0].state, FieldState::Unknown);
        assert_eq!(text(Kind::Database, &rows, "git", "live"), "");
    }

    #[test]
    fn a_diff_reads_like_the_manifest() {
        let mut desired = fields(&[("/spec/connectionLimit", 20)]);
        desired.insert("/spec/roles/app/access", "readwrite");
        desired.insert("/spec/extensions/pgcrypto", true);
        let mut live = desired.clone();
        live.insert("/spec/connectionLimit", 50);
        live.insert("/spec/roles/ro/access", "read");
        let base = record(desired.clone(), desired.clone());
        let diff =
            text(Kind::Database, &rows(&desired, &live, Some(&base), Sight::Seen), "git: orders.yaml", "live: orders");
        insta::assert_snapshot!(diff, @r"
        --- git: orders.yaml
        +++ live: orders
        @@ -1,7 +1,9 @@
         spec:
        -  connectionLimit: 20
        +  connectionLimit: 50
           extensions:
           - pgcrypto
           roles:
           - name: app
             access: readwrite
        +  - name: ro
        +    access: read
        ");
    }
}

//! What steps began and nobody wrote the end of ([`Begun`](crate::model::Begun)).

use std::borrow::Cow;

use crate::model::{FieldPath, Live, Record};

/// The record as it would be if the end had been written down: what is live as a step that began would have left it was
/// applied (R3), all else was not. A field that cannot be seen stays open.
///
/// While a change is undone what it added is not taken for applied: it is to stay, and nobody may find that git does not
/// want it. Nor is ever a member that bears no mark, as an extension: it may be somebody else's, and would be dropped.
///
/// Borrowed where there is nothing to tell: what is live is not known, or no step is open.
pub fn ended<'a>(record: &'a Record, live: Option<&Live>, is_undone: bool) -> Cow<'a, Record> {
    let Some(live) = live.filter(|_| !record.begun.fields.is_empty()) else { return Cow::Borrowed(record) };
    let mut ended = record.clone();
    ended.begun.fields.clear();
    for (path, values) in &record.begun.fields {
        let now = live.fields.0.get(path);
        let was_added = now.is_some() && record.applied.0.get(path).is_none() && is_member(record, path);
        let may_be_anybodys = was_added && !record.key.kind.info().has_marks(path);
        if live.unknown_at(path).is_some() || (was_added && is_undone) {
            ended.begun.fields.insert(path.clone(), values.clone());
        } else if !may_be_anybodys && values.iter().any(|value| value.as_ref() == now) {
            ended.unsettled.remove(path);
            for fields in [&mut ended.applied, &mut ended.readback] {
                match now {
                    Some(value) => drop(fields.0.insert(path.clone(), value.clone())),
                    None => drop(fields.0.remove(path)),
                }
            }
        }
    }
    Cow::Owned(ended)
}

/// Whether `path` is of something that is there by itself, as a role, and is lost when it is dropped.
pub(super) fn is_member(record: &Record, path: &FieldPath) -> bool {
    record.key.kind.info().is_destructive(path)
}

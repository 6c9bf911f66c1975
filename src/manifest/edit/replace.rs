//! Replaces one scalar, in its style.

use serde_json::Value;

use super::locate::Hop;
use super::{Context, Refusal, Splice};
use crate::manifest::scalar::{self, Style};
use crate::manifest::tree::Content;
use crate::model::FieldPath;

impl Context<'_> {
    pub(super) fn replace(&self, hops: &[Hop], path: &FieldPath, value: &Value) -> Result<Vec<Splice>, Refusal> {
        let hop = hops.last().ok_or(Refusal::NotExpressible)?;
        if matches!(self.tree.node(hop.container).content, Content::Sequence { .. }) {
            // A member of a set is there or not; a member of a keyed list is changed by its fields.
            let is_there = hop.keyed.is_none() && *value == Value::Bool(true);
            return if is_there { Ok(Vec::new()) } else { Err(Refusal::NotExpressible) };
        }
        let node = self.tree.node(hop.value);
        if node.repeated {
            return Err(Refusal::Aliased);
        }
        let (old, style) = match &node.content {
            Content::Scalar { value, style } => (value, *style),
            // In place of an alias a value of its own may stand: that changes nothing elsewhere.
            Content::Alias(_) => match &self.tree.resolve(hop.value).content {
                Content::Scalar { value, .. } => (value, Style::Plain),
                Content::Mapping { .. } | Content::Sequence { .. } | Content::Alias(_) => {
                    return Err(Refusal::NotExpressible);
                }
            },
            Content::Mapping { .. } | Content::Sequence { .. } => return Err(Refusal::NotExpressible),
        };
        let range = node.range.clone();
        if style == Style::Block && self.text[range.start..self.line_end(range.start)].contains('#') {
            // The comment behind `|` would go with it.
            return Err(Refusal::NotExpressible);
        }
        let is_textual = self.info.textual.iter().any(|prefix| path.is_within(prefix));
        let new = if is_textual { as_written(value, old) } else { value.clone() };
        let text = scalar::write(&new, style).ok_or(Refusal::NotExpressible)?;
        let text = if style == Style::Empty { format!(" {text}") } else { text };
        Ok(vec![Splice::new(range, text)])
    }
}

/// A value that is compared as text, in the type that stands there now: `64`, not `"64"`, in place of `32`.
fn as_written(new: &Value, old: &Value) -> Value {
    let Value::String(text) = new else { return new.clone() };
    let same_type = match (old, text.as_str()) {
        (Value::Bool(_), "on") => Some(Value::Bool(true)),
        (Value::Bool(_), "off") => Some(Value::Bool(false)),
        (Value::Number(_), text) => as_number(text),
        _ => None,
    };
    same_type.unwrap_or_else(|| new.clone())
}

/// The number that is spelled just like this, if there is one.
fn as_number(text: &str) -> Option<Value> {
    let number = scalar::resolve(text).ok().filter(Value::is_number)?;
    let spelled = number.to_string();
    (spelled == text).then_some(number)
}

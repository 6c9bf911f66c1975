//! Writes what is not there yet: a field, a member, or the list or mapping that it needs.

use serde_json::Value;

use super::Refusal;
use crate::manifest::scalar::{self, Style};
use crate::model::{FieldPath, KindInfo, ListShape};

/// Something to be written.
pub(super) enum New {
    Scalar(Value),
    Mapping(Vec<(String, New)>),
    /// Members of a keyed list, one a line where there are lines.
    Members(Vec<New>),
    /// Members of a set, on one line.
    Set(Vec<Value>),
}

impl New {
    /// What is to stand at `pointer`, so that the field at `rest` below it is `value`.
    pub(super) fn at(info: &KindInfo, pointer: &FieldPath, rest: &[String], value: &Value) -> Result<Self, Refusal> {
        let Some((name, rest)) = rest.split_first() else {
            let is_scalar = matches!(value, Value::Bool(_) | Value::Number(_) | Value::String(_));
            return if is_scalar { Ok(Self::Scalar(value.clone())) } else { Err(Refusal::NotExpressible) };
        };
        match info.list(pointer.as_str()) {
            Some(ListShape::Keyed(key)) => {
                Ok(Self::Members(vec![Self::member(info, pointer, key, name, rest, value)?]))
            }
            Some(ListShape::Set) => {
                let is_member = rest.is_empty() && *value == Value::Bool(true);
                if is_member { Ok(Self::Set(vec![Value::from(name.as_str())])) } else { Err(Refusal::NotExpressible) }
            }
            None => Ok(Self::Mapping(vec![(name.clone(), Self::at(info, &pointer.child(name), rest, value)?)])),
        }
    }

    /// A new member of the keyed list at `pointer`.
    pub(super) fn member(
        info: &KindInfo,
        pointer: &FieldPath,
        key: &str,
        name: &str,
        rest: &[String],
        value: &Value,
    ) -> Result<Self, Refusal> {
        let Self::Mapping(fields) = Self::at(info, &pointer.child(name), rest, value)? else {
            return Err(Refusal::NotExpressible);
        };
        let name = (key.to_owned(), Self::Scalar(Value::from(name)));
        Ok(Self::Mapping(std::iter::once(name).chain(fields).collect()))
    }

    /// On one line, with `pad` inside of braces.
    pub(super) fn flow(&self, pad: &str) -> String {
        match self {
            Self::Scalar(value) => write(value),
            Self::Mapping(fields) => format!("{{{pad}{}{pad}}}", fields_in_flow(fields, pad)),
            Self::Members(members) => {
                format!("[{}]", members.iter().map(|member| member.flow(pad)).collect::<Vec<_>>().join(", "))
            }
            Self::Set(members) => format!("[{}]", members.iter().map(write).collect::<Vec<_>>().join(", ")),
        }
    }

    /// As the value of a key that stands at `indentation` columns; begins behind the colon, ends without a line break.
    pub(super) fn behind_colon(&self, indentation: usize, step: usize, line_break: &str) -> String {
        let below = indentation + step;
        let margin = " ".repeat(below);
        match self {
            Self::Scalar(_) | Self::Set(_) => format!(" {}", self.flow("")),
            Self::Mapping(fields) => fields
                .iter()
                .map(|(name, value)| {
                    format!("{line_break}{margin}{}:{}", write_key(name), value.behind_colon(below, step, line_break))
                })
                .collect(),
            Self::Members(members) => {
                members.iter().map(|member| format!("{line_break}{margin}- {}", member.flow(""))).collect()
            }
        }
    }

    /// The fields of a new mapping in block style, as a member of a block list whose content stands at `column`.
    pub(super) fn behind_dash(&self, column: usize, step: usize, line_break: &str) -> String {
        match self {
            Self::Mapping(fields) => fields
                .iter()
                .map(|(name, value)| format!("{}:{}", write_key(name), value.behind_colon(column, step, line_break)))
                .collect::<Vec<_>>()
                .join(&format!("{line_break}{}", " ".repeat(column))),
            Self::Scalar(_) | Self::Members(_) | Self::Set(_) => self.flow(""),
        }
    }
}

/// `a: 1, b: 2`
fn fields_in_flow(fields: &[(String, New)], pad: &str) -> String {
    fields
        .iter()
        .map(|(name, value)| format!("{}: {}", write_key(name), value.flow(pad)))
        .collect::<Vec<_>>()
        .join(", ")
}

/// A key, quoted where it must be.
pub(super) fn write_key(name: &str) -> String {
    scalar::write_text(name, Style::Plain)
}

fn write(value: &Value) -> String {
    // Only scalars come here; anything else is refused where it would be made.
    scalar::write(value, Style::Plain).unwrap_or_else(|| value.to_string())
}

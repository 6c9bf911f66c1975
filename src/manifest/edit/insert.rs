//! Adds fields and members, in the style of their neighbours.

use serde_json::Value;

use super::locate::Hop;
use super::render::{New, write_key};
use super::{Context, Refusal, Splice};
use crate::manifest::scalar::{self, Style};
use crate::manifest::tree::{Content, Entry, Layout, NodeId, Tree};
use crate::model::{FieldPath, ListShape};

/// How far a nested mapping is indented where the document shows no habit of its own.
const DEFAULT_STEP: usize = 2;

impl Context<'_> {
    /// Writes `value` at `rest` below the list, mapping or null at `pointer`, which has nothing there yet.
    pub(super) fn insert(
        &self,
        hops: &[Hop],
        container: NodeId,
        pointer: &FieldPath,
        rest: &[String],
        value: &Value,
    ) -> Result<Vec<Splice>, Refusal> {
        let node = self.tree.node(container);
        match &node.content {
            Content::Alias(_) => Err(Refusal::Aliased),
            Content::Mapping { layout, entries } => {
                let (name, below) = rest.split_first().ok_or(Refusal::NotExpressible)?;
                let new = New::at(self.info, &pointer.child(name), below, value)?;
                match (layout, entries.last()) {
                    (Layout::Bare, _) => Err(Refusal::NotExpressible),
                    (Layout::Block, Some(last)) => Ok(vec![self.field_below(last, name, &new)]),
                    (Layout::Flow | Layout::Block, last) => {
                        let text = format!("{}: {}", write_key(name), new.flow(self.padding(container)));
                        self.append_in_flow(container, last.map(|last| last.value), text)
                    }
                }
            }
            Content::Sequence { layout, items } => {
                let new = self.new_member(pointer, rest, value)?;
                match (layout, items.last()) {
                    (Layout::Bare, _) => Err(Refusal::NotExpressible),
                    (Layout::Block, Some(last)) => Ok(vec![self.member_below(*last, &new)]),
                    (Layout::Flow | Layout::Block, last) => {
                        let text = last.map_or_else(|| new.flow(""), |last| self.like(*last, &new));
                        self.append_in_flow(container, last.copied(), text)
                    }
                }
            }
            Content::Scalar { value: Value::Null, style } => {
                let new = New::at(self.info, pointer, rest, value)?;
                self.in_place_of_null(hops.last().ok_or(Refusal::NotExpressible)?, *style, &new)
            }
            Content::Scalar { .. } => Err(Refusal::NotExpressible),
        }
    }

    fn new_member(&self, pointer: &FieldPath, rest: &[String], value: &Value) -> Result<New, Refusal> {
        let (name, below) = rest.split_first().ok_or(Refusal::NotExpressible)?;
        match self.info.list(pointer.as_str()) {
            Some(ListShape::Keyed(key)) => New::member(self.info, pointer, key, name, below, value),
            Some(ListShape::Set) | None if below.is_empty() && *value == Value::Bool(true) => {
                Ok(New::Scalar(Value::from(name.as_str())))
            }
            Some(ListShape::Set) | None => Err(Refusal::NotExpressible),
        }
    }

    /// A new line below a field of a block mapping.
    fn field_below(&self, last: &Entry, name: &str, new: &New) -> Splice {
        let key = self.tree.node(last.key).range.start;
        let end = self.tree.node(last.value).range.end.max(key);
        let line_break = self.line_break(end);
        let indentation = self.column(key);
        let text = format!("{}:{}", write_key(name), new.behind_colon(indentation, self.step(), line_break));
        self.line_below(end, indentation, &text)
    }

    /// A new member below the last one of a block list.
    fn member_below(&self, last: NodeId, new: &New) -> Splice {
        let node = self.tree.node(last);
        let dash = self.dash(node.range.start);
        let column = self.column(dash);
        let member = match &node.content {
            Content::Mapping { layout: Layout::Block, entries } if self.is_first_behind(dash, entries) => {
                let content = self.column(node.range.start);
                let gap = " ".repeat(content.saturating_sub(column + 1));
                format!("-{gap}{}", new.behind_dash(content, self.step(), self.line_break(node.range.end)))
            }
            Content::Mapping { .. } | Content::Sequence { .. } | Content::Scalar { .. } | Content::Alias(_) => {
                format!("- {}", self.like(last, new))
            }
        };
        self.line_below(node.range.end, column, &member)
    }

    /// Whether the first field of a member stands on the line of its dash.
    fn is_first_behind(&self, dash: usize, entries: &[Entry]) -> bool {
        entries
            .first()
            .is_some_and(|entry| self.line_start(self.tree.node(entry.key).range.start) == self.line_start(dash))
    }

    /// Inserts a line below the one that `at` is on.
    fn line_below(&self, at: usize, indentation: usize, text: &str) -> Splice {
        let line_break = self.line_break(at);
        let end = self.line_end(at);
        let margin = " ".repeat(indentation);
        let line = if self.text[..end].ends_with('\n') {
            format!("{margin}{text}{line_break}")
        } else {
            format!("{line_break}{margin}{text}")
        };
        Splice::new(end..end, line)
    }

    /// Inserts into `[]` or `{}`, behind `last`.
    fn append_in_flow(&self, container: NodeId, last: Option<NodeId>, text: String) -> Result<Vec<Splice>, Refusal> {
        let range = &self.tree.node(container).range;
        match last {
            Some(last) => {
                let end = self.tree.node(last).range.end;
                Ok(vec![Splice::new(end..end, format!(", {text}"))])
            }
            None => {
                let inner = range.start + 1..range.end - 1;
                let is_blank = self.text[inner.clone()].bytes().all(|byte| byte == b' ');
                if is_blank { Ok(vec![Splice::new(inner, text)]) } else { Err(Refusal::NotExpressible) }
            }
        }
    }

    /// A member on one line, spaced and quoted like its sibling.
    fn like(&self, sibling: NodeId, new: &New) -> String {
        match (&self.tree.node(sibling).content, new) {
            (Content::Scalar { style, .. }, New::Scalar(value)) => {
                scalar::write(value, *style).unwrap_or_else(|| new.flow(""))
            }
            _ => new.flow(self.padding(sibling)),
        }
    }

    /// What stands inside the braces of a mapping: `{a: 1}` or `{ a: 1 }`.
    fn padding(&self, mapping: NodeId) -> &'static str {
        if self.text[self.tree.node(mapping).range.clone()].starts_with("{ ") { " " } else { "" }
    }

    /// Gives a key without a value (`settings:`, `settings: ~`) one.
    fn in_place_of_null(&self, hop: &Hop, style: Style, new: &New) -> Result<Vec<Splice>, Refusal> {
        let node = self.tree.node(hop.value);
        let range = node.range.clone();
        let Content::Mapping { layout, entries } = &self.tree.node(hop.container).content else {
            return Err(Refusal::NotExpressible);
        };
        match (style, layout) {
            (Style::Empty, Layout::Block) => {
                let indentation = self.column(self.tree.node(entries[hop.index].key).range.start);
                let text = new.behind_colon(indentation, self.step(), self.line_break(range.end));
                // A comment may follow the colon; what begins with a line break goes below it.
                let at = if text.starts_with(' ') {
                    range.end
                } else {
                    let line = &self.text[range.end..self.line_end(range.end)];
                    range.end + line.trim_end_matches(['\r', '\n']).len()
                };
                Ok(vec![Splice::new(at..at, text)])
            }
            (Style::Empty, Layout::Flow) => Ok(vec![Splice::new(range, format!(" {}", new.flow("")))]),
            (Style::Plain, Layout::Block | Layout::Flow) => Ok(vec![Splice::new(range, new.flow(""))]),
            (_, Layout::Bare) | (Style::SingleQuoted | Style::DoubleQuoted | Style::Block, _) => {
                Err(Refusal::NotExpressible)
            }
        }
    }

    /// How far the document indents: the first mapping that stands below a key in block style shows it.
    fn step(&self) -> usize {
        let Content::Mapping { entries, .. } = &self.tree.node(Tree::ROOT).content else { return DEFAULT_STEP };
        entries
            .iter()
            .find_map(|entry| match &self.tree.node(entry.value).content {
                Content::Mapping { layout: Layout::Block, entries } => {
                    let inner = self.column(self.tree.node(entries.first()?.key).range.start);
                    inner.checked_sub(self.column(self.tree.node(entry.key).range.start)).filter(|step| *step > 0)
                }
                Content::Mapping { .. } | Content::Sequence { .. } | Content::Scalar { .. } | Content::Alias(_) => None,
            })
            .unwrap_or(DEFAULT_STEP)
    }
}

//! One document as a tree of nodes that know their place in the text. Values, spans and edits all come from it, so
//! they cannot disagree.
//!
//! What always holds: the parser's events are consumed one by one without recursion, reading stops at the first event
//! past a limit, and what aliases repeat is bounded.

mod build;

use std::ops::Range;

use serde_json::{Map, Value};

use super::scalar::Style;
use crate::diag::codes;
use crate::model::Code;

/// How deep lists and mappings may be nested. Manifests need less than ten; the limit keeps hostile ones from
/// exhausting the stack of whatever walks the value later.
pub(super) const MAX_DEPTH: usize = 100;

/// How much larger than what is written the value of a document may become through aliases, counted in nodes and
/// bytes of text. Far more than people repeat, and little enough to be made in no time.
const ALIAS_ALLOWANCE: usize = 64 * 1024;

/// Why a document cannot be used. Offsets are into the document's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub code: Code,
    pub message: String,
    pub range: Range<usize>,
    pub help: &'static str,
    pub related: Option<(String, Range<usize>)>,
}

pub(super) type NodeId = usize;

/// A parsed document. Offsets are into the text it was made of.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    nodes: Vec<Node>,
}

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub content: Content,
    /// Where it stands, without its anchor.
    pub range: Range<usize>,
    /// It has an anchor, and some alias repeats it.
    pub repeated: bool,
    /// It stands inside `[]` or `{}`.
    pub in_flow: bool,
}

#[derive(Clone, Debug)]
pub(super) enum Content {
    Scalar { value: Value, style: Style },
    Mapping { layout: Layout, entries: Vec<Entry> },
    Sequence { layout: Layout, items: Vec<NodeId> },
    Alias(NodeId),
}

/// How a list or mapping is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// By indentation.
    Block,
    /// In `[]` or `{}`.
    Flow,
    /// A pair inside `[]` without its own `{}`: `[a: 1]`.
    Bare,
}

/// A key and its value.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub name: String,
    pub key: NodeId,
    pub value: NodeId,
}

impl Tree {
    /// The outermost node.
    pub(super) const ROOT: NodeId = 0;

    pub(super) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id]
    }

    /// The node itself, or the one that it repeats.
    pub(super) fn resolve(&self, id: NodeId) -> &Node {
        match self.nodes[id].content {
            Content::Alias(target) => &self.nodes[target],
            Content::Scalar { .. } | Content::Mapping { .. } | Content::Sequence { .. } => &self.nodes[id],
        }
    }

    /// The value as JSON, with aliases written out.
    pub(super) fn value(&self) -> Result<Value, Problem> {
        let mut budget = self.nodes.iter().map(Node::weight).sum::<usize>() + ALIAS_ALLOWANCE;
        self.value_of(Self::ROOT, 0, &mut budget)
    }

    /// Recursion ends at [`MAX_DEPTH`], which aliases of aliases may reach too.
    fn value_of(&self, id: NodeId, depth: usize, budget: &mut usize) -> Result<Value, Problem> {
        let place = &self.nodes[id];
        let node = self.resolve(id);
        if depth > MAX_DEPTH {
            return Err(Problem::too_deep(place.range.clone()));
        }
        *budget = budget.checked_sub(node.weight()).ok_or_else(|| {
            Problem::new(
                codes::TOO_MANY_ALIASES,
                "aliases make the document much larger than its text",
                place.range.clone(),
                "write the values out, or repeat less",
            )
        })?;
        match &node.content {
            Content::Scalar { value, .. } => Ok(value.clone()),
            Content::Mapping { entries, .. } => {
                let mut map = Map::with_capacity(entries.len());
                for entry in entries {
                    map.insert(entry.name.clone(), self.value_of(entry.value, depth + 1, budget)?);
                }
                Ok(Value::Object(map))
            }
            Content::Sequence { items, .. } => items
                .iter()
                .map(|item| self.value_of(*item, depth + 1, budget))
                .collect::<Result<_, _>>()
                .map(Value::Array),
            // An alias of an alias is not YAML: an alias has no anchor.
            Content::Alias(_) => Ok(Value::Null),
        }
    }

    /// The key (inside mappings) and the value at a JSON pointer.
    pub(super) fn find(&self, pointer: &str) -> Option<(Option<NodeId>, NodeId)> {
        let mut found = (None, Self::ROOT);
        for segment in pointer.split('/').skip(1) {
            let segment = segment.replace("~1", "/").replace("~0", "~");
            found = match &self.resolve(found.1).content {
                Content::Mapping { entries, .. } => {
                    let entry = entries.iter().find(|entry| entry.name == segment)?;
                    (Some(entry.key), entry.value)
                }
                Content::Sequence { items, .. } => (None, *items.get(segment.parse::<usize>().ok()?)?),
                Content::Scalar { .. } | Content::Alias(_) => return None,
            };
        }
        Some(found)
    }

    /// The place of the value at a JSON pointer; of its key, where nothing is written as the value.
    pub(super) fn place(&self, pointer: &str) -> Option<Range<usize>> {
        let (key, value) = self.find(pointer)?;
        let value = self.node(value);
        match key {
            Some(key) if value.range.is_empty() => Some(self.node(key).range.clone()),
            Some(_) | None => Some(value.range.clone()),
        }
    }

    /// The place of the key at a JSON pointer.
    pub(super) fn key_place(&self, pointer: &str) -> Option<Range<usize>> {
        self.find(pointer)?.0.map(|key| self.node(key).range.clone())
    }

    /// Whether an alias repeats `id` or something in it.
    pub(super) fn is_repeated(&self, id: NodeId) -> bool {
        let mut left = vec![id];
        while let Some(id) = left.pop() {
            let node = self.node(id);
            if node.repeated {
                return true;
            }
            match &node.content {
                Content::Scalar { .. } | Content::Alias(_) => {}
                Content::Mapping { entries, .. } => {
                    left.extend(entries.iter().flat_map(|entry| [entry.key, entry.value]))
                }
                Content::Sequence { items, .. } => left.extend(items),
            }
        }
        false
    }
}

impl Node {
    /// What it adds to the size of the value.
    fn weight(&self) -> usize {
        1 + match &self.content {
            Content::Scalar { value, .. } => value.as_str().map_or(0, str::len),
            Content::Mapping { entries, .. } => entries.iter().map(|entry| 1 + entry.name.len()).sum(),
            Content::Sequence { .. } | Content::Alias(_) => 0,
        }
    }
}

impl Problem {
    pub(super) fn new(code: Code, message: impl Into<String>, range: Range<usize>, help: &'static str) -> Self {
        Self { code, message: message.into(), range, help, related: None }
    }

    fn too_deep(range: Range<usize>) -> Self {
        Self::new(
            codes::NESTED_TOO_DEEP,
            format!("lists and mappings are nested more than {MAX_DEPTH} deep"),
            range,
            "flatten the document",
        )
    }
}

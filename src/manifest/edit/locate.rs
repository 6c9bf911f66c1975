//! Finds the place that a field path speaks of, refusing places that anchors and aliases share.

use serde_json::Value;

use super::{Context, Refusal};
use crate::manifest::tree::{Content, Node, NodeId, Tree};
use crate::model::{FieldPath, ListShape};

/// One step down the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hop {
    /// The list or mapping.
    pub container: NodeId,
    /// The position in it.
    pub index: usize,
    /// What stands there.
    pub value: NodeId,
    /// The key field of the list, when the container is a keyed list.
    pub keyed: Option<&'static str>,
}

/// What was found.
pub(super) enum Lookup {
    Found(Vec<Hop>),
    /// The hops lead to `container`, at `pointer`, which has no `rest`.
    Missing {
        hops: Vec<Hop>,
        container: NodeId,
        pointer: FieldPath,
        rest: Vec<String>,
    },
}

impl Context<'_> {
    pub(super) fn locate(&self, path: &FieldPath) -> Result<Lookup, Refusal> {
        let segments = path.segments();
        let mut hops = Vec::new();
        let mut container = Tree::ROOT;
        let mut pointer = FieldPath::of::<&str>(&[]);
        for (depth, segment) in segments.iter().enumerate() {
            let node = self.tree.node(container);
            // Whatever is changed below here would change for each alias of it, too.
            if node.repeated {
                return Err(Refusal::Aliased);
            }
            let hop = match &node.content {
                Content::Alias(_) => return Err(Refusal::Aliased),
                Content::Mapping { entries, .. } => entries
                    .iter()
                    .position(|entry| entry.name == *segment)
                    .map(|index| Hop { container, index, value: entries[index].value, keyed: None }),
                Content::Sequence { items, .. } => {
                    let keyed = match self.info.list(pointer.as_str()) {
                        Some(ListShape::Keyed(key)) => Some(key),
                        Some(ListShape::Set) | None => None,
                    };
                    items
                        .iter()
                        .position(|item| self.is_named(self.tree.resolve(*item), keyed, segment))
                        .map(|index| Hop { container, index, value: items[index], keyed })
                }
                Content::Scalar { value: Value::Null, .. } => None,
                Content::Scalar { .. } => return Err(Refusal::NotExpressible),
            };
            let Some(hop) = hop else {
                return Ok(Lookup::Missing { hops, container, pointer, rest: segments[depth..].to_vec() });
            };
            hops.push(hop);
            container = hop.value;
            pointer = pointer.child(segment);
        }
        if hops.is_empty() { Err(Refusal::NotExpressible) } else { Ok(Lookup::Found(hops)) }
    }

    /// Whether a member of a list goes by `name`: its key field in a keyed list, itself in a set.
    fn is_named(&self, member: &Node, keyed: Option<&str>, name: &str) -> bool {
        match (&member.content, keyed) {
            (Content::Mapping { entries, .. }, Some(key)) => entries.iter().any(|entry| {
                entry.name == key
                    && matches!(&self.tree.resolve(entry.value).content,
                        Content::Scalar { value: Value::String(text), .. } if text == name)
            }),
            (Content::Scalar { value: Value::String(text), .. }, None) => text == name,
            (Content::Scalar { value, .. }, None) => {
                let spelled = value.to_string();
                spelled == name
            }
            (Content::Mapping { .. } | Content::Sequence { .. } | Content::Scalar { .. } | Content::Alias(_), _) => {
                false
            }
        }
    }
}

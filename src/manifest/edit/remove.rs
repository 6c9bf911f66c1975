//! Removes fields and members, whole lines where they stand on lines of their own.

use std::ops::Range;

use super::locate::Hop;
use super::{Context, Refusal, Splice};
use crate::manifest::tree::{Content, Layout, NodeId};

impl Context<'_> {
    pub(super) fn remove(&self, hops: &[Hop]) -> Result<Vec<Splice>, Refusal> {
        let (hop, above) = hops.split_last().ok_or(Refusal::NotExpressible)?;
        // A member of a keyed list with nothing but its name says nothing.
        if let (Some(Hop { keyed: Some(key), .. }), Content::Mapping { entries, .. }) =
            (above.last(), &self.tree.node(hop.container).content)
            && entries.iter().enumerate().all(|(index, entry)| index == hop.index || entry.name == *key)
        {
            return self.remove(above);
        }
        if self.tree.is_repeated(hop.value) {
            return Err(Refusal::Aliased);
        }
        let (layout, children) = self.children(hop.container);
        match (layout, children.len()) {
            (Layout::Bare, _) => Err(Refusal::NotExpressible),
            (Layout::Flow, 1) => self.empty_flow(hop.container),
            (Layout::Block, 1) => self.empty_block(above, &children[0]),
            (Layout::Flow, _) => self.remove_from_flow(&children, hop.index),
            (Layout::Block, _) => self.remove_from_block(&children, hop.index),
        }
    }

    /// The layout of a list or mapping, and the ranges of its members: from the key or the dash on.
    fn children(&self, container: NodeId) -> (Layout, Vec<Range<usize>>) {
        match &self.tree.node(container).content {
            Content::Mapping { layout, entries } => {
                let range = |entry: &crate::manifest::tree::Entry| {
                    let key = &self.tree.node(entry.key).range;
                    key.start..self.tree.node(entry.value).range.end.max(key.end)
                };
                (*layout, entries.iter().map(range).collect())
            }
            Content::Sequence { layout, items } => {
                let range = |item: &NodeId| {
                    let range = self.tree.node(*item).range.clone();
                    if *layout == Layout::Block { self.dash(range.start)..range.end } else { range }
                };
                (*layout, items.iter().map(range).collect())
            }
            Content::Scalar { .. } | Content::Alias(_) => (Layout::Bare, Vec::new()),
        }
    }

    /// The dash before the member of a block list that begins at `start`, over an anchor, or a line break, between them.
    pub(super) fn dash(&self, start: usize) -> usize {
        let line = self.line_start(start);
        let stands_alone = |before: &&str| before.is_empty() || before.ends_with(char::is_whitespace);
        match self.text[..start].trim_end().strip_suffix('-').filter(stands_alone) {
            Some(before) => before.len(),
            None => self.text[line..start].find("- ").map_or(start, |dash| line + dash),
        }
    }

    /// Leaves `[]` or `{}`.
    fn empty_flow(&self, container: NodeId) -> Result<Vec<Splice>, Refusal> {
        let range = &self.tree.node(container).range;
        let inner = range.start + 1..range.end - 1;
        if self.text[inner.clone()].contains('#') {
            return Err(Refusal::NotExpressible);
        }
        Ok(vec![Splice::new(inner, "")])
    }

    /// Removes the lines of the only member, and writes `[]` or `{}` behind the key above them.
    fn empty_block(&self, above: &[Hop], child: &Range<usize>) -> Result<Vec<Splice>, Refusal> {
        let Some(Hop { container, index, value, .. }) = above.last() else { return Err(Refusal::NotExpressible) };
        let Content::Mapping { entries, .. } = &self.tree.node(*container).content else {
            return Err(Refusal::NotExpressible);
        };
        let nothing = match self.tree.node(*value).content {
            Content::Mapping { .. } => " {}",
            Content::Sequence { .. } => " []",
            Content::Scalar { .. } | Content::Alias(_) => return Err(Refusal::NotExpressible),
        };
        let key_end = self.tree.node(entries[*index].key).range.end;
        let colon = self.text[key_end..child.start].find(':').ok_or(Refusal::NotExpressible)?;
        let behind_colon = key_end + colon + 1;
        Ok(vec![Splice::new(behind_colon..behind_colon, nothing), self.lines_of(child)?])
    }

    fn remove_from_block(&self, children: &[Range<usize>], index: usize) -> Result<Vec<Splice>, Refusal> {
        let child = &children[index];
        if self.begins_line(child.start) {
            return Ok(vec![self.lines_of(child)?]);
        }
        // The first field of a member stands behind the dash; the next one moves there.
        let next = children.get(index + 1).ok_or(Refusal::NotExpressible)?;
        if self.text[child.end..next.start].contains('#') {
            return Err(Refusal::NotExpressible);
        }
        Ok(vec![Splice::new(child.start..next.start, "")])
    }

    /// Removes the lines that a member of a block stands on.
    fn lines_of(&self, child: &Range<usize>) -> Result<Splice, Refusal> {
        if !self.begins_line(child.start) {
            return Err(Refusal::NotExpressible);
        }
        let end = self.line_end(child.end);
        let mut start = self.line_start(child.start);
        if end == self.text.len() && !self.text.ends_with('\n') {
            // A text that ends without a line break goes on to do so.
            start = self.text[..start].trim_end_matches(['\n', '\r']).len().max(start.saturating_sub(2));
        }
        Ok(Splice::new(start..end, ""))
    }

    fn remove_from_flow(&self, children: &[Range<usize>], index: usize) -> Result<Vec<Splice>, Refusal> {
        let child = &children[index];
        let gap_is_simple = |gap: Range<usize>| !self.text[gap].contains(['\n', '#']);
        if let Some(lines) = self.own_lines(child) {
            return Ok(vec![Splice::new(lines, "")]);
        }
        if let Some(before) = index.checked_sub(1).map(|before| &children[before])
            && gap_is_simple(before.end..child.start)
        {
            return Ok(vec![Splice::new(before.end..child.end, "")]);
        }
        match children.get(index + 1) {
            Some(next) if gap_is_simple(child.end..next.start) => Ok(vec![Splice::new(child.start..next.start, "")]),
            Some(_) | None => Err(Refusal::NotExpressible),
        }
    }

    /// The lines of a member of a list in brackets, when nothing else stands on them.
    fn own_lines(&self, child: &Range<usize>) -> Option<Range<usize>> {
        let end = self.line_end(child.end);
        let behind = self.text[child.end..end].trim();
        let behind = behind.strip_prefix(',').unwrap_or(behind).trim_start();
        let is_alone = self.begins_line(child.start) && (behind.is_empty() || behind.starts_with('#'));
        is_alone.then(|| self.line_start(child.start)..end)
    }
}

//! Builds a tree from the events of the parser, and finds what is not supported on the way.

use std::collections::HashMap;
use std::ops::Range;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};
use serde_json::Value;

use super::{Content, Entry, Layout, MAX_DEPTH, Node, NodeId, Problem, Tree};
use crate::diag::codes;
use crate::manifest::scalar::{self, Style};

/// How many keys, values and lists one document may have. A manifest has some dozens; a megabyte of them costs time
/// and memory for nothing.
const MAX_NODES: usize = 100_000;

/// How many problems of one document are reported; the rest of a broken file says nothing new.
const MAX_PROBLEMS: usize = 20;

impl Tree {
    /// Parses the text of one document.
    pub(in crate::manifest) fn parse(text: &str) -> Result<Self, Vec<Problem>> {
        let mut builder = Builder {
            text,
            offsets: Offsets::of(text),
            nodes: Vec::new(),
            open: Vec::new(),
            anchors: HashMap::new(),
            problems: Vec::new(),
            documents: 0,
        };
        for event in Parser::new_from_str(text) {
            let step = match event {
                Ok((event, span)) => builder.event(event, span),
                Err(error) => Err(builder.syntax_error(error.marker().index(), error.info())),
            };
            if let Err(fatal) = step {
                builder.problems.push(fatal);
                break;
            }
            if builder.problems.len() >= MAX_PROBLEMS {
                break;
            }
        }
        let Builder { nodes, problems, .. } = builder;
        match problems.is_empty() {
            true if nodes.is_empty() => {
                Err(vec![Problem::new(codes::YAML_SYNTAX, "the document is empty", 0..0, "remove it")])
            }
            true => Ok(Self { nodes }),
            false => Err(problems),
        }
    }
}

/// The parser counts characters; everything else here counts bytes.
enum Offsets {
    /// Every character is one byte.
    Ascii { len: usize },
    /// The offset of each character, and the length.
    Table(Vec<usize>),
}

impl Offsets {
    fn of(text: &str) -> Self {
        if text.is_ascii() {
            return Self::Ascii { len: text.len() };
        }
        Self::Table(text.char_indices().map(|(offset, _)| offset).chain([text.len()]).collect())
    }

    fn bytes(&self, characters: usize) -> usize {
        match self {
            Self::Ascii { len } => characters.min(*len),
            Self::Table(offsets) => offsets[characters.min(offsets.len() - 1)],
        }
    }
}

/// A list or mapping that is not finished.
struct Open {
    node: NodeId,
    /// In a mapping, the key whose value comes next.
    key: Option<NodeId>,
}

struct Builder<'t> {
    text: &'t str,
    offsets: Offsets,
    nodes: Vec<Node>,
    open: Vec<Open>,
    anchors: HashMap<usize, NodeId>,
    problems: Vec<Problem>,
    documents: usize,
}

impl Builder<'_> {
    /// # Errors
    /// With a problem after which reading on makes no sense.
    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), Problem> {
        let start = self.offsets.bytes(span.start.index());
        let span = start..self.offsets.bytes(span.end.index()).max(start);
        if self.nodes.len() >= MAX_NODES {
            let message = format!("the document has more than {MAX_NODES} keys and values");
            return Err(Problem::new(
                codes::DOCUMENT_TOO_LARGE,
                message,
                start..start,
                "split it into several documents",
            ));
        }
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err(self.syntax_error_at(span.start, "the document ends before this"));
                }
                Ok(())
            }
            Event::Alias(anchor) => self.alias(anchor, span),
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse_tag(tag.is_some(), &span);
                self.scalar(&text, style, anchor, span);
                Ok(())
            }
            Event::SequenceStart(anchor, tag) => {
                self.refuse_tag(tag.is_some(), &span);
                self.begin(anchor, &span, |layout| Content::Sequence { layout, items: Vec::new() })
            }
            Event::MappingStart(anchor, tag) => {
                self.refuse_tag(tag.is_some(), &span);
                self.begin(anchor, &span, |layout| Content::Mapping { layout, entries: Vec::new() })
            }
            Event::SequenceEnd | Event::MappingEnd => {
                self.end(&span);
                Ok(())
            }
        }
    }

    fn alias(&mut self, anchor: usize, span: Range<usize>) -> Result<(), Problem> {
        let range = span.start..span.start + self.text[span].trim_end().len();
        let Some(&target) = self.anchors.get(&anchor) else {
            return Err(self.syntax_error_at(range.start, "no anchor of this name stands before this alias"));
        };
        if self.open.iter().any(|open| open.node == target) {
            return Err(Problem::new(
                codes::RECURSIVE_ALIAS,
                "the alias stands inside the value that it repeats",
                range,
                "write the value out",
            ));
        }
        self.nodes[target].repeated = true;
        self.add(Content::Alias(target), range);
        Ok(())
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, anchor: usize, span: Range<usize>) {
        let mut start = self.skip_properties(&span, anchor);
        let rest = &self.text[start..];
        let (style, len) = match style {
            ScalarStyle::Plain => match self.text[start..span.end.max(start)].trim_end().len() {
                len if text.is_empty() || len == 0 => (Style::Empty, 0),
                len => (Style::Plain, len),
            },
            ScalarStyle::SingleQuoted => (Style::SingleQuoted, single_quoted_len(rest)),
            ScalarStyle::DoubleQuoted => (Style::DoubleQuoted, double_quoted_len(rest)),
            ScalarStyle::Literal | ScalarStyle::Folded => {
                let header = self.block_header(start, text.is_empty());
                let header_end = self.text[header..].find('\n').map_or(self.text.len(), |len| header + len);
                let header_end = self.text[..header_end].trim_end().len();
                let end = match text {
                    // Comments may follow, which are no part of it.
                    "" => header_end,
                    _ => header_end.max(start + self.text[start..span.end.max(start)].trim_end().len()),
                };
                start = header;
                (Style::Block, end.saturating_sub(header))
            }
        };
        let range = start..start + len;
        let value = match style {
            Style::Empty => Value::Null,
            Style::Plain => scalar::resolve(text).unwrap_or_else(|scalar::OutOfRange| {
                self.problem(Problem::new(
                    codes::NUMBER_OUT_OF_RANGE,
                    format!("{text} is no number that can be used here"),
                    range.clone(),
                    "use a smaller number, or put it in quotes if it is a text",
                ));
                Value::Null
            }),
            Style::SingleQuoted | Style::DoubleQuoted | Style::Block => Value::String(text.to_owned()),
        };
        let id = self.add(Content::Scalar { value, style }, range);
        self.anchor(anchor, id);
    }

    fn begin(
        &mut self,
        anchor: usize,
        span: &Range<usize>,
        content: impl FnOnce(Layout) -> Content,
    ) -> Result<(), Problem> {
        let start = self.skip_properties(span, anchor);
        if self.open.len() >= MAX_DEPTH {
            return Err(Problem::too_deep(start..start + 1));
        }
        // What begins by indentation may be followed by a bracket, which then lies behind its span.
        let layout = match self.text.get(start..span.end).and_then(|text| text.bytes().next()) {
            Some(b'[' | b'{') => Layout::Flow,
            Some(_) | None if self.in_flow() => Layout::Bare,
            Some(_) | None => Layout::Block,
        };
        let id = self.add(content(layout), start..start);
        self.anchor(anchor, id);
        self.open.push(Open { node: id, key: None });
        Ok(())
    }

    fn end(&mut self, span: &Range<usize>) {
        let Some(Open { node: id, .. }) = self.open.pop() else { return };
        let node = &self.nodes[id];
        let (layout, last, start) = match &node.content {
            Content::Mapping { layout, entries } => {
                (*layout, entries.last().map(|entry| entry.value), node.range.start)
            }
            Content::Sequence { layout: Layout::Block, items } => {
                // It begins with its first dash, whatever the parser says.
                let first = items.first().map_or(node.range.start, |first| self.nodes[*first].range.start);
                let dash = self.text[..first].trim_end_matches([' ', '\t']).strip_suffix('-').map(str::len);
                (Layout::Block, items.last().copied(), dash.unwrap_or(node.range.start))
            }
            Content::Sequence { layout, items } => (*layout, items.last().copied(), node.range.start),
            Content::Scalar { .. } | Content::Alias(_) => return,
        };
        let end = match layout {
            Layout::Flow => (span.start + 1).min(self.text.len()),
            Layout::Block | Layout::Bare => last.map_or(start, |last| self.nodes[last].range.end),
        };
        self.nodes[id].range = start..end.max(start);
        self.refuse_duplicates(id);
    }

    /// Adds a node to the list or mapping that is being read.
    fn add(&mut self, content: Content, range: Range<usize>) -> NodeId {
        let id = self.nodes.len();
        let in_flow = self.in_flow();
        self.nodes.push(Node { content, range, repeated: false, in_flow });
        let Some(open) = self.open.last_mut() else { return id };
        let parent = open.node;
        let key = match &mut self.nodes[parent].content {
            Content::Sequence { items, .. } => {
                items.push(id);
                return id;
            }
            Content::Mapping { .. } => match open.key.take() {
                Some(key) => key,
                None => {
                    open.key = Some(id);
                    return id;
                }
            },
            Content::Scalar { .. } | Content::Alias(_) => return id,
        };
        if matches!(self.nodes[id].content, Content::Scalar { style: Style::Empty, .. }) {
            let after_colon = self.after_colon(self.nodes[key].range.end);
            self.nodes[id].range = after_colon..after_colon;
        }
        let name = self.key_name(key);
        if let Content::Mapping { entries, .. } = &mut self.nodes[parent].content {
            entries.push(Entry { name, key, value: id });
        }
        id
    }

    fn in_flow(&self) -> bool {
        self.open.last().is_some_and(|open| {
            let node = &self.nodes[open.node];
            node.in_flow
                || matches!(
                    node.content,
                    Content::Mapping { layout: Layout::Flow, .. } | Content::Sequence { layout: Layout::Flow, .. }
                )
        })
    }

    fn anchor(&mut self, anchor: usize, id: NodeId) {
        if anchor != 0 {
            self.anchors.insert(anchor, id);
        }
    }

    /// Past the colon behind a key that ends at `from`, if there is one.
    fn after_colon(&self, from: usize) -> usize {
        let rest = &self.text[from..];
        let blank = rest.len() - rest.trim_start_matches([' ', '\t']).len();
        if rest[blank..].starts_with(':') { from + blank + 1 } else { from }
    }

    /// The `|` or `>` of the block scalar whose text begins at `content`, on one of the lines above. An empty one
    /// may be reported on its own line.
    fn block_header(&self, content: usize, is_empty: bool) -> usize {
        let mut end = if is_empty {
            self.text[content..].find('\n').map_or(self.text.len(), |len| content + len)
        } else {
            content
        };
        if !is_empty {
            end = self.text[..end].rfind('\n').unwrap_or(0);
        }
        loop {
            let start = self.text[..end].rfind('\n').map_or(0, |newline| newline + 1);
            let line = &self.text[start..end];
            if let Some(header) = header_in(line) {
                return start + header;
            }
            if start == 0 || !(is_empty || line.trim().is_empty()) {
                return content;
            }
            end = start - 1;
        }
    }

    /// Past the anchor and tag, and the blanks, line ends and comments behind them.
    fn skip_properties(&self, span: &Range<usize>, anchor: usize) -> usize {
        let bytes = self.text.as_bytes();
        let mut at = span.start;
        if anchor == 0 {
            return at;
        }
        while let Some(byte) = bytes.get(at) {
            match byte {
                b'&' | b'!' => {
                    let len = self.text[at..].find([' ', '\t', '\r', '\n', ',', ']', '}']);
                    at = len.map_or(self.text.len(), |len| at + len);
                }
                b' ' | b'\t' | b'\r' | b'\n' => at += 1,
                b'#' => at = self.text[at..].find('\n').map_or(self.text.len(), |len| at + len),
                _ => break,
            }
        }
        at
    }

    fn key_name(&mut self, key: NodeId) -> String {
        let node = &self.nodes[key];
        let range = node.range.clone();
        let (name, style) = match &node.content {
            Content::Scalar { value: Value::String(name), style } => (name.clone(), *style),
            Content::Scalar { .. } | Content::Mapping { .. } | Content::Sequence { .. } | Content::Alias(_) => {
                let shown: String = self.text[range.clone()].chars().take(40).collect();
                self.problem(Problem::new(
                    codes::NON_STRING_KEY,
                    format!("the key `{shown}` is not a text"),
                    range,
                    "put the key in quotes",
                ));
                return format!("\0{key}");
            }
        };
        if name == "<<" && style == Style::Plain {
            self.problem(Problem::new(
                codes::MERGE_KEY,
                "merge keys (`<<`) are not supported",
                range,
                "write the fields out, or repeat a whole value with an alias",
            ));
            return format!("\0{key}");
        }
        name
    }

    fn refuse_tag(&mut self, tagged: bool, span: &Range<usize>) {
        if !tagged {
            return;
        }
        let rest = &self.text[span.start..];
        let start = span.start + rest.find('!').unwrap_or(0);
        let rest = &self.text[start..];
        let tag = &rest[..rest
            .find(|c: char| c.is_whitespace() || matches!(c, ',' | '[' | ']' | '{' | '}'))
            .unwrap_or(rest.len())];
        self.problem(Problem::new(
            codes::YAML_TAG,
            format!("YAML tags (`{}`) are not supported", tag.chars().take(40).collect::<String>()),
            start..start + tag.len(),
            "remove the tag; put a value in quotes to make it a text",
        ));
    }

    fn refuse_duplicates(&mut self, id: NodeId) {
        let Content::Mapping { entries, .. } = &self.nodes[id].content else { return };
        let mut first: HashMap<&str, NodeId> = HashMap::with_capacity(entries.len());
        let mut found = Vec::new();
        for entry in entries {
            match first.get(entry.name.as_str()) {
                Some(&key) => found.push((entry.name.clone(), key, entry.key)),
                None => {
                    first.insert(&entry.name, entry.key);
                }
            }
            if found.len() > MAX_PROBLEMS {
                break;
            }
        }
        for (name, first, second) in found {
            let problem = Problem::new(
                codes::DUPLICATE_KEY,
                format!("the key `{name}` is given twice"),
                self.nodes[second].range.clone(),
                "keep one of the two",
            );
            let related = Some(("it is given here first".to_owned(), self.nodes[first].range.clone()));
            self.problem(Problem { related, ..problem });
        }
    }

    fn problem(&mut self, problem: Problem) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(problem);
        }
    }

    fn syntax_error(&self, character: usize, message: &str) -> Problem {
        let at = self.offsets.bytes(character);
        // The parser has a limit of its own for `[` and `{`, and meets it before the events of this document do.
        if message.contains("recursion limit") {
            return Problem::too_deep(at..(at + 1).min(self.text.len()));
        }
        self.syntax_error_at(at, message)
    }

    /// A syntax error at the word that begins at `at`; at the last word, when it is the end of the text that is wrong.
    fn syntax_error_at(&self, at: usize, message: &str) -> Problem {
        let at = if self.text[at..].trim().is_empty() {
            let content = self.text.trim_end();
            content.char_indices().next_back().map_or(0, |(last, _)| last)
        } else {
            at
        };
        let rest = &self.text[at..];
        let blank = rest.len() - rest.trim_start().len();
        let word = rest[blank..].find(char::is_whitespace).unwrap_or(rest.len() - blank);
        let line_start = self.text[..at + blank].rfind('\n').map_or(0, |newline| newline + 1);
        let line = &self.text[line_start..];
        let indentation = &line[..line.len() - line.trim_start_matches([' ', '\t']).len()];
        let help = if indentation.contains('\t') {
            "indent with spaces; YAML does not allow tabs there"
        } else {
            "look here and just above for a missing colon, quote or bracket, or for uneven indentation"
        };
        Problem::new(codes::YAML_SYNTAX, message, at + blank..at + blank + word, help)
    }
}

/// Where a block scalar begins on a line that ends in its header: `|`, `>-`, `|2+ # comment`.
fn header_in(line: &str) -> Option<usize> {
    line.match_indices(['|', '>']).map(|(at, _)| at).find(|at| {
        let (before, header) = (&line[..*at], &line[at + 1..]);
        let behind = header.trim_start_matches(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-'));
        let is_end =
            behind.trim().is_empty() || (behind.starts_with([' ', '\t']) && behind.trim_start().starts_with('#'));
        is_end && (before.is_empty() || before.ends_with([' ', '\t']))
    })
}

/// The length of the single-quoted scalar that `text` begins with.
fn single_quoted_len(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut at = 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\'' if bytes.get(at + 1) == Some(&b'\'') => at += 2,
            b'\'' => return at + 1,
            _ => at += 1,
        }
    }
    text.len()
}

/// The length of the double-quoted scalar that `text` begins with.
fn double_quoted_len(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut at = 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    text.len()
}

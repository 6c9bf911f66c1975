//! Documents that know how they are laid out, and what they become when they are edited.

use std::collections::BTreeSet;

use plumb::manifest::Edit;
use proptest::prelude::*;
use serde_json::Value;

/// How a generated document is laid out.
#[derive(Clone, Debug)]
struct Layout {
    step: usize,
    crlf: bool,
    flow_roles: bool,
    flow_list: bool,
    indented_lists: bool,
    blank_lines: bool,
    final_break: bool,
    extensions: BTreeSet<String>,
    roles: BTreeSet<String>,
    settings: BTreeSet<String>,
    order: Vec<usize>,
}

/// A member of a list, or a setting.
#[derive(Clone, Debug)]
struct Member {
    name: String,
    /// How it is written; below its first line without the margin.
    text: String,
}

/// A part of the text of a spec.
#[derive(Clone, Debug)]
enum Line {
    /// A blank line, or a comment.
    Other(String),
    Limit(String),
    /// The line of a list or a mapping, and the members that stand on it.
    Head {
        of: &'static str,
        inline: Option<Vec<Member>>,
        comment: String,
    },
    Member {
        of: &'static str,
        margin: usize,
        member: Member,
    },
}

/// A document in which every line has a comment that names what stands on it, as lines that can be edited one by one:
/// what an edit must come to, byte for byte.
#[derive(Clone, Debug)]
pub struct Page {
    step: usize,
    /// Whether its lines end as on Windows.
    pub crlf: bool,
    final_break: bool,
    lines: Vec<Line>,
}

impl Page {
    fn new(layout: &Layout) -> Self {
        let list_margin = if layout.indented_lists { layout.step * 2 } else { layout.step };
        let section = |of: &'static str, margin: usize, members: Vec<Member>| {
            let head = Line::Head { of, inline: None, comment: format!(" # on {of}") };
            let lines = members.into_iter().flat_map(move |member| {
                let above = Line::Other(format!("{}# above {}", " ".repeat(margin), member.name));
                [above, Line::Member { of, margin, member }]
            });
            std::iter::once(head).chain(lines).collect::<Vec<Line>>()
        };
        let members = |names: &BTreeSet<String>, text: &dyn Fn(&String) -> String| -> Vec<Member> {
            names.iter().map(|name| Member { name: name.clone(), text: text(name) }).collect()
        };
        let role = |name: &String| match layout.flow_roles {
            true => format!("{{name: {name}, access: read}} # on {name}"),
            false => format!("name: {name} # on {name}\naccess: 'read' # on {name}"),
        };
        let (mut extensions, mut roles, mut settings) = (Vec::new(), Vec::new(), Vec::new());
        if layout.flow_list || layout.extensions.is_empty() {
            let inline = Some(members(&layout.extensions, &Clone::clone));
            extensions.push(Line::Head { of: "extensions", inline, comment: " # on extensions".to_owned() });
        } else {
            let written = members(&layout.extensions, &|name| format!("{name} # on {name}"));
            extensions = section("extensions", list_margin, written);
        }
        if !layout.roles.is_empty() {
            roles = section("roles", list_margin, members(&layout.roles, &role));
        }
        if !layout.settings.is_empty() {
            let written = members(&layout.settings, &|name| format!("{name}: \"1MB\" # on {name}"));
            settings = section("settings", layout.step * 2, written);
        }
        let sections = [vec![Line::Limit("20 # on limit".to_owned())], extensions, roles, settings];
        let mut lines = Vec::new();
        for index in &layout.order {
            if layout.blank_lines {
                lines.push(Line::Other(String::new()));
            }
            lines.push(Line::Other(format!("{}# section {index}", " ".repeat(layout.step))));
            lines.extend(sections[*index].iter().cloned());
        }
        Self { step: layout.step, crlf: layout.crlf, final_break: layout.final_break, lines }
    }

    /// The document.
    pub fn text(&self) -> String {
        let margin = " ".repeat(self.step);
        let mut text = "# header\napiVersion: plumb.dev/v1\nkind: Database\nspec: # on spec\n".to_owned();
        for line in &self.lines {
            text.push_str(&match line {
                Line::Other(comment) => comment.clone(),
                Line::Limit(value) => format!("{margin}connectionLimit: {value}"),
                Line::Head { of, inline: None, comment } => format!("{margin}{of}:{comment}"),
                Line::Head { of, inline: Some(members), comment } => {
                    let members: Vec<&str> = members.iter().map(|member| member.text.as_str()).collect();
                    let (open, close) = if *of == "settings" { ('{', '}') } else { ('[', ']') };
                    format!("{margin}{of}: {open}{}{close}{comment}", members.join(", "))
                }
                Line::Member { of: "settings", margin, member } => format!("{}{}", " ".repeat(*margin), member.text),
                Line::Member { margin, member, .. } => {
                    let margin = " ".repeat(*margin);
                    format!("{margin}- {}", member.text.replace('\n', &format!("\n{margin}  ")))
                }
            });
            text.push('\n');
        }
        if self.final_break {
            text.push_str("# footer\n");
        } else {
            text.pop();
        }
        if self.crlf { text.replace('\n', "\r\n") } else { text }
    }

    /// Makes the edit.
    pub fn change(&mut self, edit: &Edit) {
        let segments = edit.path.segments();
        match (segments[1].as_str(), &edit.to) {
            ("connectionLimit", Some(value)) => self.set_limit(value),
            ("connectionLimit", None) => self.lines.retain(|line| !matches!(line, Line::Limit(_))),
            ("extensions", Some(_)) => self.set("extensions", &segments[2]),
            ("roles", Some(_)) => self.set("roles", &segments[2]),
            ("settings", Some(_)) => self.set("settings", &segments[2]),
            (of, None) => self.unset(of, &segments[2]),
            (other, Some(_)) => panic!("{other} is not edited here"),
        }
    }

    fn set_limit(&mut self, value: &Value) {
        match self.lines.iter_mut().find_map(|line| if let Line::Limit(text) = line { Some(text) } else { None }) {
            Some(text) => *text = format!("{value}{}", text.find(' ').map_or("", |end| &text[end..])),
            None => self.lines.insert(self.end(), Line::Limit(value.to_string())),
        }
    }

    /// Behind the last line of the spec that is no comment.
    fn end(&self) -> usize {
        self.lines.iter().rposition(|line| !matches!(line, Line::Other(_))).map_or(0, |last| last + 1)
    }

    fn head(&mut self, section: &str) -> Option<&mut Option<Vec<Member>>> {
        self.lines.iter_mut().find_map(|line| match line {
            Line::Head { of, inline, .. } if *of == section => Some(inline),
            _ => None,
        })
    }

    fn member(&mut self, section: &str, wanted: &str) -> Option<&mut Member> {
        let members = self.lines.iter_mut().flat_map(|line| match line {
            Line::Head { of, inline: Some(members), .. } if *of == section => members.iter_mut().collect(),
            Line::Member { of, member, .. } if *of == section => vec![member],
            _ => Vec::new(),
        });
        members.into_iter().find(|member| member.name == wanted)
    }

    /// Gives a member the one value that is set here.
    fn set(&mut self, of: &'static str, name: &str) {
        if let Some(member) = self.member(of, name) {
            member.text = member.text.replace("1MB", "2MB").replace("read", "admin");
            return;
        }
        let text = match of {
            "extensions" => name.to_owned(),
            "roles" => format!("{{name: {name}, access: admin}}"),
            _ => format!("{name}: 2MB"),
        };
        let member = Member { name: name.to_owned(), text };
        let last = self.lines.iter().rposition(|line| matches!(line, Line::Member { of: its, .. } if *its == of));
        match (self.head(of), last) {
            (Some(Some(inline)), _) => inline.push(member),
            (Some(None), Some(last)) => {
                let Line::Member { margin, member: sibling, .. } = self.lines[last].clone() else { unreachable!() };
                let is_block = of == "roles" && !sibling.text.starts_with('{');
                let text = if is_block { format!("name: {name}\naccess: admin") } else { member.text };
                self.lines.insert(last + 1, Line::Member { of, margin, member: Member { text, ..member } });
            }
            (None, _) => {
                let head = Line::Head { of, inline: None, comment: String::new() };
                let new = [head, Line::Member { of, margin: self.step * 2, member }];
                let end = self.end();
                self.lines.splice(end..end, new);
            }
            (Some(None), None) => unreachable!("an emptied list stands on one line"),
        }
    }

    /// Removes a member. The comment above it stays: it may speak of more.
    fn unset(&mut self, section: &str, name: &str) {
        self.lines
            .retain(|line| !matches!(line, Line::Member { of, member, .. } if *of == section && member.name == name));
        let is_empty = !self.lines.iter().any(|line| matches!(line, Line::Member { of, .. } if *of == section));
        match self.head(section) {
            Some(Some(inline)) => inline.retain(|member| member.name != name),
            Some(inline @ None) if is_empty => *inline = Some(Vec::new()),
            Some(None) | None => {}
        }
    }
}

/// Documents of many layouts.
pub fn pages() -> impl Strategy<Value = Page> {
    let names =
        |prefix: &'static str| prop::collection::btree_set((0..6).prop_map(move |i: i32| format!("{prefix}{i}")), 0..4);
    let flags = prop::array::uniform6(any::<bool>());
    let order = Just((0..4).collect::<Vec<usize>>()).prop_shuffle();
    (prop_oneof![Just(2_usize), Just(4)], flags, names("ext"), names("role"), names("set"), order).prop_map(
        |(step, flags, extensions, roles, settings, order)| {
            let [crlf, flow_roles, flow_list, indented_lists, blank_lines, final_break] = flags;
            Page::new(&Layout {
                step,
                crlf,
                flow_roles,
                flow_list,
                indented_lists,
                blank_lines,
                final_break,
                extensions,
                roles,
                settings,
                order,
            })
        },
    )
}

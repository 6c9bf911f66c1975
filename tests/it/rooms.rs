//! The house keeps its plan: no room imports what the table of the design (section 5) forbids.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What each room may import; `model` is free to all.
const TABLE: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("diag", &["model"]),
    ("manifest", &["model", "diag"]),
    ("validate", &["model", "diag", "manifest"]),
    ("plan", &["model"]),
    ("client", &["model"]),
    ("source", &["model", "diag"]),
    ("managers", &["model", "client"]),
    ("forge", &["model", "diag", "client"]),
    ("store", &["model"]),
    ("engine", &["model", "diag", "manifest", "validate", "plan", "client", "source", "managers", "forge", "store"]),
    (
        "web",
        &["model", "diag", "manifest", "validate", "plan", "client", "source", "managers", "forge", "store", "engine"],
    ),
    (
        "cli",
        &[
            "model", "diag", "manifest", "validate", "plan", "client", "source", "managers", "forge", "store",
            "engine", "web",
        ],
    ),
];

#[test]
fn no_room_imports_what_the_table_forbids() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    for (room, allowed) in TABLE {
        for file in rust_files(&src.join(room)) {
            let code = fs::read_to_string(&file).unwrap();
            for used in rooms_used(&code) {
                if used != *room && !allowed.contains(&used.as_str()) {
                    wrong.push(format!("{} uses crate::{used}", file.strip_prefix(&src).unwrap().display()));
                }
            }
            let within = file.strip_prefix(&src).unwrap();
            if steps_up(&code) >= depth(within) {
                wrong.push(format!("{} leaves its room by super", within.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_room_is_in_the_table() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let known: BTreeSet<&str> = TABLE.iter().map(|(room, _)| *room).collect();
    for entry in fs::read_dir(src).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        assert!(known.contains(name.as_str()) || ["lib", "main"].contains(&name.as_str()), "{name} is in no table");
    }
}

#[test]
fn the_check_sees_forbidden_arrows_and_only_in_code() {
    assert_eq!(rooms_used("use crate::engine::Engine;"), ["engine".to_owned()].into());
    assert_eq!(rooms_used("let x = crate::web::router;"), ["web".to_owned()].into());
    assert_eq!(rooms_used("use crate::{store, model};"), ["model".to_owned(), "store".to_owned()].into());
    let long = "use crate::{\n    model::{A, B}, // one\n    store::{C, web},\n    engine,\n};\nlet x = diag::y;";
    assert_eq!(rooms_used(long), ["engine".to_owned(), "model".to_owned(), "store".to_owned()].into());
    assert!(rooms_used("// use crate::engine::Engine;\n/// [`crate::web`]").is_empty());
    assert_eq!((steps_up("use super::super::a;\nuse super::b;"), depth(Path::new("engine/view/look.rs"))), (2, 3));
    assert!(rooms_used("fn a() {}\n#[cfg(test)]\nmod tests {\n    use crate::engine::Engine;\n}\n").is_empty());
}

/// How deep the module of a file stands below the crate.
fn depth(file: &Path) -> usize {
    let parts = file.components().count();
    if file.ends_with("mod.rs") { parts - 1 } else { parts }
}

/// The longest way up that code takes: how many `super` stand in a row.
fn steps_up(code: &str) -> usize {
    let code = without_comments_and_tests(code);
    (1..).take_while(|steps| code.contains(&"super::".repeat(*steps))).last().unwrap_or(0)
}

fn rust_files(room: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let Ok(entries) = fs::read_dir(room) else { return files };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") && !is_test_file(&path) {
            files.push(path);
        }
    }
    files
}

/// Files that their parent declares under `#[cfg(test)]`.
fn is_test_file(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "tests" || part.as_os_str() == "tests.rs")
}

/// The rooms that code names behind `crate::`: not in comments, not under `#[cfg(test)]`, which ends a file here.
fn rooms_used(code: &str) -> BTreeSet<String> {
    let code = without_comments_and_tests(code);
    let mut used = BTreeSet::new();
    for (at, path) in code.match_indices("crate::") {
        let rest = &code[at + path.len()..];
        match rest.strip_prefix('{') {
            Some(list) => used.extend(members(list).iter().map(|member| word(member)).filter(|room| !room.is_empty())),
            None => drop(used.insert(word(rest))),
        }
    }
    used
}

fn without_comments_and_tests(code: &str) -> String {
    let mut kept = String::new();
    let mut lines = code.lines().peekable();
    while let Some(line) = lines.next() {
        let line = line.trim();
        if line == "#[cfg(test)]" && lines.peek().is_some_and(|next| next.trim_start().starts_with("mod tests")) {
            break;
        }
        kept.push_str(line.split("//").next().unwrap_or(""));
        kept.push('\n');
    }
    kept
}

/// The members of a list in braces, of which the first is open already; lists within them stay whole.
fn members(list: &str) -> Vec<String> {
    let (mut members, mut depth) = (vec![String::new()], 0);
    for character in list.chars() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => members.push(String::new()),
            _ => {}
        }
        members.last_mut().expect("there is always one").push(character);
    }
    members.iter().map(|member| member.trim_matches(|c: char| c == ',' || c.is_whitespace()).to_owned()).collect()
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

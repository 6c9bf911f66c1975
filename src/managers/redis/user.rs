//! An ACL user as the server tells of it, and what of it is not as Plumb makes it.

use std::collections::{BTreeSet, HashMap};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use redis::Value;

use super::catalog::{Catalog, Commands};
use super::rules::{ALL_CHANNELS, ALL_KEYS};
use crate::model::{FieldPath, Fields, Mark, ObjectId};

pub(super) const KEY_PREFIX: &str = "/spec/keyPrefix";
pub(super) const CATEGORY_LIST: &str = "/spec/categories";

/// The categories a document may name, as Redis spells them.
pub(super) const CATEGORIES: &[&str] = &[
    "bitmap",
    "blocking",
    "connection",
    "geo",
    "hash",
    "hyperloglog",
    "keyspace",
    "list",
    "pubsub",
    "read",
    "scripting",
    "set",
    "sortedset",
    "stream",
    "string",
    "transaction",
    "write",
];

/// What a user gets when git names no category.
pub(super) const DEFAULT_CATEGORIES: &[&str] = &["read", "write"];

/// How sets of further rights (`(...)`) are told.
const SELECTORS: &str = "selectors";

const KEY_MARK: &str = "%R~";
const CHANNEL_MARK: &str = "&";
const MARK: &str = "plumb:mark:";

/// The prefix that is computed where git sets none.
pub(super) fn default_prefix(user: &str) -> String {
    format!("{user}:")
}

pub(super) fn category_path(category: &str) -> FieldPath {
    FieldPath::new(CATEGORY_LIST).child(category)
}

/// The categories below `/spec/categories` of paths.
pub(super) fn categories_in<'a>(paths: impl Iterator<Item = &'a FieldPath>) -> BTreeSet<String> {
    paths.filter(|path| path.is_within(CATEGORY_LIST)).filter_map(|path| path.segments().into_iter().nth(2)).collect()
}

/// The mark on a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UserMark {
    pub id: String,
    pub mark: Mark,
}

impl UserMark {
    /// The key pattern that carries it.
    pub(super) fn key_pattern(&self) -> String {
        format!("{KEY_MARK}{}", self.text())
    }

    /// The channel pattern that carries it.
    pub(super) fn channel_pattern(&self) -> String {
        format!("{CHANNEL_MARK}{}", self.text())
    }

    /// No character of it means anything in a pattern.
    fn text(&self) -> String {
        format!("{MARK}{}:{}", self.id, BASE64_URL_SAFE_NO_PAD.encode(self.mark.to_text()))
    }

    fn parse(text: &str) -> Option<Self> {
        let (id, text) = text.split_once(':')?;
        let text = String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
        Some(Self { id: id.to_owned(), mark: Mark::from_text(&text)? })
    }
}

/// What stands behind the beginning of a mark, when a rule is one.
fn mark_in(rule: &str) -> Option<&str> {
    rule.strip_prefix(KEY_MARK).or_else(|| rule.strip_prefix(CHANNEL_MARK))?.strip_prefix(MARK)
}

/// Whose a user is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Marking {
    None,
    Marked(UserMark),
    /// There is a mark that cannot be read, or there are two that differ: it may be anybody's.
    Unreadable,
}

/// How a user proves who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    Passwords(usize),
    /// Anybody may log in as it.
    Nopass,
}

/// An ACL user. Never holds a password's hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct User {
    pub name: String,
    pub marking: Marking,
    pub proof: Proof,
    /// Key patterns but for the mark, in order, as rules.
    pub keys: Vec<String>,
    /// Channel patterns, likewise.
    pub channels: Vec<String>,
    /// Command rules in order.
    pub commands: Vec<String>,
    /// All that Plumb never sets: switched off, selectors, flags it does not know.
    pub strange: BTreeSet<String>,
}

impl User {
    fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            marking: Marking::None,
            proof: Proof::Passwords(0),
            keys: Vec::new(),
            channels: Vec::new(),
            commands: Vec::new(),
            strange: BTreeSet::new(),
        }
    }

    /// From a line of `ACL LIST`.
    pub(super) fn from_list(line: &str) -> Option<Self> {
        let (name, rules) = line.strip_prefix("user ")?.split_once(' ')?;
        let mut user = Self::named(name);
        let mut rest = rules;
        while !rest.is_empty() {
            if rest.starts_with('(') {
                // Selectors come last and hold spaces.
                user.strange.insert(SELECTORS.to_owned());
                break;
            }
            let (rule, after) = rest.split_once(' ').unwrap_or((rest, ""));
            user.take(rule);
            rest = after;
        }
        Some(user)
    }

    /// From the answer to `ACL GETUSER`.
    pub(super) fn from_getuser(name: &str, answer: &HashMap<String, Value>) -> Option<Self> {
        let mut user = Self::named(name);
        for (part, value) in answer {
            match (part.as_str(), value) {
                // Only how many there are.
                ("passwords", Value::Array(hashes)) => hashes.iter().for_each(|_| user.take("#")),
                ("flags", flags) => {
                    let flags: Vec<String> = redis::from_redis_value_ref(flags).ok()?;
                    flags.iter().for_each(|flag| user.take(flag));
                }
                ("commands" | "keys" | "channels", rules) => {
                    let rules: String = redis::from_redis_value_ref(rules).ok()?;
                    rules.split(' ').for_each(|rule| user.take(rule));
                }
                ("selectors", Value::Array(selectors)) if selectors.is_empty() => {}
                ("selectors", _) => {
                    user.strange.insert(SELECTORS.to_owned());
                }
                // Whatever else a newer server tells of a user.
                (part, _) => {
                    user.strange.insert(part.to_owned());
                }
            }
        }
        Some(user)
    }

    fn take(&mut self, rule: &str) {
        if let Some(text) = mark_in(rule) {
            self.marking = match (&self.marking, UserMark::parse(text)) {
                (Marking::None, Some(mark)) => Marking::Marked(mark),
                (Marking::Marked(one), Some(other)) if *one == other => Marking::Marked(other),
                (Marking::None | Marking::Marked(_) | Marking::Unreadable, _) => Marking::Unreadable,
            };
            return;
        }
        match rule {
            "" | "on" | "sanitize-payload" | "resetkeys" | "resetchannels" => {}
            "nopass" => self.proof = Proof::Nopass,
            "allkeys" => self.keys.push(ALL_KEYS.to_owned()),
            "allchannels" => self.channels.push(ALL_CHANNELS.to_owned()),
            "allcommands" => self.commands.push("+@all".to_owned()),
            "nocommands" => self.commands.push("-@all".to_owned()),
            rule if rule.starts_with('#') => {
                self.proof = match self.proof {
                    Proof::Passwords(count) => Proof::Passwords(count + 1),
                    Proof::Nopass => Proof::Nopass,
                };
            }
            rule if rule.starts_with(['~', '%']) => self.keys.push(rule.to_owned()),
            rule if rule.starts_with('&') => self.channels.push(rule.to_owned()),
            rule if rule.starts_with(['+', '-']) => self.commands.push(rule.to_owned()),
            rule => {
                self.strange.insert(rule.to_owned());
            }
        }
    }

    pub(super) fn object(&self) -> ObjectId {
        match &self.marking {
            Marking::Marked(mark) => ObjectId(mark.id.clone()),
            Marking::None | Marking::Unreadable => ObjectId(format!("user:{}", self.name)),
        }
    }

    pub(super) fn mark(&self) -> Option<&UserMark> {
        match &self.marking {
            Marking::Marked(mark) => Some(mark),
            Marking::None | Marking::Unreadable => None,
        }
    }

    /// The prefix of the first key pattern that is one. Giving a user all keys by hand removes the patterns it has;
    /// then its channels still tell.
    pub(super) fn prefix(&self) -> Option<String> {
        let of_keys = self.keys.iter().find_map(|pattern| literal_prefix(pattern.strip_prefix('~')?));
        of_keys.or_else(|| self.channels.iter().find_map(|pattern| literal_prefix(pattern.strip_prefix('&')?)))
    }

    /// The categories Plumb applied last; what it gives by default when git named none.
    pub(super) fn applied_categories(&self) -> Applied {
        let Some(UserMark { mark, .. }) = self.mark() else { return Applied::Unrecorded };
        let named = categories_in(mark.hashes.keys());
        if named.is_empty() { Applied::Default } else { Applied::Named(named) }
    }

    /// As a document would say it; with what no document can say behind the prefix, after a space.
    pub(super) fn fields(&self, catalog: &Catalog) -> Fields {
        let deviations = self.deviations(catalog);
        let keys = self.prefix().unwrap_or_else(|| "no prefix".to_owned());
        let mut fields = Fields::new();
        if deviations.is_empty() {
            fields.insert(KEY_PREFIX, keys);
        } else {
            fields.insert(KEY_PREFIX, format!("{keys} with {}", deviations.join(" ")));
        }
        let understanding = self.understand(catalog);
        for category in understanding.categories.iter().chain(&understanding.added) {
            fields.insert(category_path(category), true);
        }
        fields
    }

    /// All that is not as Plumb makes a user with this prefix and these categories: a rule that is too much, or
    /// `without` one that is missing.
    pub(super) fn deviations(&self, catalog: &Catalog) -> Vec<String> {
        let mut deviations: Vec<String> = self.strange.iter().cloned().collect();
        match self.proof {
            Proof::Nopass => deviations.push("nopass".to_owned()),
            Proof::Passwords(0) => deviations.push("no password".to_owned()),
            Proof::Passwords(_) => {}
        }
        let pattern = self.prefix().map(|prefix| format!("{}*", escape(&prefix)));
        for (sign, rules) in [('~', &self.keys), ('&', &self.channels)] {
            let made = pattern.as_ref().map(|pattern| format!("{sign}{pattern}"));
            deviations.extend(rules.iter().filter(|rule| Some(*rule) != made.as_ref()).cloned());
            deviations.extend(made.filter(|rule| !rules.contains(rule)).map(|rule| format!("without {rule}")));
        }
        if pattern.is_none() {
            deviations.push("without a prefix".to_owned());
        }
        deviations.extend(self.understand(catalog).deviations);
        deviations
    }

    /// The same where only `prefix` will do.
    pub(super) fn deviations_from(&self, prefix: &str, catalog: &Catalog) -> Vec<String> {
        let mut deviations = self.deviations(catalog);
        if let Some(other) = self.prefix().filter(|other| other != prefix) {
            deviations.push(format!("~{}*", escape(&other)));
        }
        deviations
    }

    /// The categories that explain what the user may run, as far as they do.
    pub(super) fn explained_categories(&self, catalog: &Catalog) -> BTreeSet<String> {
        self.understand(catalog).categories
    }

    fn understand(&self, catalog: &Catalog) -> Understanding {
        // What a client says when it connects may differ between versions of Plumb, and harms nobody.
        let live: Commands = catalog.allowed(&self.commands).union(&catalog.granted([])).cloned().collect();
        let whole = |category: &String| catalog.granted([category]).is_subset(&live);
        let applied: BTreeSet<String> = match self.applied_categories() {
            Applied::Named(named) => named,
            Applied::Default => DEFAULT_CATEGORIES.iter().map(|&category| category.to_owned()).collect(),
            Applied::Unrecorded => CATEGORIES.iter().map(|&category| category.to_owned()).filter(whole).collect(),
        };
        let expected = catalog.granted(&applied);
        if live == *expected {
            return Understanding { categories: applied, added: BTreeSet::new(), deviations: Vec::new() };
        }
        let added: BTreeSet<String> = CATEGORIES
            .iter()
            .map(|&category| category.to_owned())
            .filter(|category| whole(category) && !catalog.granted([category]).is_subset(&expected))
            .collect();
        let mut deviations = catalog.describe_extra(&live, &expected);
        let left: BTreeSet<String> = applied.iter().filter(|category| whole(category)).cloned().collect();
        if *catalog.granted(&left) == live.intersection(&expected).cloned().collect() {
            // Whole categories were taken away: the fields say so, where git names them.
            if self.applied_categories() == Applied::Default {
                deviations.extend(applied.difference(&left).map(|category| format!("without +@{category}")));
            }
            return Understanding { categories: left, added, deviations };
        }
        deviations.extend(Catalog::describe_missing(&live, &expected));
        Understanding { categories: applied, added, deviations }
    }
}

/// What a user's commands amount to.
struct Understanding {
    /// Those of the categories given that it has.
    categories: BTreeSet<String>,
    /// Categories that somebody else gave it.
    added: BTreeSet<String>,
    deviations: Vec<String>,
}

/// The categories a user was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Applied {
    /// No mark tells.
    Unrecorded,
    /// Git named none.
    Default,
    Named(BTreeSet<String>),
}

/// What has a meaning in a pattern.
const META: &[char] = &['*', '?', '[', ']', '\\', '^'];

/// A prefix as a pattern that matches it and nothing else.
pub(super) fn escape(prefix: &str) -> String {
    let mut pattern = String::with_capacity(prefix.len());
    for character in prefix.chars() {
        if META.contains(&character) {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern
}

/// The prefix, when a pattern is [`escape`] of one and `*`.
fn literal_prefix(pattern: &str) -> Option<String> {
    let mut prefix = String::new();
    let mut characters = pattern.strip_suffix('*')?.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => prefix.push(characters.next()?),
            character if META.contains(&character) => return None,
            character => prefix.push(character),
        }
    }
    // `~*` is no prefix, and another spelling of the same pattern is not the one Plumb makes.
    (!prefix.is_empty() && format!("{}*", escape(&prefix)) == pattern).then_some(prefix)
}

#[cfg(test)]
mod tests {
    use super::super::catalog::tests::catalog;
    use super::super::rules;
    use super::*;
    use crate::model::kind::Category;
    use crate::model::{Kind, PlatformId, ResourceKey};

    fn mark(fields: &Fields) -> UserMark {
        UserMark {
            id: "0a".into(),
            mark: Mark {
                platform: PlatformId("acme".into()),
                key: ResourceKey::new("t", "e", Kind::Cache, "c"),
                hashes: fields.hashes(),
                unfinished: false,
            },
        }
    }

    fn line(name: &str, rules: &[String]) -> String {
        format!("user {name} on #{} {}", "0".repeat(64), rules.join(" ")).replace(" clearselectors", "")
    }

    fn made(prefix: &str, categories: &[&str]) -> User {
        let mut fields = Fields::new();
        for category in categories {
            fields.insert(category_path(category), true);
        }
        let granted: &[&str] = if categories.is_empty() { DEFAULT_CATEGORIES } else { categories };
        let granted = granted.iter().map(|&category| category.to_owned()).collect();
        let rules = rules::whole(prefix, &granted, &mark(&fields), &catalog());
        User::from_list(&line("t_e_c", &rules)).unwrap()
    }

    fn with(mut user: User, rules: &[&str]) -> User {
        rules.iter().for_each(|rule| user.take(rule));
        user
    }

    fn shown(user: &User) -> String {
        user.fields(&catalog()).get(KEY_PREFIX).and_then(|value| value.as_str().map(str::to_owned)).unwrap()
    }

    #[test]
    fn the_categories_are_those_of_the_kind() {
        for category in CATEGORIES {
            serde_json::from_value::<Category>((*category).into()).unwrap();
        }
        let schema = schemars::schema_for!(Category).to_value();
        assert_eq!(schema["enum"].as_array().map(Vec::len), Some(CATEGORIES.len()), "{schema}");
    }

    #[test]
    fn a_user_reads_back_as_it_was_made() {
        let user = made("shop:", &["hash", "read"]);
        assert_eq!(user.deviations(&catalog()), Vec::<String>::new());
        assert_eq!(user.prefix().as_deref(), Some("shop:"));
        assert_eq!(user.explained_categories(&catalog()), ["hash", "read"].map(String::from).into());
        assert_eq!(user.mark().unwrap().mark.key.name, "c");
        assert_eq!(made("shop:", &[]).deviations(&catalog()), Vec::<String>::new());
    }

    #[test]
    fn a_prefix_with_metacharacters_matches_itself_alone() {
        for prefix in ["a*", "a?b", "[x]", "back\\slash", "^", "a]", "~&%+-#(", "{tag}:"] {
            assert_eq!(literal_prefix(&format!("{}*", escape(prefix))).as_deref(), Some(prefix));
            assert_eq!(made(prefix, &[]).prefix().as_deref(), Some(prefix));
            assert_eq!(made(prefix, &[]).deviations(&catalog()), Vec::<String>::new(), "{prefix}");
        }
        for pattern in ["*", "a", "a**", "a?*", "[ab]*", "a\\*", "\\a*", ""] {
            assert_eq!(literal_prefix(pattern), None, "{pattern}");
        }
    }

    #[test]
    fn every_widening_shows_in_the_prefix() {
        assert_eq!(shown(&made("shop:", &["read"])), "shop:");
        for rule in [
            "~*",
            "allkeys",
            "%R~other:*",
            "%RW~*",
            "&*",
            "allchannels",
            "+@all",
            "+config|get",
            "+@hash",
            "+@read",
            "+@admin",
            "nopass",
            "skip-sanitize-payload",
            "off",
            "-get",
            "(~* resetchannels -@all +get)",
            "novelty",
            "+module.command",
            "+select|1",
        ] {
            let shown = shown(&with(made("shop:", &["read"]), &[rule]));
            assert!(shown.starts_with("shop: with "), "{rule}: {shown}");
        }
    }

    #[test]
    fn a_category_taken_away_is_missing_and_a_default_one_shows() {
        let catalog = catalog();
        let user = with(made("shop:", &["read", "scripting"]), &["-eval", "-script|load"]);
        assert_eq!(shown(&user), "shop:");
        assert_eq!(user.explained_categories(&catalog), ["read".to_owned()].into());
        let user = with(made("shop:", &[]), &["-@write"]);
        assert_eq!(user.deviations(&catalog), ["without +@write"]);
    }

    #[test]
    fn part_of_a_category_taken_away_shows_in_the_prefix() {
        let user = with(made("shop:", &["read", "write"]), &["-hget"]);
        assert_eq!(shown(&user), "shop: with -hget");
        assert_eq!(user.explained_categories(&catalog()).len(), 2);
    }

    #[test]
    fn what_is_left_as_it_is_reads_back_the_same() {
        let catalog = catalog();
        let before = with(made("shop:", &["read"]), &["~held:*", "+config|get", "-get"]);
        let wider: BTreeSet<String> = ["read".to_owned(), "write".to_owned()].into();
        let mut fields = Fields::new();
        for category in &wider {
            fields.insert(category_path(category), true);
        }
        let rules = rules::around(&before, &wider, &mark(&fields), &catalog);
        let mut after = User::from_list(&line("t_e_c", &rules)).unwrap();
        after.channels = before.channels.clone();
        assert_eq!(shown(&after), shown(&before));
        assert_eq!(after.explained_categories(&catalog), wider);
    }

    #[test]
    fn a_mark_that_cannot_be_read_is_not_no_mark() {
        let user = User::from_list("user x on ~a* %R~plumb:mark:1:notbase64! -@all").unwrap();
        assert_eq!(user.marking, Marking::Unreadable);
        let one = mark(&Fields::new());
        let other = UserMark { id: "0b".into(), ..one.clone() };
        let user = with(User::named("x"), &[&one.key_pattern(), &one.channel_pattern()]);
        assert_eq!(user.marking, Marking::Marked(one.clone()));
        let user = with(User::named("x"), &[&one.key_pattern(), &other.channel_pattern()]);
        assert_eq!(user.marking, Marking::Unreadable);
    }

    #[test]
    fn lines_that_are_none_give_no_user() {
        for text in ["", "user", "user x", "users x on"] {
            assert_eq!(User::from_list(text), None, "{text:?}");
        }
    }
}

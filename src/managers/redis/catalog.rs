//! What command rules allow, by the server's own lists.
//!
//! Redis before 7.2 does not keep the rules it was given: it tells others that amount to the same. So rules are never
//! compared as text. They are played through, in order, over the commands of each category as `ACL CAT` names them,
//! and what they allow is compared.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use super::rules::{BASICS, FENCES};

/// Commands and subcommands, as `ACL CAT` names them.
pub(super) type Commands = BTreeSet<String>;

/// How many results are kept; most users have the same rules.
const KEPT: usize = 4096;
/// How many single commands a description names.
const NAMED: usize = 8;

/// The commands of a server, by category.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    categories: BTreeMap<String, Commands>,
    all: Commands,
    kept: Mutex<HashMap<String, Arc<Commands>>>,
}

impl Catalog {
    pub(super) fn new(categories: BTreeMap<String, Commands>) -> Self {
        // Every command is in one category at least: it is fast or slow.
        let all = categories.values().flatten().cloned().collect();
        Self { categories, all, kept: Mutex::default() }
    }

    /// The basics this server knows; it refuses to grant others.
    pub(super) fn basics(&self) -> impl Iterator<Item = &'static str> {
        BASICS.iter().copied().filter(|basic| self.all.contains(basic.trim_start_matches('+')))
    }

    /// The command rules of a user with these categories.
    pub(super) fn rules<'a>(&self, categories: impl IntoIterator<Item = &'a String>) -> Vec<String> {
        let mut rules = vec!["-@all".to_owned()];
        rules.extend(categories.into_iter().map(|category| format!("+@{category}")));
        rules.extend(FENCES.iter().map(|&fence| fence.to_owned()));
        rules.extend(self.basics().map(str::to_owned));
        rules
    }

    /// What a user with these categories may run.
    pub(super) fn granted<'a>(&self, categories: impl IntoIterator<Item = &'a String>) -> Arc<Commands> {
        self.allowed(&self.rules(categories))
    }

    /// What these rules allow, played through in order.
    pub(super) fn allowed(&self, rules: &[String]) -> Arc<Commands> {
        let text = rules.join(" ");
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(commands) = kept.get(&text) {
            return Arc::clone(commands);
        }
        if kept.len() >= KEPT {
            kept.clear();
        }
        let mut allowed = Commands::new();
        for rule in rules {
            if let Some(what) = rule.strip_prefix('+') {
                allowed.extend(self.meant(what));
            } else if let Some(what) = rule.strip_prefix('-') {
                for command in self.meant(what) {
                    allowed.remove(&command);
                }
            }
        }
        let allowed = Arc::new(allowed);
        kept.insert(text, Arc::clone(&allowed));
        allowed
    }

    /// The commands a rule speaks of. One that the server does not list (of a module loaded since, or limited to a
    /// first argument) stands for itself.
    fn meant(&self, what: &str) -> Commands {
        let what = what.to_ascii_lowercase();
        match what.strip_prefix('@') {
            Some("all") => self.all.clone(),
            Some(category) => self.categories.get(category).cloned().unwrap_or_else(|| [what.clone()].into()),
            None => {
                let below = format!("{what}|");
                let mut commands: Commands = self
                    .all
                    .range(below.clone()..)
                    .take_while(|command| command.starts_with(&below))
                    .cloned()
                    .collect();
                if commands.is_empty() || self.all.contains(&what) {
                    commands.insert(what);
                }
                commands
            }
        }
    }

    /// In few words what `live` has beyond `expected`: categories where whole ones were added, else commands.
    pub(super) fn describe_extra(&self, live: &Commands, expected: &Commands) -> Vec<String> {
        let mut extra: Commands = live.difference(expected).cloned().collect();
        let mut words = Vec::new();
        if !extra.is_empty() && self.all.is_subset(live) {
            extra.retain(|command| !self.all.contains(command));
            words.push("+@all".to_owned());
        }
        loop {
            let widest = self
                .categories
                .iter()
                .filter(|(_, commands)| commands.is_subset(live))
                .map(|(category, commands)| (commands.intersection(&extra).count(), category, commands))
                // One command is better named than the category it makes whole.
                .filter(|(count, ..)| *count > 1)
                .max_by_key(|(count, category, _)| (*count, std::cmp::Reverse(*category)));
            let Some((_, category, commands)) = widest else { break };
            extra.retain(|command| !commands.contains(command));
            words.push(format!("+@{category}"));
        }
        words.extend(named('+', &extra));
        words
    }

    /// In few words what `live` lacks of `expected`.
    pub(super) fn describe_missing(live: &Commands, expected: &Commands) -> Vec<String> {
        named('-', &expected.difference(live).cloned().collect())
    }
}

fn named(sign: char, commands: &Commands) -> Vec<String> {
    let mut words: Vec<String> = commands.iter().take(NAMED).map(|command| format!("{sign}{command}")).collect();
    if commands.len() > NAMED {
        words.push(format!("and {} more", commands.len() - NAMED));
    }
    words
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A small server.
    pub(in super::super) fn catalog() -> Catalog {
        let list = |commands: &[&str]| commands.iter().map(|&command| command.to_owned()).collect::<Commands>();
        Catalog::new(
            [
                ("read", list(&["get", "hget", "scan", "keys", "randomkey"])),
                ("write", list(&["set", "hset", "flushall", "function|load"])),
                ("hash", list(&["hget", "hset"])),
                ("keyspace", list(&["keys", "scan", "flushall", "randomkey", "del"])),
                ("scripting", list(&["eval", "script|flush", "script|load", "function|load"])),
                (
                    "connection",
                    list(&["ping", "echo", "select", "command", "command|list", "client|id", "client|kill"]),
                ),
                ("admin", list(&["config|get", "config|set", "client|kill"])),
                ("dangerous", list(&["config|get", "config|set", "client|kill", "flushall", "keys"])),
                ("pubsub", list(&["publish", "pubsub|channels"])),
                ("fast", list(&["client|getname", "client|setname", "client|tracking"])),
            ]
            .map(|(category, commands)| (category.to_owned(), commands))
            .into(),
        )
    }

    fn rules(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn rules_are_played_through_in_order() {
        let catalog = catalog();
        let allowed = |text: &str| catalog.allowed(&rules(text)).iter().cloned().collect::<Vec<_>>().join(" ");
        assert_eq!(allowed("-@all +@hash -hset"), "hget");
        assert_eq!(allowed("-@all -hset +@hash"), "hget hset");
        assert_eq!(allowed("-@all +config"), "config|get config|set");
        assert_eq!(allowed("-@all +command"), "command command|list");
        assert_eq!(allowed("+@all -@all +CONFIG|GET"), "config|get");
        assert_eq!(allowed("-@all +module.thing +select|0"), "module.thing select|0");
    }

    #[test]
    fn two_ways_to_say_the_same_are_the_same() {
        let catalog = catalog();
        let granted = catalog.granted(&["read".to_owned()]);
        assert_eq!(
            granted,
            catalog.allowed(&rules(
                "-@all +get +hget +ping +echo +select +command +client|id +client|getname +client|setname"
            ))
        );
    }

    #[test]
    fn what_was_added_is_said_in_few_words() {
        let catalog = catalog();
        let expected = catalog.granted(&["read".to_owned()]);
        let extra = |text: &str| {
            let mut all = catalog.rules(&["read".to_owned()]);
            all.extend(rules(text));
            catalog.describe_extra(&catalog.allowed(&all), &expected).join(" ")
        };
        assert_eq!(extra("+@all"), "+@all");
        assert_eq!(extra("+@admin"), "+@admin");
        assert_eq!(extra("+config|get"), "+config|get");
        assert_eq!(extra("+hset"), "+hset");
        assert_eq!(extra("+select|1"), "+select|1");
        assert_eq!(extra("+ping"), "");
    }
}

//! The rules a user is made of, as arguments of `ACL SETUSER`, in the order Redis applies them.

use std::collections::BTreeSet;

use super::catalog::Catalog;
use super::user::{User, UserMark, escape};

/// What no tenant may do, whatever its categories: administer, and what reaches past its own keys. `SCAN` and
/// `RANDOMKEY` name other tenants' keys, `PUBSUB` their channels, `CLIENT TRACKING` reports changes of all keys;
/// functions and scripts are the server's, so that loading or flushing them is everybody's loss.
pub(super) const FENCES: &[&str] = &[
    "-@admin",
    "-@dangerous",
    "-scan",
    "-randomkey",
    "-pubsub",
    "-client|tracking",
    "-function",
    "-script|flush",
    "-script|kill",
    "-script|debug",
];

/// What client libraries say when they connect and when they look whether the connection lives. `AUTH`, `HELLO`,
/// `QUIT` and `RESET` need no leave.
pub(super) const BASICS: &[&str] =
    &["+ping", "+echo", "+select", "+command", "+client|id", "+client|getname", "+client|setname", CLIENT_SETINFO];

/// Since Redis 7.2; older ones refuse to grant what they do not know.
pub(super) const CLIENT_SETINFO: &str = "+client|setinfo";

/// What `allkeys` and `allchannels` are told as.
pub(super) const ALL_KEYS: &str = "~*";
pub(super) const ALL_CHANNELS: &str = "&*";

/// All rules of a user but its passwords; leaves nothing of what it had.
pub(super) fn whole(prefix: &str, categories: &BTreeSet<String>, mark: &UserMark, catalog: &Catalog) -> Vec<String> {
    let pattern = escape(prefix);
    let mut rules = vec![
        "on".to_owned(),
        "sanitize-payload".to_owned(),
        "clearselectors".to_owned(),
        "resetkeys".to_owned(),
        format!("~{pattern}*"),
        mark.key_pattern(),
        "resetchannels".to_owned(),
        format!("&{pattern}*"),
        mark.channel_pattern(),
    ];
    rules.extend(catalog.rules(categories));
    rules
}

/// The rules that give a user these categories and this mark and leave as it is all that was changed by hand.
pub(super) fn around(user: &User, categories: &BTreeSet<String>, mark: &UserMark, catalog: &Catalog) -> Vec<String> {
    let mut rules = Vec::new();
    // Beside all keys, Redis keeps no other pattern, and no mark; then the channels carry it, and the other way round.
    if !user.keys.contains(&ALL_KEYS.to_owned()) {
        rules.push("resetkeys".to_owned());
        rules.extend(user.keys.iter().cloned());
        rules.push(mark.key_pattern());
    }
    if !user.channels.contains(&ALL_CHANNELS.to_owned()) {
        rules.push("resetchannels".to_owned());
        rules.extend(user.channels.iter().cloned());
        rules.push(mark.channel_pattern());
    }
    let live = catalog.allowed(&user.commands);
    let before = catalog.granted(&user.explained_categories(catalog));
    rules.extend(catalog.rules(categories));
    rules.extend(live.difference(&before).map(|command| format!("+{command}")));
    rules.extend(before.difference(&live).map(|command| format!("-{command}")));
    rules
}

//! Names on shared servers: two resources must not compute to one, nor two spellings of what one has.

use std::collections::hash_map::Entry as Slot;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::codes;
use super::tenant::Assembly;
use crate::model::{FieldPath, Kind, ProviderType, Resource, bounded_name};

const ROLES: &str = "/spec/roles";
const SETTINGS: &str = "/spec/settings";

/// What a server keeps apart by name. A database and a role may share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Space {
    Object(Kind),
    Role,
}

/// One name that a resource takes on its server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct ServerName {
    space: Space,
    name: String,
}

/// The names that a resource takes on a server of that type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ServerNames {
    pub provider_type: Option<ProviderType>,
    taken: Arc<[ServerName]>,
}

/// The names that `resource` takes. Where the type of its server is not known, the longest names are assumed to fit.
pub(super) fn of(resource: &Resource, provider_type: Option<ProviderType>) -> ServerNames {
    let limit = provider_type.map_or(usize::MAX, ProviderType::name_limit);
    let object = resource.key.object_name(limit);
    let mut names = Vec::new();
    let has_roles = match (resource.key.kind, provider_type) {
        (Kind::Database, Some(ProviderType::Postgres) | None) => true,
        (Kind::Database, Some(ProviderType::Sqlite | ProviderType::Redis)) | (Kind::Cache, _) => false,
    };
    if has_roles {
        let role = |name: &str| ServerName {
            space: Space::Role,
            name: bounded_name(&format!("{object}_{name}").replace('-', "_"), limit),
        };
        names.push(role("owner"));
        names.extend(members(resource, ROLES).map(|name| role(&name)));
    }
    names.push(ServerName { space: Space::Object(resource.key.kind), name: object });
    ServerNames { provider_type, taken: names.into() }
}

/// Refuses key prefixes through which a tenant could reach another's keys: one has to begin with the tenant's own name
/// and a colon, which no tenant's name holds, or with the name of the cache's user.
pub(super) fn check_key_prefixes(assembly: &mut Assembly<'_>) {
    const PREFIX: &str = "/spec/keyPrefix";
    let mut foreign = Vec::new();
    for (at, entry) in assembly.entries.iter().enumerate().filter(|(_, entry)| entry.key.kind == Kind::Cache) {
        let Some(resource) = entry.resource.as_ref().filter(|_| entry.is_usable()) else { continue };
        let Some(prefix) = resource.fields.get(PREFIX).and_then(Value::as_str) else { continue };
        let own = format!("{}:", entry.key.tenant);
        let user = format!("{}:", entry.key.object_name(ProviderType::Redis.name_limit()));
        if !prefix.starts_with(&own) && !prefix.starts_with(&user) {
            let message = format!("the key prefix {prefix:?} could reach other tenants' keys");
            let help = format!("begin it with \"{own}\", or leave it out for \"{user}\"");
            foreign.push((at, entry.error(codes::FOREIGN_KEY_PREFIX, PREFIX, message).help(help)));
        }
    }
    for (at, diagnostic) in foreign {
        assembly.reject(at, diagnostic);
    }
}

/// Refuses roles and settings that are only spelled otherwise than those that were applied: they have the old ones' names on
/// the server, and the old ones are to be removed. Applications would lose what nobody meant to take from them.
pub(super) fn check_spellings(assembly: &mut Assembly<'_>) {
    let mut found = Vec::new();
    for (at, entry) in assembly.entries.iter().enumerate().filter(|(_, entry)| entry.is_usable()) {
        let (Some(resource), Some(previous)) = (&entry.resource, assembly.cx.previous.get(&entry.key)) else {
            continue;
        };
        let roles: BTreeSet<String> = members(resource, ROLES).collect();
        let settings: BTreeSet<String> = members(resource, SETTINGS).collect();
        if (roles.is_empty() && settings.is_empty()) || previous.is(&resource.document) {
            continue;
        }
        let before = previous.value();
        let roles_before = before.pointer(ROLES).and_then(Value::as_array).into_iter().flatten();
        let roles_before = roles_before.filter_map(|role| role.get("name")?.as_str());
        let settings_before = before.pointer(SETTINGS).and_then(Value::as_object).into_iter().flat_map(Map::keys);
        let roles = respelled(roles_before, &roles, |role| role.replace('-', "_"));
        let settings = respelled(settings_before.map(String::as_str), &settings, str::to_lowercase);
        for (list, (old, new)) in roles.map(|pair| (ROLES, pair)).chain(settings.map(|pair| (SETTINGS, pair))) {
            let message =
                format!("{new:?} is another spelling of {old:?}, which was applied; the server has one for both");
            let help =
                format!("keep calling it {old:?}; or remove it, wait until that is applied, and add {new:?} then");
            found.push((at, entry.error(codes::NAME_COLLISION, list, message).help(help)));
        }
    }
    for (at, diagnostic) in found {
        assembly.reject(at, diagnostic);
    }
}

/// Names that are not there any more, each with one that is and that is the same to the server.
fn respelled<'a>(
    before: impl Iterator<Item = &'a str>,
    now: &BTreeSet<String>,
    on_server: impl Fn(&str) -> String,
) -> impl Iterator<Item = (&'a str, &str)> {
    let gone = before.filter(|old| !now.contains(*old));
    gone.filter_map(move |old| Some((old, now.iter().find(|new| on_server(new) == on_server(old))?.as_str())))
}

/// The names of the members of one of a resource's lists or maps.
fn members(resource: &Resource, list: &str) -> impl Iterator<Item = String> {
    let within = resource.fields.iter().filter(move |(path, _)| path.is_within(list));
    within.filter_map(|(path, _)| FieldPath::segments(path).into_iter().nth(2))
}

/// Refuses the later of two entries that take the same name on one Provider: one that was in force before goes first.
pub(super) fn check_collisions(assembly: &mut Assembly<'_>) {
    let mut taken: HashMap<(&str, &ServerName), usize> = HashMap::with_capacity(assembly.entries.len() * 3);
    let mut clashes = Vec::new();
    let previous = assembly.cx.previous;
    // Only names of usable entries count; the others are not made.
    let (old, new): (Vec<usize>, Vec<usize>) = (0..assembly.entries.len())
        .filter(|at| assembly.entries[*at].is_usable())
        .partition(|at| previous.contains_key(&assembly.entries[*at].key));
    for at in old.into_iter().chain(new) {
        let entry = &assembly.entries[at];
        let Some(resource) = &entry.resource else { continue };
        for name in entry.names.taken.iter() {
            match taken.entry((resource.provider.as_str(), name)) {
                Slot::Vacant(slot) => drop(slot.insert(at)),
                Slot::Occupied(slot) => clashes.push((at, *slot.get(), name.clone())),
            }
        }
    }
    drop(taken);
    for (at, first, name) in clashes {
        let (entry, other) = (&assembly.entries[at], &assembly.entries[first]);
        let what = match name.space {
            Space::Object(kind) => kind.as_str().to_lowercase(),
            Space::Role => "role".to_owned(),
        };
        let pointer = match name.space {
            Space::Object(_) => "/metadata/name",
            Space::Role => ROLES,
        };
        let finding = if at == first {
            let message = format!("two roles of {} are called {:?} on the server", entry.key, name.name);
            entry
                .error(codes::NAME_COLLISION, pointer, message)
                .help("dashes become underscores there; rename one of them")
        } else {
            let message = format!("{} and {} both need the {what} {:?} on the server", other.key, entry.key, name.name);
            entry
                .error(codes::NAME_COLLISION, pointer, message)
                .related("the other one is here", &other.file.file, other.span(pointer))
                .help("names are {tenant}_{environment}_{name} with dashes as underscores; rename one of them")
        };
        assembly.reject(at, finding);
    }
}

//! What documents point at: Providers, and each other.

use std::collections::BTreeSet;

use super::codes;
use super::sentence::clipped;
use super::suggest::{did_you_mean, list};
use super::tenant::Assembly;
use crate::model::{Diagnostic, Platform, ProviderType, ResourceKey, TenantSpec};

/// The Provider that the entry lives on; `None`, with a finding, when there is none it can live on. Without a platform
/// it is whatever the document says.
pub(super) fn provider_of(assembly: &mut Assembly<'_>, at: usize) -> Option<String> {
    let entry = &assembly.entries[at];
    let (Some(platform), Some(spec)) = (assembly.cx.platform, assembly.cx.spec) else {
        return Some(entry.document.provider.clone().unwrap_or_default());
    };
    let found = match &entry.document.provider {
        Some(name) => named_provider(platform, spec, assembly.cx.tenant, name)
            .map_err(|wrong| entry.error(wrong.code, "/spec/provider", wrong.message).help(wrong.help)),
        None => default_provider(platform, spec, &entry.key)
            .map_err(|wrong| entry.error(wrong.code, "/spec", wrong.message).help(wrong.help)),
    };
    match found {
        Ok(provider) => {
            let findings = unsupported(assembly, at, platform, &provider);
            for finding in findings {
                assembly.reject(at, finding);
            }
            Some(provider)
        }
        Err(finding) => {
            assembly.reject(at, finding);
            None
        }
    }
}

/// The type of the Provider called `name`.
pub(super) fn type_of(platform: Option<&Platform>, name: &str) -> Option<ProviderType> {
    platform?.providers.get(name).map(|provider| provider.provider_type)
}

struct Wrong {
    code: crate::model::Code,
    message: String,
    help: String,
}

fn named_provider(platform: &Platform, spec: &TenantSpec, tenant: &str, name: &str) -> Result<String, Wrong> {
    let allowed: Vec<&str> =
        spec.providers.iter().map(String::as_str).filter(|name| platform.providers.contains_key(*name)).collect();
    if !platform.providers.contains_key(name) {
        return Err(Wrong {
            code: codes::PROVIDER_MISSING,
            message: format!("there is no Provider {:?}", clipped(name)),
            help: did_you_mean(name, "the Providers of this tenant", &allowed),
        });
    }
    if !allowed.contains(&name) {
        return Err(Wrong {
            code: codes::PROVIDER_NOT_ALLOWED,
            message: format!("the tenant {tenant} may not use the Provider {name:?}"),
            help: match allowed[..] {
                [] => "the platform has to name it in the Tenant's spec.providers".to_owned(),
                _ => {
                    format!("it may use {}; the platform can allow more in the Tenant's spec.providers", list(&allowed))
                }
            },
        });
    }
    Ok(name.to_owned())
}

fn default_provider(platform: &Platform, spec: &TenantSpec, key: &ResourceKey) -> Result<String, Wrong> {
    platform.default_provider(spec, key.kind, &key.environment).map(str::to_owned).map_err(|candidates| Wrong {
        code: codes::NO_DEFAULT_PROVIDER,
        message: match candidates[..] {
            [] => format!("spec names no provider, and none serves {} in {} by default", key.kind, key.environment),
            _ => format!(
                "spec names no provider, and several serve {} in {}: {}",
                key.kind,
                key.environment,
                list(&candidates)
            ),
        },
        help: match spec.providers[..] {
            [] => "the platform has to name Providers in the Tenant's spec.providers".to_owned(),
            _ => format!("set spec.provider; this tenant may use {}", list(&spec.providers)),
        },
    })
}

/// What the Provider cannot do of what the document asks.
fn unsupported(assembly: &Assembly<'_>, at: usize, platform: &Platform, provider: &str) -> Vec<Diagnostic> {
    let Some(provider_type) = type_of(Some(platform), provider) else { return Vec::new() };
    let entry = &assembly.entries[at];
    let kind = entry.key.kind;
    let Some(supported) = provider_type.supports(kind) else {
        let others = platform.providers.iter().filter(|(name, other)| {
            other.provider_type.supports(kind).is_some()
                && assembly.cx.spec.is_some_and(|spec| spec.providers.contains(name))
        });
        let others: Vec<&str> = others.map(|(name, _)| name.as_str()).collect();
        let message = format!("the Provider {provider:?} is of type {provider_type}, which serves no {kind}");
        return vec![entry.error(codes::UNSUPPORTED_BY_PROVIDER, "/spec/provider", message).help(match others[..] {
            [] => format!("no Provider that this tenant may use serves {kind}"),
            _ => format!("{kind} can live on {}", list(&others)),
        })];
    };
    let top_level = |path: &str| path.match_indices('/').nth(2).map_or(path.len(), |(end, _)| end);
    let asked: BTreeSet<&str> =
        entry.document.fields.iter().map(|(path, _)| &path.as_str()[..top_level(path.as_str())]).collect();
    let names: Vec<&str> = supported.iter().map(|path| path.trim_start_matches("/spec/")).collect();
    asked
        .into_iter()
        .filter(|field| !supported.contains(field))
        .map(|field| {
            let name = field.trim_start_matches("/spec/");
            let message = format!("the Provider {provider:?} is of type {provider_type}, which knows no {name}");
            entry
                .error(codes::UNSUPPORTED_BY_PROVIDER, field, message)
                .help(format!("remove it; {provider_type} knows {}", list(&names)))
        })
        .collect()
}

/// Every reference must lead somewhere, and none in a circle.
pub(super) fn check_dependencies(assembly: &mut Assembly<'_>) {
    let edges = edges(assembly);
    refuse_missing(assembly);
    refuse_circles(assembly, &edges);
}

/// For each entry, the entries it depends on.
fn edges(assembly: &Assembly<'_>) -> Vec<Vec<usize>> {
    assembly
        .entries
        .iter()
        .map(|entry| {
            let resource = entry.resource.iter().flat_map(|resource| &resource.depends_on);
            resource.filter_map(|key| assembly.entries.binary_search_by(|other| other.key.cmp(key)).ok()).collect()
        })
        .collect()
}

fn refuse_missing(assembly: &mut Assembly<'_>) {
    let mut findings = Vec::new();
    for (at, entry) in assembly.entries.iter().enumerate() {
        for (nth, key) in entry.resource.iter().flat_map(|resource| resource.depends_on.iter().enumerate()) {
            if assembly.entries.binary_search_by(|other| other.key.cmp(key)).is_ok() {
                continue;
            }
            let message = format!("dependsOn names {}, which is not there", clipped(&key.local()));
            let there: Vec<String> = assembly
                .entries
                .iter()
                .filter(|other| other.key.environment == key.environment && other.key != entry.key)
                .map(|other| other.key.local())
                .collect();
            let help = match super::suggest(&key.local(), there.iter().map(String::as_str)) {
                Some(near) => format!("did you mean {near:?}?"),
                None => format!("no document describes {key}"),
            };
            let pointer = format!("/spec/dependsOn/{nth}");
            findings.push((at, entry.error(codes::DEPENDENCY_MISSING, &pointer, message).help(help)));
        }
    }
    for (at, finding) in findings {
        assembly.reject(at, finding);
    }
}

/// Finds each circle once and shows the whole of it.
fn refuse_circles(assembly: &mut Assembly<'_>, edges: &[Vec<usize>]) {
    for members in circles(edges) {
        let mut names: Vec<String> = members.iter().map(|at| assembly.entries[*at].key.local()).collect();
        names.extend(names.first().cloned());
        let message = format!("these resources wait for each other: {}", names.join(" -> "));
        let Some((first, rest)) = members.split_first() else { continue };
        let pointer_to_next = "/spec/dependsOn";
        let entry = &assembly.entries[*first];
        let mut finding = entry
            .error(codes::DEPENDENCY_CYCLE, pointer_to_next, message.clone())
            .help("remove one of the dependencies");
        for at in rest {
            let entry = &assembly.entries[*at];
            let note = format!("{} depends on the next one here", entry.key.local());
            finding = finding.related(note, &entry.file.file, entry.span(pointer_to_next));
        }
        assembly.reject(*first, finding);
        for at in rest {
            assembly.entries[*at].rejected.get_or_insert_with(|| message.clone());
        }
    }
}

/// One circle for each knot of nodes that reach each other: a shortest one through its first node. Works without
/// recursion, since chains may be ten thousand long.
fn circles(edges: &[Vec<usize>]) -> Vec<Vec<usize>> {
    // What no circle can pass through is taken off from the ends, over and over; the rest are knots and what lies
    // between them.
    let mut waiting: Vec<usize> = edges.iter().map(Vec::len).collect();
    let mut users: Vec<Vec<usize>> = vec![Vec::new(); edges.len()];
    for (from, targets) in edges.iter().enumerate() {
        for to in targets {
            users[*to].push(from);
        }
    }
    let mut free: Vec<usize> = (0..edges.len()).filter(|at| waiting[*at] == 0).collect();
    let mut done = vec![false; edges.len()];
    while let Some(at) = free.pop() {
        done[at] = true;
        for user in &users[at] {
            waiting[*user] -= 1;
            if waiting[*user] == 0 {
                free.push(*user);
            }
        }
    }
    let mut found = Vec::new();
    for start in 0..edges.len() {
        if done[start] {
            continue;
        }
        match shortest_circle(start, edges, &done) {
            Some(members) => {
                for at in &members {
                    done[*at] = true;
                }
                found.push(members);
            }
            // It only leads into a knot.
            None => done[start] = true,
        }
    }
    found
}

fn shortest_circle(start: usize, edges: &[Vec<usize>], done: &[bool]) -> Option<Vec<usize>> {
    let mut came_from: std::collections::HashMap<usize, usize> = std::collections::HashMap::new();
    let mut open = std::collections::VecDeque::from([start]);
    while let Some(at) = open.pop_front() {
        for to in &edges[at] {
            if *to == start {
                let mut members = vec![at];
                while let Some(before) =
                    members.last().filter(|last| **last != start).and_then(|last| came_from.get(last))
                {
                    members.push(*before);
                }
                members.reverse();
                return Some(members);
            }
            if !done[*to] && !came_from.contains_key(to) {
                came_from.insert(*to, at);
                open.push_back(*to);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn circles_are_found_whole_and_once() {
        // 0 -> 1 -> 2 -> 0, 3 leads into it, 4 waits for itself, 5 is free.
        let edges = vec![vec![1], vec![2], vec![0], vec![0], vec![4], vec![]];
        assert_eq!(circles(&edges), [vec![0, 1, 2], vec![4]]);
    }

    #[test]
    fn long_chains_are_no_circles() {
        let edges: Vec<Vec<usize>> = (0..50_000).map(|at| if at == 0 { vec![] } else { vec![at - 1] }).collect();
        assert!(circles(&edges).is_empty());
    }
}

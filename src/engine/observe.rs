//! Looks at the live systems: batches by provider, identities first (R11), strays on full passes (R4).

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use futures::future::join_all;

use crate::managers::{Cx, Found, ManagerError};
use crate::model::{
    Depth, DesiredState, FieldPath, Inventory, Kind, Observation, Observations, Ownership, Platform, ProviderIdentity,
    Reason, ResourceKey, Stray, Target, TenantSpec, Unknown,
};
use crate::plan::object_name;

use super::Engine;
use super::circuits::{Circuits, is_silence};
use super::fleet::{Access, Member};
use super::memory::Memory;
use super::passwords::NoPasswords;

/// What is to be looked at, and how.
pub(super) struct Look<'a> {
    pub platform: &'a Platform,
    pub access: Access,
    pub depth: Depth,
    /// The identity each provider had (R11).
    pub known: &'a BTreeMap<String, ProviderIdentity>,
    /// Providers that did not answer lately; without it all are asked, and nothing is remembered of their answers.
    pub circuits: Option<&'a Circuits>,
}

/// What one provider answered.
struct Answer {
    provider: String,
    identity: Option<ProviderIdentity>,
    seen: Vec<(ResourceKey, Observation)>,
    in_place: BTreeSet<String>,
    heard: Heard,
}

/// Whether a provider answered at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    Yes,
    No,
}

/// What was seen, and who could not be asked.
#[derive(Debug, Default)]
pub(super) struct Sight {
    pub observations: Observations,
    /// Providers that did not answer, so that nobody waits for them a second time in the same pass.
    pub silent: BTreeSet<String>,
    /// By provider, the names of objects that bear the mark of the key that was looked for: no strays.
    pub in_place: BTreeMap<String, BTreeSet<String>>,
}

impl Engine {
    /// Looks at `targets`, all providers at once. Never fails: what could not be seen is unknown.
    pub(super) async fn observe(&self, look: &Look<'_>, targets: BTreeMap<String, Vec<Target>>) -> Sight {
        let Sight { mut observations, mut silent, mut in_place } = Sight::default();
        let answers = targets.into_iter().map(|(provider, targets)| self.ask(look, provider, targets));
        for Answer { provider, identity, seen, in_place: names, heard } in join_all(answers).await {
            observations.objects.extend(seen);
            if heard == Heard::No {
                silent.insert(provider.clone());
            }
            observations.identities.extend(identity.map(|identity| (provider.clone(), identity)));
            in_place.insert(provider, names);
        }
        Sight { observations, silent, in_place }
    }

    async fn ask(&self, look: &Look<'_>, provider: String, targets: Vec<Target>) -> Answer {
        let cx = Cx { platform: &look.platform.id, secrets: &NoPasswords };
        let unknown = |unknown: Unknown, identity, targets: Vec<Target>| Answer {
            provider: provider.clone(),
            identity,
            seen: targets.into_iter().map(|target| (target.key, Observation::Unknown(unknown.clone()))).collect(),
            in_place: BTreeSet::new(),
            heard: Heard::No,
        };
        let manager = match self.fleet.member(look.platform, &provider, look.access) {
            Ok(Member { manager, .. }) => manager,
            Err(error) => return unknown(Unknown::from(&error), None, targets),
        };
        if let Err(not_asked) = self.may_ask(look, &provider).await {
            return unknown(not_asked, None, targets);
        }
        let asked = self.clock.now();
        let identity = match manager.identity().await {
            Ok(identity) => identity,
            Err(error) => {
                self.note(look, &provider, asked, Some(&error)).await;
                return unknown(Unknown::from(&error), None, targets);
            }
        };
        if let Some(changed) = identity_changed(look, &provider, identity.as_ref()) {
            // It answered, and what it said is what a person has to hear of.
            self.note(look, &provider, asked, None).await;
            return unknown(changed, None, targets);
        }
        let seen = manager.observe(&targets, look.depth, &cx).await;
        self.note(look, &provider, asked, seen.as_ref().err()).await;
        match seen {
            Ok(seen) if seen.len() == targets.len() => {
                let of_key = targets.iter().zip(&seen).filter(|(target, seen)| bears_mark_of(&target.key, seen));
                let in_place = of_key.map(|(target, _)| target.object_name.clone()).collect();
                let seen = targets.into_iter().map(|target| target.key).zip(seen).collect();
                Answer { provider, identity, seen, in_place, heard: Heard::Yes }
            }
            Ok(_) => {
                let short = Unknown::new(Reason::Internal, "the manager did not answer for every object");
                unknown(short, identity, targets)
            }
            Err(error) => unknown(Unknown::from(&error), identity, targets),
        }
    }

    /// Remembers whether a provider answered what it was `asked` then.
    async fn note(&self, look: &Look<'_>, provider: &str, asked: DateTime<Utc>, error: Option<&ManagerError>) {
        let Some(circuits) = look.circuits else { return };
        match error {
            Some(error) if is_silence(error) => self.note_silence(provider, asked, error).await,
            _ if circuits.contains_key(provider) => self.note_answer(look.platform, provider, asked).await,
            _ => {}
        }
    }

    /// Marked objects of `tenant` that nobody speaks of there, and the providers that could not be asked for theirs.
    /// `in_place` are objects that need not be found again.
    pub(super) async fn strays(
        &self,
        look: &Look<'_>,
        tenant: &str,
        providers: impl Iterator<Item = &String>,
        in_place: &BTreeMap<String, BTreeSet<String>>,
        is_expected: &(dyn Fn(&ResourceKey, &str) -> bool + Sync),
    ) -> (BTreeMap<ResourceKey, Stray>, BTreeSet<String>) {
        let asked = providers.map(|provider| async move {
            let none = BTreeSet::new();
            (provider, self.discover(look, provider, in_place.get(provider).unwrap_or(&none)).await)
        });
        let (mut strays, mut silent) = (BTreeMap::new(), BTreeSet::new());
        for (provider, found) in join_all(asked).await {
            let Ok(found) = found else {
                silent.insert(provider.clone());
                continue;
            };
            for Found { mark, object_name, object } in found {
                if mark.key.tenant == tenant && !is_expected(&mark.key, provider) {
                    strays.insert(mark.key, Stray { provider: provider.clone(), object_name, object, wanted: false });
                }
            }
        }
        (strays, silent)
    }

    async fn discover(
        &self,
        look: &Look<'_>,
        provider: &str,
        in_place: &BTreeSet<String>,
    ) -> Result<Vec<Found>, ManagerError> {
        let Member { manager, .. } = self.fleet.member(look.platform, provider, look.access)?;
        if let Err(Unknown { reason, message }) = self.may_ask(look, provider).await {
            return Err(ManagerError::retry(reason, message));
        }
        let identity = manager.identity().await?;
        if let Some(Unknown { reason, message }) = identity_changed(look, provider, identity.as_ref()) {
            return Err(ManagerError::terminal(reason, message));
        }
        manager.discover(in_place, &Cx { platform: &look.platform.id, secrets: &NoPasswords }).await
    }
}

/// What an absence is doubted by.
pub(super) struct Doubts<'a> {
    pub platform: &'a Platform,
    pub tenant: &'a TenantSpec,
    /// Providers that did not answer.
    pub silent: &'a BTreeSet<String>,
    pub memory: &'a Memory,
}

impl Doubts<'_> {
    /// Who may have what `key` is about, so that it would be made a second time, empty (R4, R5): a provider with a stray of
    /// that name (R10), and any provider of a tenant of which nothing else tells what was where.
    fn about(&self, key: &ResourceKey) -> Option<String> {
        let Self { platform, tenant, silent, memory } = *self;
        let is_alike = |(of, stray): &(&ResourceKey, &Stray)| {
            let is_known = platform.providers.contains_key(&stray.provider);
            let may_have_it = tenant.providers.contains(&stray.provider) || !is_known;
            (of.kind, &of.name) == (key.kind, &key.name) && may_have_it && is_unheard(platform, silent, of, stray)
        };
        if memory.inventory.get(key).is_none()
            && let Some((of, Stray { provider, object_name, .. })) = memory.strays.iter().find(is_alike)
        {
            return Some(format!(
                "it is not there, and {provider}, which is not heard now, had {object_name} with the mark of {of} when it was \
                 heard last. It goes on once {provider} is heard, or is no longer the tenant's"
            ));
        }
        if !memory.is_new() {
            return None;
        }
        let provider = tenant.providers.iter().find(|provider| is_silent_on(platform, silent, provider, key.kind))?;
        Some(format!(
            "it is not there, and {provider}, which is not heard now, may have it: no look has heard all providers of the \
             tenant and read all of its files yet. It goes on once {provider} is heard, or is no longer the tenant's"
        ))
    }
}

/// Whether a provider that serves `kind` did not answer.
fn is_silent_on(platform: &Platform, silent: &BTreeSet<String>, provider: &str, kind: Kind) -> bool {
    let spec = platform.providers.get(provider).filter(|_| silent.contains(provider));
    spec.is_some_and(|spec| spec.provider_type.supports(kind).is_some())
}

/// Whether nobody could ask for a stray where it was seen last. A provider that is not described any more may have another
/// name now (R10): then any that did not answer may have it.
pub(super) fn is_unheard(platform: &Platform, silent: &BTreeSet<String>, key: &ResourceKey, stray: &Stray) -> bool {
    match platform.providers.contains_key(&stray.provider) {
        true => silent.contains(&stray.provider),
        false => silent.iter().any(|provider| is_silent_on(platform, silent, provider, key.kind)),
    }
}

/// Takes no absence of data for granted while a provider that may have it is silent.
pub(super) fn doubt_absence(live: &mut Observations, doubts: &Doubts<'_>) {
    if doubts.silent.is_empty() {
        return;
    }
    for (key, seen) in &mut live.objects {
        let is_absent = matches!(seen, Observation::Absent { .. }) && !live.strays.contains_key(key);
        if is_absent
            && key.kind.info().data_bearing
            && let Some(message) = doubts.about(key)
        {
            *seen = Observation::Unknown(Unknown::new(Reason::NotObserved, message));
        }
    }
}

fn bears_mark_of(key: &ResourceKey, seen: &Observation) -> bool {
    match seen {
        Observation::Present(live) => matches!(&live.ownership, Ownership::Marked(mark) if mark.key == *key),
        Observation::Absent { .. } | Observation::Unknown(_) => false,
    }
}

/// Whether the server is another one than before, and its Provider does not confirm it (R11).
pub(super) fn identity_changed(look: &Look<'_>, provider: &str, now: Option<&ProviderIdentity>) -> Option<Unknown> {
    let known = look.known.get(provider)?;
    if now == Some(known) {
        return None;
    }
    let confirmed = look.platform.providers.get(provider).and_then(|spec| spec.identity.as_deref());
    if now.is_some_and(|now| confirmed == Some(now.0.as_str())) {
        return None;
    }
    let message = match now {
        Some(now) => format!(
            "{provider} is another server than before ({} was {}), so nothing on it is touched. If it was replaced on \
             purpose, set spec.identity: \"{}\" in its Provider",
            now.0, known.0, now.0
        ),
        None => format!(
            "{provider} does not show the identity it had ({}): its root is empty or not mounted. Nothing on it is \
             touched until it is back",
            known.0
        ),
    };
    Some(Unknown::new(Reason::ProviderIdentityChanged, message))
}

/// What to look at for `keys`, by provider: what git wants where it wants it, what is recorded where it was.
pub(super) fn targets(
    platform: &Platform,
    desired: &DesiredState,
    prior: &Inventory,
    keys: &mut dyn Iterator<Item = &ResourceKey>,
) -> BTreeMap<String, Vec<Target>> {
    let mut targets: BTreeMap<String, Vec<Target>> = BTreeMap::new();
    for key in keys {
        let (resource, record) = (desired.resources.get(key), prior.get(key));
        let Some(provider) = resource.map(|r| &r.provider).or(record.map(|r| &r.provider)) else { continue };
        let name = match (resource, record) {
            (None, Some(record)) => record.object_name.clone(),
            _ => object_name(platform, key, provider),
        };
        let wanted = resource.into_iter().flat_map(|r| r.fields.0.keys());
        let recorded = record.into_iter().flat_map(|r| r.applied.0.keys().chain(r.unsettled.keys()));
        let fields: BTreeSet<&FieldPath> = wanted.chain(recorded).collect();
        let target = Target { key: key.clone(), object_name: name, fields: fields.into_iter().cloned().collect() };
        targets.entry(provider.clone()).or_default().push(target);
    }
    targets
}

//! The passwords of roles, as a look uses them (R12): given under its lease alone, and told of where nobody here knows
//! them, since their state was lost or they were adopted.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use secrecy::SecretString;

use crate::managers::{ManagerError, Secrets};
use crate::model::{
    ConditionType, DesiredState, EventKind, Lease, Live, Observation, Observations, Ownership, Plan, Platform, Reason,
    Resource, ResourceKey, ResourceStatus,
};
use crate::store::Scope;

use super::timeline::Timeline;
use super::{Engine, EngineError};

/// Gives the passwords of roles, and makes those that are missing.
#[async_trait]
pub trait Passwords: Send + Sync {
    /// The password of a role for a rotation, stored before it is given. A new one is stored only while the lease is held.
    ///
    /// # Errors
    /// When it could not be stored, or not be read.
    async fn password(
        &self,
        lease: &Lease,
        key: &ResourceKey,
        role: &str,
        rotation: Option<&str>,
    ) -> Result<SecretString, ManagerError>;
}

/// Passwords under one lease: what a manager gets.
pub(super) struct Fenced<'a> {
    pub passwords: &'a dyn Passwords,
    pub lease: &'a Lease,
}

#[async_trait]
impl Secrets for Fenced<'_> {
    async fn password(
        &self,
        key: &ResourceKey,
        role: &str,
        rotation: Option<&str>,
    ) -> Result<SecretString, ManagerError> {
        self.passwords.password(self.lease, key, role, rotation).await
    }
}

/// Gives no password: what looks and plans must not be able to make a role.
pub struct NoPasswords;

impl NoPasswords {
    fn refuse() -> ManagerError {
        ManagerError::terminal(Reason::PermissionDenied, "a plan has no passwords")
    }
}

#[async_trait]
impl Passwords for NoPasswords {
    async fn password(
        &self,
        _: &Lease,
        _: &ResourceKey,
        _: &str,
        _: Option<&str>,
    ) -> Result<SecretString, ManagerError> {
        Err(Self::refuse())
    }
}

#[async_trait]
impl Secrets for NoPasswords {
    async fn password(&self, _: &ResourceKey, _: &str, _: Option<&str>) -> Result<SecretString, ManagerError> {
        Err(Self::refuse())
    }
}

/// What was seen in a pass.
pub(super) struct Seen<'a> {
    pub platform: &'a Platform,
    pub desired: &'a DesiredState,
    pub before: &'a Observations,
    pub after: &'a Observations,
    pub statuses: &'a BTreeMap<ResourceKey, ResourceStatus>,
}

impl Engine {
    /// Adds a warning to `plan` for each resource with such roles. It is told in the timeline once, and stays in the
    /// status until new passwords are asked for.
    pub(super) async fn warn_of_unknown_passwords(
        &self,
        seen: &Seen<'_>,
        plan: &mut Plan,
        timeline: &mut Timeline<'_>,
    ) -> Result<(), EngineError> {
        let looked_at: BTreeSet<&ResourceKey> = seen.before.objects.keys().chain(seen.after.objects.keys()).collect();
        let roles: Vec<(&ResourceKey, Vec<String>)> = looked_at
            .into_iter()
            .filter_map(|key| Some((key, live_roles(seen, seen.desired.resources.get(key)?)?)))
            .filter(|(_, roles)| !roles.is_empty())
            .collect();
        if roles.is_empty() {
            return Ok(());
        }
        let known = self.store.read(Scope::Tenant(seen.desired.tenant.clone())).await?.roles_with_secrets().await?;
        for (key, roles) in roles {
            let unknown: Vec<String> =
                roles.into_iter().filter(|role| !known.contains(&(key.clone(), role.clone()))).collect();
            if unknown.is_empty() {
                continue;
            }
            let message = format!(
                "the password of {} is not in the state store, and stays as it is; a new value of plumb.dev/rotate \
                 makes new ones",
                unknown.join(", ")
            );
            let ready = seen.statuses.get(key).and_then(|status| status.condition(ConditionType::Ready));
            if ready.is_none_or(|ready| ready.reason != Reason::PasswordUnknown) {
                let message = message.clone();
                timeline.note_of(key, EventKind::Warning { reason: Reason::PasswordUnknown, message });
            }
            plan.warnings.push((key.clone(), Reason::PasswordUnknown, message));
        }
        Ok(())
    }
}

/// The roles of a resource that are there and ours, where it was looked at.
fn live_roles(seen: &Seen<'_>, resource: &Resource) -> Option<Vec<String>> {
    let key = &resource.key;
    let Observation::Present(live) = seen.after.objects.get(key).or_else(|| seen.before.objects.get(key))? else {
        return None;
    };
    if !is_ours(live, seen.platform, key) {
        return None;
    }
    let there = resource.fields.paths().filter(|path| live.fields.0.contains_key(*path));
    Some(key.kind.roles(there).into_iter().collect())
}

fn is_ours(live: &Live, platform: &Platform, key: &ResourceKey) -> bool {
    match &live.ownership {
        Ownership::Marked(mark) => mark.platform == platform.id && mark.key == *key && !mark.unfinished,
        Ownership::Unmarked => false,
    }
}

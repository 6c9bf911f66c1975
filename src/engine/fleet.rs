//! The managers, one a provider, kept while its description and credential stay the same.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::managers::{Endpoint, ManagerError, ResourceManager};
use crate::model::{Platform, ProviderSpec, Reason};

use super::credentials;

/// Which credential is used: planning for what is not merged never holds the one that can write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Access {
    Write,
    Read,
}

/// A provider's manager and how many steps may run on it.
#[derive(Clone)]
pub(super) struct Member {
    pub manager: Arc<dyn ResourceManager>,
    pub slots: Arc<Semaphore>,
}

struct Kept {
    spec: ProviderSpec,
    /// Hash of the credential, so that a rotated file is noticed and no secret is kept here.
    credential: [u8; 32],
    member: Member,
}

/// Makes the manager for an endpoint: [`managers::connect`], or what a test has in its place.
pub type Connect = Arc<dyn Fn(Endpoint) -> Result<Arc<dyn ResourceManager>, ManagerError> + Send + Sync>;

/// All managers in use.
pub(super) struct Fleet {
    base_dir: PathBuf,
    connect: Connect,
    kept: Mutex<HashMap<(String, Access), Kept>>,
}

impl Fleet {
    pub(super) fn new(base_dir: PathBuf, connect: Connect) -> Self {
        Self { base_dir, connect, kept: Mutex::default() }
    }

    /// The manager of `provider`.
    ///
    /// # Errors
    /// When the provider is not in the platform, or its credential is not there.
    pub(super) fn member(&self, platform: &Platform, provider: &str, access: Access) -> Result<Member, ManagerError> {
        let spec = platform.providers.get(provider).ok_or_else(|| {
            let message = format!("the platform has no Provider {provider}");
            ManagerError::terminal(Reason::ProviderMissing, message)
        })?;
        let (reference, login) = match (access, &spec.read_credentials) {
            (Access::Read, Some(reading)) => (Some(reading), spec.read_login.as_deref()),
            (Access::Read, None) | (Access::Write, _) => (spec.credentials.as_ref(), None),
        };
        let url = match login {
            None => spec.url.clone(),
            Some(login) => with_login(&spec.url, login).ok_or_else(|| {
                let message = format!("Provider {provider}: its url has no place for the readLogin {login}");
                ManagerError::terminal(Reason::Rejected, message)
            })?,
        };
        let password = credentials::resolve(reference).map_err(|error| {
            ManagerError::terminal(Reason::CredentialMissing, format!("Provider {provider}: {error}"))
        })?;
        let credential = credentials::fingerprint(password.as_ref());
        let mut kept = self.kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let place = (provider.to_owned(), access);
        if let Some(known) = kept.get(&place)
            && known.spec == *spec
            && known.credential == credential
        {
            return Ok(known.member.clone());
        }
        let endpoint = Endpoint {
            name: provider.to_owned(),
            provider_type: spec.provider_type,
            url,
            password,
            base_dir: self.base_dir.clone(),
            max_concurrency: spec.max_concurrency,
            timeout: spec.timeout.0,
        };
        let manager = (self.connect)(endpoint)?;
        // Steps that are under way by another credential, or under another limit, count still.
        let slots = match kept.get(&place) {
            Some(known) => resized(&known.member.slots, known.spec.max_concurrency, spec.max_concurrency),
            None => Arc::new(Semaphore::new(spec.max_concurrency)),
        };
        let member = Member { manager, slots };
        kept.insert(place, Kept { spec: spec.clone(), credential, member: member.clone() });
        Ok(member)
    }
}

/// The same slots, of which there are `to` in place of `from` once those that are too many are given back.
fn resized(slots: &Arc<Semaphore>, from: usize, to: usize) -> Arc<Semaphore> {
    slots.add_permits(to.saturating_sub(from));
    let too_many = from.saturating_sub(to);
    let taken = too_many - slots.forget_permits(too_many);
    for _ in 0..taken {
        let slots = Arc::clone(slots);
        tokio::spawn(async move { slots.acquire_owned().await.map(OwnedSemaphorePermit::forget) });
    }
    Arc::clone(slots)
}

/// `url` with another login in it.
fn with_login(url: &str, login: &str) -> Option<String> {
    let mut url = url::Url::parse(url).ok()?;
    url.set_username(login).ok()?;
    Some(url.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn steps_under_way_count_under_another_limit_too() {
        let slots = Arc::new(Semaphore::new(4));
        let under_way = Arc::clone(&slots).acquire_many_owned(3).await.unwrap();
        let fewer = resized(&slots, 4, 2);
        tokio::task::yield_now().await;
        assert_eq!(fewer.available_permits(), 0);
        drop(under_way);
        tokio::task::yield_now().await;
        assert_eq!(fewer.available_permits(), 2);
        assert_eq!(resized(&fewer, 2, 5).available_permits(), 5);
    }
}

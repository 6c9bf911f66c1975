//! The mirrors of all repositories, and the forge that writes through them.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use crate::forge::git::{Branches, PlainGit};
use crate::forge::{Draft, Forge, ForgeError};
use crate::model::{ForgeType, Platform, TenantSpec};
use crate::source::{self, Author, Mirror, Remote, SourceError};

use super::{EngineError, credentials};

/// Who Plumb's commits are by. The address is of the reserved kind that reaches nobody.
const AUTHOR_NAME: &str = "Plumb";
const AUTHOR_EMAIL: &str = "plumb@plumb.invalid";

/// A mirror, and what it was opened with.
struct Kept {
    credential: [u8; 32],
    allow_plain_http: bool,
    mirror: Arc<Mirror>,
}

/// Opens mirrors and keeps them.
pub(super) struct Mirrors {
    root: PathBuf,
    open: Mutex<HashMap<String, Kept>>,
}

impl Mirrors {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root, open: Mutex::default() }
    }

    /// The mirror of `remote`. Blocks while a new one is made.
    pub(super) fn of(&self, remote: Remote) -> Result<Arc<Mirror>, SourceError> {
        let mut open = self.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (url, allow_plain_http) = (remote.url.clone(), remote.allow_plain_http);
        let credential = credentials::fingerprint(remote.credential.as_ref());
        if let Some(kept) = open.get(&url)
            && kept.credential == credential
            && kept.allow_plain_http == allow_plain_http
        {
            return Ok(Arc::clone(&kept.mirror));
        }
        let mirror = Arc::new(Mirror::open(&self.root, remote)?);
        open.insert(url, Kept { credential, allow_plain_http, mirror: Arc::clone(&mirror) });
        Ok(mirror)
    }

    /// The mirror of a tenant's repository.
    pub(super) fn of_tenant(
        &self,
        platform: &Platform,
        name: &str,
        tenant: &TenantSpec,
    ) -> Result<Arc<Mirror>, EngineError> {
        let credential = credentials::resolve(tenant.repository.credentials.as_ref())
            .map_err(|source| EngineError::Credential { what: format!("the repository of tenant {name}"), source })?;
        let remote =
            Remote { url: tenant.repository.url.clone(), credential, allow_plain_http: platform.spec.allow_plain_http };
        self.of(remote)
            .map_err(|source| EngineError::Source { what: format!("the repository of tenant {name}"), source })
    }
}

/// The forge of a tenant, which writes through its mirror.
pub(super) fn forge_of(tenant: &TenantSpec, mirror: Arc<Mirror>) -> Box<dyn Forge> {
    match tenant.forge.as_ref().map(|forge| forge.forge_type).unwrap_or_default() {
        ForgeType::Git => Box::new(PlainGit::new(mirror)),
    }
}

impl Branches for Mirror {
    fn commit(&self, draft: &Draft) -> Result<String, ForgeError> {
        let edits: Vec<source::FileEdit> = draft
            .edits
            .iter()
            .map(|edit| source::FileEdit { path: edit.path.clone(), content: edit.content.clone() })
            .collect();
        let author = Author { name: AUTHOR_NAME.to_owned(), email: AUTHOR_EMAIL.to_owned() };
        self.commit_edits(&draft.base, &edits, &draft.message, &author, draft.at)
            .map_err(|error| ForgeError::Refused { message: error.to_string() })
    }

    fn push(&self, branch: &str, to: Option<&str>, expected: Option<&str>) -> Result<(), ForgeError> {
        Mirror::push(self, branch, to, expected).map_err(|error| match error {
            SourceError::Stale { .. } => ForgeError::Stale { branch: branch.to_owned() },
            SourceError::Refused { .. } => ForgeError::Refused { message: error.to_string() },
            other => ForgeError::Unreachable { message: other.to_string() },
        })
    }
}

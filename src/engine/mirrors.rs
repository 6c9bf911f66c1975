//! The mirrors of all repositories, and the forge that writes through them.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::forge::git::{Branches, PlainGit};
use crate::forge::{Draft, Forge, ForgeError};
use crate::model::{ForgeType, Platform, TenantSpec};
use crate::source::{self, Author, Mirror, Remote, SourceError};

use super::{EngineError, blocking, credentials};

/// Who Plumb's commits are by. The address is of the reserved kind that reaches nobody.
const AUTHOR_NAME: &str = "Plumb";
const AUTHOR_EMAIL: &str = "plumb@plumb.invalid";

/// How a commit of Plumb's names its author and committer.
pub(super) fn author() -> String {
    format!("{AUTHOR_NAME} <{AUTHOR_EMAIL}>")
}

/// What tells one handle of a mirror from another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Place {
    url: String,
    credential: [u8; 32],
    allow_plain_http: bool,
}

/// Opens mirrors and keeps them.
pub(super) struct Mirrors {
    root: PathBuf,
    open: Mutex<HashMap<Place, Arc<Mirror>>>,
}

impl Mirrors {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root, open: Mutex::default() }
    }

    /// The mirror of `remote`; made, beside the async threads, when there is none yet.
    pub(super) async fn of(&self, remote: Remote) -> Result<Result<Arc<Mirror>, SourceError>, EngineError> {
        let place = Place {
            url: remote.url.clone(),
            credential: credentials::fingerprint(remote.credential.as_ref()),
            allow_plain_http: remote.allow_plain_http,
        };
        if let Some(mirror) = self.lock().get(&place) {
            return Ok(Ok(Arc::clone(mirror)));
        }
        let root = self.root.clone();
        // Two that open the same at once get two handles of one mirror on disk; the later is kept.
        let opened = blocking(move || Mirror::open(&root, remote)).await?;
        Ok(opened.map(|mirror| {
            let mirror = Arc::new(mirror);
            self.lock().insert(place, Arc::clone(&mirror));
            mirror
        }))
    }

    /// The mirror of a tenant's repository.
    pub(super) async fn of_tenant(
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
            .await?
            .map_err(|source| EngineError::Source { what: format!("the repository of tenant {name}"), source })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Place, Arc<Mirror>>> {
        self.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
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

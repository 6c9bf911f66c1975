//! The platform repository: its head when that validates, else the last revision that did.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use crate::manifest;
use crate::model::{Code, Diagnostic, ObjectHex, Platform, PlatformId, Span};
use crate::source::{self, Mirror, Refs, Remote, SourceError, Wanted};
use crate::store::audit::PLATFORM_CHAIN;
use crate::store::{PlatformState, Scope};
use crate::validate::{self, PolicySet};

use super::desired::Sources;
use super::{Engine, EngineError, audit, beside, blocking};

/// The platform's id is in every mark; with another one nothing would be Plumb's any more.
const PLATFORM_ID_CHANGED: Code = Code::new("PlatformIdChanged");

/// How many digits of the first commit name a platform that names itself nothing.
const FALLBACK_ID_DIGITS: usize = 12;

/// The platform in force, and what is wrong with its head.
#[derive(Clone, Debug)]
pub struct PlatformStatus {
    pub platform: Arc<Platform>,
    pub policies: Arc<PolicySet>,
    /// The head, when it is not in force.
    pub rejected: Option<ObjectHex>,
    pub findings: Vec<Diagnostic>,
    /// Texts of the files with findings.
    pub sources: Sources,
}

/// One revision, read and validated.
struct Revision {
    platform: Option<Platform>,
    policies: PolicySet,
    findings: Vec<Diagnostic>,
    sources: Sources,
    /// Where its id is said.
    id_place: Option<(String, Span)>,
}

/// What became of what was read.
enum Remembered {
    /// Something else is in force than what it was to replace; nothing was written.
    Overtaken,
    /// It was in force already.
    InForceBefore,
    /// It is in force from now on.
    PutInForce,
}

impl Engine {
    /// Reads the platform repository.
    ///
    /// # Errors
    /// When it cannot be read, or has never had a valid revision.
    pub async fn platform(&self) -> Result<PlatformStatus, EngineError> {
        self.read_platform().await.map(|(status, _)| status)
    }

    /// As [`Engine::platform`]; says too whether that put another revision in force than there was.
    pub(super) async fn read_platform(&self) -> Result<(PlatformStatus, bool), EngineError> {
        let mirror = self.platform_mirror().await?;
        loop {
            // Before the head: what is in force then comes of an older reading of it than this one.
            let before = self.platform_state().await?;
            let stands = |known: &PlatformStatus| {
                let is_it = |state: &PlatformState| {
                    known.platform.commit.as_ref() == Some(&state.commit) && known.rejected == state.rejected
                };
                before.as_ref().is_some_and(is_it)
            };
            if let Some(known) = self.known_at_head(&mirror).await?.filter(stands) {
                return Ok((known, false));
            }
            let (head, status) = self.platform_at_head(&mirror, before.as_ref()).await?;
            let is_another = match self.remember_platform(&status, before.as_ref(), &mirror).await? {
                Remembered::Overtaken => continue,
                Remembered::InForceBefore => false,
                Remembered::PutInForce => before.is_some(),
            };
            // Only what is in the state database too need not be read again.
            *self.platform.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some((head, status.clone()));
            return Ok((status, is_another));
        }
    }

    /// As [`Engine::platform`], but remembers nothing: for plans.
    ///
    /// # Errors
    /// As [`Engine::platform`].
    pub async fn platform_for_reading(&self) -> Result<PlatformStatus, EngineError> {
        let mirror = self.platform_mirror().await?;
        if let Some(known) = self.known_at_head(&mirror).await? {
            return Ok(known);
        }
        let before = self.platform_state().await?;
        self.platform_at_head(&mirror, before.as_ref()).await.map(|(_, status)| status)
    }

    async fn platform_state(&self) -> Result<Option<PlatformState>, EngineError> {
        Ok(self.store.read(Scope::Platform).await?.platform().await?)
    }

    /// The platform as the store says that it is in force: for those that do not read the head of its repository.
    ///
    /// # Errors
    /// When the store or the repository cannot be read, or nothing was ever in force.
    pub(super) async fn in_force(&self) -> Result<PlatformStatus, EngineError> {
        let Some(PlatformState { commit, rejected, findings, .. }) = self.platform_state().await? else {
            return Err(EngineError::NoPlatform { findings: Vec::new(), sources: Sources::new() });
        };
        let is_known = |known: &PlatformStatus| known.platform.commit.as_ref() == Some(&commit);
        if let Some(known) = self.platform_known().filter(is_known) {
            return Ok(PlatformStatus { rejected, findings, ..known });
        }
        let _reading = self.reads_in_force.lock().await;
        if let Some(known) = self.platform_known().filter(is_known) {
            return Ok(PlatformStatus { rejected, findings, ..known });
        }
        let status = PlatformStatus { rejected, findings, ..self.platform_of(commit.clone()).await? };
        *self.platform.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some((commit, status.clone()));
        Ok(status)
    }

    /// The platform as it is at `commit`.
    ///
    /// # Errors
    /// When the repository does not have the commit, or nothing valid at it.
    pub(super) async fn platform_of(&self, commit: ObjectHex) -> Result<PlatformStatus, EngineError> {
        if let Some(known) = self.platform_known().filter(|known| known.platform.commit.as_ref() == Some(&commit)) {
            return Ok(known);
        }
        let mirror = self.platform_mirror().await?;
        let (reader, wanted) = (Arc::clone(&mirror), commit.clone());
        let has_it = blocking(move || reader.has(&wanted)).await?;
        if !has_it {
            let (reader, branch) = (Arc::clone(&mirror), self.platform_branch());
            blocking(move || reader.fetch(&branch)).await?.map_err(unreadable)?;
        }
        let Revision { platform, policies, findings, sources, .. } = self.revision(&mirror, commit).await?;
        let Some(platform) = platform else {
            return Err(EngineError::NoPlatform { findings, sources });
        };
        Ok(PlatformStatus {
            platform: Arc::new(platform),
            policies: Arc::new(policies),
            rejected: None,
            findings: Vec::new(),
            sources: Sources::new(),
        })
    }

    fn platform_known(&self) -> Option<PlatformStatus> {
        let known = self.platform.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        known.as_ref().map(|(_, status)| status.clone())
    }

    async fn platform_mirror(&self) -> Result<Arc<Mirror>, EngineError> {
        let remote = Remote::new(self.settings.platform.clone()).credential(self.settings.platform_token.clone());
        self.mirrors.of(remote).await?.map_err(unreadable)
    }

    fn platform_branch(&self) -> String {
        match &self.settings.platform_branch {
            Some(branch) => branch.clone(),
            // A folder stands for what is checked out there.
            None if Path::new(&self.settings.platform).is_dir() => source::HEAD.to_owned(),
            None => "main".to_owned(),
        }
    }

    /// The head as its remote has it now, or the last good revision where it does not validate; with the head.
    async fn platform_at_head(
        &self,
        mirror: &Arc<Mirror>,
        state: Option<&PlatformState>,
    ) -> Result<(ObjectHex, PlatformStatus), EngineError> {
        let (reader, branch) = (Arc::clone(mirror), self.platform_branch());
        let Refs { head, .. } = blocking(move || reader.fetch(&branch)).await?.map_err(unreadable)?;
        let head = head.ok_or_else(|| {
            EngineError::BranchGone(
                "the platform repository has no commit on its branch; commit the platform's documents first".to_owned(),
            )
        })?;
        let mut revision = self.revision(mirror, head.clone()).await?;
        let read = head.clone();
        if let (Some(platform), Some(state)) = (&revision.platform, state)
            && platform.id != state.id
        {
            revision.findings.push(id_changed(&state.id, &platform.id, revision.id_place.take()));
            revision.platform = None;
        }
        let (in_force, rejected) = match revision.platform {
            Some(platform) => ((platform, revision.policies), None),
            None => {
                let last_good = state.map(|state| state.commit.clone());
                let good = match last_good.filter(|commit| *commit != head) {
                    Some(commit) => self.revision(mirror, commit).await?,
                    None => {
                        return Err(EngineError::NoPlatform { findings: revision.findings, sources: revision.sources });
                    }
                };
                match good.platform {
                    Some(platform) => ((platform, good.policies), Some(head)),
                    None => {
                        return Err(EngineError::NoPlatform { findings: revision.findings, sources: revision.sources });
                    }
                }
            }
        };
        let (platform, policies) = in_force;
        let named: BTreeSet<&String> = revision.findings.iter().flat_map(Diagnostic::files).collect();
        revision.sources.retain(|file, _| named.contains(file));
        let status = PlatformStatus {
            platform: Arc::new(platform),
            policies: Arc::new(policies),
            rejected,
            findings: revision.findings,
            sources: revision.sources,
        };
        Ok((read, status))
    }

    /// The platform as it was read at the head that its remote has now, when that was the last head that was read.
    async fn known_at_head(&self, mirror: &Arc<Mirror>) -> Result<Option<PlatformStatus>, EngineError> {
        let (reader, branch) = (Arc::clone(mirror), self.platform_branch());
        let Refs { head, .. } = blocking(move || reader.advertise(&branch)).await?.map_err(unreadable)?;
        let known = self.platform.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let is_of_head = |(read, status): &&(ObjectHex, PlatformStatus)| {
            Some(read) == head.as_ref()
                && status.rejected.as_ref().is_none_or(|rejected| Some(rejected) == head.as_ref())
        };
        Ok(known.as_ref().filter(is_of_head).map(|(_, status)| status.clone()))
    }

    async fn revision(&self, mirror: &Arc<Mirror>, commit: ObjectHex) -> Result<Revision, EngineError> {
        let (mirror, validator) = (Arc::clone(mirror), Arc::clone(&self.validator));
        blocking(move || read_revision(&mirror, &validator, &commit)).await?.map_err(unreadable)
    }

    /// Remembers what was read of the platform, unless something else than `before` is in force by now: what was read then
    /// may be older than that.
    async fn remember_platform(
        &self,
        status: &PlatformStatus,
        before: Option<&PlatformState>,
        mirror: &Mirror,
    ) -> Result<Remembered, EngineError> {
        let platform = &status.platform;
        let state = PlatformState {
            id: platform.id.clone(),
            commit: platform.commit.clone().unwrap_or_default(),
            rejected: status.rejected.clone(),
            findings: status.findings.clone(),
            updated_at: self.clock.now(),
        };
        let author = beside(|| mirror.commits_between(None, &state.commit)).ok().and_then(|mut commits| commits.pop());
        let mut tx = self.store.begin(Scope::Platform).await?;
        if tx.platform().await?.as_ref() != before {
            return Ok(Remembered::Overtaken);
        }
        let was_in_force = before.is_some_and(|before| before.commit == state.commit);
        let same =
            before.is_some_and(|before| PlatformState { updated_at: state.updated_at, ..before.clone() } == state);
        if !same {
            tx.put_platform(&state).await?;
        }
        if !was_in_force {
            tx.append_audit(PLATFORM_CHAIN, &[audit::in_force(&state.commit, author.as_ref(), state.updated_at)])
                .await?;
        }
        // A tenant that is no longer in the platform is frozen and listed, never pruned (R9).
        for (name, tenant) in tx.tenants().await? {
            let removed = !platform.tenants.contains_key(&name);
            if removed != tenant.removed {
                tx.put_tenant(&crate::store::TenantState { removed, updated_at: state.updated_at, ..tenant }).await?;
            }
        }
        tx.commit().await?;
        Ok(if was_in_force { Remembered::InForceBefore } else { Remembered::PutInForce })
    }
}

fn unreadable(source: SourceError) -> EngineError {
    EngineError::Source { what: "the platform repository".to_owned(), source }
}

fn id_changed(was: &PlatformId, is: &PlatformId, place: Option<(String, Span)>) -> Diagnostic {
    let (file, span) = place.unzip();
    let message =
        format!("the platform's id would change from {was} to {is}, and everything Plumb made bears the mark of {was}");
    Diagnostic::error(PLATFORM_ID_CHANGED, file.unwrap_or_default(), message)
        .at(span)
        .help(format!("set spec.id: {was} in the Platform document"))
}

fn read_revision(
    mirror: &Mirror,
    validator: &validate::Validator,
    commit: &ObjectHex,
) -> Result<Revision, SourceError> {
    let tree = mirror.tree(commit, ".", Wanted::ManifestsAndPolicies)?;
    let blobs = mirror.blobs(&tree.files.values().map(|entry| &entry.blob).collect::<Vec<_>>())?;
    let (mut checked, mut rego, mut sources) = (Vec::new(), BTreeMap::new(), Sources::new());
    for ((path, _), bytes) in tree.files.iter().zip(blobs) {
        if path.ends_with(".rego") {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            sources.insert(path.clone(), text.as_str().into());
            rego.insert(path.clone(), text);
        } else {
            let parsed = manifest::parse(path, &bytes);
            sources.insert(path.clone(), Arc::clone(&parsed.text));
            checked.push(Arc::new(validator.check_file(&parsed)));
        }
    }
    let mut fallback = mirror.root_commit(commit)?;
    fallback.truncate(FALLBACK_ID_DIGITS);
    let (platform, mut findings) =
        validate::assemble_platform(&checked, &rego, Some(commit.clone()), PlatformId(fallback));
    let unreadable = tree.findings.iter().any(Diagnostic::is_error);
    findings.extend(tree.findings);
    let (platform, policies) = match PolicySet::compile(&rego) {
        Ok(policies) => (platform.filter(|_| !unreadable), policies),
        // assemble_platform has said what is wrong with them.
        Err(_) => (None, PolicySet::builtin()),
    };
    Ok(Revision { platform, policies, findings, sources, id_place: validate::place_of_id(&checked) })
}

//! From a tree to the desired state, reading and checking only what changed since the last time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::manifest;
use crate::model::{
    Annotations, AppliedDocument, DesiredState, Diagnostic, Drift, ObjectHex, Platform, ResourceKey, TenantSpec,
};
use crate::source::{Mirror, SourceError, Wanted, WorkingFiles};
use crate::validate::{self, CheckedFile, PolicySet, TenantCache, TenantContext, Validator};

use super::memory::Kept;
use super::propose::Trouble;

/// The text of each file that findings speak of, so that they can be shown with excerpts.
pub type Sources = BTreeMap<String, Arc<str>>;

/// What is kept of one tenant between passes.
#[derive(Default)]
pub(super) struct Workspace {
    files: BTreeMap<String, Arc<CheckedFile>>,
    policy_cache: TenantCache,
    last: Option<Last>,
    /// Keys whose record was written since: what policies call `previous` is another document now.
    recorded: BTreeSet<ResourceKey>,
    /// What the store says of the tenant, as of the claim of this generation. Nobody else writes it without another
    /// claim, so it need not be asked again while the next claim is this process's too.
    kept: Option<Kept>,
    generation: Option<i64>,
    /// Drift that no edit could say when it was tried last: a try reads all of the tenant's documents.
    unsayable: BTreeMap<ResourceKey, Unsayable>,
}

/// Drift that no edit of its document can say, and under which heads.
struct Unsayable {
    platform: Option<ObjectHex>,
    commit: Option<ObjectHex>,
    drift: Drift,
    trouble: Trouble,
}

/// What the last reading gave.
struct Last {
    /// The platform's commit that it was read under.
    platform: Option<ObjectHex>,
    /// The commit and the folder that was read of it, where a later commit can be read by what it edits.
    plain: Option<(ObjectHex, String)>,
    desired: Arc<DesiredState>,
    /// For each resource that others depend on, those.
    dependents: BTreeMap<ResourceKey, BTreeSet<ResourceKey>>,
}

impl Last {
    /// The keys of those that depend on any of these.
    fn dependents_of(&self, keys: &BTreeSet<ResourceKey>) -> BTreeSet<ResourceKey> {
        keys.iter().filter_map(|key| self.dependents.get(key)).flatten().cloned().collect()
    }
}

/// A tree whose files have been read and checked one by one, and not been put together yet.
pub(super) struct Loaded {
    /// `None` for a working tree.
    commit: Option<ObjectHex>,
    plain: Option<(ObjectHex, String)>,
    changed: BTreeSet<String>,
    /// Where it only edits files of the tree before it: what these held, and what they hold.
    edited: Option<Edited>,
    findings: Vec<Diagnostic>,
    refused: BTreeSet<String>,
}

struct Edited {
    before: Vec<Arc<CheckedFile>>,
    after: Vec<Arc<CheckedFile>>,
}

/// A tree, read.
pub(super) struct Reading {
    pub desired: Arc<DesiredState>,
    pub files: usize,
    pub changed: usize,
    /// The keys whose documents changed since the last reading; `None` when everything may have.
    pub touched: Option<BTreeSet<ResourceKey>>,
    /// The keys of those that depend on them.
    pub dependents: BTreeSet<ResourceKey>,
}

/// Whose tree it is.
#[derive(Clone, Copy)]
pub(super) struct Owner<'a> {
    pub platform: &'a Platform,
    pub policies: &'a PolicySet,
    pub name: &'a str,
    pub tenant: &'a TenantSpec,
    /// What git said at the last recorded commit, for policies.
    pub previous: &'a BTreeMap<ResourceKey, AppliedDocument>,
}

impl Workspace {
    /// Reads and checks the files of `commit` in `folder`. One that only edits files of the one that was read before,
    /// under the same commit of the platform, costs what it edits.
    ///
    /// # Errors
    /// When the commit cannot be read.
    pub(super) fn load(
        &mut self,
        validator: &Validator,
        platform: Option<&ObjectHex>,
        folder: &str,
        mirror: &Mirror,
        commit: &ObjectHex,
    ) -> Result<Loaded, SourceError> {
        let edits = match &self.last {
            Some(Last { platform: under, plain: Some((before, read)), .. })
                if under.as_ref() == platform && read == folder =>
            {
                // What cannot be compared, since the mirror was made anew, is read whole; that tells what is wrong.
                mirror.edits(before, commit, folder, Wanted::Manifests).unwrap_or(None)
            }
            Some(_) | None => None,
        };
        match edits {
            Some(edits) => self.load_edits(validator, folder, mirror, commit, &edits),
            None => self.load_tree(validator, folder, mirror, commit),
        }
    }

    fn load_edits(
        &mut self,
        validator: &Validator,
        folder: &str,
        mirror: &Mirror,
        commit: &ObjectHex,
        edits: &BTreeMap<String, ObjectHex>,
    ) -> Result<Loaded, SourceError> {
        let after = check_blobs(validator, mirror, &edits.iter().collect())?;
        let mut before = Vec::with_capacity(after.len());
        for checked in &after {
            before.extend(self.files.insert(checked.file.clone(), Arc::clone(checked)));
        }
        Ok(Loaded {
            commit: Some(commit.clone()),
            plain: Some((commit.clone(), folder.to_owned())),
            changed: edits.keys().cloned().collect(),
            edited: Some(Edited { before, after }),
            findings: Vec::new(),
            refused: BTreeSet::new(),
        })
    }

    fn load_tree(
        &mut self,
        validator: &Validator,
        folder: &str,
        mirror: &Mirror,
        commit: &ObjectHex,
    ) -> Result<Loaded, SourceError> {
        let tree = mirror.tree(commit, folder, Wanted::Manifests)?;
        let is_plain = tree.plain && tree.findings.is_empty() && tree.refused.is_empty();
        let fresh: BTreeMap<&String, &ObjectHex> = tree
            .files
            .iter()
            .filter(|(path, entry)| self.files.get(*path).is_none_or(|known| known.blob != entry.blob))
            .map(|(path, entry)| (path, &entry.blob))
            .collect();
        let fresh = check_blobs(validator, mirror, &fresh)?;
        let mut changed: BTreeSet<String> =
            self.files.keys().filter(|path| !tree.files.contains_key(*path)).cloned().collect();
        self.files.retain(|path, _| tree.files.contains_key(path));
        for checked in fresh {
            changed.insert(checked.file.clone());
            self.files.insert(checked.file.clone(), checked);
        }
        Ok(Loaded {
            commit: Some(commit.clone()),
            plain: is_plain.then(|| (commit.clone(), folder.to_owned())),
            changed,
            edited: None,
            findings: tree.findings,
            refused: tree.refused,
        })
    }

    /// Checks a working tree, in place of what was read before.
    pub(super) fn load_working(&mut self, validator: &Validator, working: WorkingFiles) -> Loaded {
        self.files.clear();
        let files: Vec<(String, Vec<u8>)> = working.files.into_iter().collect();
        for checked in validator.check_files(&files) {
            self.files.insert(checked.file.clone(), Arc::new(checked));
        }
        Loaded {
            commit: None,
            plain: None,
            changed: BTreeSet::new(),
            edited: None,
            findings: working.findings,
            refused: working.refused,
        }
    }

    /// Puts together what was loaded.
    pub(super) fn read(&mut self, owner: Owner<'_>, loaded: Loaded) -> Reading {
        match self.revise(owner, &loaded) {
            Some(reading) => reading,
            None => self.assemble(owner, loaded),
        }
    }

    /// Brings the last desired state up to date with files that were edited, if that is all that it takes.
    fn revise(&mut self, owner: Owner<'_>, loaded: &Loaded) -> Option<Reading> {
        let (Edited { before, after }, last) = (loaded.edited.as_ref()?, self.last.as_mut()?);
        let (mut before, mut after) = (before.clone(), after.clone());
        let origins = self.recorded.iter().filter_map(|key| last.desired.resources.get(key)).map(|r| &r.origin.file);
        for file in origins.filter(|file| !loaded.changed.contains(*file)).collect::<BTreeSet<_>>() {
            let file = self.files.get(file)?;
            before.push(Arc::clone(file));
            after.push(Arc::clone(file));
        }
        let context = context(owner, loaded.commit.as_ref());
        let resources = validate::revise_tenant(&context, &last.desired, &before, &after, &mut self.policy_cache)?;
        let state = Arc::make_mut(&mut last.desired);
        state.commit.clone_from(&loaded.commit);
        let mut touched = BTreeSet::new();
        for resource in resources {
            if loaded.changed.contains(&resource.origin.file) {
                touched.insert(resource.key.clone());
            }
            state.resources.insert(resource.key.clone(), resource);
        }
        last.plain.clone_from(&loaded.plain);
        self.recorded.clear();
        let (desired, dependents) = (Arc::clone(&last.desired), last.dependents_of(&touched));
        let (files, changed) = (self.files.len(), loaded.changed.len());
        Some(Reading { desired, files, changed, touched: Some(touched), dependents })
    }

    fn assemble(&mut self, owner: Owner<'_>, loaded: Loaded) -> Reading {
        let Loaded { commit, plain, changed, edited: _, findings, refused } = loaded;
        let mut desired = self.desired_with(owner, commit, None);
        desired.diagnostics.extend(findings);
        desired.unreadable.extend(refused);
        let desired = Arc::new(desired);
        let touched = self
            .last
            .as_ref()
            .filter(|last| last.platform == owner.platform.commit)
            .map(|last| touched(&last.desired, &desired, &changed));
        let last = self.last.insert(Last {
            platform: owner.platform.commit.clone(),
            plain,
            dependents: dependents(&desired),
            desired: Arc::clone(&desired),
        });
        self.recorded.clear();
        let dependents = touched.as_ref().map(|touched| last.dependents_of(touched)).unwrap_or_default();
        Reading { desired, files: self.files.len(), changed: changed.len(), touched, dependents }
    }

    /// The desired state with one file replaced (`None` as content removes it): what a proposal would lead to.
    pub(super) fn with_edit(
        &mut self,
        validator: &Validator,
        owner: Owner<'_>,
        path: &str,
        content: Option<&str>,
    ) -> DesiredState {
        let edited = content.map(|text| Arc::new(validator.check_file(&manifest::parse(path, text.as_bytes()))));
        self.desired_with(owner, None, Some((path, edited)))
    }

    fn desired_with(
        &mut self,
        owner: Owner<'_>,
        commit: Option<ObjectHex>,
        edit: Option<(&str, Option<Arc<CheckedFile>>)>,
    ) -> DesiredState {
        let edited_path = edit.as_ref().map(|(path, _)| *path);
        let files: Vec<Arc<CheckedFile>> = self
            .files
            .iter()
            .filter(|(path, _)| Some(path.as_str()) != edited_path)
            .map(|(_, file)| Arc::clone(file))
            .chain(edit.and_then(|(_, file)| file))
            .collect();
        validate::assemble_tenant(&context(owner, commit.as_ref()), &files, &mut self.policy_cache)
    }

    /// What the store says of the tenant, if that is known. Whoever takes it keeps it again, or the store is asked.
    pub(super) fn take_kept(&mut self) -> Option<Kept> {
        self.kept.take()
    }

    /// Keeps what the store says of the tenant until the next pass; `recorded` are keys whose records were written.
    pub(super) fn keep(&mut self, kept: Kept, recorded: impl IntoIterator<Item = ResourceKey>) {
        self.kept = Some(kept);
        for key in recorded {
            // What policies know of it is something else now.
            self.unsayable.remove(&key);
            self.recorded.insert(key);
        }
    }

    /// Why nothing could be offered of this very drift under the same heads.
    pub(super) fn unsayable(&self, owner: Owner<'_>, commit: Option<&ObjectHex>, drift: &Drift) -> Option<Trouble> {
        let known = self.unsayable.get(&drift.key)?;
        let is_same = known.platform == owner.platform.commit && known.commit.as_ref() == commit;
        (is_same && known.drift == *drift).then(|| known.trouble.clone())
    }

    /// Keeps that for the next looks.
    pub(super) fn cannot_say(
        &mut self,
        owner: Owner<'_>,
        commit: Option<&ObjectHex>,
        drift: &Drift,
        trouble: &Trouble,
    ) {
        let (platform, commit) = (owner.platform.commit.clone(), commit.cloned());
        let unsayable = Unsayable { platform, commit, drift: drift.clone(), trouble: trouble.clone() };
        self.unsayable.insert(drift.key.clone(), unsayable);
    }

    /// The text of a file, for excerpts.
    pub(super) fn text(&self, file: &str) -> Option<Arc<str>> {
        self.files.get(file).map(|file| file.text())
    }

    /// Forgets what was read, where anybody else has claimed the tenant since the claim before this one.
    pub(super) fn expect_generation(&mut self, generation: i64) {
        if self.generation.is_none_or(|before| before + 1 != generation) {
            self.forget();
        }
        self.generation = Some(generation);
    }

    /// Forgets what was read, so that the next reading is whole.
    pub(super) fn forget(&mut self) {
        self.last = None;
        self.kept = None;
        self.unsayable.clear();
    }
}

/// Reads and checks files by their blobs, in order.
fn check_blobs(
    validator: &Validator,
    mirror: &Mirror,
    blobs: &BTreeMap<&String, &ObjectHex>,
) -> Result<Vec<Arc<CheckedFile>>, SourceError> {
    let contents = mirror.blobs(&blobs.values().collect::<Vec<_>>())?;
    let files: Vec<(&String, Vec<u8>)> = blobs.keys().copied().zip(contents).collect();
    let mut checked = validator.check_files(&files);
    for (file, blob) in checked.iter_mut().zip(blobs.values()) {
        file.blob.clone_from(blob);
    }
    Ok(checked.into_iter().map(Arc::new).collect())
}

/// What the manifests that `commit` wrote say of themselves; `None` where it wrote none.
pub(super) fn said_by(
    validator: &Validator,
    owner: Owner<'_>,
    mirror: &Mirror,
    commit: &ObjectHex,
) -> Result<Option<BTreeMap<ResourceKey, Annotations>>, SourceError> {
    let written = mirror.written(commit, &owner.tenant.repository.path, Wanted::Manifests)?;
    if written.is_empty() {
        return Ok(None);
    }
    let files = check_blobs(validator, mirror, &written.iter().collect())?;
    Ok(Some(validate::said_in(&context(owner, Some(commit)), &files)))
}

fn context<'a>(owner: Owner<'a>, commit: Option<&'a ObjectHex>) -> TenantContext<'a> {
    TenantContext {
        platform: Some(owner.platform),
        tenant: owner.name,
        spec: Some(owner.tenant),
        path: &owner.tenant.repository.path,
        commit,
        previous: owner.previous,
        policies: owner.policies,
    }
}

/// For each resource that others depend on, those. An edit that changes any of it has all put together again.
fn dependents(desired: &DesiredState) -> BTreeMap<ResourceKey, BTreeSet<ResourceKey>> {
    let mut dependents: BTreeMap<ResourceKey, BTreeSet<ResourceKey>> = BTreeMap::new();
    for resource in desired.resources.values() {
        for key in &resource.depends_on {
            dependents.entry(key.clone()).or_default().insert(resource.key.clone());
        }
    }
    dependents
}

/// The keys whose documents stand, or stood, in changed files.
fn touched(before: &DesiredState, after: &DesiredState, changed: &BTreeSet<String>) -> BTreeSet<ResourceKey> {
    let in_changed = |desired: &DesiredState| -> Vec<ResourceKey> {
        desired
            .resources
            .values()
            .filter(|resource| changed.contains(&resource.origin.file))
            .map(|resource| resource.key.clone())
            .collect()
    };
    let mut touched: BTreeSet<ResourceKey> = in_changed(before).into_iter().chain(in_changed(after)).collect();
    // A change in one file can accept or reject documents in others (duplicates, references).
    touched.extend(before.rejected.keys().chain(after.rejected.keys()).cloned());
    touched.extend(before.resources.keys().filter(|key| !after.resources.contains_key(*key)).cloned());
    touched.extend(after.resources.keys().filter(|key| !before.resources.contains_key(*key)).cloned());
    touched
}

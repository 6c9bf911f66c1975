//! What a tenant wants, put together from its checked files: keys, references, names, quotas, policies.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::check::{CheckedDocument, CheckedFile, Spans, Verdict};
use super::codes;
use super::policy::PolicySet;
use super::schema::DocumentKind;
use super::sentence::clipped;
use super::suggest::did_you_mean;
use super::{judge, names, quota, references};
use crate::model::{
    Annotations, AppliedDocument, Code, DesiredState, Diagnostic, Kind, ObjectHex, Origin, Platform, Resource,
    ResourceKey, Span, TenantSpec,
};

/// Stands in for the environment of documents that name none, where no tenant says what there is.
const UNNAMED_ENVIRONMENT: &str = "default";

/// What a tenant's files are judged by.
#[derive(Clone, Copy)]
pub struct TenantContext<'a> {
    /// Without a platform, whatever depends on one is left unsaid.
    pub platform: Option<&'a Platform>,
    pub tenant: &'a str,
    /// The tenant's spec; `None` where only a folder is known.
    pub spec: Option<&'a TenantSpec>,
    /// The tenant's folder inside its repository; `.` for the whole.
    pub path: &'a str,
    pub commit: Option<&'a ObjectHex>,
    /// The documents that were in force before.
    pub previous: &'a BTreeMap<ResourceKey, AppliedDocument>,
    pub policies: &'a PolicySet,
}

/// What can be kept from one assembly of a tenant to the next. Never changes a result, only how soon it is there.
#[derive(Debug, Default)]
pub struct TenantCache {
    pub(super) kept: HashMap<ResourceKey, Kept>,
}

#[derive(Debug)]
pub(super) struct Kept {
    file: Arc<CheckedFile>,
    resource: Arc<Resource>,
    names: names::ServerNames,
    pub judged: Option<judge::Judged>,
}

impl TenantCache {
    /// Keeps what was said of an entry that was not kept before.
    pub(super) fn remember(&mut self, entry: &Entry<'_>, judged: judge::Judged) {
        let Some(resource) = entry.resource.clone() else { return };
        let kept = Kept { file: entry.file.clone(), resource, names: entry.names.clone(), judged: Some(judged) };
        self.kept.insert(entry.key.clone(), kept);
    }
}

/// Puts together what a tenant wants. `files` are all files at one commit, in any order.
pub fn assemble_tenant(cx: &TenantContext<'_>, files: &[Arc<CheckedFile>], cache: &mut TenantCache) -> DesiredState {
    let spans = Spans::default();
    let mut assembly = Assembly::new(cx, files, &spans);
    assembly.place_documents();
    assembly.refuse_duplicates();
    assembly.build_resources(cache);
    references::check_dependencies(&mut assembly);
    names::check_collisions(&mut assembly);
    names::check_key_prefixes(&mut assembly);
    names::check_spellings(&mut assembly);
    quota::check(&mut assembly);
    judge::ask_policies(&mut assembly, cache);
    assembly.finish(cache)
}

/// What the documents in some files of a tenant say of themselves, whether they can be used or not; of several with one key
/// the safest word.
pub fn said_in(cx: &TenantContext<'_>, files: &[Arc<CheckedFile>]) -> BTreeMap<ResourceKey, Annotations> {
    let spans = Spans::default();
    let mut assembly = Assembly::new(cx, files, &spans);
    assembly.place_documents();
    assembly.refuse_duplicates();
    assembly.entries.into_iter().map(|entry| (entry.key, entry.said.into_owned())).collect()
}

/// The resources of some files of `state` as these say them `after`; `None` when more than that could differ, and all has
/// to be put together again. With these resources in their places `state` is what [`assemble_tenant`] would give.
///
/// A file may be the same before and after: then it is only asked again whether policies are content.
pub fn revise_tenant(
    cx: &TenantContext<'_>,
    state: &DesiredState,
    before: &[Arc<CheckedFile>],
    after: &[Arc<CheckedFile>],
    cache: &mut TenantCache,
) -> Option<Vec<Arc<Resource>>> {
    let files: HashSet<&str> = after.iter().map(|file| file.file.as_str()).collect();
    let is_elsewhere = |finding: &Diagnostic| !finding.is_error() && !files.contains(finding.file.as_str());
    let is_clean = state.rejected.is_empty() && state.unreadable.is_empty() && state.denied.is_empty();
    if !is_clean || !state.diagnostics.iter().all(is_elsewhere) {
        return None;
    }
    let spans = Spans::default();
    let mut assembly = Assembly::new(cx, after, &spans);
    assembly.place_documents();
    assembly.refuse_duplicates();
    assembly.build_resources(cache);
    names::check_key_prefixes(&mut assembly);
    names::check_spellings(&mut assembly);
    let of_one_length = |(before, after): (&Arc<CheckedFile>, &Arc<CheckedFile>)| {
        before.file == after.file && before.documents.len() == after.documents.len()
    };
    let same_places = before.len() == after.len()
        && before.iter().zip(after).all(of_one_length)
        && assembly.entries.len() == after.iter().map(|file| file.documents.len()).sum::<usize>()
        && assembly.entries.iter().all(|entry| takes_its_place(cx, entry, state));
    if !same_places {
        return None;
    }
    judge::ask_policies(&mut assembly, cache);
    if !assembly.diagnostics.is_empty() {
        return None;
    }
    let mut resources = Vec::with_capacity(assembly.entries.len());
    for entry in assembly.entries {
        let resource = entry.resource?;
        let judged = cache.kept.remove(&entry.key).and_then(|kept| kept.judged);
        let kept = Kept { file: entry.file.clone(), resource: resource.clone(), names: entry.names, judged };
        cache.kept.insert(entry.key, kept);
        resources.push(resource);
    }
    Some(resources)
}

/// Whether nothing that other resources are checked against differs between what the entry says and what `state` has
/// of its key.
fn takes_its_place(cx: &TenantContext<'_>, entry: &Entry<'_>, state: &DesiredState) -> bool {
    let now = entry.resource.as_ref().filter(|_| entry.is_usable());
    let (Some(now), Some(was)) = (now, state.resources.get(&entry.key)) else { return false };
    was.origin.file == now.origin.file
        && was.provider == now.provider
        && was.depends_on == now.depends_on
        && names::of(was, references::type_of(cx.platform, &was.provider)) == entry.names
}

/// A document that has a key.
pub(super) struct Entry<'a> {
    pub file: &'a Arc<CheckedFile>,
    pub document: &'a CheckedDocument,
    pub key: ResourceKey,
    /// What is said of it; of several documents with its key, the safest.
    said: Cow<'a, Annotations>,
    /// Why it cannot be used.
    pub rejected: Option<String>,
    pub resource: Option<Arc<Resource>>,
    pub names: names::ServerNames,
    spans: &'a Spans,
}

impl Entry<'_> {
    /// Where the document says something, as a span.
    pub fn span(&self, pointer: &str) -> Option<Span> {
        self.spans.value(self.file, self.document.index, pointer)
    }

    /// An error at `pointer`, not yet recorded.
    pub fn error(&self, code: Code, pointer: &str, message: impl Into<String>) -> Diagnostic {
        Diagnostic::error(code, &self.file.file, message).at(self.span(pointer))
    }

    /// Whether it takes part in what follows.
    pub fn is_usable(&self) -> bool {
        self.rejected.is_none() && self.resource.is_some()
    }
}

/// The work in progress.
pub(super) struct Assembly<'a> {
    pub cx: &'a TenantContext<'a>,
    files: &'a [Arc<CheckedFile>],
    spans: &'a Spans,
    /// By key, once duplicates are told; then each key stands once.
    pub entries: Vec<Entry<'a>>,
    pub diagnostics: Vec<Diagnostic>,
    unreadable: Vec<String>,
    pub denied: BTreeMap<ResourceKey, String>,
}

/// Where a document belongs.
enum Place {
    Key(ResourceKey),
    /// It is in the wrong repository; nobody's resource.
    Nowhere,
    /// A resource, but which one cannot be told.
    Untold,
}

impl<'a> Assembly<'a> {
    fn new(cx: &'a TenantContext<'a>, files: &'a [Arc<CheckedFile>], spans: &'a Spans) -> Self {
        Self {
            cx,
            files,
            spans,
            entries: Vec::with_capacity(files.len()),
            diagnostics: Vec::new(),
            unreadable: Vec::new(),
            denied: BTreeMap::new(),
        }
    }

    /// Records `diagnostic` and takes the entry out of use.
    pub fn reject(&mut self, at: usize, diagnostic: Diagnostic) {
        let entry = &mut self.entries[at];
        if entry.rejected.is_none() {
            entry.rejected = Some(diagnostic.message.clone());
        }
        self.diagnostics.push(diagnostic);
    }

    fn place_documents(&mut self) {
        for file in self.files {
            self.diagnostics.extend(file.diagnostics.iter().cloned());
            if file.unreadable {
                self.unreadable.push(format!("{} could not be read whole", file.file));
            }
            for document in &file.documents {
                match self.place(file, document) {
                    Place::Key(key) => {
                        let rejected = match document.verdict {
                            Verdict::Usable => None,
                            Verdict::Faulty => Some(format!("the document in {} has errors", file.file)),
                        };
                        let (resource, names) = (None, names::ServerNames::default());
                        let (said, spans) = (Cow::Borrowed(&document.annotations), self.spans);
                        self.entries.push(Entry { file, document, key, said, rejected, resource, names, spans });
                    }
                    Place::Nowhere => {}
                    Place::Untold => {
                        let place = place_of(file, document);
                        self.unreadable.push(format!("{place}: which resource it is cannot be told"));
                    }
                }
            }
        }
    }

    fn place(&mut self, file: &CheckedFile, document: &CheckedDocument) -> Place {
        let kind = match document.kind {
            Some(DocumentKind::Resource(kind)) => kind,
            Some(kind @ (DocumentKind::Platform | DocumentKind::Tenant | DocumentKind::Provider)) => {
                self.diagnostics.push(
                    Diagnostic::error(
                        codes::WRONG_REPOSITORY,
                        &file.file,
                        format!("a {} belongs in the platform repository, not in a tenant's", kind.as_str()),
                    )
                    .at(self.spans.value(file, document.index, "/kind"))
                    .help("move it there, or name the file in .plumbignore"),
                );
                return Place::Nowhere;
            }
            None => return Place::Untold,
        };
        let Some(name) = &document.name else { return Place::Untold };
        match self.environment(file, document) {
            Some(environment) => Place::Key(ResourceKey::new(self.cx.tenant, environment, kind, name)),
            None => Place::Untold,
        }
    }

    /// The environment of a document, from its path or its metadata.
    fn environment(&mut self, file: &CheckedFile, document: &CheckedDocument) -> Option<String> {
        let from_path = environment_of_path(self.cx.path, &file.file);
        match (from_path, &document.environment) {
            (Some(path), Some(said)) if path != said => {
                self.diagnostics.push(
                    Diagnostic::error(
                        codes::ENVIRONMENT_MISMATCH,
                        &file.file,
                        format!(
                            "the path says environment {:?}, metadata.environment says {:?}",
                            clipped(path),
                            clipped(said)
                        ),
                    )
                    .at(self.spans.value(file, document.index, "/metadata/environment"))
                    .help("move the file, or remove metadata.environment"),
                );
                None
            }
            (Some(environment), _) => Some(environment.to_owned()),
            (None, Some(environment)) => Some(environment.clone()),
            (None, None) => {
                match self.cx.spec.map(|spec| spec.environments.as_slice()) {
                    Some([only]) => Some(only.clone()),
                    None => Some(UNNAMED_ENVIRONMENT.to_owned()),
                    Some(several) => {
                        self.diagnostics.push(
                        Diagnostic::error(codes::ENVIRONMENT_MISSING, &file.file, "which environment this belongs to is not said")
                            .at(self.spans.value(file, document.index, "/metadata"))
                            .help(format!(
                                "set metadata.environment to one of {}, or put the file below environments/<environment>/",
                                several.join(", ")
                            )),
                    );
                        None
                    }
                }
            }
        }
    }

    /// Sorts by key, and leaves each key once; a key that several documents describe cannot be used.
    fn refuse_duplicates(&mut self) {
        let mut entries = std::mem::take(&mut self.entries);
        entries.sort_by(|left, right| left.key.cmp(&right.key));
        let mut kept: Vec<Entry<'a>> = Vec::with_capacity(entries.len());
        for entry in entries {
            match kept.last_mut() {
                Some(first) if first.key == entry.key => {
                    let message = format!("{} is described twice", entry.key);
                    self.diagnostics.push(
                        entry
                            .error(codes::DUPLICATE_RESOURCE, "/metadata/name", message.clone())
                            .related("it is described here too", &first.file.file, first.span("/metadata/name"))
                            .help("remove one of the two, or give it another name"),
                    );
                    first.rejected = Some(message);
                    first.said = Cow::Owned(first.said.kept_safer_by(&entry.said, entry.key.kind));
                }
                Some(_) | None => kept.push(entry),
            }
        }
        self.entries = kept;
    }

    fn build_resources(&mut self, cache: &mut TenantCache) {
        for at in 0..self.entries.len() {
            if self.entries[at].rejected.is_some() {
                continue;
            }
            self.check_environment(at);
            let Some(provider) = references::provider_of(self, at) else { continue };
            let entry = &mut self.entries[at];
            let provider_type = references::type_of(self.cx.platform, &provider);
            if let Some(kept) = cache.kept.get(&entry.key)
                && Arc::ptr_eq(&kept.file, entry.file)
                && kept.resource.origin.document == entry.document.index
                && kept.resource.provider == provider
                && kept.names.provider_type == provider_type
            {
                entry.names = kept.names.clone();
                entry.resource = Some(kept.resource.clone());
                continue;
            }
            let resource = resource_of(entry, provider);
            entry.names = names::of(&resource, provider_type);
            entry.resource = Some(Arc::new(resource));
        }
    }

    fn check_environment(&mut self, at: usize) {
        let Some(spec) = self.cx.spec else { return };
        let entry = &self.entries[at];
        if spec.environments.contains(&entry.key.environment) {
            return;
        }
        let known: Vec<&str> = spec.environments.iter().map(String::as_str).collect();
        let message = format!("the tenant {} has no environment {:?}", self.cx.tenant, clipped(&entry.key.environment));
        let help = did_you_mean(&entry.key.environment, "its environments", &known);
        let diagnostic = entry.error(codes::UNKNOWN_ENVIRONMENT, "/metadata/environment", message).help(help);
        // It may be one of another environment, which must not be pruned meanwhile (R9).
        let place = place_of(entry.file, entry.document);
        self.unreadable.push(format!("{place}: its environment does not exist"));
        self.reject(at, diagnostic);
    }

    fn finish(self, cache: &mut TenantCache) -> DesiredState {
        let mut kept = HashMap::with_capacity(self.entries.len());
        let mut resources = Vec::with_capacity(self.entries.len());
        let (mut rejected, mut said) = (BTreeMap::new(), BTreeMap::new());
        for entry in self.entries {
            if !entry.is_usable() {
                said.insert(entry.key.clone(), entry.said.into_owned());
            }
            match (entry.rejected, entry.resource) {
                (None, Some(resource)) => {
                    let judged = cache.kept.remove(&entry.key).and_then(|kept| kept.judged);
                    let (file, names) = (entry.file.clone(), entry.names);
                    kept.insert(entry.key.clone(), Kept { file, resource: resource.clone(), names, judged });
                    resources.push((entry.key, resource));
                }
                (Some(reason), _) => drop(rejected.insert(entry.key, reason)),
                (None, None) => drop(rejected.insert(entry.key, "it could not be checked".to_owned())),
            }
        }
        cache.kept = kept;
        let mut diagnostics = self.diagnostics;
        crate::diag::sort(&mut diagnostics);
        DesiredState {
            tenant: self.cx.tenant.to_owned(),
            commit: self.cx.commit.cloned(),
            resources: resources.into_iter().collect(),
            rejected,
            said,
            unreadable: self.unreadable,
            denied: self.denied,
            diagnostics,
        }
    }
}

fn place_of(file: &CheckedFile, document: &CheckedDocument) -> String {
    format!("document {} of {}", document.index + 1, file.file)
}

fn resource_of(entry: &Entry<'_>, provider: String) -> Resource {
    let document = entry.document;
    let dependency = |(kind, name): &(Kind, String)| {
        ResourceKey::new(&*entry.key.tenant, &*entry.key.environment, *kind, name.as_str())
    };
    let mut fields = document.fields.clone();
    fields.fill(entry.key.implied_fields());
    Resource {
        key: entry.key.clone(),
        provider,
        fields,
        annotations: document.annotations.clone(),
        labels: document.labels.clone(),
        depends_on: document.depends_on.iter().map(dependency).collect(),
        origin: Origin { file: entry.file.file.clone(), document: document.index, blob: entry.file.blob.clone() },
        document: document.value.clone(),
    }
}

/// `staging` of `environments/staging/db.yaml`, at any depth below the tenant's folder. The outermost such folder counts:
/// whatever is in it belongs to that environment.
fn environment_of_path<'a>(folder: &str, file: &'a str) -> Option<&'a str> {
    let folder = folder.trim_start_matches("./").trim_matches('/');
    let inside = match folder {
        "" | "." => file,
        folder => file.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/')).unwrap_or(file),
    };
    let mut parts = inside.split('/');
    parts.find(|part| *part == "environments")?;
    let (environment, file) = (parts.next()?, parts.next());
    file.map(|_| environment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_read_from_the_path_below_the_folder() {
        assert_eq!(environment_of_path(".", "environments/staging/db.yaml"), Some("staging"));
        assert_eq!(environment_of_path("./", "environments/staging/a/b.yaml"), Some("staging"));
        assert_eq!(environment_of_path("teams/shop", "teams/shop/environments/staging/db.yaml"), Some("staging"));
        assert_eq!(environment_of_path("teams/shop/", "teams/shop/environments/staging/db.yaml"), Some("staging"));
        assert_eq!(environment_of_path(".", "services/x/environments/staging/db.yaml"), Some("staging"));
        assert_eq!(environment_of_path(".", "environments/staging/environments/test/db.yaml"), Some("staging"));
        assert_eq!(environment_of_path("environments/a", "environments/a/environments/b/db.yaml"), Some("b"));
        assert_eq!(environment_of_path("environments/a", "environments/a/db.yaml"), None);
        assert_eq!(environment_of_path(".", "my-environments/staging/db.yaml"), None);
        assert_eq!(environment_of_path(".", "environments/db.yaml"), None);
        assert_eq!(environment_of_path(".", "db.yaml"), None);
    }
}

//! What is in force: the platform, put together from the checked files of its repository.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::address;
use super::check::{CheckedDocument, CheckedFile, Spans, Verdict};
use super::codes;
use super::policy::PolicySet;
use super::schedule::{ever_comes, schedule, timezone, timezone_help};
use super::schema::DocumentKind;
use super::sentence::clipped;
use super::suggest::{did_you_mean, list};
use crate::model::{
    Code, Diagnostic, Platform, PlatformId, PlatformSpec, ProviderSpec, ProviderType, Repository, Severity, Span,
    Suspend, TenantSpec,
};

/// Puts together the platform. `rego` are its policies by path; `fallback_id` is used where the Platform document sets
/// no id. `None` when a finding is an error.
pub fn assemble_platform(
    files: &[Arc<CheckedFile>],
    rego: &BTreeMap<String, String>,
    commit: Option<String>,
    fallback_id: PlatformId,
) -> (Option<Platform>, Vec<Diagnostic>) {
    let spans = Spans::default();
    let mut assembly = Assembly {
        spans: &spans,
        diagnostics: files.iter().flat_map(|file| file.diagnostics.iter().cloned()).collect(),
        platform: None,
        tenants: BTreeMap::new(),
        providers: BTreeMap::new(),
    };
    for file in files {
        for document in &file.documents {
            assembly.take(Place { file, document });
        }
    }
    assembly.check_platform();
    assembly.check_providers();
    assembly.check_tenants();
    assembly.check_overlaps();
    assembly.check_prefixes();
    assembly.diagnostics.extend(PolicySet::check(rego));
    assembly.finish(rego, commit, fallback_id)
}

/// The file and the place in it that say the platform's id, or that could: nothing where there is no Platform document.
pub fn place_of_id(files: &[Arc<CheckedFile>]) -> Option<(String, Span)> {
    files.iter().find_map(|file| {
        let document = file.documents.iter().find(|document| document.kind == Some(DocumentKind::Platform))?;
        Some((file.file.clone(), Spans::default().value(file, document.index, "/spec/id")?))
    })
}

/// A document, and the file it stands in.
#[derive(Clone, Copy)]
struct Place<'a> {
    file: &'a CheckedFile,
    document: &'a CheckedDocument,
}

struct Assembly<'a> {
    spans: &'a Spans,
    diagnostics: Vec<Diagnostic>,
    platform: Option<(Place<'a>, PlatformSpec)>,
    tenants: BTreeMap<String, (Place<'a>, TenantSpec)>,
    providers: BTreeMap<String, (Place<'a>, ProviderSpec)>,
}

impl<'a> Assembly<'a> {
    fn finding(&self, place: Place<'_>, code: Code, pointer: &str, message: impl Into<String>) -> Diagnostic {
        let span = self.spans.value(place.file, place.document.index, pointer);
        Diagnostic::error(code, &place.file.file, message).at(span)
    }

    fn related(&self, finding: Diagnostic, note: &str, place: Place<'_>, pointer: &str) -> Diagnostic {
        let span = self.spans.value(place.file, place.document.index, pointer);
        finding.related(note, &place.file.file, span)
    }

    fn take(&mut self, place: Place<'a>) {
        let document = place.document;
        match document.kind {
            None => {}
            Some(DocumentKind::Resource(kind)) => {
                let message = format!("a {kind} belongs in a tenant's repository, not in the platform's");
                let finding = self.finding(place, codes::WRONG_REPOSITORY, "/kind", message);
                self.diagnostics.push(finding.help("move it there, or name the file in .plumbignore"));
            }
            Some(DocumentKind::Platform) => {
                let Some(spec) = spec_of(document) else { return };
                if let Some((first, _)) = &self.platform {
                    let first = *first;
                    let finding =
                        self.finding(place, codes::DUPLICATE_NAME, "/kind", "there is more than one Platform document");
                    let finding = self.related(finding, "the other one is here", first, "/kind");
                    self.diagnostics.push(finding.help("keep one of them"));
                } else {
                    self.platform = Some((place, spec));
                }
            }
            Some(DocumentKind::Tenant) => {
                let (Some(spec), Some(name)) = (spec_of(document), document.name.clone()) else { return };
                match self.tenants.get(&name).map(|(first, _)| *first) {
                    Some(first) => self.refuse_second(place, first, "Tenant", &name),
                    None => drop(self.tenants.insert(name, (place, spec))),
                }
            }
            Some(DocumentKind::Provider) => {
                let (Some(spec), Some(name)) = (spec_of(document), document.name.clone()) else { return };
                match self.providers.get(&name).map(|(first, _)| *first) {
                    Some(first) => self.refuse_second(place, first, "Provider", &name),
                    None => drop(self.providers.insert(name, (place, spec))),
                }
            }
        }
    }

    fn refuse_second(&mut self, place: Place<'_>, first: Place<'_>, kind: &str, name: &str) {
        let message = format!("there are two {kind} documents called {name:?}");
        let finding = self.finding(place, codes::DUPLICATE_NAME, "/metadata/name", message);
        let finding = self.related(finding, "the other one is here", first, "/metadata/name");
        self.diagnostics.push(finding.help("remove one of the two, or give it another name"));
    }

    fn check_platform(&mut self) {
        let Some((place, spec)) = &self.platform else { return };
        let windows = spec.windows.iter().enumerate();
        let schedules = windows.map(|(at, window)| (format!("/spec/windows/{at}/schedule"), &window.schedule));
        let schedules = schedules.chain([("/spec/drift/schedule".to_owned(), &spec.drift.schedule)]);
        let wrong: Vec<Diagnostic> = schedules
            .filter_map(|(pointer, text)| match schedule(text) {
                Err(error) => Some(
                    self.finding(*place, codes::INVALID_SCHEDULE, &pointer, error.to_string())
                        .help("write a cron expression: \"*/10 * * * *\" is every ten minutes, \"0 22 * * 1-5\" is weekdays at 22:00"),
                ),
                Ok(schedule) if ever_comes(&schedule) => None,
                // What is in force stays so.
                Ok(_) => {
                    let message = format!("the schedule {:?} never comes", clipped(text));
                    let finding = self.finding(*place, codes::INVALID_SCHEDULE, &pointer, message);
                    let finding = Diagnostic { severity: Severity::Warning, ..finding };
                    Some(finding.help("no such month has such a day; the fields are minute, hour, day of month, month, day of week"))
                }
            })
            .collect();
        let zones = spec.windows.iter().enumerate().map(|(at, window)| (at, &window.timezone));
        let unknown: Vec<Diagnostic> = zones
            .filter(|(_, name)| timezone(name).is_none())
            .map(|(at, name)| {
                let message = format!("there is no time zone {:?}", clipped(name));
                self.finding(*place, codes::UNKNOWN_TIMEZONE, &format!("/spec/windows/{at}/timezone"), message)
                    .help(timezone_help(name))
            })
            .collect();
        let nowhere = self.windows_of_no_environment(*place, spec);
        self.diagnostics.extend(wrong.into_iter().chain(unknown).chain(nowhere));
    }

    /// A window of an environment that nobody has may be a typing error that opens, or closes, nothing; or one that nobody has
    /// yet, or any more, and what is in force stays so.
    fn windows_of_no_environment(&self, place: Place<'_>, spec: &PlatformSpec) -> Vec<Diagnostic> {
        let environments: BTreeSet<&str> =
            self.tenants.values().flat_map(|(_, tenant)| tenant.environments.iter().map(String::as_str)).collect();
        if environments.is_empty() {
            return Vec::new();
        }
        let known: Vec<&str> = environments.iter().copied().collect();
        let windows = spec.windows.iter().enumerate();
        let named = windows.flat_map(|(at, window)| window.environments.iter().enumerate().map(move |it| (at, it)));
        let nowhere = named.filter(|(_, (_, name))| !environments.contains(name.as_str()));
        let told = nowhere.map(|(at, (which, name))| {
            let message = format!("no tenant has an environment {:?} for this window", clipped(name));
            let pointer = format!("/spec/windows/{at}/environments/{which}");
            let finding = self.finding(place, codes::UNKNOWN_ENVIRONMENT, &pointer, message);
            let finding = Diagnostic { severity: Severity::Warning, ..finding };
            finding.help(did_you_mean(name, "the environments of tenants", &known))
        });
        told.collect()
    }

    fn check_providers(&mut self) {
        let mut wrong = Vec::new();
        for (name, (place, spec)) in &self.providers {
            if let Err(problem) = address::check_provider(spec.provider_type, &spec.url) {
                wrong.push(self.finding(*place, problem.code, "/spec/url", problem.message).help(problem.help));
            }
            if spec.read_login.is_some()
                && let Err(problem) = address::check_read_login(&spec.url)
            {
                wrong.push(self.finding(*place, problem.code, problem.pointer, problem.message).help(problem.help));
            }
            for (at, serves) in spec.serves.iter().enumerate() {
                if spec.provider_type.supports(serves.kind).is_none() {
                    let message = format!(
                        "the Provider {name:?} is of type {}, which serves no {}",
                        spec.provider_type, serves.kind
                    );
                    let pointer = format!("/spec/serves/{at}/kind");
                    wrong.push(self.finding(*place, codes::UNSUPPORTED_BY_PROVIDER, &pointer, message).help(format!(
                        "{} serves {}",
                        spec.provider_type,
                        list(&served(spec.provider_type))
                    )));
                }
            }
        }
        self.diagnostics.extend(wrong);
    }

    fn check_tenants(&mut self) {
        let known: Vec<&str> = self.providers.keys().map(String::as_str).collect();
        let plain_http = self.platform.as_ref().is_some_and(|(_, spec)| spec.allow_plain_http);
        let mut wrong = Vec::new();
        for (tenant, (place, spec)) in &self.tenants {
            for (at, name) in spec.providers.iter().enumerate() {
                let pointer = format!("/spec/providers/{at}");
                if !self.providers.contains_key(name) {
                    let message =
                        format!("the tenant {tenant} may use the Provider {:?}, which does not exist", clipped(name));
                    let finding = self.finding(*place, codes::PROVIDER_MISSING, &pointer, message);
                    wrong.push(finding.help(did_you_mean(name, "the Providers", &known)));
                }
                wrong.extend(self.twice(*place, &spec.providers, at, "providers"));
            }
            for at in 0..spec.environments.len() {
                wrong.extend(self.twice(*place, &spec.environments, at, "environments"));
            }
            let suspended = match &spec.suspend {
                Suspend::Everywhere(_) => &[][..],
                Suspend::Environments(names) => names,
            };
            let environments: Vec<&str> = spec.environments.iter().map(String::as_str).collect();
            for (at, name) in suspended.iter().enumerate().filter(|(_, name)| !spec.environments.contains(name)) {
                let message = format!("the tenant {tenant} has no environment {:?} to suspend", clipped(name));
                let pointer = format!("/spec/suspend/{at}");
                let finding = self.finding(*place, codes::UNKNOWN_ENVIRONMENT, &pointer, message);
                wrong.push(finding.help(did_you_mean(name, "its environments", &environments)));
            }
            let plain_http = if plain_http { address::PlainHttp::Allowed } else { address::PlainHttp::LoopbackOnly };
            for problem in address::check_repository(&spec.repository, plain_http) {
                wrong.push(self.finding(*place, problem.code, problem.pointer, problem.message).help(problem.help));
            }
        }
        self.diagnostics.extend(wrong);
    }

    fn twice(&self, place: Place<'_>, names: &[String], at: usize, field: &str) -> Option<Diagnostic> {
        names[..at].contains(&names[at]).then(|| {
            let message = format!("{field} names {:?} twice", clipped(&names[at]));
            let pointer = format!("/spec/{field}/{at}");
            self.finding(place, codes::DUPLICATE_MEMBER, &pointer, message).help("remove one of the two")
        })
    }

    /// Two tenants that read the same documents would both own them, and propose drift on the same branches.
    fn check_overlaps(&mut self) {
        let mut by_remote: BTreeMap<String, Vec<&String>> = BTreeMap::new();
        for (name, (_, spec)) in &self.tenants {
            by_remote.entry(address::normal_remote(&spec.repository.url)).or_default().push(name);
        }
        let mut wrong = Vec::new();
        for names in by_remote.values() {
            for (at, second) in names.iter().enumerate() {
                for first in &names[..at] {
                    let ((first_place, first_spec), (place, spec)) = (&self.tenants[*first], &self.tenants[*second]);
                    let Some(why) = overlap(&first_spec.repository, &spec.repository) else { continue };
                    let message = format!("the tenants {first} and {second} {why}");
                    let finding = self.finding(*place, codes::OVERLAPPING_TENANTS, "/spec/repository", message);
                    wrong.push(
                        self.related(finding, "the other one is here", *first_place, "/spec/repository")
                            .help("give each tenant a repository, or a folder (spec.repository.path), of its own"),
                    );
                }
            }
        }
        self.diagnostics.extend(wrong);
    }

    /// Names are `{tenant}_{environment}_{name}`: tenant `a-b` in `c` and tenant `a` in `b-c` begin alike. The server
    /// keeps what exists from being taken over; this says why beforehand.
    fn check_prefixes(&mut self) {
        let mut prefixes: BTreeMap<String, (&String, &String)> = BTreeMap::new();
        let mut found = Vec::new();
        for (tenant, (place, spec)) in &self.tenants {
            for environment in &spec.environments {
                let prefix = format!("{tenant}_{environment}").replace('-', "_");
                match prefixes.get(&prefix) {
                    Some((other, other_environment)) if *other != tenant => {
                        let (other_place, other_spec) = &self.tenants[*other];
                        let Some(shared) = spec.providers.iter().find(|name| other_spec.providers.contains(name))
                        else {
                            continue;
                        };
                        let message = format!(
                            "names of {tenant} in {environment} and of {other} in {other_environment} both begin with {prefix}_ on {shared}"
                        );
                        let mut finding = self.finding(*place, codes::NAME_COLLISION, "/metadata/name", message);
                        finding.severity = Severity::Warning;
                        let finding = self.related(finding, "the other one is here", *other_place, "/metadata/name");
                        found.push(
                            finding.help("where both use one name, the second is refused; a Provider each avoids that"),
                        );
                    }
                    Some(_) => {}
                    None => drop(prefixes.insert(prefix, (tenant, environment))),
                }
            }
        }
        self.diagnostics.extend(found);
    }

    fn finish(
        self,
        rego: &BTreeMap<String, String>,
        commit: Option<String>,
        fallback_id: PlatformId,
    ) -> (Option<Platform>, Vec<Diagnostic>) {
        let Self { spans: _, mut diagnostics, platform, tenants, providers } = self;
        crate::diag::sort(&mut diagnostics);
        if diagnostics.iter().any(Diagnostic::is_error) {
            return (None, diagnostics);
        }
        let spec = platform.map(|(_, spec)| spec).unwrap_or_default();
        let platform = Platform {
            id: spec.id.clone().map_or(fallback_id, PlatformId),
            commit,
            spec,
            tenants: tenants.into_iter().map(|(name, (_, spec))| (name, spec)).collect(),
            providers: providers.into_iter().map(|(name, (_, spec))| (name, spec)).collect(),
            policies: rego.clone(),
        };
        (Some(platform), diagnostics)
    }
}

/// The spec of a document that has passed its checks.
fn spec_of<T: DeserializeOwned>(document: &CheckedDocument) -> Option<T> {
    match document.verdict {
        Verdict::Usable => T::deserialize(&document.value["spec"]).ok(),
        Verdict::Faulty => None,
    }
}

fn served(provider_type: ProviderType) -> Vec<&'static str> {
    let kinds = crate::model::Kind::ALL.iter().filter(|kind| provider_type.supports(**kind).is_some());
    kinds.map(|kind| kind.as_str()).collect()
}

/// How two tenants of one remote get in each other's way.
fn overlap(first: &Repository, second: &Repository) -> Option<&'static str> {
    let (a, b) = (address::normal_path(&first.path), address::normal_path(&second.path));
    let within = |inner: &str, outer: &str| {
        outer.is_empty() || inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if first.branch == second.branch && (within(&a, &b) || within(&b, &a)) {
        Some("read the same documents")
    } else if a.is_empty() && b.is_empty() {
        Some("would propose drift on the same branches")
    } else {
        None
    }
}

//! `plumb validate`: checks manifests offline.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::diag;
use crate::engine::{EngineError, Sources};
use crate::model::{Diagnostic, Platform, PlatformId, Severity};
use crate::source::{SUBMODULE_REFUSED, Wanted, WorkingTree};
use crate::validate::{
    CheckedFile, PolicySet, TenantCache, TenantContext, Validator, assemble_platform, assemble_tenant,
};

use super::args::{Common, Format};
use super::output::{Paint, count, print, print_error};

/// The folder whose folders name environments.
const ENVIRONMENTS: &str = "environments";

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Files or folders: a tenant's repository, a platform repository, or both (the tenant is then checked against
    /// that platform), or a folder that such repositories are in [default: .]
    paths: Vec<PathBuf>,
}

/// A path that was read and checked, file by file.
struct Checked {
    path: PathBuf,
    /// Where the tenant's folders begin, below the repository, as far as the folder shows that.
    root: Option<String>,
    files: Vec<Arc<CheckedFile>>,
    rego: BTreeMap<String, String>,
    findings: Vec<Diagnostic>,
    sources: Sources,
}

/// Checks. Exits with 0 when there is no error, 1 when there is.
pub fn run(args: &Args, common: &Common) -> anyhow::Result<u8> {
    let here = [PathBuf::from(".")];
    let paths = if args.paths.is_empty() { &here[..] } else { &args.paths[..] };
    Ok(u8::from(!look(paths, common)?))
}

/// Checks `paths`, prints what was found, and says whether all is well.
pub fn look(paths: &[PathBuf], common: &Common) -> anyhow::Result<bool> {
    let validator = Validator::new();
    let (mut checked, mut unread): (Vec<Checked>, Vec<anyhow::Error>) = Default::default();
    let mut paths: VecDeque<PathBuf> = paths.to_vec().into();
    while let Some(path) = paths.pop_front() {
        match read(&path, &validator) {
            Ok((read, repositories)) => {
                // A folder of repositories holds nothing of its own, and each of them is checked as if it were named.
                if repositories.is_empty() || !read.sources.is_empty() || !read.findings.is_empty() {
                    checked.push(read);
                }
                paths.extend(repositories);
            }
            Err(error) => unread.push(error),
        }
    }
    let last_unread = unread.pop();
    for error in unread {
        print_error(&error, common);
    }
    // What could be read is told, whatever else was asked for.
    if checked.is_empty()
        && let Some(error) = last_unread
    {
        return Err(error);
    }
    let (platforms, tenants): (Vec<&Checked>, Vec<&Checked>) = checked.iter().partition(|checked| is_platform(checked));
    let mut findings: Vec<Diagnostic> = checked.iter().flat_map(|checked| checked.findings.clone()).collect();
    let mut platform: Option<Platform> = None;
    let mut policies = PolicySet::builtin();
    for checked in platforms {
        let id = PlatformId("offline".to_owned());
        let (found, more) = assemble_platform(&checked.files, &checked.rego, None, id);
        findings.extend(more);
        match PolicySet::compile(&checked.rego) {
            Ok(own) => policies = own,
            Err(more) => findings.extend(more),
        }
        platform = platform.or(found);
    }
    let mut cache = TenantCache::default();
    for checked in tenants {
        let name = tenant_name(checked, platform.as_ref(), common);
        let spec = platform.as_ref().and_then(|platform| platform.tenants.get(&name));
        let context = TenantContext {
            platform: platform.as_ref().filter(|_| spec.is_some()),
            tenant: &name,
            spec,
            path: checked.root.as_deref().or(spec.map(|spec| spec.repository.path.as_str())).unwrap_or("."),
            commit: None,
            previous: &BTreeMap::new(),
            policies: &policies,
        };
        findings.extend(assemble_tenant(&context, &checked.files, &mut cache).diagnostics);
    }
    // Several places find the same in one file; it is told once.
    diag::sort(&mut findings);
    findings.dedup();
    let sources: Sources = checked.into_iter().flat_map(|checked| checked.sources).collect();
    let errors = findings.iter().filter(|finding| finding.severity == Severity::Error).count();
    match common.output {
        Format::Json => print(&serde_json::to_string_pretty(&diag::json(&findings))?)?,
        Format::Yaml => print(&serde_yaml::to_string(&diag::json(&findings))?)?,
        Format::Text | Format::Wide => {
            print(&diag::text(&findings, &|file| sources.get(file).cloned(), Paint::stdout(common).is_on()))?;
            if !common.quiet {
                eprintln!("{}", verdict(sources.len(), errors, findings.len() - errors));
            }
        }
    }
    last_unread.map_or(Ok(errors == 0), Err)
}

/// How it went, in a line.
fn verdict(files: usize, errors: usize, warnings: usize) -> String {
    let files = count(files, "file");
    match (errors, warnings) {
        (0, 0) => format!("{files}, nothing to complain about"),
        (0, _) => format!("{files}: {}", count(warnings, "warning")),
        (_, 0) => format!("{files}: {}", count(errors, "error")),
        (_, _) => format!("{files}: {}, {}", count(errors, "error"), count(warnings, "warning")),
    }
}

/// Reads and checks what is at `path`. Gives the repositories below it, too, where it is in none itself.
fn read(path: &Path, validator: &Validator) -> anyhow::Result<(Checked, Vec<PathBuf>)> {
    let (tree, below) = WorkingTree::around(path)?;
    let mut read = tree.read(&below, Wanted::ManifestsAndPolicies)?;
    let mut repositories = Vec::new();
    if !tree.is_repository() {
        let nested = read.findings.extract_if(.., |finding| finding.code == SUBMODULE_REFUSED);
        repositories.extend(nested.map(|finding| tree.root().join(finding.file)));
    }
    let mut checked = Checked {
        path: path.to_owned(),
        root: root_of_tenant(path, &below),
        files: Vec::new(),
        rego: BTreeMap::new(),
        findings: read.findings,
        sources: Sources::new(),
    };
    let (policies, manifests): (Vec<_>, Vec<_>) = read.files.into_iter().partition(|(file, _)| file.ends_with(".rego"));
    for (file, bytes) in policies {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        checked.sources.insert(file.clone(), text.as_str().into());
        checked.rego.insert(file, text);
    }
    for file in validator.check_files(&manifests) {
        checked.sources.insert(file.file.clone(), file.text());
        checked.files.push(Arc::new(file));
    }
    Ok((checked, repositories))
}

/// The folder that holds `environments/`, when `path` is one, or lies in it. A tenant's folder may be kept inside
/// another repository while it is written, where its place in that says nothing of its place in its own.
fn root_of_tenant(path: &Path, below: &str) -> Option<String> {
    if path.join(ENVIRONMENTS).is_dir() {
        return Some(below.to_owned());
    }
    let parts: Vec<&str> = below.split('/').collect();
    let at = parts.iter().position(|part| *part == ENVIRONMENTS)?;
    Some(if at == 0 { ".".to_owned() } else { parts[..at].join("/") })
}

fn is_platform(checked: &Checked) -> bool {
    !checked.rego.is_empty() || checked.files.iter().any(|file| file.is_platform())
}

/// The tenant whose folder it is: the one that is named, the only one there is, or the one named like the folder.
fn tenant_name(checked: &Checked, platform: Option<&Platform>, common: &Common) -> String {
    if let Some(tenant) = &common.tenant {
        return tenant.clone();
    }
    let mut tenants = platform.into_iter().flat_map(|platform| platform.tenants.keys());
    if let (Some(only), None) = (tenants.next(), tenants.next()) {
        return only.clone();
    }
    let full = std::fs::canonicalize(&checked.path).unwrap_or_else(|_| checked.path.clone());
    full.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_else(|| "tenant".to_owned())
}

/// Prints findings on stderr, for commands whose result is something else.
pub fn print_findings(findings: &[Diagnostic], sources: &Sources, common: &Common) {
    if !findings.is_empty() {
        eprintln!("{}", diag::text(findings, &|file| sources.get(file).cloned(), Paint::stderr(common).is_on()));
    }
}

/// Prints the findings of a platform that does not validate, and gives the error on.
pub fn explain(error: EngineError, common: &Common) -> anyhow::Error {
    if let EngineError::NoPlatform { findings, sources } = &error {
        print_findings(findings, sources, common);
    }
    error.into()
}

//! What people are told about their documents, and that nothing they write breaks the telling.

mod hostile;
mod platform;
mod revise;
mod schemas;
mod single;
mod speed;
mod tenant;

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use plumb::manifest;
use plumb::model::{AppliedDocument, DesiredState, Diagnostic, Platform, PlatformId, ResourceKey, Severity};
use plumb::validate::{
    CheckedFile, PolicySet, TenantCache, TenantContext, Validator, assemble_platform, assemble_tenant,
};

static VALIDATOR: LazyLock<Validator> = LazyLock::new(Validator::new);
static BUILTIN: LazyLock<PolicySet> = LazyLock::new(PolicySet::builtin);

fn check(file: &str, text: &str) -> Arc<CheckedFile> {
    Arc::new(VALIDATOR.check_file(&manifest::parse(file, text.as_bytes())))
}

/// `file:line:column Code message | help`, the severity in front of warnings.
fn told(diagnostics: &[Diagnostic]) -> Vec<String> {
    diagnostics
        .iter()
        .map(|finding| {
            let severity = match finding.severity {
                Severity::Error => "",
                Severity::Warning => "warning ",
            };
            let at = finding.span.map_or_else(String::new, |span| format!(":{}:{}", span.line, span.column));
            let help = finding.help.as_deref().map_or_else(String::new, |help| format!(" | {help}"));
            let related: Vec<String> = finding
                .related
                .iter()
                .map(|related| {
                    let at = related.span.map_or_else(String::new, |span| format!(":{}:{}", span.line, span.column));
                    format!(" ({} {}{at})", related.message, related.file)
                })
                .collect();
            format!("{}{at} {severity}{}: {}{help}{}", finding.file, finding.code, finding.message, related.concat())
        })
        .collect()
}

fn assert_told(diagnostics: &[Diagnostic], expected: &[&str]) {
    assert_eq!(told(diagnostics), expected);
}

fn key(text: &str) -> ResourceKey {
    text.parse().unwrap()
}

const PLATFORM: &str = r#"
apiVersion: plumb.dev/v1
kind: Platform
metadata: {name: acme}
spec: {id: acme-platform}
---
apiVersion: plumb.dev/v1
kind: Provider
metadata: {name: pg-main}
spec:
  type: postgres
  url: postgres://plumb@127.0.0.1:5432/postgres
  serves: [{kind: Database, environments: [staging]}]
---
apiVersion: plumb.dev/v1
kind: Provider
metadata: {name: pg-other}
spec: {type: postgres, url: "postgres://plumb@127.0.0.2:5432/postgres"}
---
apiVersion: plumb.dev/v1
kind: Provider
metadata: {name: files}
spec: {type: sqlite, url: "sqlite:///srv/databases"}
---
apiVersion: plumb.dev/v1
kind: Provider
metadata: {name: redis-main}
spec: {type: redis, url: "redis://default@127.0.0.1:6379", serves: [{kind: Cache}]}
---
apiVersion: plumb.dev/v1
kind: Tenant
metadata: {name: shop}
spec:
  repository: {url: "https://git.example.com/acme/shop.git"}
  environments: [staging, production]
  providers: [pg-main, files, redis-main]
  quotas: {Database: 3}
"#;

fn platform_of(text: &str) -> (Option<Platform>, Vec<Diagnostic>) {
    assemble_platform(&[check("platform.yaml", text)], &BTreeMap::new(), None, PlatformId("fallback".to_owned()))
}

fn platform() -> Platform {
    let (platform, diagnostics) = platform_of(PLATFORM);
    assert_told(&diagnostics, &[]);
    platform.unwrap()
}

/// A tenant `shop` of [`PLATFORM`] with these files.
struct Shop {
    platform: Platform,
    previous: BTreeMap<ResourceKey, AppliedDocument>,
    cache: TenantCache,
}

impl Shop {
    fn new() -> Self {
        Self { platform: platform(), previous: BTreeMap::new(), cache: TenantCache::default() }
    }

    fn context<'a>(
        platform: &'a Platform,
        previous: &'a BTreeMap<ResourceKey, AppliedDocument>,
        policies: &'a PolicySet,
    ) -> TenantContext<'a> {
        let spec = platform.tenants.get("shop");
        TenantContext { platform: Some(platform), tenant: "shop", spec, path: ".", commit: None, previous, policies }
    }

    fn assemble(&mut self, files: &[Arc<CheckedFile>], policies: &PolicySet) -> DesiredState {
        let Self { platform, previous, cache } = self;
        assemble_tenant(&Self::context(platform, previous, policies), files, cache)
    }

    fn of(files: &[(&str, &str)]) -> DesiredState {
        let files: Vec<_> = files.iter().map(|(file, text)| check(file, text)).collect();
        Self::new().assemble(&files, &BUILTIN)
    }
}

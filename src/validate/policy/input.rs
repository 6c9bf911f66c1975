//! What policies are shown of a resource.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::model::{FieldPath, ProviderType, ResourceKey, TenantSpec};

/// One resource, as policies see it.
#[derive(Clone, Copy, Debug)]
pub struct PolicyInput<'a> {
    pub key: &'a ResourceKey,
    /// The document as it stands in git.
    pub resource: &'a Value,
    /// The document that was in force before.
    pub previous: Option<&'a Value>,
    /// As [`tenant_input`] makes it.
    pub tenant: &'a TenantInput,
    /// The Provider's name and type, where they are known.
    pub provider: Option<(&'a str, ProviderType)>,
}

/// What policies are shown of a tenant, as the interpreter keeps it.
#[derive(Clone, Debug, PartialEq)]
pub struct TenantInput(regorus::Value);

/// What policies are shown of a tenant. No address and no credential: they decide nothing by them.
pub fn tenant_input(name: &str, spec: Option<&TenantSpec>) -> TenantInput {
    let shown = match spec {
        Some(spec) => json!({
            "name": name,
            "environments": spec.environments,
            "providers": spec.providers,
            "owners": spec.owners,
            "quotas": spec.quotas,
        }),
        None => json!({"name": name, "environments": [], "providers": [], "owners": [], "quotas": {}}),
    };
    TenantInput(rego(&shown))
}

impl PolicyInput<'_> {
    pub(super) fn to_rego(self) -> regorus::Value {
        let Self { key, resource, previous, tenant, provider } = self;
        let provider = provider.map_or(regorus::Value::Null, |(name, provider_type)| {
            mapping([("name", text(name)), ("type", text(provider_type.as_str()))])
        });
        let document = rego(resource);
        let previous = match previous {
            None => regorus::Value::Null,
            Some(same) if std::ptr::eq(same, resource) || same == resource => document.clone(),
            Some(other) => rego(other),
        };
        mapping([
            ("key", text(&key.to_string())),
            ("resource", document),
            ("previous", previous),
            ("tenant", tenant.0.clone()),
            ("environment", text(&key.environment)),
            ("provider", provider),
            ("dataBearing", key.kind.info().data_bearing.into()),
            ("plan", self.plan()),
        ])
    }

    /// What the commit asks for. What is live is not looked at: the same commit is always judged the same.
    fn plan(self) -> regorus::Value {
        let info = self.key.kind.info();
        let plan = |action: &str, changes: Vec<regorus::Value>| {
            mapping([("action", text(action)), ("changes", changes.into())])
        };
        let Some(previous) = self.previous else { return plan("create", Vec::new()) };
        if std::ptr::eq(previous, self.resource) || previous == self.resource {
            return plan("none", Vec::new());
        }
        let (before, after) = (info.flatten(&previous["spec"]), info.flatten(&self.resource["spec"]));
        let mut changes: Vec<&FieldPath> = after
            .iter()
            .filter(|(path, value)| before.get(path.as_str()) != Some(value))
            .map(|(path, _)| path)
            .chain(before.iter().map(|(path, _)| path).filter(|path| after.get(path.as_str()).is_none()))
            .collect();
        changes.sort();
        let action = if changes.is_empty() { "none" } else { "update" };
        plan(action, changes.into_iter().map(|path| text(path.as_str())).collect())
    }
}

fn text(text: &str) -> regorus::Value {
    regorus::Value::String(text.into())
}

fn mapping<const N: usize>(fields: [(&str, regorus::Value); N]) -> regorus::Value {
    fields.into_iter().map(|(name, value)| (text(name), value)).collect::<BTreeMap<_, _>>().into()
}

/// The same value as the interpreter keeps it.
fn rego(value: &Value) -> regorus::Value {
    match value {
        Value::Null => regorus::Value::Null,
        Value::Bool(flag) => (*flag).into(),
        Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(number), _, _) => number.into(),
            (None, Some(number), _) => number.into(),
            (None, None, number) => number.map_or(regorus::Value::Null, Into::into),
        },
        Value::String(content) => text(content),
        Value::Array(members) => members.iter().map(rego).collect::<Vec<_>>().into(),
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| (text(name), rego(value))).collect::<BTreeMap<_, _>>().into()
        }
    }
}

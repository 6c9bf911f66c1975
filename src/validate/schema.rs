//! The schemas of whole documents, one a kind, made from the types of `model`: what `schemas/*.v1.json` and
//! `plumb schema` show, and what documents are checked with. Nothing in them points elsewhere, so that an editor can
//! use each file alone.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::model::{CacheSpec, DatabaseSpec, Kind, PlatformSpec, ProviderSpec, TenantSpec};

/// The one `apiVersion` there is.
pub const API_VERSION: &str = "plumb.dev/v1";

/// What names must look like: an RFC 1123 label, as [`crate::model::is_label`] says too.
pub(super) const NAME_PATTERN: &str = "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$";

/// What `kind:` may be, in either kind of repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DocumentKind {
    /// The settings of the platform.
    Platform,
    /// A team.
    Tenant,
    /// A target system.
    Provider,
    /// What a tenant wants.
    Resource(Kind),
}

impl DocumentKind {
    /// Every kind.
    pub const ALL: &'static [DocumentKind] = &[
        DocumentKind::Platform,
        DocumentKind::Tenant,
        DocumentKind::Provider,
        DocumentKind::Resource(Kind::Database),
        DocumentKind::Resource(Kind::Cache),
    ];

    /// The name as `kind:` spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            DocumentKind::Platform => "Platform",
            DocumentKind::Tenant => "Tenant",
            DocumentKind::Provider => "Provider",
            DocumentKind::Resource(kind) => kind.as_str(),
        }
    }

    /// The kind that `kind:` spells so.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == name)
    }

    /// Whether it belongs in the platform repository.
    pub const fn is_platform(self) -> bool {
        match self {
            DocumentKind::Platform | DocumentKind::Tenant | DocumentKind::Provider => true,
            DocumentKind::Resource(_) => false,
        }
    }

    const fn description(self) -> &'static str {
        match self {
            DocumentKind::Platform => "Settings of the whole platform; at most one document.",
            DocumentKind::Tenant => "A team: its repository, environments, providers and quotas.",
            DocumentKind::Provider => "A target system that resources live on.",
            DocumentKind::Resource(Kind::Database) => "A database with its roles, on PostgreSQL or as an SQLite file.",
            DocumentKind::Resource(Kind::Cache) => "A user and key prefix on a shared Redis.",
        }
    }
}

/// The schema of a whole document of the kind that is called `kind_name`.
pub fn schema_for(kind_name: &str) -> Option<Value> {
    DocumentKind::named(kind_name).map(document_schema)
}

/// The schema of a whole document of `kind`.
pub(super) fn document_schema(kind: DocumentKind) -> Value {
    let mut spec = match kind {
        DocumentKind::Platform => spec_schema::<PlatformSpec>(),
        DocumentKind::Tenant => spec_schema::<TenantSpec>(),
        DocumentKind::Provider => spec_schema::<ProviderSpec>(),
        DocumentKind::Resource(Kind::Database) => spec_schema::<DatabaseSpec>(),
        DocumentKind::Resource(Kind::Cache) => spec_schema::<CacheSpec>(),
    };
    if kind == DocumentKind::Tenant {
        name_kinds(&mut spec["properties"]["quotas"]);
    }
    spec["description"] = match kind {
        DocumentKind::Platform | DocumentKind::Resource(_) => {
            format!("The settings of the {}; {{}} where nothing is to be set.", kind.as_str()).into()
        }
        DocumentKind::Tenant | DocumentKind::Provider => format!("The settings of the {}.", kind.as_str()).into(),
    };
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": kind.as_str(),
        "description": kind.description(),
        "type": "object",
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "additionalProperties": false,
        "properties": {
            "apiVersion": {"description": "The version of this format.", "const": API_VERSION},
            "kind": {"description": "What the document describes.", "const": kind.as_str()},
            "metadata": metadata_schema(kind),
            "spec": spec,
        },
    })
}

/// The names of the fields that the spec of `kind` has.
pub(super) fn spec_fields(kind: DocumentKind) -> &'static [&'static str] {
    static FIELDS: LazyLock<BTreeMap<DocumentKind, Vec<&'static str>>> = LazyLock::new(|| {
        let fields = |kind: &DocumentKind| {
            let schema = document_schema(*kind);
            let fields = schema.pointer("/properties/spec/properties").and_then(Value::as_object);
            let names = fields.into_iter().flat_map(|fields| fields.keys());
            // Made once for the life of the process.
            (*kind, names.map(|name| &*name.clone().leak()).collect())
        };
        DocumentKind::ALL.iter().map(fields).collect()
    });
    FIELDS.get(&kind).map_or(&[], Vec::as_slice)
}

fn spec_schema<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    if let Some(schema) = schema.as_object_mut() {
        schema.remove("title");
    }
    tidy(&mut schema);
    schema
}

/// The type of the quotas says how many, not of what.
fn name_kinds(quotas: &mut Value) {
    let each = quotas["additionalProperties"].take();
    quotas["properties"] =
        Kind::ALL.iter().map(|kind| (kind.as_str().to_owned(), each.clone())).collect::<Map<_, _>>().into();
    quotas["additionalProperties"] = Value::Bool(false);
}

/// Puts descriptions on one line, and says of 32-bit numbers what they can hold, which their types do not.
fn tidy(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if let Some(Value::String(text)) = fields.get_mut("description") {
                *text = text.split_whitespace().collect::<Vec<_>>().join(" ");
            }
            if fields.get("format").is_some_and(|format| format == "int32") {
                fields.entry("minimum").or_insert_with(|| json!(i32::MIN));
                fields.entry("maximum").or_insert_with(|| json!(i32::MAX));
            }
            fields.values_mut().for_each(tidy);
        }
        Value::Array(members) => members.iter_mut().for_each(tidy),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn metadata_schema(kind: DocumentKind) -> Value {
    let mut properties = Map::new();
    properties.insert(
        "name".to_owned(),
        json!({
            "description": "What it is called, an RFC 1123 label.",
            "type": "string",
            "pattern": NAME_PATTERN,
        }),
    );
    let mut annotations = json!({
        "description": "Notes for tools. Those below plumb.dev/ steer Plumb.",
        "type": "object",
        "additionalProperties": {"type": "string"},
    });
    if let DocumentKind::Resource(_) = kind {
        properties.insert(
            "environment".to_owned(),
            json!({
                "description": "The environment it belongs to. May come from the path environments/<environment>/ \
                                instead, and be left out where the tenant has one environment.",
                "type": "string",
                "pattern": NAME_PATTERN,
            }),
        );
        annotations["properties"] = annotation_schemas();
    }
    properties.insert(
        "labels".to_owned(),
        json!({
            "description": "Free labels; `owner` says who answers for it.",
            "type": "object",
            "additionalProperties": {"type": "string"},
        }),
    );
    properties.insert("annotations".to_owned(), annotations);
    json!({
        "description": "What it is called, and notes on it.",
        "type": "object",
        "required": ["name"],
        "additionalProperties": false,
        "properties": properties,
    })
}

fn annotation_schemas() -> Value {
    json!({
        "plumb.dev/drift": {
            "description": "What is done when live differs from what was applied; the tenant's, when left out.",
            "enum": ["propose", "revert", "observe"],
        },
        "plumb.dev/drift-ignore": {
            "description": "Fields whose drift is not looked at, separated by commas: /spec/connectionLimit,/spec/settings.",
            "type": "string",
        },
        "plumb.dev/deletion": {
            "description": "What removing the document does: protect holds the removal, delete deletes the object, \
                            retain leaves it and forgets it. Kinds that hold data are protected by default.",
            "enum": ["protect", "delete", "retain"],
        },
        "plumb.dev/adopt": {
            "description": "Take over an object that exists and bears no mark.",
            "enum": ["true", "false"],
        },
        "plumb.dev/suspend": {
            "description": "Change nothing for now.",
            "enum": ["true", "false"],
        },
        "plumb.dev/on-failure": {
            "description": "What becomes of a change that fails for good: keep leaves what was done, rollback undoes what \
                            the same commit did to the resources of the environment that say so. Data that it made \
                            stays, and so does what it deleted, adopted or replaced.",
            "enum": ["keep", "rollback"],
        },
        "plumb.dev/rotate": {
            "description": "A new value asks for new passwords.",
            "type": "string",
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_schema_that_points_nowhere_else() {
        for kind in DocumentKind::ALL {
            let schema = schema_for(kind.as_str()).unwrap();
            assert_eq!(schema["properties"]["kind"]["const"], kind.as_str());
            assert!(!schema.to_string().contains("$ref"), "{kind:?}");
        }
        assert_eq!(schema_for("Deployment"), None);
    }

    #[test]
    fn every_kind_of_the_model_is_a_kind_of_documents() {
        for kind in Kind::ALL {
            assert_eq!(DocumentKind::named(kind.as_str()), Some(DocumentKind::Resource(*kind)));
        }
    }
}

//! What can be said of a document alone. Nothing here depends on other documents, the platform or the commit, so a
//! checked file may be kept for as long as its path and its bytes stay the same.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::annotations;
use super::codes;
use super::parallel::in_portions;
use super::schema::{API_VERSION, DocumentKind, document_schema};
use super::sentence::{Place, Violation, clipped, escape, readable, shown, violations};
use super::suggest::{did_you_mean, list};
use crate::manifest::{self, Document, ParsedFile};
use crate::model::{
    Annotations, CacheSpec, DatabaseSpec, Diagnostic, FieldPath, Fields, Kind, ListShape, ObjectHex, PlatformSpec,
    ProviderSpec, Span, TenantSpec, is_label, refuse_setting,
};

/// How many findings of one document are shown: enough to work on, too few to drown in.
const FINDINGS_A_DOCUMENT: usize = 50;

/// The compiled schemas. They are compiled once a process, when the first is made.
pub struct Validator {
    schemas: &'static BTreeMap<DocumentKind, Schema>,
}

static SCHEMAS: LazyLock<BTreeMap<DocumentKind, Schema>> = LazyLock::new(|| {
    let compile = |kind: &DocumentKind| {
        let text = document_schema(*kind);
        let compiled = jsonschema::options()
            .with_draft(jsonschema::Draft::Draft202012)
            .build(&text)
            .expect("schemas made from the types of model compile; a test makes them all");
        (*kind, Schema { text, compiled })
    };
    DocumentKind::ALL.iter().map(compile).collect()
});

struct Schema {
    text: Value,
    compiled: jsonschema::Validator,
}

/// A file, checked as far as that goes without the others.
#[derive(Clone, Debug)]
pub struct CheckedFile {
    /// The path inside the repository.
    pub file: String,
    /// The blob it was read from; set by who knows it.
    pub blob: ObjectHex,
    /// Findings of the parser and of each document.
    pub diagnostics: Vec<Diagnostic>,
    /// Whether some of it could not be read (R9).
    pub unreadable: bool,
    pub(super) documents: Vec<CheckedDocument>,
    text: Arc<str>,
}

/// Whether a document can be used as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Usable,
    Faulty,
}

/// A document, checked.
#[derive(Clone, Debug)]
pub(super) struct CheckedDocument {
    pub index: usize,
    /// `None` when it could not be told.
    pub kind: Option<DocumentKind>,
    pub name: Option<String>,
    pub environment: Option<String>,
    pub verdict: Verdict,
    pub value: Arc<Value>,
    pub annotations: Annotations,
    pub labels: BTreeMap<String, String>,
    pub fields: Fields,
    pub provider: Option<String>,
    pub depends_on: Vec<(Kind, String)>,
}

impl CheckedFile {
    /// The text, for excerpts.
    pub fn text(&self) -> Arc<str> {
        Arc::clone(&self.text)
    }

    /// Whether it holds a document of the platform repository.
    pub fn is_platform(&self) -> bool {
        self.documents.iter().any(|document| document.kind.is_some_and(DocumentKind::is_platform))
    }
}

impl Default for Validator {
    fn default() -> Self {
        Self::new()
    }
}

impl Validator {
    /// Something that checks against the schemas of all kinds.
    pub fn new() -> Self {
        Self { schemas: &SCHEMAS }
    }

    /// Reads and checks files alone, on all cores; each is its path and its bytes. In order.
    pub fn check_files<P: AsRef<str> + Sync, B: AsRef<[u8]> + Sync>(&self, files: &[(P, B)]) -> Vec<CheckedFile> {
        let check = |(): &mut (), (path, bytes): &(P, B)| {
            let parsed = manifest::parse(path.as_ref(), bytes.as_ref());
            self.check_file(&parsed)
        };
        in_portions(files, || (), check)
    }

    /// Checks each document of `parsed` alone.
    pub fn check_file(&self, parsed: &ParsedFile) -> CheckedFile {
        let mut diagnostics = parsed.diagnostics.clone();
        let mut documents = Vec::with_capacity(parsed.documents.len());
        for document in &parsed.documents {
            let mut findings = Findings::new(parsed, document);
            let mut checked = self.check_document(document, &mut findings);
            if findings.faulty
                || parsed.diagnostics.iter().any(|finding| finding.is_error() && lies_in(finding, document))
            {
                checked.verdict = Verdict::Faulty;
            }
            diagnostics.extend(findings.finish());
            documents.push(checked);
        }
        CheckedFile {
            file: parsed.file.clone(),
            blob: ObjectHex::new(),
            diagnostics,
            unreadable: parsed.unreadable,
            documents,
            text: parsed.text.clone(),
        }
    }

    fn check_document(&self, document: &Document, findings: &mut Findings<'_>) -> CheckedDocument {
        let value = &*document.value;
        let mut checked = CheckedDocument::unknown(document);
        checked.kind = kind_of(value.get("kind"), findings);
        // Under a name that cannot be, it may be any resource.
        checked.name = text_at(value, "/metadata/name").filter(|name| is_label(name));
        checked.environment = text_at(value, "/metadata/environment");
        let version = version_of(value.get("apiVersion"), findings);
        let (Some(kind), VersionVerdict::Known) = (checked.kind, version) else { return checked };

        self.check_schema(kind, value, findings);
        check_types(kind, value, findings);
        checked.annotations = annotations::read(kind, value, findings);
        checked.labels = texts_at(value, "/metadata/labels");
        if let DocumentKind::Resource(kind) = kind {
            check_lists(kind, value, findings);
            check_specials(kind, value, findings);
            checked.depends_on = dependencies(value, findings);
            checked.provider = text_at(value, "/spec/provider");
            if !findings.faulty {
                checked.fields = kind.info().flatten(&value["spec"]);
            }
        }
        checked
    }

    fn check_schema(&self, kind: DocumentKind, value: &Value, findings: &mut Findings<'_>) {
        let Some(schema) = self.schemas.get(&kind) else { return };
        // Most documents are valid, and only telling so is much faster than asking why not.
        if schema.compiled.is_valid(value) {
            return;
        }
        for error in schema.compiled.iter_errors(value).take(FINDINGS_A_DOCUMENT) {
            // Annotations of Plumb have findings of their own, which say more.
            if error.instance_path().as_str().starts_with("/metadata/annotations/plumb.dev~1") {
                continue;
            }
            for violation in violations(&schema.text, &error) {
                findings.violation(violation);
            }
        }
    }
}

impl CheckedDocument {
    fn unknown(document: &Document) -> Self {
        Self {
            index: document.index,
            kind: None,
            name: None,
            environment: None,
            verdict: Verdict::Usable,
            value: document.value.clone(),
            annotations: Annotations::default(),
            labels: BTreeMap::new(),
            fields: Fields::new(),
            provider: None,
            depends_on: Vec::new(),
        }
    }
}

/// Finds spans in checked files. A file is parsed again when a span in it is first asked for: spans are wanted rarely
/// and trees are large, so they are not kept longer than this.
#[derive(Default)]
pub(super) struct Spans {
    /// By the address of the checked file, which outlives this.
    parsed: Mutex<HashMap<usize, Arc<ParsedFile>>>,
}

impl Spans {
    /// The span of the value at `pointer`, or of what encloses it.
    pub fn value(&self, file: &CheckedFile, document: usize, pointer: &str) -> Option<Span> {
        let parsed = self.parsed(file);
        let document = parsed.documents.iter().find(|candidate| candidate.index == document)?;
        Some(value_span(&parsed, document, pointer))
    }

    fn parsed(&self, file: &CheckedFile) -> Arc<ParsedFile> {
        let mut parsed = self.parsed.lock().unwrap_or_else(PoisonError::into_inner);
        let parse = || Arc::new(manifest::parse(&file.file, file.text.as_bytes()));
        parsed.entry(std::ptr::from_ref(file).addr()).or_insert_with(parse).clone()
    }
}

/// The span of the value at `pointer`, or of the nearest thing around it that has one.
fn value_span(parsed: &ParsedFile, document: &Document, pointer: &str) -> Span {
    let mut pointer = pointer;
    while !pointer.is_empty() {
        if let Some(span) = parsed.span(document, pointer) {
            return span;
        }
        pointer = pointer.rsplit_once('/').map_or("", |(parent, _)| parent);
    }
    parsed.document_span(document)
}

/// Collects the findings of one document.
pub(super) struct Findings<'a> {
    parsed: &'a ParsedFile,
    document: &'a Document,
    found: Vec<Diagnostic>,
    left_out: usize,
    faulty: bool,
}

impl<'a> Findings<'a> {
    fn new(parsed: &'a ParsedFile, document: &'a Document) -> Self {
        Self { parsed, document, found: Vec::new(), left_out: 0, faulty: false }
    }

    /// An error at the value at `pointer`.
    pub fn error(
        &mut self,
        code: crate::model::Code,
        pointer: &str,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        let help = Some(help.into());
        self.violation(Violation { code, place: Place::Value(pointer.to_owned()), message: message.into(), help });
    }

    /// An error at the key at `pointer`.
    pub fn key_error(
        &mut self,
        code: crate::model::Code,
        pointer: &str,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        let help = Some(help.into());
        self.violation(Violation { code, place: Place::Key(pointer.to_owned()), message: message.into(), help });
    }

    fn violation(&mut self, violation: Violation) {
        self.faulty = true;
        if self.found.len() >= FINDINGS_A_DOCUMENT {
            self.left_out += 1;
            return;
        }
        let span = match &violation.place {
            Place::Value(pointer) => value_span(self.parsed, self.document, pointer),
            Place::Key(pointer) => self
                .parsed
                .key_span(self.document, pointer)
                .unwrap_or_else(|| value_span(self.parsed, self.document, pointer)),
        };
        let mut diagnostic = Diagnostic::error(violation.code, &self.parsed.file, violation.message).at(Some(span));
        diagnostic.help = Some(violation.help.unwrap_or_else(|| self.schema_help()));
        self.found.push(diagnostic);
    }

    /// Where to read what may stand there, for what the schema says nothing of.
    fn schema_help(&self) -> String {
        match self.document.value.get("kind").and_then(Value::as_str) {
            Some(kind) => format!("`plumb schema {kind}` prints what may stand there"),
            None => "`plumb schema` lists the kinds, and prints what may stand in each".to_owned(),
        }
    }

    fn finish(mut self) -> Vec<Diagnostic> {
        if self.left_out > 0
            && let Some(last) = self.found.last_mut()
        {
            last.message.push_str(&format!(" (and {} more findings in this document)", self.left_out));
        }
        self.found
    }
}

fn lies_in(finding: &Diagnostic, document: &Document) -> bool {
    finding.span.is_some_and(|span| document.range.contains(&span.start))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum VersionVerdict {
    Known,
    Unknown,
}

fn version_of(value: Option<&Value>, findings: &mut Findings<'_>) -> VersionVerdict {
    let help =
        format!("write apiVersion: {API_VERSION}, or name the file in .plumbignore if it is not meant for Plumb");
    match value {
        Some(Value::String(version)) if version == API_VERSION => return VersionVerdict::Known,
        None => findings.error(codes::MISSING_FIELD, "", "the document needs the field \"apiVersion\"", help),
        Some(other) => {
            findings.error(codes::UNKNOWN_VERSION, "/apiVersion", format!("unknown apiVersion {}", shown(other)), help);
        }
    }
    VersionVerdict::Unknown
}

fn kind_of(value: Option<&Value>, findings: &mut Findings<'_>) -> Option<DocumentKind> {
    let names: Vec<&str> = DocumentKind::ALL.iter().map(|kind| kind.as_str()).collect();
    match value {
        Some(Value::String(name)) => {
            let kind = DocumentKind::named(name);
            if kind.is_none() {
                let message = format!("unknown kind {:?}", clipped(name));
                findings.error(codes::UNKNOWN_KIND, "/kind", message, did_you_mean(name, "kinds", &names));
            }
            kind
        }
        None => {
            let help = format!("kinds are {}", list(&names));
            findings.error(codes::MISSING_FIELD, "", "the document needs the field \"kind\"", help);
            None
        }
        Some(other) => {
            let help = format!("kinds are {}", list(&names));
            findings.error(codes::UNKNOWN_KIND, "/kind", format!("kind must be text, not {}", shown(other)), help);
            None
        }
    }
}

/// What the schema lets through and the types refuse; told only where the schema had nothing to say.
fn check_types(kind: DocumentKind, value: &Value, findings: &mut Findings<'_>) {
    if findings.faulty {
        return;
    }
    let spec = &value["spec"];
    let refused = match kind {
        DocumentKind::Platform => PlatformSpec::deserialize(spec).err(),
        DocumentKind::Tenant => TenantSpec::deserialize(spec).err(),
        DocumentKind::Provider => ProviderSpec::deserialize(spec).err(),
        DocumentKind::Resource(Kind::Database) => DatabaseSpec::deserialize(spec).err(),
        DocumentKind::Resource(Kind::Cache) => CacheSpec::deserialize(spec).err(),
    };
    if let Some(error) = refused {
        let mut decimals = Vec::new();
        decimal_integers(&FieldPath::of(&["spec"]), spec, &mut decimals);
        let is_textual = |path: &FieldPath| match kind {
            DocumentKind::Resource(kind) => kind.info().textual.iter().any(|prefix| path.is_within(prefix)),
            DocumentKind::Platform | DocumentKind::Tenant | DocumentKind::Provider => false,
        };
        decimals.retain(|(path, _)| !is_textual(path));
        for (path, number) in &decimals {
            let message =
                format!("{} must be a whole number, and is written as a decimal one", readable(path.as_str()));
            findings.error(codes::INVALID_VALUE, path.as_str(), message, format!("write {number:.0}"));
        }
        if !decimals.is_empty() {
            return;
        }
        let help = format!("plumb schema {} shows what a {} may say", kind.as_str(), kind.as_str());
        findings.error(codes::INVALID_VALUE, "/spec", format!("spec cannot be read: {error}"), help);
    }
}

/// Integers that are written as decimals (`1.0`, `1e2`): to a schema they are integers, to the types they are none.
fn decimal_integers(path: &FieldPath, value: &Value, found: &mut Vec<(FieldPath, f64)>) {
    match value {
        Value::Number(number) if number.is_f64() => {
            found.extend(number.as_f64().filter(|number| number.fract() == 0.0).map(|number| (path.clone(), number)));
        }
        Value::Array(members) => {
            for (at, member) in members.iter().enumerate() {
                decimal_integers(&path.child(&at.to_string()), member, found);
            }
        }
        Value::Object(fields) => {
            for (name, value) in fields {
                decimal_integers(&path.child(name), value, found);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Lists are keyed or sets: a member that is there twice says two things of one object.
fn check_lists(kind: Kind, value: &Value, findings: &mut Findings<'_>) {
    for (pointer, shape) in kind.info().lists {
        let Some(members) = value.pointer(pointer).and_then(Value::as_array) else { continue };
        let mut seen = BTreeSet::new();
        for (at, member) in members.iter().enumerate() {
            let (name, place) = match shape {
                ListShape::Keyed(key) => (member.get(key).and_then(Value::as_str), format!("{pointer}/{at}/{key}")),
                ListShape::Set => (member.as_str(), format!("{pointer}/{at}")),
            };
            let Some(name) = name else { continue };
            if !seen.insert(name) {
                let message = format!("{} names {:?} twice", readable(pointer), clipped(name));
                findings.error(codes::DUPLICATE_MEMBER, &place, message, "remove one of the two");
            }
        }
    }
    let dependencies = value.pointer("/spec/dependsOn").and_then(Value::as_array);
    let mut seen = BTreeSet::new();
    for (at, name) in dependencies.into_iter().flatten().enumerate() {
        if let Some(name) = name.as_str()
            && !seen.insert(name)
        {
            let message = format!("dependsOn names {:?} twice", clipped(name));
            findings.error(codes::DUPLICATE_MEMBER, &format!("/spec/dependsOn/{at}"), message, "remove one of the two");
        }
    }
}

/// Rules that a schema cannot say.
fn check_specials(kind: Kind, value: &Value, findings: &mut Findings<'_>) {
    match kind {
        Kind::Cache => {}
        Kind::Database => {
            for (at, role) in value.pointer("/spec/roles").and_then(Value::as_array).into_iter().flatten().enumerate() {
                if role.get("name").and_then(Value::as_str) == Some("owner") {
                    findings.error(
                        codes::RESERVED_ROLE,
                        &format!("/spec/roles/{at}/name"),
                        "a role cannot be called \"owner\": the role that owns the database is",
                        "choose another name; access: admin makes a role a member of the owner",
                    );
                }
            }
            let mut spelled = BTreeMap::new();
            for name in value.pointer("/spec/settings").and_then(Value::as_object).into_iter().flat_map(Map::keys) {
                if let Some(why) = refuse_setting(name) {
                    let help = "settings are those that ALTER DATABASE ... SET takes, such as work_mem";
                    findings.key_error(
                        codes::INVALID_VALUE,
                        FieldPath::of(&["spec", "settings", name]).as_str(),
                        why,
                        help,
                    );
                }
                if let Some(first) = spelled.insert(name.to_lowercase(), name) {
                    findings.error(
                        codes::DUPLICATE_MEMBER,
                        FieldPath::of(&["spec", "settings", name]).as_str(),
                        format!(
                            "settings names {:?} and {:?}, which are one to the server",
                            clipped(first),
                            clipped(name)
                        ),
                        "remove one of the two",
                    );
                }
            }
            if let Some(size) = value.pointer("/spec/pageSize").and_then(Value::as_u64)
                && !size.is_power_of_two()
            {
                findings.error(
                    codes::INVALID_VALUE,
                    "/spec/pageSize",
                    format!("pageSize must be a power of two, not {size}"),
                    "SQLite knows 512, 1024, 2048, 4096, 8192, 16384, 32768 and 65536",
                );
            }
        }
    }
}

fn dependencies(value: &Value, findings: &mut Findings<'_>) -> Vec<(Kind, String)> {
    let mut found = Vec::new();
    for (at, text) in value.pointer("/spec/dependsOn").and_then(Value::as_array).into_iter().flatten().enumerate() {
        let Some(text) = text.as_str() else { continue };
        let pointer = format!("/spec/dependsOn/{at}");
        match text.split_once('/') {
            Some((kind, name)) if !name.is_empty() && !name.contains('/') => match kind.parse::<Kind>() {
                Ok(kind) => found.push((kind, name.to_owned())),
                Err(_) => {
                    let kinds: Vec<&str> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
                    let message = format!("dependsOn names the unknown kind {:?}", clipped(kind));
                    findings.error(codes::UNKNOWN_KIND, &pointer, message, did_you_mean(kind, "kinds", &kinds));
                }
            },
            Some(_) | None => {
                let message = format!("dependsOn cannot read {:?}", clipped(text));
                findings.error(codes::INVALID_VALUE, &pointer, message, "write Kind/name, such as Cache/sessions");
            }
        }
    }
    found
}

fn text_at(value: &Value, pointer: &str) -> Option<String> {
    value.pointer(pointer).and_then(Value::as_str).map(str::to_owned)
}

fn texts_at(value: &Value, pointer: &str) -> BTreeMap<String, String> {
    let entries = value.pointer(pointer).and_then(Value::as_object);
    entries.into_iter().flatten().filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

/// The pointer of an annotation.
pub(super) fn annotation_pointer(name: &str) -> String {
    format!("/metadata/annotations/{}", escape(name))
}

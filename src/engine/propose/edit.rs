//! The edit that a proposal offers: of one document, proven to say what is live and to break nothing.

use std::collections::BTreeMap;

use crate::manifest::{self, Edit};
use crate::model::{
    DesiredState, Diagnostic, Drift, DriftedField, LeftOut, ProposedField, Reason, Resource, ResourceKey,
};
use crate::validate::Validator;

use super::super::desired::Workspace;
use super::{Topic, Trouble, words};

/// A file as a proposal would leave it.
pub(super) struct Edited {
    pub path: String,
    /// `None` removes the file.
    pub content: Option<String>,
    /// The unified diff.
    pub diff: String,
    pub fields: Vec<ProposedField>,
    /// What differs and could not be said.
    pub left_out: Vec<LeftOut>,
}

/// Where edits are tried.
struct Bench<'a, 'b> {
    validator: &'a Validator,
    topic: &'a Topic<'b>,
    resource: &'a Resource,
    text: &'a str,
    workspace: &'a mut Workspace,
}

/// Edits the document of `resource` to what is live: all that drifted, or as much of it as YAML can say and validation
/// takes.
///
/// # Errors
/// When nothing of it can be offered.
pub(super) fn edit(
    validator: &Validator,
    topic: &Topic<'_>,
    drift: &Drift,
    resource: &Resource,
    workspace: &mut Workspace,
) -> Result<Edited, Trouble> {
    let file = &resource.origin.file;
    let bytes = topic
        .mirror
        .blob(&resource.origin.blob)
        .map_err(|error| Trouble::of_all(Reason::SourceUnavailable, error.to_string()))?;
    let text = String::from_utf8(bytes).map_err(|_| not_expressible(format!("{file} is not UTF-8")))?;
    let mut bench = Bench { validator, topic, resource, text: &text, workspace };
    let (content, left_out) = if drift.missing {
        let content = manifest::remove_document(&text, resource.origin.document);
        bench.check(content.as_deref()).map_err(not_expressible)?;
        (content, Vec::new())
    } else {
        let (content, left_out) = bench.accept(&drift.fields)?;
        (Some(content), left_out)
    };
    let is_offered = |field: &&DriftedField| left_out.iter().all(|left| left.field.path != field.path);
    let fields = drift.fields.iter().filter(is_offered).map(proposed).collect();
    let diff = similar::TextDiff::from_lines(text.as_str(), content.as_deref().unwrap_or(""))
        .unified_diff()
        .header(&format!("a/{file}"), &format!("b/{file}"))
        .to_string();
    Ok(Edited { path: file.clone(), content, diff, fields, left_out })
}

impl Bench<'_, '_> {
    /// The text with as many live values as can be said, and what could not.
    fn accept(&mut self, drifted: &[DriftedField]) -> Result<(String, Vec<LeftOut>), Trouble> {
        let all: Vec<&DriftedField> = drifted.iter().collect();
        let message = match self.try_to_say(&all) {
            Ok(text) => return Ok((text, Vec::new())),
            Err(message) => message,
        };
        if all.len() == 1 {
            return Err(not_expressible(message));
        }
        // One that cannot be said must not take the others with it.
        let (mut said, mut text, mut left_out) = (Vec::new(), None, Vec::new());
        for field in all {
            said.push(field);
            match self.try_to_say(&said) {
                Ok(longer) => text = Some(longer),
                Err(message) => {
                    said.pop();
                    left_out.push(LeftOut { field: proposed(field), message });
                }
            }
        }
        match text {
            Some(text) => Ok((text, left_out)),
            None => Err(not_expressible(words::not_offered(&left_out))),
        }
    }

    fn try_to_say(&mut self, fields: &[&DriftedField]) -> Result<String, String> {
        let edits: Vec<Edit> =
            fields.iter().map(|field| Edit { path: field.path.clone(), to: field.live.clone() }).collect();
        let origin = &self.resource.origin;
        let text = manifest::edit(self.text, origin.document, self.resource.key.kind.info(), &edits)
            .map_err(|error| format!("{} cannot say the live value: {error}", origin.file))?;
        self.check(Some(&text))?;
        Ok(text)
    }

    /// Whether the tenant's documents would be as good as they are with this file in place of the one in git.
    fn check(&mut self, content: Option<&str>) -> Result<(), String> {
        let Topic { owner, desired, .. } = self.topic;
        let after = self.workspace.with_edit(self.validator, *owner, &self.resource.origin.file, content);
        let key = &self.resource.key;
        if let Some(message) = after.rejected.get(key) {
            let file = &self.resource.origin.file;
            let is_its = |finding: &&Diagnostic| finding.is_error() && finding.file == *file;
            let mut findings = after.diagnostics.iter().filter(is_its);
            let finding = findings.find(|finding| !desired.diagnostics.contains(finding));
            let why = finding.map_or(message, |finding| &finding.message);
            return Err(format!("the live value would not validate: {why}"));
        }
        if let Some(message) = after.denied.get(key) {
            return Err(format!("a policy would deny the live value: {message}"));
        }
        match broken_by(desired, &after) {
            Some((other, message)) => Err(format!("it would break {other}: {message}")),
            None => Ok(()),
        }
    }
}

/// The first document that stood in `before` and does not in `after`.
fn broken_by<'a>(before: &DesiredState, after: &'a DesiredState) -> Option<(&'a ResourceKey, &'a String)> {
    let newly = |now: &'a BTreeMap<ResourceKey, String>, then: &BTreeMap<ResourceKey, String>| {
        now.iter().find(|(key, _)| !then.contains_key(*key))
    };
    newly(&after.rejected, &before.rejected).or_else(|| newly(&after.denied, &before.denied))
}

fn not_expressible(message: String) -> Trouble {
    Trouble::of_all(Reason::NotExpressible, message)
}

pub(super) fn proposed(field: &DriftedField) -> ProposedField {
    ProposedField {
        path: field.path.clone(),
        base: field.base.clone(),
        git: field.git.clone(),
        live: field.live.clone(),
    }
}

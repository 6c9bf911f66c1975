//! `plumb tree`: what depends on what, and how each stands.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use clap::builder::NonEmptyStringValueParser;
use serde::Serialize;

use crate::engine::view::{ResourceFilter, ResourceView, StatusWord};
use crate::model::{Reason, ResourceKey};

use super::args::Common;
use super::output::{self, Paint, readable};
use super::read;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The tenant; all, when left out
    #[arg(value_name = "TENANT", value_parser = NonEmptyStringValueParser::new())]
    of: Option<String>,
}

/// A resource, and what depends on it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    key: ResourceKey,
    status: StatusWord,
    reason: Option<Reason>,
    message: String,
    /// It stands elsewhere in the tree with what depends on it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    repeated: bool,
    dependents: Vec<Node>,
}

/// Shows the tree. Exits with 0 when all is ready, else with 1.
pub async fn run(args: Args, common: &Common) -> anyhow::Result<u8> {
    let filter = ResourceFilter {
        tenant: common.tenant_or(args.of)?,
        environment: common.environment.clone(),
        ..ResourceFilter::default()
    };
    let resources = read::resources(common, &filter).await?;
    let roots = grow(&resources);
    output::print_as(common, &roots, || text(&roots, Paint::stdout(common)))?;
    Ok(u8::from(resources.iter().any(|resource| resource.status != StatusWord::Ready)))
}

/// The resources that need no other, with what depends on them below. What needs several stands in full below the first.
fn grow(resources: &[ResourceView]) -> Vec<Node> {
    let known: BTreeMap<&ResourceKey, &ResourceView> = resources.iter().map(|view| (&view.key, view)).collect();
    let mut dependents: BTreeMap<&ResourceKey, Vec<&ResourceKey>> = BTreeMap::new();
    for view in resources {
        for needed in view.needs.iter().filter(|needed| known.contains_key(needed)) {
            dependents.entry(needed).or_default().push(&view.key);
        }
    }
    let is_root = |view: &&ResourceView| view.needs.iter().all(|needed| !known.contains_key(needed));
    let mut shown = BTreeSet::new();
    let mut roots: Vec<Node> =
        resources.iter().filter(is_root).map(|view| node(&view.key, &known, &dependents, &mut shown)).collect();
    // A circle, which several commits can have made, has no root.
    for view in resources {
        if !shown.contains(&view.key) {
            roots.push(node(&view.key, &known, &dependents, &mut shown));
        }
    }
    roots
}

fn node<'a>(
    key: &'a ResourceKey,
    known: &BTreeMap<&'a ResourceKey, &'a ResourceView>,
    dependents: &BTreeMap<&'a ResourceKey, Vec<&'a ResourceKey>>,
    shown: &mut BTreeSet<&'a ResourceKey>,
) -> Node {
    let view = known[key];
    let repeated = !shown.insert(key);
    let below = dependents.get(key).filter(|_| !repeated).into_iter().flatten();
    Node {
        key: key.clone(),
        status: view.status,
        reason: view.reason,
        message: view.message.clone(),
        repeated,
        dependents: below.map(|dependent| node(dependent, known, dependents, shown)).collect(),
    }
}

fn text(roots: &[Node], paint: Paint) -> String {
    if roots.is_empty() {
        return "no resources\n".to_owned();
    }
    let mut text = String::new();
    let mut environment = None;
    for root in roots {
        let here = (root.key.tenant.clone(), root.key.environment.clone());
        if environment.as_ref() != Some(&here) {
            let _ = writeln!(text, "{}", paint.bold(&format!("{}/{}", here.0, here.1)));
            environment = Some(here);
        }
        line(&mut text, root, "  ", "  ", paint);
    }
    text
}

fn line(text: &mut String, node: &Node, first: &str, rest: &str, paint: Paint) {
    let word = match node.status {
        StatusWord::Ready => paint.green(node.status.as_str()),
        StatusWord::Drifted | StatusWord::Reconciling | StatusWord::Unknown => paint.yellow(node.status.as_str()),
        StatusWord::Stalled | StatusWord::NotReady => paint.red(node.status.as_str()),
    };
    let _ = write!(text, "{first}{}  {word}", node.key.local());
    if node.repeated {
        text.push_str("  (see above)");
    } else if node.status != StatusWord::Ready {
        let reason = node.reason.map(|reason| format!("{reason}: ")).unwrap_or_default();
        let _ = write!(text, "  {reason}{}", readable(&node.message));
    }
    text.push('\n');
    for (at, below) in node.dependents.iter().enumerate() {
        let is_last = at + 1 == node.dependents.len();
        let (branch, indent) = if is_last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        line(text, below, &format!("{rest}{branch}"), &format!("{rest}{indent}"), paint);
    }
}

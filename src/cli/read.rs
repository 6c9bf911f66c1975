//! `plumb get`, `describe`, `diff` and `events`: read from a server, or from the state database.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use anyhow::{anyhow, bail};
use chrono::SecondsFormat;
use serde_json::Value;

use crate::engine::view::{
    self, DeadLetterView, EventFilter, EventView, LetterState, Level, OrphanView, Page, ProviderView, ResourceDetail,
    ResourceFilter, ResourceView, StatusWord, TenantView,
};
use crate::model::{ConditionStatus, Kind, ResourceKey, SystemClock};
use crate::store::Scope;

use super::args::{Common, Format};
use super::output::{self, Paint, readable, rows_text, table};
use super::{house, remote};

#[derive(Debug, clap::Args)]
pub struct GetArgs {
    /// One resource: tenant/environment/Kind/name
    key: Option<ResourceKey>,
    /// Only this kind
    #[arg(long, value_name = "KIND")]
    kind: Option<Kind>,
    /// List objects that bear Plumb's mark and that neither git nor the inventory speaks of, and frozen ones
    #[arg(long, conflicts_with_all = ["key", "kind"])]
    orphans: bool,
    /// List what failed for good and waits for somebody, with the cause: steps, and changes that were undone since
    #[arg(long, conflicts_with_all = ["key", "kind", "orphans"])]
    dead_letters: bool,
    /// List the providers that are used, or do not answer: their circuit breakers, and how what is on them stands
    #[arg(long, conflicts_with_all = ["key", "kind", "orphans", "dead_letters"])]
    providers: bool,
}

#[derive(Debug, clap::Args)]
pub struct DescribeArgs {
    /// The resource: tenant/environment/Kind/name
    key: ResourceKey,
}

#[derive(Debug, clap::Args)]
pub struct DiffArgs {
    /// The resource: tenant/environment/Kind/name; all that differ, when left out
    key: Option<ResourceKey>,
}

#[derive(Debug, clap::Args)]
pub struct EventsArgs {
    /// Only events of this resource: tenant/environment/Kind/name
    key: Option<ResourceKey>,
    /// Only events of this execution
    #[arg(long, value_name = "NUMBER")]
    execution: Option<i64>,
    /// At most this many, the newest
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Only those with a smaller number: the page before
    #[arg(long, value_name = "NUMBER")]
    before: Option<i64>,
}

/// `plumb get`
pub async fn get(args: GetArgs, common: &Common) -> anyhow::Result<u8> {
    if args.orphans {
        let orphans = orphans(common).await?;
        output::print_as(common, &orphans, || orphans_text(&orphans))?;
        return Ok(0);
    }
    if args.dead_letters {
        let letters = dead_letters(common).await?;
        output::print_as(common, &letters, || dead_letters_text(&letters))?;
        return Ok(0);
    }
    if args.providers {
        let providers = providers(common).await?;
        output::print_as(common, &providers, || providers_text(&providers))?;
        return Ok(0);
    }
    if let Some(key) = &args.key {
        let detail = detail(common, key).await?;
        output::print_as(common, &detail.view, || resources_text(std::slice::from_ref(&detail.view), common))?;
        return Ok(0);
    }
    let filter = ResourceFilter {
        tenant: common.tenant.clone(),
        environment: common.environment.clone(),
        kind: args.kind,
        ..ResourceFilter::default()
    };
    let resources = resources(common, &filter).await?;
    if resources.is_empty() && !common.quiet {
        eprintln!("nothing is recorded of that; `plumb plan` shows what an apply would make");
    }
    output::print_as(common, &resources, || resources_text(&resources, common))?;
    Ok(0)
}

/// `plumb describe`
pub async fn describe(args: DescribeArgs, common: &Common) -> anyhow::Result<u8> {
    let detail = detail(common, &args.key).await?;
    output::print_as(common, &detail, || describe_text(&detail, Paint::stdout(common)))?;
    Ok(0)
}

/// `plumb diff`: 0 same, 1 different, 2 error.
pub async fn diff(args: DiffArgs, common: &Common) -> anyhow::Result<u8> {
    let details = match &args.key {
        Some(key) => vec![detail(common, key).await?],
        None => {
            let filter = ResourceFilter {
                tenant: common.tenant.clone(),
                environment: common.environment.clone(),
                ..ResourceFilter::default()
            };
            let mut details = Vec::new();
            for resource in resources(common, &filter).await?.into_iter().filter(|r| r.status != StatusWord::Ready) {
                details.push(detail(common, &resource.key).await?);
            }
            details
        }
    };
    if let Some(unseen) = details.iter().find(|detail| detail.view.ready == ConditionStatus::Unknown) {
        bail!("{} could not be seen: {}", unseen.view.key, unseen.view.message);
    }
    let differing: Vec<&ResourceDetail> = details.iter().filter(|detail| !detail.diff.is_empty()).collect();
    let rows: Vec<_> = differing
        .iter()
        .map(|detail| serde_json::json!({"key": detail.view.key, "rows": detail.rows, "diff": detail.diff}))
        .collect();
    output::print_as(common, &rows, || {
        let paint = Paint::stdout(common);
        differing.iter().map(|detail| colored(&detail.diff, paint)).collect()
    })?;
    Ok(u8::from(!differing.is_empty()))
}

/// `plumb events`
pub async fn events(args: EventsArgs, common: &Common) -> anyhow::Result<u8> {
    let EventsArgs { key, execution, limit, before } = args;
    let mut events: Vec<EventView> = match &common.server {
        Some(server) => {
            let query = [
                ("tenant", common.tenant.clone().unwrap_or_default()),
                ("environment", common.environment.clone().unwrap_or_default()),
                ("key", key.as_ref().map(ToString::to_string).unwrap_or_default()),
                ("execution", execution.map(|id| id.to_string()).unwrap_or_default()),
                ("before", before.map(|before| before.to_string()).unwrap_or_default()),
                ("limit", limit.to_string()),
            ];
            remote::get::<Page<EventView>>(server, &["events"], &query).await?.items
        }
        None => {
            let (tenant, environment) = (common.tenant.clone(), common.environment.clone());
            let filter = EventFilter { tenant, environment, execution, key: key.clone(), before, limit };
            view::events(house::reading(common).await?.as_ref(), &filter, &SystemClock).await?
        }
    };
    match &key {
        _ if !events.is_empty() || before.is_some() => {}
        Some(key) => tell_of_nothing(common, key).await?,
        None => expect_known(common, common.tenant.as_deref()).await?,
    }
    // People read downwards.
    events.reverse();
    output::print_as(common, &events, || events_text(&events, Paint::stdout(common)))?;
    if let Some(oldest) = events.first().filter(|_| events.len() >= limit as usize && !common.quiet) {
        let key = key.map(|key| format!(" {key}")).unwrap_or_default();
        let execution = execution.map(|id| format!(" --execution {id}")).unwrap_or_default();
        let flag = |name, value: &Option<String>| value.as_ref().map(|value| format!(" {name} {value}"));
        let tenant = flag("--tenant", &common.tenant).unwrap_or_default();
        let environment = flag("--environment", &common.environment).unwrap_or_default();
        let before = oldest.event.id;
        eprintln!(
            "for older ones: plumb events{key}{execution}{tenant}{environment} --limit {limit} --before {before}"
        );
    }
    Ok(0)
}

/// The tenants that the state knows: whatever else is asked about has no answer.
async fn known_tenants(common: &Common) -> anyhow::Result<Vec<String>> {
    Ok(match &common.server {
        Some(server) => {
            let known: Page<TenantView> = remote::get(server, &["tenants"], &[]).await?;
            known.items.into_iter().map(|view| view.tenant).collect()
        }
        None => {
            let store = house::reading(common).await?;
            let known = store.read(Scope::Platform).await?.tenants().await?.into_keys();
            // Of one that is looked at for the first time nothing is recorded yet.
            let asked_for = store.places().await?.into_iter().map(|place| place.tenant);
            known.chain(asked_for).collect::<BTreeSet<_>>().into_iter().collect()
        }
    })
}

/// Refuses a tenant that nothing is known of, where nothing was found of it.
pub async fn expect_known(common: &Common, tenant: Option<&str>) -> anyhow::Result<()> {
    let Some(tenant) = tenant else { return Ok(()) };
    let known = known_tenants(common).await?;
    if known.iter().any(|name| name == tenant) { Ok(()) } else { Err(no_tenant(tenant, known)) }
}

/// There is no such tenant.
pub fn no_tenant(tenant: &str, known: impl IntoIterator<Item = String>) -> anyhow::Error {
    let known: Vec<String> = known.into_iter().collect();
    match known.is_empty() {
        true => anyhow!("there is no tenant {tenant:?}; the state knows none before `plumb apply` or `plumb serve`"),
        false => anyhow!("there is no tenant {tenant:?}; the state knows {}", known.join(", ")),
    }
}

/// Says that there is nothing to show of a resource, and refuses one of a tenant that nothing is known of.
pub async fn tell_of_nothing(common: &Common, key: &ResourceKey) -> anyhow::Result<()> {
    expect_known(common, Some(&key.tenant)).await?;
    if !common.quiet {
        eprintln!("nothing is on record of {key}; `plumb get` lists what is known");
    }
    Ok(())
}

pub async fn resources(common: &Common, filter: &ResourceFilter) -> anyhow::Result<Vec<ResourceView>> {
    let resources = all_resources(common, filter).await?;
    if resources.is_empty() {
        expect_known(common, filter.tenant.as_deref()).await?;
    }
    Ok(resources)
}

async fn all_resources(common: &Common, filter: &ResourceFilter) -> anyhow::Result<Vec<ResourceView>> {
    let Some(server) = &common.server else {
        return Ok(view::resources(house::reading(common).await?.as_ref(), filter, &SystemClock).await?);
    };
    let mut resources: Vec<ResourceView> = Vec::new();
    let mut after = String::new();
    loop {
        let query = [
            ("tenant", filter.tenant.clone().unwrap_or_default()),
            ("environment", filter.environment.clone().unwrap_or_default()),
            ("kind", filter.kind.map(|kind| kind.to_string()).unwrap_or_default()),
            ("after", after),
        ];
        let page: Page<ResourceView> = remote::get(server, &["resources"], &query).await?;
        resources.extend(page.items);
        match page.next {
            Some(next) => after = next,
            None => return Ok(resources),
        }
    }
}

async fn orphans(common: &Common) -> anyhow::Result<Vec<OrphanView>> {
    let mut orphans = match &common.server {
        Some(server) => {
            let query = [("tenant", common.tenant.clone().unwrap_or_default())];
            remote::get::<Page<OrphanView>>(server, &["orphans"], &query).await?.items
        }
        None => {
            let store = house::reading(common).await?;
            view::orphans(store.as_ref(), common.tenant.as_deref(), &SystemClock).await?
        }
    };
    if orphans.is_empty() {
        expect_known(common, common.tenant.as_deref()).await?;
    }
    if let Some(environment) = &common.environment {
        orphans.retain(|orphan| orphan.key.environment == *environment);
    }
    Ok(orphans)
}

async fn dead_letters(common: &Common) -> anyhow::Result<Vec<DeadLetterView>> {
    let mut letters = match &common.server {
        Some(server) => {
            let query = [("tenant", common.tenant.clone().unwrap_or_default())];
            remote::get::<Page<DeadLetterView>>(server, &["dead-letters"], &query).await?.items
        }
        None => {
            let store = house::reading(common).await?;
            view::dead_letters(store.as_ref(), common.tenant.as_deref(), &SystemClock).await?
        }
    };
    if letters.is_empty() {
        expect_known(common, common.tenant.as_deref()).await?;
    }
    if let Some(environment) = &common.environment {
        letters.retain(|letter| letter.key.environment == *environment);
    }
    Ok(letters)
}

async fn providers(common: &Common) -> anyhow::Result<Vec<ProviderView>> {
    let providers = match &common.server {
        Some(server) => {
            let query = [("tenant", common.tenant.clone().unwrap_or_default())];
            remote::get::<Page<ProviderView>>(server, &["providers"], &query).await?.items
        }
        None => {
            let store = house::reading(common).await?;
            view::providers(store.as_ref(), common.tenant.as_deref(), &SystemClock).await?
        }
    };
    if providers.is_empty() {
        expect_known(common, common.tenant.as_deref()).await?;
    }
    Ok(providers)
}

async fn detail(common: &Common, key: &ResourceKey) -> anyhow::Result<ResourceDetail> {
    if let Some(server) = &common.server {
        let path = ["resources", &key.tenant, &key.environment, key.kind.as_str(), &key.name];
        return remote::get(server, &path, &[]).await;
    }
    match view::resource(house::reading(common).await?.as_ref(), key, &SystemClock).await? {
        Some(detail) => Ok(detail),
        None => bail!("nothing is known of {key}; `plumb get` lists what is"),
    }
}

fn resources_text(resources: &[ResourceView], common: &Common) -> String {
    let wide = common.output == Format::Wide;
    let mut head = vec!["KEY", "REVISION", "READY", "STATUS", "AGE"];
    if wide {
        head.extend(["PROVIDER", "OBJECT", "FILE"]);
    }
    head.push("MESSAGE");
    let rows: Vec<Vec<String>> = resources
        .iter()
        .map(|resource| {
            let mut row = vec![
                resource.key.to_string(),
                short(&resource.revision),
                format!("{:?}", resource.ready),
                resource.status.to_string(),
                age(resource.age_seconds),
            ];
            if wide {
                row.extend([resource.provider.clone(), resource.object_name.clone(), resource.file.clone()]);
            }
            row.push(resource.message.clone());
            row
        })
        .collect();
    table(&head, &rows)
}

fn orphans_text(orphans: &[OrphanView]) -> String {
    if orphans.is_empty() {
        return "no orphans\n".to_owned();
    }
    let rows: Vec<Vec<String>> = orphans
        .iter()
        .map(|orphan| {
            let OrphanView { key, reason, message, provider, object_name, age_seconds, .. } = orphan;
            vec![
                key.to_string(),
                reason.to_string(),
                provider.clone(),
                object_name.clone(),
                age(*age_seconds),
                message.clone(),
            ]
        })
        .collect();
    table(&["KEY", "REASON", "PROVIDER", "OBJECT", "AGE", "MESSAGE"], &rows)
}

fn dead_letters_text(letters: &[DeadLetterView]) -> String {
    if letters.is_empty() {
        return "no dead letters\n".to_owned();
    }
    let rows: Vec<Vec<String>> = letters
        .iter()
        .map(|letter| {
            let DeadLetterView { key, state, reason, provider, failures, age_seconds, .. } = letter;
            let (tries, age) = (failures.to_string(), age(Some(*age_seconds)));
            vec![key.to_string(), state.to_string(), reason.to_string(), provider.clone(), tries, age, letter.said()]
        })
        .collect();
    let mut text = table(&["KEY", "STATE", "REASON", "PROVIDER", "TRIES", "AGE", "MESSAGE"], &rows);
    text.push_str(match letters.iter().all(|letter| letter.state == LetterState::Failed) {
        true => "Mend the cause, then commit anything, or run plumb retry KEY.\n",
        false => "Mend the cause, then run plumb retry KEY; or commit what works.\n",
    });
    text
}

fn providers_text(providers: &[ProviderView]) -> String {
    if providers.is_empty() {
        return "no provider is used yet\n".to_owned();
    }
    let rows: Vec<Vec<String>> = providers
        .iter()
        .map(|one| {
            let ProviderView { provider, circuit, failures, age_seconds, until, counts, .. } = one;
            let until = until.map(|until| until.to_rfc3339_opts(SecondsFormat::Secs, true)).unwrap_or_default();
            let (failures, ready) = (failures.to_string(), format!("{}/{}", counts.ready, counts.total));
            vec![provider.clone(), circuit.to_string(), failures, age(*age_seconds), until, ready, one.said()]
        })
        .collect();
    table(&["PROVIDER", "CIRCUIT", "SILENCES", "SINCE", "UNTIL", "READY", "MESSAGE"], &rows)
}

fn describe_text(detail: &ResourceDetail, paint: Paint) -> String {
    let mut text = String::new();
    let view = &detail.view;
    let mut line = |name: &str, value: &str| {
        if !value.is_empty() {
            let _ = writeln!(text, "{name:<12} {}", readable(value));
        }
    };
    line("Key:", &view.key.to_string());
    line("Revision:", &view.revision);
    line("Provider:", &view.provider);
    line("Object:", &view.object_name);
    line("File:", &view.file);
    if !view.outputs.is_empty() {
        let _ = writeln!(text, "\n{}", paint.bold("Outputs"));
        let rows: Vec<Vec<String>> =
            view.outputs.iter().map(|(name, value)| vec![format!("  {name}"), value.clone()]).collect();
        text.push_str(&rows_text(&rows));
        for role in view.key.kind.roles(detail.desired.paths()) {
            let _ = writeln!(text, "  the password of {role}: plumb secret get {} {role}", view.key);
        }
    }
    let _ = writeln!(text, "\n{}", paint.bold("Conditions"));
    let rows: Vec<Vec<String>> = view
        .conditions
        .iter()
        .map(|condition| {
            let told = &condition.condition;
            vec![
                format!("  {:?}", told.condition_type),
                format!("{:?}", told.status),
                told.reason.to_string(),
                age(Some(condition.age_seconds)),
                told.message.clone(),
            ]
        })
        .collect();
    text.push_str(&table(&["  TYPE", "STATUS", "REASON", "AGE", "MESSAGE"], &rows));
    let _ = writeln!(text, "\n{}", paint.bold("Fields"));
    let say = |value: &Option<Value>| value.as_ref().map_or_else(|| "-".to_owned(), Value::to_string);
    let rows: Vec<Vec<String>> = detail
        .rows
        .iter()
        .map(|row| vec![format!("  {}", row.path), say(&row.desired), say(&row.live), say(&row.applied)])
        .collect();
    text.push_str(&table(&["  FIELD", "GIT", "LIVE", "APPLIED"], &rows));
    if !detail.diff.is_empty() {
        let _ = write!(text, "\n{}\n{}", paint.bold("Difference"), colored(&detail.diff, paint));
    }
    if let Some(proposal) = &detail.proposal {
        let _ = writeln!(text, "\n{}\n  branch {} ({:?})", paint.bold("Proposal"), proposal.branch, proposal.status);
        text.push_str(&colored(&proposal.diff, paint));
    }
    for held in &detail.approvals {
        let _ = writeln!(text, "\n{}\n  {}", paint.bold("Can be approved with a commit trailer"), held.trailer);
    }
    let _ = writeln!(text, "\n{}", paint.bold("Events"));
    let mut events = detail.events.clone();
    events.reverse();
    text.push_str(&events_text(&events, paint));
    text
}

/// What an event says, as one line.
pub fn line_of(told: &str, level: Level, paint: Paint) -> String {
    let told = readable(told).replace('\n', " ");
    match level {
        Level::Info => told,
        Level::Good => paint.green(&told),
        Level::Warning => paint.yellow(&told),
        Level::Bad => paint.red(&told),
    }
}

fn events_text(events: &[EventView], paint: Paint) -> String {
    let mut text = String::new();
    for EventView { event, level, text: told, .. } in events {
        let about = event.key.as_ref().map(ToString::to_string).unwrap_or_else(|| event.tenant.clone());
        let told = line_of(told, *level, paint);
        let at = event.at.format("%F %TZ");
        let _ = writeln!(text, "{}  #{}  {about}  {told}", paint.dim(&at.to_string()), event.execution);
    }
    text
}

fn colored(diff: &str, paint: Paint) -> String {
    let mut text = String::new();
    for line in diff.lines() {
        let line = readable(line);
        let line = match line.as_bytes().first() {
            Some(b'+') => paint.green(&line),
            Some(b'-') => paint.red(&line),
            _ => line,
        };
        let _ = writeln!(text, "{line}");
    }
    text
}

/// `main@sha1:3f2a9c1b` for tables.
fn short(revision: &str) -> String {
    const DIGITS: usize = 10;
    match revision.split_once("@sha1:") {
        Some((branch, commit)) => format!("{branch}@sha1:{}", commit.get(..DIGITS).unwrap_or(commit)),
        None => revision.to_owned(),
    }
}

/// A length of time as tables show it: `42s`, `5m`, `3h`, `12d`.
pub fn age(seconds: Option<u64>) -> String {
    match seconds {
        None => String::new(),
        Some(s) if s < 120 => format!("{s}s"),
        Some(s) if s < 7200 => format!("{}m", s / 60),
        Some(s) if s < 172_800 => format!("{}h", s / 3600),
        Some(s) => format!("{}d", s / 86_400),
    }
}

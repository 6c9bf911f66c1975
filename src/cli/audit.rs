//! `plumb audit`: the audit log, as a table, as JSON lines, or verified.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use anyhow::{bail, ensure};
use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::model::platform::Span;
use crate::model::{Clock, SystemClock};
use crate::store::audit::{
    ALL_CHAINS, ALL_CUT, AuditAction, AuditEntry, AuditFilter, AuditHead, CHAIN, ChainBreak, ChainWalk, PLATFORM_CHAIN,
    StoredAudit, chain_name,
};
use crate::store::{Scope, Store, Tx};

use super::args::{Common, Format};
use super::read::no_tenant;
use super::{house, output};

/// How many rows are shown where nothing else is said: somebody reads them.
const SHOWN: usize = 1000;

/// How many rows are read at once.
const PAGE: u32 = 1000;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only what is not older: a time such as 2026-11-01T00:00:00Z, or a span such as 7d
    #[arg(long, value_name = "TIME")]
    since: Option<String>,

    /// The newest so many rows, as text or YAML; 0 for all of them. JSON lines are all rows
    #[arg(long, value_name = "ROWS", default_value_t = SHOWN)]
    limit: usize,

    /// Walk each chain whole, and say which row does not fit
    #[arg(long, conflicts_with = "since")]
    verify: bool,
}

/// What became of a walk along every chain.
#[derive(Debug, Default, Serialize)]
struct Verdict {
    chains: Vec<AuditHead>,
    broken: Vec<ChainBreak>,
}

/// Shows the log, or verifies it.
pub async fn run(args: Args, common: &Common) -> anyhow::Result<u8> {
    common.expect_no_server("audit reads the state database")?;
    let since = args.since.as_deref().map(|text| moment(text, SystemClock.now())).transpose()?;
    let scope = common.tenant.clone().map_or(Scope::Platform, Scope::Tenant);
    let store = house::reading(common).await?;
    if let Some(tenant) = &common.tenant {
        let mut tx = store.read(Scope::Platform).await?;
        // Somebody may have asked for a look at one that nobody has looked at.
        let chains = tx.audit_heads().await?.into_iter().map(|head| head.tenant).filter(|name| name != PLATFORM_CHAIN);
        let known: BTreeSet<String> = tx.tenants().await?.into_keys().chain(chains).collect();
        if !known.contains(tenant) {
            return Err(no_tenant(tenant, known));
        }
    }
    let mut rows = Pages::of(since, common.environment.clone());
    if common.output == Format::Json && !args.verify {
        let mut out = std::io::stdout().lock();
        while let Some(page) = rows.next_alone(store.as_ref(), &scope).await? {
            for entry in &page {
                serde_json::to_writer(&mut out, entry).map_err(std::io::Error::from)?;
                out.write_all(b"\n")?;
            }
        }
        out.flush()?;
        return Ok(0);
    }
    if args.verify {
        ensure!(
            common.environment.is_none(),
            "a chain is verified whole, whatever environment its rows are about: leave out --environment \
             (PLUMB_ENVIRONMENT)"
        );
        let is_whole_log = scope == Scope::Platform;
        let mut tx = store.read(scope).await?;
        if !is_whole_log && !common.quiet && tx.audit_heads().await?.is_empty() {
            eprintln!("whether its chain is missing is known to the platform's: leave out --tenant (PLUMB_TENANT)");
        }
        return verify(tx.as_mut(), is_whole_log, common).await;
    }
    let mut newest = Newest::of(args.limit);
    while let Some(page) = rows.next_alone(store.as_ref(), &scope).await? {
        newest.take(page);
    }
    let Newest { rows, left_out, .. } = newest;
    let shown: Vec<AuditEntry> = rows.into_values().collect();
    output::print_as(common, &shown, || table(&shown))?;
    if left_out > 0 && !common.quiet {
        let left_out = output::count(left_out, "older row");
        eprintln!("{left_out} not shown; give --limit or --since, or -o json for all rows as lines");
    }
    Ok(0)
}

/// The newest rows of all chains, oldest first. No more than these are in memory, however long the chains are.
struct Newest {
    most: usize,
    rows: BTreeMap<(DateTime<Utc>, String, i64), AuditEntry>,
    left_out: usize,
}

impl Newest {
    /// At most so many; 0 for any number.
    fn of(limit: usize) -> Self {
        let most = if limit == 0 { usize::MAX } else { limit };
        Self { most, rows: BTreeMap::new(), left_out: 0 }
    }

    fn take(&mut self, page: Vec<AuditEntry>) {
        for entry in page {
            self.rows.insert((entry.at, entry.tenant.clone(), entry.id), entry);
            if self.rows.len() > self.most {
                self.rows.pop_first();
                self.left_out += 1;
            }
        }
    }
}

async fn verify(tx: &mut dyn Tx, is_whole_log: bool, common: &Common) -> anyhow::Result<u8> {
    let mut verdict = Verdict::default();
    let mut heads: Vec<AuditHead> = tx.audit_heads().await?;
    let (mut cuts, mut chains) = (Cuts::of(&heads), Chains::of(&heads));
    let is_platform_missing = is_whole_log && is_platform_missing(tx, &heads).await?;
    heads.reverse();
    let mut rows = Pages::of(None, None);
    let mut walk: Option<ChainWalk> = None;
    // Chains come one after the other, in the order of their heads. Of a broken one the rest is not looked at.
    let mut current: Option<String> = None;
    let mut is_broken = false;
    while let Some(page) = rows.next_as_stored(tx).await? {
        for entry in &page {
            if let Ok(entry) = entry.read() {
                cuts.step(&entry);
                chains.step(&entry);
            }
            if current.as_ref() != Some(&entry.tenant) {
                verdict.end(walk.take().filter(|_| !is_broken));
                while let Some(empty) = heads.pop_if(|head| head.tenant < entry.tenant) {
                    verdict.end(Some(ChainWalk::from(empty)));
                }
                walk = heads.pop_if(|head| head.tenant == entry.tenant).map(ChainWalk::from);
                current = Some(entry.tenant.clone());
                is_broken = false;
            }
            let stepped = match &mut walk {
                _ if is_broken => continue,
                Some(walk) => walk.step(entry),
                None => Err(ChainBreak {
                    tenant: entry.tenant.clone(),
                    id: entry.id,
                    why: "belongs to a chain whose head is missing",
                }),
            };
            if let Err(broken) = stepped {
                is_broken = true;
                verdict.broken.push(broken);
            }
        }
    }
    verdict.end(walk.filter(|_| !is_broken));
    for empty in heads.into_iter().rev() {
        verdict.end(Some(ChainWalk::from(empty)));
    }
    if is_whole_log {
        verdict.broken.extend(cuts.end());
        let missing = chains.end(&verdict.broken);
        verdict.broken.extend(missing);
    }
    if is_platform_missing && verdict.broken.iter().all(|broken| broken.tenant != PLATFORM_CHAIN) {
        let why = "is missing, with its whole chain: all that the others tell needs it";
        verdict.broken.push(ChainBreak { tenant: PLATFORM_CHAIN.to_owned(), id: 1, why });
    }
    match common.output {
        Format::Json => output::print(&serde_json::to_string(&verdict)?)?,
        Format::Yaml | Format::Text | Format::Wide => output::print_as(common, &verdict, || verdict.text())?,
    }
    Ok(u8::from(!verdict.broken.is_empty()))
}

/// Whether the chain of the platform is not there, of a state that has one: it begins with the first revision of the platform
/// that comes into force, or with the migration of a state from before there was an audit log.
async fn is_platform_missing(tx: &mut dyn Tx, heads: &[AuditHead]) -> anyhow::Result<bool> {
    if heads.iter().any(|head| head.tenant == PLATFORM_CHAIN) {
        return Ok(false);
    }
    Ok(!heads.is_empty() || tx.platform().await?.is_some() || !tx.tenants().await?.is_empty())
}

/// What the platform's chain tells of rows that were cut off the beginnings of chains, beside what is missing there. Each
/// cut is told with it, in a row that is newer than what it cuts off.
struct Cuts {
    /// How many are missing, by chain.
    heads: Vec<AuditHead>,
    /// How many had been cut off by the last row that tells; `None` as long as that cannot be known.
    told: Option<i64>,
    /// The last row that tells.
    last: Option<i64>,
    broken: Option<ChainBreak>,
}

impl Cuts {
    fn of(heads: &[AuditHead]) -> Self {
        // What told of the first cuts may have been cut off itself.
        let is_cut = heads.iter().any(|head| head.tenant == PLATFORM_CHAIN && head.cut() > 0);
        let told = (!is_cut).then_some(0);
        Self { heads: heads.to_vec(), told, last: None, broken: None }
    }

    fn step(&mut self, entry: &AuditEntry) {
        let AuditEntry { id, action, details, .. } = entry;
        if *action != AuditAction::Pruned || details.get("what").is_none_or(|what| what != "audit log") {
            return;
        }
        let number = |name: &str| details.get(name).and_then(serde_json::Value::as_i64);
        let rows = number("rows").unwrap_or_default();
        let sum = self.told.map(|told| told + rows);
        // Rows that were written by an older version do not say how many have been in all.
        self.told = number(ALL_CUT).or(sum);
        self.last = Some(*id);
        if self.broken.is_none() && sum.is_some_and(|sum| self.told != Some(sum)) {
            self.broken = Some(Self::unlike(*id));
        }
    }

    /// What does not fit, if anything.
    fn end(self) -> Option<ChainBreak> {
        let cut: i64 = self.heads.iter().map(AuditHead::cut).sum();
        match (self.broken, self.last) {
            (Some(broken), _) => Some(broken),
            (None, Some(id)) if self.told.is_some_and(|told| told != cut) => Some(Self::unlike(id)),
            (None, None) if cut > 0 => {
                let head = self.heads.into_iter().find(|head| head.cut() > 0)?;
                let why = "is missing, at the beginning, and nothing tells that it was forgotten";
                Some(ChainBreak { tenant: head.tenant, id: head.first_id - 1, why })
            }
            (None, _) => None,
        }
    }

    fn unlike(id: i64) -> ChainBreak {
        let why =
            "tells of another number of rows that were cut off the beginnings of all chains than are missing there";
        ChainBreak { tenant: PLATFORM_CHAIN.to_owned(), id, why }
    }
}

/// What the platform's chain tells of the chains of tenants: of each that it began, and how many there were whenever rows were
/// forgotten. States of earlier versions tell of none.
struct Chains {
    there: BTreeSet<String>,
    begun: BTreeSet<String>,
    /// Those that began although they had begun.
    again: BTreeSet<String>,
    /// How many there have to be, with those that began since, and the row that tells.
    told: Option<(usize, i64)>,
}

impl Chains {
    fn of(heads: &[AuditHead]) -> Self {
        let tenants = heads.iter().map(|head| &head.tenant).filter(|tenant| *tenant != PLATFORM_CHAIN);
        Self { there: tenants.cloned().collect(), begun: BTreeSet::new(), again: BTreeSet::new(), told: None }
    }

    fn step(&mut self, entry: &AuditEntry) {
        let AuditEntry { tenant, id, action, details, .. } = entry;
        if tenant != PLATFORM_CHAIN {
            return;
        }
        let told = details.get(ALL_CHAINS).and_then(serde_json::Value::as_u64);
        let begun = details.get(CHAIN).and_then(serde_json::Value::as_str).filter(|_| *action == AuditAction::Begun);
        if let Some(count) = told.filter(|_| *action == AuditAction::Pruned) {
            self.told = Some((usize::try_from(count).unwrap_or(usize::MAX), *id));
        }
        if let Some(begun) = begun {
            if !self.begun.insert(begun.to_owned()) {
                self.again.insert(begun.to_owned());
            }
            self.told = self.told.map(|(count, id)| (count.saturating_add(1), id));
        }
    }

    /// What is missing whole, but for what is `broken` already.
    fn end(self, broken: &[ChainBreak]) -> Vec<ChainBreak> {
        let Self { there, begun, again, told } = self;
        let first = |tenant: &String, why| ChainBreak { tenant: tenant.clone(), id: 1, why };
        let gone = begun.difference(&there);
        let gone = gone.map(|tenant| first(tenant, "is missing, with its whole chain, of which the platform's tells"));
        let again = again.iter().map(|tenant| first(tenant, "is not the first that there was: the chain began twice"));
        let mut missing: Vec<ChainBreak> = gone.chain(again).collect();
        if let Some((count, id)) = told
            && count > there.len() + missing.len()
        {
            let why = "tells of more chains of tenants than there are";
            missing.push(ChainBreak { tenant: PLATFORM_CHAIN.to_owned(), id, why });
        }
        missing.retain(|missing| {
            missing.tenant == PLATFORM_CHAIN || broken.iter().all(|one| one.tenant != missing.tenant)
        });
        missing
    }
}

impl Verdict {
    fn end(&mut self, walk: Option<ChainWalk>) {
        match walk.map(ChainWalk::end) {
            Some(Ok(head)) => self.chains.push(head),
            Some(Err(broken)) => self.broken.push(broken),
            None => {}
        }
    }

    fn text(&self) -> String {
        let whole = self.chains.iter().map(|head| {
            let rows = usize::try_from(head.last_id - head.first_id + 1).unwrap_or_default();
            let name = chain_name(&head.tenant);
            format!(
                "{name}: {}, whole; the last is number {}, {}\n",
                output::count(rows, "row"),
                head.last_id,
                head.last_hash
            )
        });
        let broken = self.broken.iter().map(|broken| format!("BROKEN: {broken}\n"));
        let text: String = whole.chain(broken).collect();
        if text.is_empty() { "nothing was audited yet\n".to_owned() } else { text }
    }
}

/// Reads a page after the other.
struct Pages {
    filter: AuditFilter,
    /// Only rows about resources of it.
    environment: Option<String>,
}

impl Pages {
    fn of(since: Option<DateTime<Utc>>, environment: Option<String>) -> Self {
        Self { filter: AuditFilter { since, after: None, limit: PAGE }, environment }
    }

    async fn next(&mut self, tx: &mut dyn Tx) -> anyhow::Result<Option<Vec<AuditEntry>>> {
        let mut page = tx.audit(&self.filter).await?;
        let Some(last) = page.last() else { return Ok(None) };
        self.filter.after = Some((last.tenant.clone(), last.id));
        if let Some(environment) = &self.environment {
            page.retain(|entry| entry.key.as_ref().is_some_and(|key| key.environment == *environment));
        }
        Ok(Some(page))
    }

    /// The next one, with what cannot be read.
    async fn next_as_stored(&mut self, tx: &mut dyn Tx) -> anyhow::Result<Option<Vec<StoredAudit>>> {
        let page = tx.audit_as_stored(&self.filter).await?;
        let Some(last) = page.last() else { return Ok(None) };
        self.filter.after = Some((last.tenant.clone(), last.id));
        Ok(Some(page))
    }

    /// The next one, in a transaction of its own: whoever takes the rows may be slow, and a database lets none idle for so
    /// long. Rows that were read stay as they are.
    async fn next_alone(&mut self, store: &dyn Store, scope: &Scope) -> anyhow::Result<Option<Vec<AuditEntry>>> {
        let mut tx = store.read(scope.clone()).await?;
        self.next(tx.as_mut()).await
    }
}

fn table(entries: &[AuditEntry]) -> String {
    if entries.is_empty() {
        return "nothing was audited yet\n".to_owned();
    }
    let rows: Vec<Vec<String>> = entries
        .iter()
        .map(|entry| {
            let about = entry.key.as_ref().map(ToString::to_string);
            let of = if entry.tenant.is_empty() { "the platform".to_owned() } else { entry.tenant.clone() };
            let told: Vec<String> =
                entry.details.iter().map(|(name, value)| format!("{name} {}", said(value))).collect();
            vec![
                entry.at.format("%F %TZ").to_string(),
                entry.actor.clone(),
                entry.action.to_string(),
                about.unwrap_or(of),
                told.join(", "),
            ]
        })
        .collect();
    output::table(&["TIME", "ACTOR", "ACTION", "ABOUT", "DETAILS"], &rows)
}

fn said(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A moment, or a span before `now`.
fn moment(text: &str, now: DateTime<Utc>) -> anyhow::Result<DateTime<Utc>> {
    if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        return Ok(at.with_timezone(&Utc));
    }
    let ago = text.parse::<Span>().ok().and_then(|span| chrono::Duration::from_std(span.0).ok());
    match ago.and_then(|ago| now.checked_sub_signed(ago)) {
        Some(at) => Ok(at),
        None => bail!("--since {text:?} is neither a time such as 2026-11-01T00:00:00Z nor a span such as 7d"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::audit::{AuditDetails, NewAudit, ORIGIN};
    use serde_json::json;

    fn head(tenant: &str, cut: i64) -> AuditHead {
        let (first_previous, last_hash) = (ORIGIN.to_owned(), ORIGIN.to_owned());
        AuditHead { tenant: tenant.to_owned(), first_id: cut + 1, first_previous, last_id: 100, last_hash }
    }

    /// A row that tells of so many rows that were cut off, and of how many had been in all by then.
    fn told(id: i64, rows: i64, all: Option<i64>) -> AuditEntry {
        let mut details =
            AuditDetails::from([("what".to_owned(), json!("audit log")), ("rows".to_owned(), json!(rows))]);
        details.extend(all.map(|all| (ALL_CUT.to_owned(), json!(all))));
        let (actor, action) = ("plumb".to_owned(), AuditAction::Pruned);
        let new = NewAudit { at: DateTime::UNIX_EPOCH, actor, action, key: None, details };
        AuditEntry::after(PLATFORM_CHAIN, id, ORIGIN, &new)
    }

    /// The chain and row that do not fit where chains lack so many rows, of the platform and of a tenant.
    fn broken(platform: i64, tenant: i64, rows: &[AuditEntry]) -> Option<(String, i64)> {
        let mut cuts = Cuts::of(&[head(PLATFORM_CHAIN, platform), head("checkout", tenant)]);
        rows.iter().for_each(|row| cuts.step(row));
        cuts.end().map(|broken| (broken.tenant, broken.id))
    }

    #[test]
    fn what_was_cut_off_beside_retention_shows_for_good() {
        let at = |tenant: &str, id| Some((tenant.to_owned(), id));
        let retention = [told(7, 3, Some(3)), told(9, 2, Some(5))];
        assert_eq!(broken(0, 5, &retention), None);
        assert_eq!(broken(0, 6, &retention), at("", 9), "one more is missing");
        assert_eq!(
            broken(0, 55, &[retention[0].clone(), told(9, 2, Some(55))]),
            at("", 9),
            "and was before the last cut"
        );
        assert_eq!(broken(0, 50, &[]), at("checkout", 50), "nothing was ever forgotten");
        assert_eq!(broken(4, 1, &retention), None, "of the platform too, with what told of earlier cuts");
        // A version that did not say how many had been in all.
        assert_eq!(broken(0, 9, &[told(7, 3, None), told(9, 6, Some(9))]), None);
        assert_eq!(broken(0, 9, &[told(7, 3, None), told(9, 5, Some(9))]), at("", 9));
        assert_eq!(broken(2, 9, &[told(7, 3, None)]), None, "what it cannot say is not held against it");
    }

    /// The chains that do not fit where these tenants have one.
    fn missing(there: &[&str], rows: &[AuditEntry]) -> Vec<String> {
        let heads: Vec<AuditHead> = there.iter().map(|tenant| head(tenant, 0)).collect();
        let mut chains = Chains::of(&heads);
        rows.iter().for_each(|row| chains.step(row));
        chains.end(&[]).into_iter().map(|broken| chain_name(&broken.tenant)).collect()
    }

    #[test]
    fn a_chain_that_is_missing_whole_shows_as_long_as_anything_tells_of_it() {
        let begun = |id, tenant: &str| {
            AuditEntry::after(PLATFORM_CHAIN, id, ORIGIN, &NewAudit::begun(tenant, DateTime::UNIX_EPOCH))
        };
        let counted = |id, chains: usize| {
            let mut row = told(id, 1, None);
            row.details.insert(ALL_CHAINS.to_owned(), json!(chains));
            row
        };
        let both = ["", "billing", "checkout"];
        assert_eq!(missing(&both, &[begun(1, "billing"), begun(2, "checkout")]), [""; 0]);
        assert_eq!(missing(&["", "billing"], &[begun(1, "billing"), begun(2, "checkout")]), ["tenant checkout"]);
        // It began anew after it was removed.
        let again = [begun(1, "billing"), begun(2, "checkout"), begun(3, "checkout")];
        assert_eq!(missing(&both, &again), ["tenant checkout"]);
        // What told of the beginnings was forgotten.
        assert_eq!(missing(&both, &[counted(7, 2)]), [""; 0]);
        assert_eq!(missing(&["", "billing"], &[counted(7, 2)]), ["the platform"]);
        assert_eq!(missing(&both, &[counted(7, 2), begun(8, "checkout")]), ["the platform"], "one of them is another");
        assert_eq!(missing(&["", "billing"], &[counted(7, 1), begun(8, "checkout")]), ["tenant checkout"]);
        // A state of an earlier version tells of none, and one that was upgraded of the new ones.
        assert_eq!(missing(&both, &[told(7, 3, Some(3))]), [""; 0]);
        assert_eq!(missing(&both, &[begun(1, "checkout")]), [""; 0]);
    }
}

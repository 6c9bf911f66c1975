//! The queue's statements, compiled once for each database. The module that takes this file in says which database it is
//! (`Db`), how a row is locked so that others pass it by (`SKIP_LOCKED`), and how so that nobody claims it (`KEY_SHARE`).
//!
//! All times are the store's own: what replicas take for the time may differ.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sha2::{Digest, Sha256};
use sqlx::{Database, QueryBuilder, query};

use super::rows::column;
use super::{Db, KEY_SHARE, SKIP_LOCKED};
use crate::model::{Ask, Claim, Lease, Place, Release, Replica, Request, Trigger, Width};
use crate::store::StoreError;
use crate::store::columns::{read_time, read_trigger, time, word};

type Connection = <Db as Database>::Connection;
type Row = <Db as Database>::Row;

const WHAT: &str = "the queue";

/// How many requests one statement writes.
const REQUESTS_AT_ONCE: usize = 500;

/// A time further ahead than this is none that was set here, but one of a clock that has been set back since: it counts
/// as reached. Longer than any wait or lease.
const HORIZON: TimeDelta = TimeDelta::hours(1);

/// By how much a clock goes back that was set, and is not just kept right. What lies further ahead, and was no plan but was
/// written down when it was, tells that: the waits that began then count as over, and leases end one lease from now, since
/// whoever lives has no other way to say so.
pub(super) const SET_BACK: TimeDelta = TimeDelta::minutes(1);

/// How long a tenant waits, give or take a half, whose look was abandoned twice in a row, doubling with each more; and the
/// longest. A look that ends its process ends all others there, and the next process with it.
const AFTER_DEATHS: TimeDelta = TimeDelta::seconds(10);
pub(super) const AFTER_MANY_DEATHS: TimeDelta = TimeDelta::minutes(5);

/// How many looks at a tenant were abandoned in a row.
const ABANDONED: &str = "COALESCE((SELECT looks FROM abandoned WHERE abandoned.tenant = queue.tenant), 0) AS abandoned";

/// What may be claimed: due and nobody's, or somebody's who gave no sign of life for as long as the lease; and what has to be
/// dated anew first ([`Free::is_ahead`]). `$1` is now, `$2` the horizon, and `$3` what tells that the clock was set back.
const CLAIMABLE: &str = "((holder IS NULL AND due_at IS NOT NULL AND (due_at <= $1 OR due_at > $2 OR asked_at > $3)) \
                         OR (holder IS NOT NULL AND (lease_until <= $1 OR lease_until > $2 OR alive_at > $3)))";

/// Whether what is asked for now is to be due before what was. Where looks were abandoned in a row, only somebody who wants one
/// ends the wait: whoever leads after a death asks for all.
const IS_EARLIER: &str = "queue.due_at IS NULL OR (excluded.due_at < queue.due_at \
                          AND (excluded.trigger_kind IN ('commit', 'request', 'commandline') OR NOT EXISTS \
                              (SELECT 1 FROM abandoned WHERE abandoned.tenant = queue.tenant AND looks > 1)))";

/// Asks for looks that are `due` after their delays.
pub(super) async fn request(
    connection: &mut Connection,
    requests: &[Request],
    now: DateTime<Utc>,
    due: impl Fn(Duration) -> DateTime<Utc>,
) -> Result<(), StoreError> {
    for some in requests.chunks(REQUESTS_AT_ONCE) {
        let mut rows = Vec::with_capacity(some.len());
        for Request { tenant, ask, delay, news } in some {
            rows.push((tenant, word(WHAT, ask.trigger)?, number(ask.width), time(due(*delay)), news));
        }
        let mut sql = QueryBuilder::<Db>::new(
            "INSERT INTO queue (tenant, generation, trigger_kind, width, due_at, asked_at, news) ",
        );
        sql.push_values(rows, |mut row, (tenant, trigger, width, due, news)| {
            row.push_bind(tenant).push_bind(first_generation(now)).push_bind(trigger).push_bind(width);
            row.push_bind(due).push_bind(time(now)).push_bind(news);
        });
        // As `Ask::or`, and the earlier time; a commit ends the patience with what was before it.
        sql.push(format!(
            " ON CONFLICT (tenant) DO UPDATE SET \
             trigger_kind = CASE WHEN queue.width IS NULL OR excluded.width > queue.width \
                 OR (excluded.width = queue.width AND queue.trigger_kind = 'retry') \
                 THEN excluded.trigger_kind ELSE queue.trigger_kind END, \
             width = CASE WHEN queue.width IS NULL OR excluded.width > queue.width \
                 THEN excluded.width ELSE queue.width END, \
             due_at = CASE WHEN {IS_EARLIER} THEN excluded.due_at ELSE queue.due_at END, \
             asked_at = CASE WHEN {IS_EARLIER} THEN excluded.asked_at ELSE queue.asked_at END, \
             failures = CASE WHEN excluded.trigger_kind = 'commit' THEN 0 ELSE queue.failures END, \
             news = COALESCE(excluded.news, queue.news)",
        ));
        sql.build().execute(&mut *connection).await.map_err(failed)?;
        let news = some.iter().filter(|request| request.ask.trigger == Trigger::Commit);
        let news: Vec<&str> = news.map(|request| request.tenant.as_str()).collect();
        if !news.is_empty() {
            let mut sql = QueryBuilder::<Db>::new("DELETE FROM abandoned WHERE tenant IN (");
            let mut list = sql.separated(", ");
            for tenant in news {
                list.push_bind(tenant);
            }
            sql.push(")");
            sql.build().execute(&mut *connection).await.map_err(failed)?;
        }
    }
    Ok(())
}

/// Refuses a lease that is not held any more; while the transaction lasts nobody claims the tenant.
pub(super) async fn expect_held(connection: &mut Connection, lease: &Lease) -> Result<(), StoreError> {
    let sql = format!("SELECT 1 FROM queue WHERE tenant = $1 AND generation = $2 AND holder = $3{KEY_SHARE}");
    let row = query(sqlx::AssertSqlSafe(sql))
        .bind(&lease.tenant)
        .bind(lease.generation)
        .bind(&lease.holder.0)
        .fetch_optional(&mut *connection)
        .await
        .map_err(failed)?;
    row.map(drop).ok_or_else(|| lost(lease))
}

/// Claims the tenant that has been due longest, or `wanted` whether it is due or not. One whose holder gave no sign of life
/// is claimed at once, since a process may end for any reason; one whose holders did so in a row waits.
pub(super) async fn claim(
    connection: &mut Connection,
    holder: &Replica,
    wanted: Option<(&str, Ask)>,
    now: DateTime<Utc>,
    lease: Duration,
) -> Result<Option<Claim>, StoreError> {
    loop {
        match find(connection, wanted, now).await? {
            None => return Ok(None),
            Some(found) if found.is_ahead => date_anew(connection, &found.tenant, now, lease).await?,
            Some(found) if wanted.is_none() && found.is_abandoned && found.abandoned > 1 => {
                put_off(connection, &found, now).await?;
            }
            Some(found) => return take(connection, found, holder, now, lease).await.map(Some),
        }
    }
}

/// A tenant that may be claimed.
struct Free {
    tenant: String,
    ask: Ask,
    due: DateTime<Utc>,
    /// Whether somebody has it, by a clock that was set back since: it is not known yet whether that one lives.
    is_ahead: bool,
    /// Whether its last holder did not end the look, and how many in a row did not.
    is_abandoned: bool,
    abandoned: i64,
    failures: i64,
    generation: i64,
    news: Option<String>,
    seen: Option<String>,
}

async fn find(
    connection: &mut Connection,
    wanted: Option<(&str, Ask)>,
    now: DateTime<Utc>,
) -> Result<Option<Free>, StoreError> {
    let (at, horizon, set_back) = (time(now), time(now + HORIZON), time(now + SET_BACK));
    const COLUMNS: &str = "tenant, trigger_kind, width, due_at, lease_until, claimed_trigger, claimed_width, failures, \
                           generation, holder, news, seen";
    let found = match wanted {
        None => {
            let sql = format!(
                "SELECT {COLUMNS}, {ABANDONED} FROM queue WHERE {CLAIMABLE} \
                 ORDER BY COALESCE(lease_until, due_at), tenant LIMIT 1{SKIP_LOCKED}"
            );
            let free = query(sqlx::AssertSqlSafe(sql)).bind(&at).bind(&horizon).bind(&set_back);
            free.fetch_optional(&mut *connection).await
        }
        Some((tenant, _)) => {
            let sql = "INSERT INTO queue (tenant, generation) VALUES ($1, $2) ON CONFLICT (tenant) DO NOTHING";
            query(sql).bind(tenant).bind(first_generation(now)).execute(&mut *connection).await.map_err(failed)?;
            let free = "(holder IS NULL OR lease_until <= $1 OR lease_until > $2 OR alive_at > $3)";
            let sql = format!("SELECT {COLUMNS}, {ABANDONED} FROM queue WHERE {free} AND tenant = $4{SKIP_LOCKED}");
            let free = query(sqlx::AssertSqlSafe(sql)).bind(&at).bind(&horizon).bind(&set_back).bind(tenant);
            free.fetch_optional(&mut *connection).await
        }
    };
    let Some(row) = found.map_err(failed)? else { return Ok(None) };
    let tenant: String = column(WHAT, &row, "tenant")?;
    let pending = read_ask(&row, "trigger_kind", "width")?;
    // What somebody had claimed and did not end is asked for still.
    let abandoned = read_ask(&row, "claimed_trigger", "claimed_width")?;
    let asks = [wanted.map(|(_, ask)| ask), abandoned, pending];
    let Some(ask) = asks.into_iter().flatten().reduce(Ask::or) else { return Ok(None) };
    let lease_until = read_optional_time(&row, "lease_until")?;
    let is_ahead = lease_until.is_some_and(|until| until > now);
    let due = match lease_until {
        Some(until) => until,
        None => read_optional_time(&row, "due_at")?.unwrap_or(now),
    };
    let is_abandoned = abandoned.is_some();
    let abandoned = column::<i64, _>(WHAT, &row, "abandoned")?.saturating_add(i64::from(is_abandoned));
    let failures = column(WHAT, &row, "failures")?;
    let generation = column(WHAT, &row, "generation")?;
    let (news, seen) = (column(WHAT, &row, "news")?, column(WHAT, &row, "seen")?);
    Ok(Some(Free { tenant, ask, due, is_ahead, is_abandoned, abandoned, failures, generation, news, seen }))
}

/// Gives whoever holds a tenant by a clock that was set back one lease more, by the clock as it is: time to be heard of.
async fn date_anew(
    connection: &mut Connection,
    tenant: &str,
    now: DateTime<Utc>,
    lease: Duration,
) -> Result<(), StoreError> {
    let dated = query("UPDATE queue SET lease_until = $1, alive_at = $2 WHERE tenant = $3")
        .bind(time(after(now, lease)))
        .bind(time(now))
        .bind(tenant)
        .execute(&mut *connection)
        .await;
    dated.map(drop).map_err(failed)
}

/// Has a tenant wait whose look was abandoned more than once. What is new of it ends that as it ends any wait.
async fn put_off(connection: &mut Connection, found: &Free, now: DateTime<Utc>) -> Result<(), StoreError> {
    let wait = wait_after_deaths(&found.tenant, found.abandoned);
    query(
        "UPDATE queue SET holder = NULL, lease_until = NULL, claimed_at = NULL, claimed_trigger = NULL, \
         claimed_width = NULL, trigger_kind = $1, width = $2, due_at = $3, asked_at = $4 WHERE tenant = $5",
    )
    .bind(word(WHAT, found.ask.trigger)?)
    .bind(number(found.ask.width))
    .bind(time(now + wait))
    .bind(time(now))
    .bind(&found.tenant)
    .execute(&mut *connection)
    .await
    .map_err(failed)?;
    count_abandoned(connection, found).await
}

/// How long a tenant waits after so many deaths. Each waits differently long each time: those whose looks ended with the
/// process that another one's had ended come apart from that one.
fn wait_after_deaths(tenant: &str, deaths: i64) -> TimeDelta {
    let doublings = u32::try_from(deaths - 2).unwrap_or(0).min(16);
    let whole = (AFTER_DEATHS * (1 << doublings)).min(AFTER_MANY_DEATHS);
    let digest = Sha256::digest(format!("{tenant} {deaths}"));
    whole / 2 + whole * i32::from(digest[0]) / i32::from(u8::MAX)
}

/// Remembers how many looks in a row were abandoned.
async fn count_abandoned(connection: &mut Connection, found: &Free) -> Result<(), StoreError> {
    let sql = "INSERT INTO abandoned (tenant, looks) VALUES ($1, $2) \
               ON CONFLICT (tenant) DO UPDATE SET looks = excluded.looks";
    let counted = query(sql).bind(&found.tenant).bind(found.abandoned).execute(&mut *connection).await;
    counted.map(drop).map_err(failed)
}

async fn take(
    connection: &mut Connection,
    found: Free,
    holder: &Replica,
    now: DateTime<Utc>,
    lease: Duration,
) -> Result<Claim, StoreError> {
    if found.is_abandoned {
        count_abandoned(connection, &found).await?;
    }
    let Free { tenant, ask, due, is_ahead: _, is_abandoned: _, abandoned: _, failures, generation, news, seen } = found;
    let generation = generation + 1;
    query(
        "UPDATE queue SET generation = $1, holder = $2, lease_until = $3, claimed_at = $4, alive_at = $4, \
         claimed_trigger = $5, claimed_width = $6, trigger_kind = NULL, width = NULL, due_at = NULL WHERE tenant = $7",
    )
    .bind(generation)
    .bind(&holder.0)
    .bind(time(after(now, lease)))
    .bind(time(now))
    .bind(word(WHAT, ask.trigger)?)
    .bind(number(ask.width))
    .bind(&tenant)
    .execute(&mut *connection)
    .await
    .map_err(failed)?;
    let lease = Lease { tenant, holder: holder.clone(), generation };
    Ok(Claim { lease, ask, failures: u32::try_from(failures).unwrap_or(0), due: due.min(now), news, seen })
}

/// Prolongs a lease; gives the newest news.
pub(super) async fn renew(
    connection: &mut Connection,
    lease: &Lease,
    now: DateTime<Utc>,
    length: Duration,
) -> Result<Option<String>, StoreError> {
    let sql = "UPDATE queue SET lease_until = $1, alive_at = $2 WHERE tenant = $3 AND generation = $4 AND holder = $5 \
               RETURNING news";
    let row = query(sql)
        .bind(time(after(now, length)))
        .bind(time(now))
        .bind(&lease.tenant)
        .bind(lease.generation)
        .bind(&lease.holder.0)
        .fetch_optional(&mut *connection)
        .await
        .map_err(failed)?;
    column(WHAT, &row.ok_or_else(|| lost(lease))?, "news")
}

/// Ends a lease.
pub(super) async fn release(
    connection: &mut Connection,
    lease: &Lease,
    release: &Release,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    let Release { seen, retry, news } = release;
    let (due, width, failures) = match retry {
        None => (None, None, 0),
        Some((delay, failures)) => (Some(time(after(now, *delay))), Some(number(Width::Changed)), i64::from(*failures)),
    };
    // A retry joins what was asked for meanwhile, which is due now.
    let sql = "UPDATE queue SET holder = NULL, lease_until = NULL, claimed_at = NULL, claimed_trigger = NULL, \
               deep_at = CASE WHEN claimed_width = $10 AND $1 IS NOT NULL THEN $2 ELSE deep_at END, claimed_width = NULL, \
               seen = COALESCE($1, seen), looked_at = $2, \
               failures = CASE WHEN COALESCE(news, '') = COALESCE($9, '') THEN $3 ELSE 0 END, \
               news = CASE WHEN COALESCE(news, '') = COALESCE($9, '') THEN COALESCE($1, news) ELSE news END, \
               due_at = COALESCE(due_at, $4), asked_at = CASE WHEN due_at IS NULL THEN $2 ELSE asked_at END, \
               trigger_kind = CASE WHEN width IS NULL AND $4 IS NOT NULL THEN 'retry' ELSE trigger_kind END, \
               width = COALESCE(width, $5) \
               WHERE tenant = $6 AND generation = $7 AND holder = $8";
    let done = query(sql)
        .bind(seen)
        .bind(time(now))
        .bind(failures)
        .bind(due)
        .bind(width)
        .bind(&lease.tenant)
        .bind(lease.generation)
        .bind(&lease.holder.0)
        .bind(news)
        .bind(number(Width::Deep))
        .execute(&mut *connection)
        .await
        .map_err(failed)?;
    if done.rows_affected() == 0 {
        return Err(lost(lease));
    }
    let ended = query("DELETE FROM abandoned WHERE tenant = $1").bind(&lease.tenant).execute(&mut *connection).await;
    ended.map(drop).map_err(failed)
}

/// Forgets the tenants that are not among `kept` and that nobody looks at.
pub(super) async fn keep_only(connection: &mut Connection, kept: &[&str]) -> Result<(), StoreError> {
    let known =
        query("SELECT tenant FROM queue WHERE holder IS NULL").fetch_all(&mut *connection).await.map_err(failed)?;
    for row in &known {
        let tenant: &str = column(WHAT, row, 0)?;
        if !kept.contains(&tenant) {
            for sql in [
                "DELETE FROM queue WHERE tenant = $1 AND holder IS NULL",
                "DELETE FROM abandoned WHERE tenant = $1 AND NOT EXISTS (SELECT 1 FROM queue WHERE tenant = $1)",
            ] {
                query(sql).bind(tenant).execute(&mut *connection).await.map_err(failed)?;
            }
        }
    }
    Ok(())
}

/// What is read of a place. By name: a statement that is prepared outlives columns that a newer version adds.
const PLACE: &str = "tenant, trigger_kind, width, due_at, holder, lease_until, claimed_at, generation, failures, seen, \
                     news, looked_at, deep_at";

/// Every tenant's place, by name.
pub(super) async fn all(connection: &mut Connection) -> Result<Vec<Place>, StoreError> {
    let sql = format!("SELECT {PLACE}, {ABANDONED} FROM queue ORDER BY tenant");
    let rows = query(sqlx::AssertSqlSafe(sql)).fetch_all(&mut *connection).await.map_err(failed)?;
    rows.iter().map(read_place).collect()
}

/// One tenant's place.
pub(super) async fn of(connection: &mut Connection, tenant: &str) -> Result<Option<Place>, StoreError> {
    let sql = format!("SELECT {PLACE}, {ABANDONED} FROM queue WHERE tenant = $1");
    let row = query(sqlx::AssertSqlSafe(sql)).bind(tenant).fetch_optional(&mut *connection).await;
    row.map_err(failed)?.as_ref().map(read_place).transpose()
}

/// How long until the next tenant may be claimed, if nothing else happens.
pub(super) async fn until_due(connection: &mut Connection, now: DateTime<Utc>) -> Result<Option<Duration>, StoreError> {
    let sql = "SELECT MIN(CASE WHEN (holder IS NULL AND (asked_at > $3 OR due_at > $2)) \
                                 OR (holder IS NOT NULL AND (alive_at > $3 OR lease_until > $2)) THEN $1 \
               ELSE COALESCE(lease_until, due_at) END) FROM queue WHERE holder IS NOT NULL OR due_at IS NOT NULL";
    let next = query(sql).bind(time(now)).bind(time(now + HORIZON)).bind(time(now + SET_BACK));
    let row = next.fetch_one(&mut *connection).await.map_err(failed)?;
    let next = read_optional_time(&row, 0)?;
    Ok(next.map(|next| (next - now).to_std().unwrap_or_default()))
}

fn read_place(row: &Row) -> Result<Place, StoreError> {
    Ok(Place {
        tenant: column(WHAT, row, "tenant")?,
        asked: read_ask(row, "trigger_kind", "width")?,
        due: read_optional_time(row, "due_at")?,
        holder: column::<Option<String>, _>(WHAT, row, "holder")?.map(Replica),
        lease_until: read_optional_time(row, "lease_until")?,
        claimed_at: read_optional_time(row, "claimed_at")?,
        generation: column(WHAT, row, "generation")?,
        failures: u32::try_from(column::<i64, _>(WHAT, row, "failures")?).unwrap_or(0),
        seen: column(WHAT, row, "seen")?,
        news: column(WHAT, row, "news")?,
        looked_at: read_optional_time(row, "looked_at")?,
        deep_at: read_optional_time(row, "deep_at")?,
        abandoned: u32::try_from(column::<i64, _>(WHAT, row, "abandoned")?).unwrap_or(0),
    })
}

fn read_ask(row: &Row, trigger: &str, width: &str) -> Result<Option<Ask>, StoreError> {
    let trigger: Option<&str> = column(WHAT, row, trigger)?;
    let width: Option<i64> = column(WHAT, row, width)?;
    let (Some(trigger), Some(width)) = (trigger, width) else { return Ok(None) };
    let width = Width::ALL.into_iter().find(|known| number(*known) == width).unwrap_or(Width::Deep);
    Ok(Some(Ask { trigger: read_trigger(trigger), width }))
}

fn read_optional_time<I: sqlx::ColumnIndex<Row>>(row: &Row, index: I) -> Result<Option<DateTime<Utc>>, StoreError> {
    column::<Option<&str>, _>(WHAT, row, index)?.map(|text| read_time(WHAT, text)).transpose()
}

/// The column `width`.
fn number(width: Width) -> i64 {
    match width {
        Width::Changed => 0,
        Width::Shallow => 1,
        Width::Deep => 2,
    }
}

/// What the generations of a tenant's place begin behind: the time, so that a place that was forgotten and is made again
/// does not give out numbers a second time.
fn first_generation(now: DateTime<Utc>) -> i64 {
    now.timestamp_micros()
}

pub(super) fn after(now: DateTime<Utc>, delay: Duration) -> DateTime<Utc> {
    now + TimeDelta::from_std(delay).unwrap_or(HORIZON).min(HORIZON)
}

fn lost(lease: &Lease) -> StoreError {
    StoreError::LostLease { tenant: lease.tenant.clone() }
}

fn failed(source: sqlx::Error) -> StoreError {
    StoreError::Query { what: WHAT, source }
}

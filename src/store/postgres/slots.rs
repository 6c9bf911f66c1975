//! How many steps run on a provider, over all replicas.
//!
//! A slot is a row that names the lease it was taken under. It is taken for as long as that lease is held: what a replica
//! that died or hangs had taken is free once its lease has run out, without anybody cleaning up.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::places::SET_BACK;
use crate::model::{Lease, Slot};
use crate::store::StoreError;
use crate::store::columns::time;

const WHAT: &str = "the slots of a provider";

/// Whether the lease of a slot `taken` is held. `$5` is now, and `$6` what tells that the clock was set back.
macro_rules! held {
    ($taken:literal) => {
        concat!(
            "EXISTS (SELECT 1 FROM queue WHERE queue.tenant = ",
            $taken,
            ".tenant AND queue.generation = ",
            $taken,
            ".generation AND queue.holder IS NOT NULL AND queue.lease_until > $5 \
             AND (queue.alive_at IS NULL OR queue.alive_at <= $6))"
        )
    };
}

/// Takes one of `limit` slots; `None` while all are taken, or where two took the same at once: ask again.
pub(super) async fn take(
    connection: &mut PgConnection,
    provider: &str,
    limit: usize,
    lease: &Lease,
    now: DateTime<Utc>,
) -> Result<Option<Slot>, StoreError> {
    // The conflict is with a row that nobody held as the statement began, or that another took since. Of that one's claim the
    // statement may know nothing: only a row that is as it was seen is taken over.
    const TAKE: &str = concat!(
        "INSERT INTO slots (provider, number, tenant, generation) \
         SELECT $1, free.number, $3, $4 FROM generate_series(0, $2 - 1) AS free (number) \
         WHERE NOT EXISTS (SELECT 1 FROM slots AS taken WHERE taken.provider = $1 AND taken.number = free.number AND ",
        held!("taken"),
        ") ORDER BY random() LIMIT 1 \
         ON CONFLICT (provider, number) DO UPDATE SET tenant = excluded.tenant, generation = excluded.generation \
         WHERE EXISTS (SELECT 1 FROM slots AS seen WHERE seen.provider = slots.provider AND seen.number = slots.number \
             AND seen.tenant = slots.tenant AND seen.generation = slots.generation) \
         RETURNING number"
    );
    // A slot that is forgotten in a crash of the server is free, which it is then.
    sqlx::query("SET LOCAL synchronous_commit = off").execute(&mut *connection).await.map_err(failed)?;
    let number: Option<i64> = sqlx::query_scalar(TAKE)
        .bind(provider)
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .bind(&lease.tenant)
        .bind(lease.generation)
        .bind(time(now))
        .bind(time(now + SET_BACK))
        .fetch_optional(&mut *connection)
        .await
        .map_err(failed)?;
    Ok(number.map(|number| Slot { provider: provider.to_owned(), number, lease: lease.clone() }))
}

/// Gives a slot back; one that another has by now is left to it.
pub(super) async fn give(connection: &mut PgConnection, slot: &Slot) -> Result<(), StoreError> {
    sqlx::query("SET LOCAL synchronous_commit = off").execute(&mut *connection).await.map_err(failed)?;
    sqlx::query("DELETE FROM slots WHERE provider = $1 AND number = $2 AND tenant = $3 AND generation = $4")
        .bind(&slot.provider)
        .bind(slot.number)
        .bind(&slot.lease.tenant)
        .bind(slot.lease.generation)
        .execute(&mut *connection)
        .await
        .map_err(failed)?;
    Ok(())
}

/// Gives back what a lease has, but these.
pub(super) async fn give_all_but(
    connection: &mut PgConnection,
    provider: &str,
    used: &[i64],
    lease: &Lease,
) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM slots WHERE provider = $1 AND tenant = $2 AND generation = $3 AND number <> ALL ($4)")
        .bind(provider)
        .bind(&lease.tenant)
        .bind(lease.generation)
        .bind(used)
        .execute(&mut *connection)
        .await
        .map_err(failed)?;
    Ok(())
}

fn failed(source: sqlx::Error) -> StoreError {
    StoreError::Query { what: WHAT, source }
}

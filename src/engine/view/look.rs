//! The look at a tenant that is asked for or under way, where a resource waits for it.

use chrono::{DateTime, SecondsFormat, Utc};

use super::explain::{Cause, SubjectKind};
use crate::engine::attempts::times;
use crate::engine::slots;
use crate::model::{Event, EventKind, ExecutionOutcome, Place, Reason, ResourceKey};
use crate::store::{HistoryFilter, Scope, Store, StoreError};

/// How many of the newest events of a look are searched for what keeps its steps waiting: it is told again and again.
const LOOK_EVENTS: u32 = 1000;

/// Where the tenant of a resource stands in the queue, and what the look at it that is under way tells of the resource.
#[derive(Default)]
pub(super) struct Around {
    place: Option<Place>,
    /// How many tenants have been due longer.
    ahead: usize,
    look: Look,
}

/// What a look that is under way tells.
#[derive(Default)]
struct Look {
    /// The newest word on a step of the resource.
    step: Option<Event>,
    /// Limits that keep steps waiting, the newest word on each.
    limits: Vec<Limit>,
}

struct Limit {
    /// The provider; `None` is the tenant's own.
    provider: Option<String>,
    message: String,
    told_at: DateTime<Utc>,
}

impl Around {
    /// Reads it. Other tenants are only counted, where a look is due and nobody has taken it.
    pub async fn of(store: &dyn Store, key: &ResourceKey, now: DateTime<Utc>) -> Result<Self, StoreError> {
        let Some(place) = store.place(&key.tenant).await? else { return Ok(Self::default()) };
        let is_due = place.holder.is_none() && place.due.is_some_and(|due| due <= now);
        let ahead = if is_due { ahead_of(&place, &store.places().await?, now) } else { 0 };
        let look = if place.holder.is_some() { Look::of(store, key).await? } else { Look::default() };
        Ok(Self { place: Some(place), ahead, look })
    }

    /// Whether nobody ever asked for a look.
    pub fn is_nothing(&self) -> bool {
        self.place.is_none()
    }

    /// Whether a look is under way.
    pub fn is_looked_at(&self) -> bool {
        self.place.as_ref().is_some_and(|place| place.holder.is_some())
    }

    /// Whether something is new that no look has read to its end: what is known is of before.
    pub fn has_news(&self) -> bool {
        self.place.as_ref().is_some_and(|place| place.news.is_some() && place.news != place.seen)
    }

    /// The look, and what keeps the resource waiting in it; nothing where none is asked for.
    pub fn links(&self, key: &ResourceKey, provider: Option<&str>, now: DateTime<Utc>) -> Vec<Cause> {
        let Some(look) = self.look(now) else { return Vec::new() };
        let limits = self.look.limits.iter().filter(|_| self.look.step.is_none());
        // A resource of which nothing is known may be on any provider.
        let may_be_on = |limit: &&Limit| match (&limit.provider, provider) {
            (Some(limited), Some(provider)) => limited == provider,
            (Some(_), None) | (None, _) => true,
        };
        let limits = limits.filter(may_be_on).map(|limit| {
            let (kind, subject) = match &limit.provider {
                Some(provider) => (SubjectKind::Provider, provider.as_str()),
                None => (SubjectKind::Tenant, key.tenant.as_str()),
            };
            let since = Some(limit.told_at);
            Cause { since, ..Cause::new(kind, subject, Reason::LimitReached, &limit.message) }
        });
        std::iter::once(look).chain(limits).collect()
    }

    fn look(&self, now: DateTime<Utc>) -> Option<Cause> {
        let place = self.place.as_ref()?;
        let of_tenant = |reason, message: String| Cause::new(SubjectKind::Tenant, &place.tenant, reason, message);
        if let (Some(holder), Some(since)) = (&place.holder, place.claimed_at) {
            let mut message = format!("replica {holder} looks at it since {}", at(since));
            match place.lease_until {
                Some(until) if until <= now => {
                    message.push_str(&format!(
                        ", and its lease ended at {}: a replica that is free takes over",
                        at(until)
                    ));
                }
                Some(until) => message.push_str(&format!(", its lease ends at {} unless it is renewed", at(until))),
                None => {}
            }
            if let Some(Event { kind: EventKind::StepStarted { action, .. }, at: began, .. }) = &self.look.step {
                message.push_str(&format!("; the step ({action}) is under way since {}", at(*began)));
            }
            let link = of_tenant(Reason::LeaseHeld, message);
            return Some(Cause { since: Some(since), next_at: place.lease_until, ..link });
        }
        let (Some(_), Some(due)) = (&place.asked, place.due) else { return None };
        if due > now {
            let mut message = format!("the next look is due at {}", at(due));
            if place.abandoned > 0 {
                let ended = times(place.abandoned);
                message.push_str(&format!(
                    ": a look at it was never heard of again, {ended} in a row: its process ended, or could not reach the \
                     state. Read the log of what ran it; a commit, or plumb reconcile {}, ends the wait",
                    place.tenant
                ));
            }
            let link = of_tenant(Reason::LookDue, message);
            return Some(Cause { next_at: Some(due), ..link });
        }
        let before = match self.ahead {
            0 => "no other tenant has been due longer, and a replica that is free takes it".to_owned(),
            1 => "1 tenant has been due longer".to_owned(),
            more => format!("{more} tenants have been due longer"),
        };
        let since = dated(due);
        let long = since.map(|since| format!(" since {}", at(since))).unwrap_or_default();
        let link = of_tenant(Reason::LookDue, format!("a look is due{long}; {before}"));
        Some(Cause { since, ..link })
    }
}

/// How many tenants are claimed before `place`, which is due: those that are due, or whose lease has ended, for longer.
fn ahead_of(place: &Place, all: &[Place], now: DateTime<Utc>) -> usize {
    let since = |place: &Place| place.lease_until.or(place.due).map(|since| dated(since).unwrap_or(now));
    let own = (since(place), &place.tenant);
    all.iter().filter(|other| since(other).is_some() && (since(other), &other.tenant) < own).count()
}

/// Since when something is due; `None` where it is from when on a replica sees it.
fn dated(due: DateTime<Utc>) -> Option<DateTime<Utc>> {
    Some(due).filter(|due| *due > DateTime::UNIX_EPOCH)
}

impl Look {
    async fn of(store: &dyn Store, key: &ResourceKey) -> Result<Self, StoreError> {
        let mut tx = store.read(Scope::Tenant(key.tenant.clone())).await?;
        let newest = HistoryFilter { looks: true, limit: 1, ..HistoryFilter::default() };
        let running = tx.executions(&newest).await?.into_iter().find(|one| one.outcome == ExecutionOutcome::Running);
        let Some(running) = running else { return Ok(Self::default()) };
        let told = HistoryFilter { execution: Some(running.id), limit: LOOK_EVENTS, ..HistoryFilter::default() };
        let of_it = HistoryFilter { key: Some(key.clone()), ..told.clone() };
        let step = tx.events(&of_it).await?.into_iter().find(|event| is_of_a_step(&event.kind));
        let mut limits: Vec<Limit> = Vec::new();
        for Event { kind, at, .. } in tx.events(&told).await? {
            let EventKind::Warning { reason: Reason::LimitReached, message } = kind else { continue };
            let provider = slots::limited_provider(&message).map(str::to_owned);
            if limits.iter().all(|known| known.provider != provider) {
                limits.push(Limit { provider, message, told_at: at });
            }
        }
        Ok(Self { step, limits })
    }
}

fn is_of_a_step(kind: &EventKind) -> bool {
    matches!(kind, EventKind::StepStarted { .. } | EventKind::StepDone { .. } | EventKind::StepFailed { .. })
}

fn at(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Action, Ask, PlanId, Replica, Trigger, Width};
    use chrono::TimeDelta;

    fn hour(hour: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::hours(hour)
    }

    fn due(tenant: &str, at: i64) -> Place {
        let ask = Ask { trigger: Trigger::Commit, width: Width::Changed };
        Place { asked: Some(ask), due: Some(hour(at)), ..Place::of_tenant(tenant) }
    }

    fn held(tenant: &str, until: i64) -> Place {
        let (holder, claimed_at) = (Some(Replica("host/1/abc".to_owned())), Some(hour(1)));
        Place { holder, claimed_at, lease_until: Some(hour(until)), ..Place::of_tenant(tenant) }
    }

    fn links(around: &Around, provider: Option<&str>) -> Vec<(String, Reason, String)> {
        let key = "checkout/staging/Cache/a".parse().unwrap();
        let links = around.links(&key, provider, hour(5));
        links.into_iter().map(|link| (link.name(), link.reason, link.message)).collect()
    }

    #[test]
    fn a_tenant_that_is_due_says_who_comes_before_it() {
        let own = due("checkout", 4);
        let all = [
            due("billing", 3),
            due("a", 4),
            due("later", 5),
            held("working", 6),
            held("dead", 2),
            Place::of_tenant("idle"),
            own.clone(),
        ];
        assert_eq!(ahead_of(&own, &all, hour(5)), 3, "billing, a and the dead one's");
        let around = Around { place: Some(own), ahead: 3, look: Look::default() };
        let message = "a look is due since 1970-01-01T04:00:00Z; 3 tenants have been due longer".to_owned();
        assert_eq!(links(&around, None), [("tenant checkout".to_owned(), Reason::LookDue, message)]);
        let around = Around { place: Some(due("checkout", 6)), ..Around::default() };
        assert_eq!(links(&around, None)[0].2, "the next look is due at 1970-01-01T06:00:00Z");
        assert!(links(&Around::default(), None).is_empty());
        // One that is due from when on it is seen comes behind what is due by then.
        let unseen = due("unseen", 0);
        assert_eq!(ahead_of(&unseen, &[due("billing", 3), unseen.clone()], hour(5)), 1);
        let around = Around { place: Some(unseen), ahead: 1, look: Look::default() };
        assert_eq!(links(&around, None)[0].2, "a look is due; 1 tenant has been due longer");
    }

    #[test]
    fn a_tenant_that_ends_processes_says_so() {
        let place = Place { abandoned: 3, ..due("checkout", 6) };
        let message = &links(&Around { place: Some(place), ..Around::default() }, None)[0].2;
        assert!(
            message.starts_with("the next look is due at 1970-01-01T06:00:00Z: a look at it was never heard of again"),
            "{message}"
        );
        assert!(message.contains("3 times in a row") && message.contains("plumb reconcile checkout"), "{message}");
    }

    #[test]
    fn a_lease_says_whose_it_is_and_when_it_ends() {
        let around = |until| Around { place: Some(held("checkout", until)), ..Around::default() };
        let (name, reason, message) = links(&around(6), None).remove(0);
        assert_eq!((name.as_str(), reason), ("tenant checkout", Reason::LeaseHeld));
        assert_eq!(
            message,
            "replica host/1/abc looks at it since 1970-01-01T01:00:00Z, its lease ends at 1970-01-01T06:00:00Z unless it \
             is renewed"
        );
        let ended = &links(&around(4), None)[0].2;
        assert!(
            ended.ends_with("its lease ended at 1970-01-01T04:00:00Z: a replica that is free takes over"),
            "{ended}"
        );
    }

    #[test]
    fn a_step_waits_for_room_until_it_has_begun() {
        let limit = |provider: Option<&str>, message: String| Limit {
            provider: provider.map(str::to_owned),
            message,
            told_at: hour(2),
        };
        let limits =
            || vec![limit(Some("pg"), slots::provider_is_full("pg", 8)), limit(None, slots::tenant_is_full(16))];
        let look = |step| Look { step, limits: limits() };
        let around = |step| Around { place: Some(held("checkout", 6)), ahead: 0, look: look(step) };
        let subjects = |step, provider| -> Vec<String> {
            links(&around(step), provider).into_iter().map(|(name, ..)| name).collect()
        };
        assert_eq!(subjects(None, Some("pg")), ["tenant checkout", "provider pg", "tenant checkout"]);
        assert_eq!(subjects(None, Some("redis")), ["tenant checkout", "tenant checkout"]);
        assert_eq!(subjects(None, None).len(), 3);
        let told = |kind| Event { id: 1, execution: 1, tenant: "checkout".to_owned(), at: hour(3), key: None, kind };
        let began = told(EventKind::StepStarted {
            action: Action::Create,
            changes: Vec::new(),
            destructive: Vec::new(),
            new_passwords: Vec::new(),
        });
        let told = links(&around(Some(began)), Some("pg"));
        let message = &told[0].2;
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(message.ends_with("the step (create) is under way since 1970-01-01T03:00:00Z"), "{message}");
        let planned = EventKind::Planned {
            plan: PlanId(String::new()),
            summary: Default::default(),
            blocked: 0,
            drifted: 0,
            unknown: 0,
        };
        assert!(!is_of_a_step(&planned));
    }

    #[test]
    fn news_are_what_no_look_has_read() {
        let name = |name: &str| Some(name.to_owned());
        let around = |seen, news| Around {
            place: Some(Place { seen, news, ..Place::of_tenant("checkout") }),
            ..Around::default()
        };
        assert!(around(name("one"), name("two")).has_news());
        assert!(around(None, name("one")).has_news());
        assert!(!around(name("one"), name("one")).has_news());
        assert!(!around(name("one"), None).has_news());
    }
}

//! The planner: what git wants, what is live and what was applied last become one immutable [`Plan`].
//!
//! Pure, synchronous and deterministic: it reads nothing, asks nobody and knows no time. What always holds:
//! planning twice gives one id; planning after an apply gives an empty plan; what is unknown leads to nothing (R5);
//! only a full plan deletes. The pull request, the command line and the apply all use this function.

mod begun;
mod compare;
mod gate;
mod id;
mod objects;
mod order;
mod prune;
mod record;
mod renames;
#[cfg(test)]
mod tests;
mod waiting;

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{
    Blocked, Decisions, DesiredState, DriftMode, Inventory, Observations, Plan, PlanScope, Platform, Reason,
    ResourceKey, Step, TenantSpec,
};

pub use begun::ended;
pub use id::id_of_step;
pub use objects::object_name;
pub use record::{Place, read_back, record_after};

/// The ground a plan stands on: the platform's rules.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    pub platform: &'a Platform,
    /// The tenant as the platform describes it.
    pub tenant: &'a TenantSpec,
}

/// The plan for one tenant.
///
/// `live` holds an observation for every key that `scope` asks about, seen deep for those whose documents changed.
/// Every rule that protects live data is decided here, or checked again by the manager under its lock.
pub fn plan(
    desired: &DesiredState,
    live: &Observations,
    prior: &Inventory,
    decisions: &Decisions,
    terms: Terms<'_>,
    scope: &PlanScope,
) -> Plan {
    let mut draft = Draft::new(desired, live, prior, decisions, terms, scope);
    draft.consider_resources();
    draft.consider_removals();
    draft.hold_possible_renames();
    draft.finish()
}

/// A plan in the making.
struct Draft<'a> {
    desired: &'a DesiredState,
    live: &'a Observations,
    prior: &'a Inventory,
    decisions: &'a Decisions,
    terms: Terms<'a>,
    scope: &'a PlanScope,
    plan: Plan,
    /// Steps that only an approval lets pass, with why they are held.
    held_steps: BTreeMap<ResourceKey, Held>,
    /// Removed keys that hold data which may still be there, protected or not: what a rename would leave behind
    /// (R10).
    removed: BTreeSet<ResourceKey>,
    /// Orphans that hold data: after a loss of the inventory nothing else tells what was removed.
    orphaned: BTreeSet<ResourceKey>,
    /// Records to let go of once what holds all deletions is approved (R9).
    held_forgets: Vec<(ResourceKey, Reason)>,
}

/// Why a step waits for an approval.
struct Held {
    reason: Reason,
    message: String,
    approval: crate::model::ApprovalKind,
    approved_as: ApprovedAs,
}

/// What an approval has to be of to let a held step pass.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ApprovedAs {
    /// Its key, alone or among others.
    Key,
    /// This very step, by the id of a plan that has no other: an approval of a whole plan may have been meant for the rest
    /// of it, and one of the key for something else.
    Step,
}

impl<'a> Draft<'a> {
    fn new(
        desired: &'a DesiredState,
        live: &'a Observations,
        prior: &'a Inventory,
        decisions: &'a Decisions,
        terms: Terms<'a>,
        scope: &'a PlanScope,
    ) -> Self {
        let plan = Plan {
            id: id::of(&desired.tenant, &[]),
            tenant: desired.tenant.clone(),
            commit: desired.commit.clone(),
            scope: scope.clone(),
            steps: Vec::new(),
            blocked: Vec::new(),
            drift: Vec::new(),
            settles: Vec::new(),
            held: BTreeMap::new(),
            unknown: Vec::new(),
            rolled_back: BTreeSet::new(),
            warnings: Vec::new(),
            unchanged: 0,
        };
        Self {
            desired,
            live,
            prior,
            decisions,
            terms,
            scope,
            plan,
            held_steps: BTreeMap::new(),
            removed: BTreeSet::new(),
            orphaned: BTreeSet::new(),
            held_forgets: Vec::new(),
        }
    }

    fn in_scope(&self, key: &ResourceKey) -> bool {
        self.scope.covers(key)
    }

    /// What is undone is not as git says. Where something keeps it from being undone, that is told before it, and where
    /// nobody can see it, in its place.
    fn tell_what_is_undone(&mut self) {
        let Self { decisions, scope, plan, .. } = self;
        let undone = |key: &ResourceKey| decisions.rolled_back.get(key).filter(|_| scope.covers(key));
        let unseen = plan.unknown.iter().map(|(key, _)| key).filter(|key| undone(key).is_some());
        let mut told: BTreeSet<ResourceKey> = unseen.cloned().collect();
        for hold in &mut plan.blocked {
            if let Some(message) = undone(&hold.key) {
                hold.message = format!("{}. {message}", hold.message.trim_end_matches('.'));
                told.insert(hold.key.clone());
            }
        }
        for (key, message) in decisions.rolled_back.iter().filter(|(key, _)| scope.covers(key)) {
            plan.rolled_back.insert(key.clone());
            if !told.contains(key) {
                let (key, reason, message) = (key.clone(), Reason::RolledBack, message.clone());
                plan.blocked.push(Blocked { key, reason, message, until: None, step: None, alone: None });
            }
        }
    }

    /// Orders the steps, names the plan, and lets the gate decide which of them pass.
    fn finish(mut self) -> Plan {
        self.plan.steps =
            order::ordered(std::mem::take(&mut self.plan.steps), self.desired, self.prior, &self.decisions.rolled_back);
        self.plan.id = id::of(&self.plan.tenant, &self.plan.steps);
        gate::close(&mut self);
        gate::name_what_else_passes(&mut self);
        self.tell_what_is_undone();
        let passed: BTreeSet<ResourceKey> = self.plan.steps.iter().map(|step| step.key.clone()).collect();
        // What is made again with a person's word is not asked about any more.
        self.plan.drift.retain(|drift| {
            let told_at_once = drift.mode == DriftMode::Revert;
            told_at_once || !(drift.missing && passed.contains(&drift.key))
        });
        for Step { depends_on, .. } in &mut self.plan.steps {
            depends_on.retain(|key| passed.contains(key));
        }
        self.plan.blocked.sort_by(|a, b| (&a.key, a.reason).cmp(&(&b.key, b.reason)));
        self.plan
    }
}

//! What holds in every world.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

use super::random::recipe;
use super::world::World;
use crate::model::{
    Action, ApprovalKind, Blocked, Deletion, DriftMode, FieldHash, Live, Mark, Observation, Ownership, Plan, PlanScope,
    Reason, ResourceKey, Settle, Step, Unknown,
};

/// The mark on an object, when it is ours.
fn our_mark<'w>(world: &World, key: &ResourceKey, live: &'w Live) -> Option<&'w Mark> {
    match &live.ownership {
        Ownership::Marked(mark) if mark.platform == world.platform.id && mark.key == *key => Some(mark),
        Ownership::Marked(_) | Ownership::Unmarked => None,
    }
}

fn live<'w>(world: &'w World, key: &ResourceKey) -> Option<&'w Live> {
    world.live.present(key)
}

/// What a step loses, in the sense of R6.
fn losses(step: &Step) -> usize {
    match step.action {
        Action::Delete | Action::Replace => step.destructive.len().max(1),
        Action::Create | Action::Update | Action::Adopt => step.destructive.len(),
    }
}

/// Every step of a plan, whether it passes or not.
fn all_steps(plan: &Plan) -> impl Iterator<Item = &Step> {
    plan.steps.iter().chain(plan.blocked.iter().filter_map(|blocked| blocked.step.as_ref()))
}

fn approve_everything(world: &mut World) {
    let plan = world.plan();
    for kind in [ApprovalKind::Deletes, ApprovalKind::Create] {
        world.commit_approves(kind, &plan);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn planning_twice_gives_one_plan_and_one_id(recipe in recipe()) {
        let world = recipe.world();
        let plan = world.plan();
        prop_assert_eq!(&plan, &world.plan());
        prop_assert_eq!(&plan, &recipe.world().plan());
    }

    #[test]
    fn the_commit_does_not_change_the_id(recipe in recipe()) {
        let mut world = recipe.world();
        let plan = world.plan();
        world.desired.commit = Some("another commit".to_owned());
        prop_assert_eq!(&world.plan().id, &plan.id);
        world.desired.commit = None;
        prop_assert_eq!(&world.plan().id, &plan.id);
    }

    #[test]
    fn the_id_changes_with_the_steps(recipe in recipe()) {
        let world = recipe.world();
        let plan = world.plan();
        let mut other = world.clone();
        let Some(key) = all_steps(&plan).filter(|step| step.desired.0.len() > 1).map(|step| step.key.clone()).next()
        else { return Ok(()) };
        if plan.steps.iter().any(|step| step.key == key) {
            let path = other.desired.resources[&key].fields.0.keys().next().unwrap().clone();
            other.document_mut(&key).fields.0.remove(&path);
            prop_assert_ne!(other.plan().id, plan.id);
        }
    }

    #[test]
    fn after_an_apply_of_everything_nothing_is_left_to_do(recipe in recipe()) {
        let mut world = recipe.world();
        let first = world.reconciles();
        let second = world.plan();
        prop_assert!(second.steps.is_empty(), "{:#?}\nthen\n{:#?}", first, second);
        prop_assert!(second.settles.is_empty(), "{:#?}\nthen\n{:#?}", first, second);
    }

    #[test]
    fn nothing_is_written_where_the_tenant_is_suspended(recipe in recipe()) {
        let world = recipe.world();
        let plan = world.plan();
        let is_suspended = |key: &ResourceKey| world.tenant.suspend.covers(&key.environment);
        prop_assert!(!plan.steps.iter().any(|step| is_suspended(&step.key)), "{:#?}", plan);
        let remarks = plan.settles.iter().any(|settle| {
            matches!(settle, Settle::Record { key, remark: Some(_), .. } if is_suspended(key))
        });
        prop_assert!(!remarks, "{:#?}", plan);
        let asks = plan.drift.iter().any(|drift| !drift.missing && drift.mode != DriftMode::Observe && is_suspended(&drift.key));
        prop_assert!(!asks, "{:#?}", plan);
    }

    #[test]
    fn approvals_lead_to_an_end(recipe in recipe()) {
        let mut world = recipe.world();
        for _ in 0..4 {
            approve_everything(&mut world);
            world.reconciles();
        }
        approve_everything(&mut world);
        let last = world.plan();
        prop_assert!(last.steps.is_empty() && last.settles.is_empty(), "{:#?}", last);
        prop_assert!(last.awaiting(ApprovalKind::Deletes).is_empty(), "{:#?}", last);
    }

    #[test]
    fn no_step_comes_before_what_it_depends_on(recipe in recipe()) {
        let plan = recipe.world().plan();
        let mut done = BTreeSet::new();
        for step in &plan.steps {
            prop_assert!(step.depends_on.iter().all(|needed| done.contains(needed)), "{:#?}", plan.steps);
            prop_assert!(done.insert(step.key.clone()), "one step a key");
        }
    }

    #[test]
    fn nothing_is_made_before_what_it_needs_or_deleted_before_what_needs_it(recipe in recipe()) {
        let world = recipe.world();
        let plan = world.plan();
        let place: BTreeMap<&ResourceKey, usize> = plan.steps.iter().enumerate().map(|(at, s)| (&s.key, at)).collect();
        for step in &plan.steps {
            match step.action {
                Action::Create | Action::Adopt | Action::Replace => {
                    for needed in &world.desired.resources[&step.key].depends_on {
                        let there = live(&world, needed).is_some() || world.prior.get(needed).is_some();
                        prop_assert!(place.get(needed).is_some_and(|at| *at < place[&step.key])
                            || (there && !place.contains_key(needed)));
                    }
                }
                Action::Delete => {
                    for record in world.prior.live().filter(|record| record.depends_on.contains(&step.key)) {
                        // A circle of old dependencies has to be cut somewhere.
                        let circle = world.prior.get(&step.key).is_some_and(|own| !own.depends_on.is_empty());
                        let later = place.get(&record.key).is_some_and(|at| *at > place[&step.key]);
                        prop_assert!(!later || circle);
                    }
                }
                Action::Update => {}
            }
        }
    }

    #[test]
    fn what_is_unknown_leads_to_nothing(recipe in recipe()) {
        let world = recipe.world();
        let plan = world.plan();
        for step in &plan.steps {
            if world.live.strays.contains_key(&step.key) {
                continue;
            }
            match world.live.objects.get(&step.key) {
                None | Some(Observation::Unknown(_)) => prop_assert!(false, "{:?}", step),
                Some(Observation::Absent { .. }) => prop_assert_eq!(step.action, Action::Create),
                Some(Observation::Present(live)) => {
                    for change in &step.changes {
                        prop_assert!(live.unknown_at(&change.path).is_none(), "{:?}", step);
                    }
                    if step.action == Action::Replace {
                        // What is made again has git's values throughout, so nothing that mattered may be unknown.
                        let is_about_it = |(key, _): &(ResourceKey, Unknown)| *key == step.key;
                        prop_assert!(!plan.unknown.iter().any(is_about_it), "{:?}", step);
                        let is_blocked = |blocked: &Blocked| blocked.key == step.key && blocked.step.is_none();
                        prop_assert!(!plan.blocked.iter().any(is_blocked), "{:?}", step);
                        continue;
                    }
                    let before = match &live.ownership {
                        Ownership::Marked(mark) => mark.hashes.clone(),
                        Ownership::Unmarked => BTreeMap::new(),
                    };
                    for (path, hash) in step.mark.hashes.iter().filter(|(path, _)| live.unknown_at(path).is_some()) {
                        prop_assert_eq!(Some(hash), before.get(path), "the mark claims nothing new of it");
                    }
                }
            }
        }
        for (key, observation) in &world.live.objects {
            if matches!(observation, Observation::Unknown(_)) {
                prop_assert!(plan.drift.iter().all(|drift| drift.key != *key));
                prop_assert!(plan.settles.iter().all(|settle| settle.key() != key));
            }
        }
    }

    #[test]
    fn what_is_not_ours_is_never_touched_unless_it_is_adopted(recipe in recipe()) {
        let world = recipe.world();
        let plan = world.plan();
        for step in all_steps(&plan) {
            let Some(live) = live(&world, &step.key) else { continue };
            match (&live.ownership, step.action) {
                (Ownership::Unmarked, Action::Adopt) => {
                    prop_assert!(world.desired.resources[&step.key].annotations.adopt);
                }
                (Ownership::Unmarked, _) => prop_assert!(false, "{:?}", step),
                (Ownership::Marked(_), action) => {
                    prop_assert!(our_mark(&world, &step.key, live).is_some(), "{:?}", step);
                    prop_assert_ne!(action, Action::Adopt);
                }
            }
        }
        for settle in &plan.settles {
            if let Settle::Record { key, .. } = settle {
                let live = live(&world, key).expect("only what is there is recorded");
                prop_assert!(our_mark(&world, key, live).is_some());
            }
        }
    }

    #[test]
    fn a_held_field_is_never_changed_and_keeps_its_hash(recipe in recipe()) {
        let world = recipe.world();
        let plan = world.plan();
        for step in all_steps(&plan) {
            let Some(held) = plan.held.get(&step.key) else { continue };
            prop_assert!(step.changes.iter().all(|change| !held.contains(&change.path)), "{:?}", step);
        }
        for drift in plan.drift.iter().filter(|drift| drift.mode != crate::model::DriftMode::Revert) {
            for field in &drift.fields {
                prop_assert!(plan.held[&drift.key].contains(&field.path));
            }
        }
    }

    #[test]
    fn without_approval_no_more_goes_than_the_guard_lets_pass(recipe in recipe()) {
        let world = recipe.world();
        let plan = world.plan();
        let guard = world.platform.spec.deletion_guard;
        let recovered = |key: &&ResourceKey| {
            world.prior.get(key).is_none() && live(&world, key).is_some_and(|live| our_mark(&world, key, live).is_some())
        };
        let is_over = |key: &ResourceKey| {
            !world.desired.resources.contains_key(key)
                && matches!(world.live.objects.get(key), Some(Observation::Absent { .. }))
        };
        let all = world.prior.live().filter(|record| !is_over(&record.key)).count() + world.desired.resources.keys().filter(recovered).count();
        let steps = || plan.steps.iter().filter(|step| !matches!(world.live.objects.get(&step.key), Some(Observation::Absent { .. })));
        let lost: usize = steps().map(losses).sum();
        let whole = steps().filter(|s| matches!(s.action, Action::Delete | Action::Replace)).count();
        prop_assert!(lost <= guard.count || lost * 100 <= all * guard.percent, "{} of {}", lost, all);
        prop_assert!(whole == 0 || whole < all, "all {}", all);
        if !world.decisions.prune_holds.is_empty() {
            prop_assert_eq!(plan.steps.iter().map(losses).sum::<usize>(), 0);
        }
    }

    #[test]
    fn data_goes_only_where_an_earlier_commit_allowed_it_and_comes_back_only_by_approval(recipe in recipe()) {
        let mut world = recipe.world();
        for approved in [false, true] {
            if approved {
                approve_everything(&mut world);
            }
            let plan = world.plan();
            for step in plan.steps.iter().filter(|step| step.key.kind.info().data_bearing) {
                let record = world.prior.get(&step.key);
                match step.action {
                    Action::Delete if record.is_none() => {
                        prop_assert!(approved && world.live.strays.contains_key(&step.key));
                    }
                    Action::Delete | Action::Replace => {
                        prop_assert_eq!(record.unwrap().annotations.deletion, Some(Deletion::Delete));
                    }
                    Action::Create => match &world.live.objects[&step.key] {
                        Observation::Absent { lost, .. } => prop_assert!(approved || (!lost && record.is_none())),
                        Observation::Present(live) => prop_assert!(our_mark(&world, &step.key, live).unwrap().unfinished),
                        Observation::Unknown(_) => prop_assert!(false),
                    },
                    Action::Update | Action::Adopt => {}
                }
            }
        }
    }

    #[test]
    fn a_tree_that_was_not_read_whole_loses_no_object_whatever_is_approved(recipe in recipe()) {
        let mut world = recipe.world();
        world.desired.unreadable.push("b.yaml is not YAML".to_owned());
        approve_everything(&mut world);
        let plan = world.plan();
        prop_assert!(plan.steps.iter().all(|step| step.action != Action::Delete));
        let forgotten = plan.settles.iter().filter(|settle| matches!(settle, Settle::Forget { .. })).count();
        prop_assert_eq!(forgotten, 0);
    }

    #[test]
    fn a_narrowed_plan_loses_nothing_and_touches_nothing_else(recipe in recipe(), bits in any::<u8>()) {
        let mut world = recipe.world();
        let keys: BTreeSet<ResourceKey> = world.desired.resources.keys().chain(world.prior.records.keys()).cloned()
            .enumerate().filter(|(at, _)| bits >> (at % 8) & 1 == 1).map(|(_, key)| key).collect();
        world.scope = PlanScope::Keys(keys.clone());
        approve_everything(&mut world);
        let plan = world.plan();
        prop_assert!(plan.steps.iter().all(|step| losses(step) == 0));
        prop_assert!(plan.steps.iter().all(|step| keys.contains(&step.key)));
        prop_assert!(plan.settles.iter().all(|settle| keys.contains(settle.key())));
        prop_assert!(plan.awaiting(ApprovalKind::Deletes).is_empty() && plan.awaiting(ApprovalKind::Create).is_empty());
    }

    #[test]
    fn a_lost_inventory_makes_deletes_and_overwrites_nothing_that_exists(recipe in recipe()) {
        let mut world = recipe.undecided().world();
        world.inventory_is_lost();
        let plan = world.plan();
        prop_assert!(plan.steps.iter().all(|step| step.action != Action::Delete && step.action != Action::Replace));
        for step in &plan.steps {
            let Some(live) = live(&world, &step.key) else { continue };
            let Some(mark) = our_mark(&world, &step.key, live).filter(|mark| !mark.unfinished) else { continue };
            prop_assert_eq!(step.action, Action::Update);
            for change in &step.changes {
                if let Some(value) = live.fields.get(change.path.as_str()) {
                    prop_assert_eq!(mark.hashes.get(&change.path), Some(&FieldHash::of(value)), "{:?}", step);
                } else {
                    prop_assert!(!mark.hashes.contains_key(&change.path), "what vanished is not made again: {:?}", step);
                }
            }
        }
    }

    #[test]
    fn a_lost_inventory_is_rebuilt_without_a_step_when_nothing_else_changed(recipe in recipe()) {
        let mut world = recipe.undecided().world();
        world.reconciles();
        let before = world.plan();
        world.inventory_is_lost();
        let after = world.plan();
        for key in world.desired.resources.keys() {
            let was_quiet = before.blocked.iter().all(|blocked| blocked.key != *key)
                && before.unknown.iter().all(|(unknown, _)| unknown != key)
                && before.drift.iter().all(|drift| drift.key != *key)
                && !before.held.contains_key(key);
            if was_quiet {
                prop_assert!(all_steps(&after).all(|step| step.key != *key), "{:#?}\nthen\n{:#?}", before, after);
            }
        }
    }
}

#[test]
fn the_worlds_that_are_made_up_have_everything_in_them() {
    /// About half of the worlds that all properties see together.
    const SAMPLE: usize = 2048;
    let mut runner = TestRunner::deterministic();
    let mut actions = BTreeSet::new();
    let mut passing = BTreeSet::new();
    let mut reasons = BTreeSet::new();
    for _ in 0..SAMPLE {
        let plan = recipe().new_tree(&mut runner).unwrap().current().world().plan();
        actions.extend(all_steps(&plan).map(|step| step.action));
        passing.extend(plan.steps.iter().map(|step| step.action));
        reasons.extend(plan.blocked.iter().map(|blocked| blocked.reason));
        reasons.extend(plan.unknown.iter().map(|(_, unknown)| unknown.reason));
        reasons.extend(plan.settles.iter().map(|settle| match settle {
            Settle::Record { reason, .. } | Settle::Forget { reason, .. } => *reason,
        }));
    }
    let every = [Action::Create, Action::Update, Action::Replace, Action::Delete, Action::Adopt].into();
    assert_eq!((&actions, &passing), (&every, &every));
    let wanted = [
        Reason::ConflictHeld,
        Reason::DataMissing,
        Reason::DeletionProtected,
        Reason::DeletionsHeld,
        Reason::DependencyNotReady,
        Reason::EnvironmentRemoved,
        Reason::Gone,
        Reason::InvalidManifest,
        Reason::MoveRefused,
        Reason::NotObserved,
        Reason::NotOwned,
        Reason::Orphaned,
        Reason::OwnedByOther,
        Reason::PolicyDenied,
        Reason::PossibleRename,
        Reason::ProviderIdentityChanged,
        Reason::ProviderUnreachable,
        Reason::Recorded,
        Reason::Recovered,
        Reason::ReplaceProtected,
        Reason::Retained,
        Reason::SourceChanged,
        Reason::Suspended,
        Reason::TimedOut,
        Reason::UnreadableManifest,
        Reason::WindowClosed,
    ];
    let absent: Vec<Reason> = wanted.into_iter().filter(|reason| !reasons.contains(reason)).collect();
    assert!(absent.is_empty(), "{absent:?}");
}

//! The rules of the planner, one file a rule; `world` makes the scenarios, `properties` makes them up.

mod gate;
mod order;
mod properties;
mod r10_renames;
mod r1_marks;
mod r3_three_way;
mod r4_lost_inventory;
mod r5_unknown;
mod r6_guard;
mod r7_protection;
mod r8_missing;
mod r9_unreadable;
mod random;
mod world;

//! Plumb keeps what runs true to what is committed.
//!
//! The map of the house, in layers; a room imports only from rooms above it (`tests/it/rooms.rs` keeps this):
//!
//! | layer | room | holds |
//! |---|---|---|
//! | 0 | [`model`] | passive types: keys, specs, plans, observations, conditions, events, diagnostics |
//! | 1 | [`diag`] | codes of findings, and their renderers |
//! | 1 | [`manifest`] | YAML to documents with spans; edits that keep comments |
//! | 1 | [`validate`] | schemas, references, quotas, policies |
//! | 1 | [`plan`] | the three-way comparison, ordering, the gate |
//! | 2 | [`source`] | git mirrors, trees, pushes; working trees |
//! | 2 | [`managers`] | PostgreSQL, SQLite, Redis |
//! | 2 | [`forge`] | where proposals go |
//! | 2 | [`store`] | the state |
//! | 3 | [`engine`] | the sentence: source, manifest, validate, observe, plan, gate, apply, observe, record, propose |
//! | 4 | [`web`] | the status page, its API, health and metrics |
//! | 5 | [`cli`] | commands and their output |

pub mod model;

pub mod diag;
pub mod manifest;
pub mod plan;
pub mod validate;

pub mod forge;
pub mod managers;
pub mod source;
pub mod store;

pub mod engine;
pub mod web;

pub mod cli;

//! Says whether documents can be used, and why not: schemas, references, names, quotas, policies.
//!
//! What always holds: nothing here reads a file, a clock or a network; every finding says what is wrong, where, and
//! what to do; one bad document never hides the findings in another, and no input makes it panic.
//!
//! Two phases. [`Validator::check_files`] says all that can be said of a file alone, and its result may be kept while
//! the file's path and bytes stay the same. [`assemble_tenant`] and [`assemble_platform`] put checked files together.

mod address;
mod annotations;
mod check;
pub mod codes;
mod judge;
mod names;
mod parallel;
mod platform;
pub mod policy;
mod quota;
mod references;
mod schedule;
mod schema;
mod sentence;
mod suggest;
mod tenant;

pub use check::{CheckedFile, Validator};
pub use platform::{assemble_platform, place_of_id};
pub use policy::{PolicyFinding, PolicySet, PolicyTest, TestOutcome};
pub use schedule::{ScheduleError, schedule, timezone};
pub use schema::{API_VERSION, DocumentKind, schema_for};
pub use suggest::suggest;
pub use tenant::{TenantCache, TenantContext, assemble_tenant, revise_tenant, said_in};

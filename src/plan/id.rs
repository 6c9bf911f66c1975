//! The name of a plan: a hash of what it would do.

use sha2::{Digest, Sha256};

use crate::model::{PlanId, Step};

/// The id of a plan that has this step and no other.
pub fn id_of_step(step: &Step) -> PlanId {
    let alone = Step { depends_on: Vec::new(), ..step.clone() };
    of(&step.key.tenant, &[alone])
}

/// Hashes the tenant and every step before the gate.
pub(super) fn of(tenant: &str, steps: &[Step]) -> PlanId {
    /// Twelve hex digits, as people paste them into trailers; 48 bits are far beyond the plans one tenant makes.
    const DIGITS: usize = 12;
    let mut hasher = Sha256::new();
    hasher.update(tenant.as_bytes());
    for step in steps {
        hasher.update([0]);
        hasher.update(serde_json::to_vec(step).expect("a step is plain data with text keys"));
    }
    let mut hex = hex::encode(hasher.finalize());
    hex.truncate(DIGITS);
    PlanId(hex)
}

//! R2 and the deaths.

//! What the tests stand on: servers and repositories of their own.

pub mod desk;
pub mod git;
pub mod postgres;
pub mod redis;
pub mod world;

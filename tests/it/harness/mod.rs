//! What the tests stand on: servers and repositories of their own.

pub mod audited;
pub mod clock;
pub mod desk;
pub mod faulty;
pub mod git;
pub mod postgres;
pub mod redis;
pub mod replica;
pub mod running;
pub mod server;
pub mod ssh;
pub mod world;

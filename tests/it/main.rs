//! The one integration test binary: real git repositories, real PostgreSQL and Redis, started here and stopped here.

mod harness;

mod answers;
mod answers_again;
mod audit;
mod caches;
mod cli;
mod crashes;
mod credentials;
mod db;
mod drift;
mod examples;
mod faults;
mod gates;
mod histories;
mod managers_postgres;
mod managers_redis;
mod managers_sqlite;
mod manifest;
mod narrow;
mod outages;
mod previews;
mod replicas;
mod retries;
mod rollback;
mod rooms;
mod rules;
mod schedule;
mod serve;
mod simulation;
mod source;
mod store;
mod story;
mod tls;
mod validate;
mod web;

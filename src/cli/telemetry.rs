//! Logs: to stderr, once, at the boundary.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

use super::args::{Common, Format};

/// Starts logging. `PLUMB_LOG` (as `plumb=debug,sqlx=warn`) wins over `-v`. A server tells what it does; other commands
/// only what went wrong, since they print progress themselves. With `-vv` each call of a remote says how long it took.
pub fn start(common: &Common, is_server: bool) {
    let level = match (common.quiet, common.verbose, is_server) {
        (true, _, _) => "error",
        (false, 0, false) => "warn",
        (false, 0, true) => "plumb=info,warn",
        (false, 1, _) => "plumb=debug,warn",
        (false, _, _) => "debug,hyper=info,sqlx=info",
    };
    let filter = EnvFilter::try_from_env("PLUMB_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let of_spans = if common.verbose > 1 { FmtSpan::CLOSE } else { FmtSpan::NONE };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_span_events(of_spans)
        .with_writer(std::io::stderr)
        .with_ansi(common.colors(std::io::stderr().is_terminal()))
        .with_target(false);
    // Programs that read JSON results read JSON logs.
    let started = match common.output {
        Format::Json if is_server => builder.json().try_init(),
        Format::Json | Format::Text | Format::Yaml | Format::Wide => builder.try_init(),
    };
    if let Err(error) = started {
        eprintln!("warning: logging could not be started: {error}");
    }
}

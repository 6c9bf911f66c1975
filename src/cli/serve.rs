//! `plumb serve`: poll, scan for drift, serve the status page.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::engine::schedule::Schedule;
use crate::model::platform::Span;
use crate::web;

use super::args::Common;
use super::house::{self, House};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the status page listens
    #[arg(long, env = "PLUMB_LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,

    /// How long this process keeps a tenant without a sign of life before another replica takes it over: 1s to 10m
    #[arg(long, env = "PLUMB_LEASE", value_name = "TIME", default_value = "15s", value_parser = lease)]
    lease: Span,
}

/// Shorter, and no look would get through a slow transaction; longer, and a crash would be waited out.
const LEASES: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(600);

fn lease(text: &str) -> Result<Span, String> {
    let span: Span = text.parse()?;
    if LEASES.contains(&span.0) { Ok(span) } else { Err("a lease lasts from 1s to 10m".to_owned()) }
}

/// Serves until it is told to stop. Steps that are under way are ended in peace, and what they were part of is left to
/// another replica or the next start. Told once more, it ends at once.
pub async fn run(args: Args, common: &Common) -> anyhow::Result<u8> {
    let house = House::reconciling_with(common, Arc::new(|_| {}), args.lease.0).await?;
    let listener = tokio::net::TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("{} cannot be listened on; choose another with --listen", args.listen))?;
    let address = listener.local_addr()?;
    let (stop, stopped) = watch::channel(false);
    let (schedule, looks, ready) = Schedule::new(Arc::clone(&house.engine));
    let state = house::web_state(Arc::clone(&house.store), ready, looks);
    tracing::info!(%address, "serving the status page at http://{address}/");
    let page = tokio::spawn(web::serve(listener, state, until(stopped.clone())));
    let mut work = tokio::spawn(schedule.run(until(stopped)));
    let mut signals = Signals::listen()?;
    tokio::select! {
        () = signals.next() => {}
        ended = &mut work => {
            ended.context("the schedule ended early")?;
            anyhow::bail!("the schedule ended early");
        }
    }
    tracing::info!("stopping: steps that are under way are ended, and no more begun");
    stop.send_replace(true);
    let ended = async {
        work.await.context("the schedule ended early")?;
        page.await.context("the status page ended early")
    };
    tokio::select! {
        ended = ended => ended.map(|()| 0),
        () = signals.next() => anyhow::bail!("told to stop a second time: what was under way is left to the next that looks"),
    }
}

async fn until(mut stopped: watch::Receiver<bool>) {
    // A dropped sender ends the program too.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

/// Ctrl-c, and a service manager's SIGTERM. Those that come while nobody waits are not lost.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

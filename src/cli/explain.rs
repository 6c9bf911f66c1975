//! `plumb explain`: one answer to "why isn't this applied?".

use std::fmt::Write as _;

use anyhow::bail;
use chrono::SecondsFormat;

use crate::engine::view::{self, Cause, Explanation};
use crate::model::{ConditionStatus, ResourceKey, SystemClock};

use super::args::Common;
use super::output::{self, Paint, readable};
use super::{house, remote};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The resource: tenant/environment/Kind/name
    key: ResourceKey,
}

/// Explains. Exits with 0 when the resource is as git says, else with 1.
pub async fn run(args: Args, common: &Common) -> anyhow::Result<u8> {
    let key = &args.key;
    let explanation: Option<Explanation> = match &common.server {
        Some(server) => {
            let path = ["resources", &key.tenant, &key.environment, key.kind.as_str(), &key.name, "explain"];
            Some(remote::get(server, &path, &[]).await?)
        }
        None => view::explain(house::reading(common).await?.as_ref(), key, &SystemClock).await?,
    };
    let Some(explanation) = explanation else {
        bail!("nothing is known of {key}, nor of a tenant {}; `plumb get` lists what is", key.tenant);
    };
    output::print_as(common, &explanation, || text(&explanation, Paint::stdout(common)))?;
    Ok(u8::from(explanation.ready != ConditionStatus::True))
}

fn text(explanation: &Explanation, paint: Paint) -> String {
    let mut text = format!("{}\n", paint.bold(&readable(&explanation.answer)));
    for (number, cause) in explanation.chain.iter().enumerate() {
        let _ = write!(text, "  {}. ", number + 1);
        cause_text(&mut text, cause, paint);
        if let Some(when) = cause.goes_on() {
            let _ = writeln!(text, "     {when}");
        }
    }
    for note in &explanation.notes {
        text.push_str("  -  ");
        cause_text(&mut text, note, paint);
    }
    text
}

fn cause_text(text: &mut String, cause: &Cause, paint: Paint) {
    let Cause { reason, rule, message, since, help, .. } = cause;
    let name = cause.name();
    let rule = rule.as_ref().map(|rule| format!(" ({rule})")).unwrap_or_default();
    let since = since.map(|since| format!(", since {}", since.to_rfc3339_opts(SecondsFormat::Secs, true)));
    let _ = writeln!(text, "{name}  {}{rule}{}", paint.yellow(reason.as_str()), since.unwrap_or_default());
    let _ = writeln!(text, "     {}", readable(message));
    if let Some(help) = help {
        let _ = writeln!(text, "     {}", paint.dim(&readable(help)));
    }
}

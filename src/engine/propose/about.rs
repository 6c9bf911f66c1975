//! What a commit of a proposal says it is about, in trailers: they tell a platform's own proposals from other branches
//! when the state is lost.

use std::fmt;

use crate::model::{PlatformId, ProposalKind, ResourceKey};
use crate::source::CommitInfo;

const KEY_TRAILER: &str = "Plumb-Key";
const PLATFORM_TRAILER: &str = "Plumb-Platform";
/// What only the removal of a document says.
const GONE_TRAILER: &str = "Plumb-Gone";

/// Whose proposal it is, and about what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct About {
    pub key: ResourceKey,
    pub platform: PlatformId,
    pub kind: ProposalKind,
}

impl About {
    /// What `commit` says. Whoever amends a commit keeps its trailers.
    pub(in super::super) fn of(commit: &CommitInfo) -> Option<Self> {
        let trailer = |wanted: &str| {
            let mut named = commit.trailers.iter().filter(|(name, _)| name.eq_ignore_ascii_case(wanted));
            named.next().map(|(_, value)| value.clone())
        };
        Some(Self {
            key: trailer(KEY_TRAILER)?.parse().ok()?,
            platform: PlatformId(trailer(PLATFORM_TRAILER)?),
            kind: trailer(GONE_TRAILER).map_or(ProposalKind::Drift, |_| ProposalKind::Missing),
        })
    }
}

/// The trailers, as the last paragraph of a commit message.
impl fmt::Display for About {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, platform, kind } = self;
        writeln!(f, "{KEY_TRAILER}: {key}")?;
        writeln!(f, "{PLATFORM_TRAILER}: {platform}")?;
        match kind {
            ProposalKind::Missing => writeln!(f, "{GONE_TRAILER}: true"),
            ProposalKind::Drift => Ok(()),
        }
    }
}

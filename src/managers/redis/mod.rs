//! Caches on a shared Redis 7 or newer: one ACL user a resource, fenced in by a key prefix.
//!
//! **Manages** an ACL user: that it is enabled, its key and channel patterns (`{prefix}*` and no others), and its
//! command categories. **Leaves alone** every key, every user without this key's mark, the `default` user and its own
//! login. Removing a Cache removes its user, never keys.
//!
//! **The mark** (R1) is one more key pattern of the user, `%R~plumb:mark:<object id>:<mark as base64url>`, and one more
//! channel pattern, `&plumb:mark:...`: leave to read one key and to hear one channel of that very name, which nobody
//! uses. Both are set by the same `ACL SETUSER` that makes the user (R2), show in `ACL LIST`, and survive `ACL SAVE`.
//! One is enough: giving a user all keys by hand makes Redis drop its other key patterns. A user that was given all keys
//! and all channels by hand is unmarked, and says so. Redis before 7 has no such patterns and is refused.
//!
//! **What a user may do** is `-@all`, then its categories (`read` and `write` when git sets none), then the fences
//! (`-@dangerous -@admin` and the commands through which one tenant could see or break another's: `SCAN`,
//! `RANDOMKEY`, `FUNCTION`, `PUBSUB`, flushing scripts), then what client libraries say when they connect.
//!
//! **Rights beyond that never read as in plumb.** Patterns, commands, selectors or `nopass` that were added by hand,
//! or a user switched off, show in `/spec/keyPrefix` as `prefix with %R~* +config|get`, which no document can say, so it
//! is drift that is put back and never accepted. Where neither git nor the inventory speaks of `keyPrefix`, no field
//! could show it, and the object is unknown (`NotExpressible`) until a person sets `keyPrefix` or takes the rights
//! away. A step that does not change `keyPrefix` leaves such additions as they are: they may be held.
//!
//! **Passwords** (R12) are sent as SHA-256, which is all that Redis keeps; they are never compared, and set only on a
//! new user, on one that has none (or needs none), and on rotation. A second password added by hand is left.
//!
//! **Identity** (R11): where an aclfile is configured, the id in the name of a user `plumb_root_<id>` that is switched
//! off and may do nothing; the first apply makes it. Without an aclfile every ACL user is gone after a restart, so
//! nothing in the server can tell it from another, and the identity is the address.
//!
//! **Locking** (R13): a key `plumb:lock:<user>` that expires. The change runs in `MULTI` with that key watched: when
//! the lock was lost meanwhile, however late the server gets to it, nothing happens.
//!
//! The login needs `ACL`, `CONFIG GET`, `MULTI`, `EXEC`, `SET`, `GET`, `DEL`, `WATCH` and keys `plumb:lock:*`.

mod catalog;
mod change;
mod error;
mod rules;
mod server;
mod user;

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use url::Url;

use self::catalog::Catalog;
use self::server::{Login, Server};
use self::user::{KEY_PREFIX, Marking, User};
use super::{Cx, Endpoint, Found, ManagerError, Outcome, ResourceManager};
use crate::model::{
    Depth, Kind, Live, Observation, Ownership, ProviderIdentity, ProviderType, Reason, Step, Target, Unknown,
};

const DEFAULT_PORT: u16 = 6379;
const DEFAULT_LOGIN: &str = "default";

/// The manager of one Redis server.
pub struct Redis {
    server: Server,
}

/// The manager for the server that `endpoint.url` names: `redis://user@host:port`, or `rediss://` for TLS. Connects
/// when first used.
///
/// # Errors
/// When the URL names no server, or holds a password.
pub fn connect(endpoint: Endpoint) -> Result<Redis, ManagerError> {
    let Endpoint { name, provider_type: _, url, password, base_dir: _, max_concurrency: _, timeout } = endpoint;
    let invalid = |why: &str| {
        ManagerError::terminal(
            Reason::Rejected,
            format!("the url of provider {name} {why}; write it like redis://default@cache:6379"),
        )
    };
    let url = Url::parse(&url).map_err(|_| invalid("is not a url"))?;
    let tls = match url.scheme() {
        "redis" => server::Transport::Plain,
        "rediss" => server::Transport::Tls,
        _ => return Err(invalid("does not begin with redis:// or rediss://")),
    };
    if url.password().is_some() {
        return Err(invalid("holds a password, which belongs in credentials"));
    }
    if !matches!(url.path(), "" | "/" | "/0") || url.query().is_some() || url.fragment().is_some() {
        return Err(invalid("may hold nothing after the port"));
    }
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(|| invalid("names no host"))?;
    let user = match url.username() {
        "" => DEFAULT_LOGIN,
        user if user.contains('%') => return Err(invalid("names a user with characters that need escaping")),
        user => user,
    };
    let login = Login {
        host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
        port: url.port().unwrap_or(DEFAULT_PORT),
        transport: tls,
        user: user.to_owned(),
        password,
    };
    Ok(Redis { server: Server::new(login, timeout)? })
}

impl Redis {
    fn observation(&self, target: &Target, users: &BTreeMap<String, User>, catalog: &Catalog) -> Observation {
        let Some(user) = users.get(&target.object_name) else { return Observation::Absent { lost: false, left: None } };
        let ownership = match &user.marking {
            Marking::None => Ownership::Unmarked,
            Marking::Marked(mark) => Ownership::Marked(mark.mark.clone()),
            Marking::Unreadable => {
                return Observation::Unknown(Unknown::new(
                    Reason::Rejected,
                    format!("the mark of the user {} cannot be read", target.object_name),
                ));
            }
        };
        let ours = matches!(&ownership, Ownership::Marked(mark) if mark.key == target.key);
        if ours && !target.fields.contains(KEY_PREFIX) {
            let wrong = user.deviations_from(&user::default_prefix(&target.object_name), catalog);
            if !wrong.is_empty() {
                return Observation::Unknown(Unknown::new(
                    Reason::NotExpressible,
                    format!(
                        "the user {} was changed by hand ({}), which no field that git sets can show; set keyPrefix to \
                         have it put back, or undo it with ACL SETUSER",
                        target.object_name,
                        wrong.join(" ")
                    ),
                ));
            }
        }
        Observation::Present(Box::new(Live {
            object: user.object(),
            ownership,
            fields: user.fields(catalog),
            unknown: BTreeMap::new(),
            outputs: self.outputs_with(&target.object_name, user.prefix()),
        }))
    }

    fn outputs_with(&self, user: &str, prefix: Option<String>) -> BTreeMap<String, String> {
        let login = self.server.login();
        let mut outputs = BTreeMap::from([
            ("host".to_owned(), login.host.clone()),
            ("port".to_owned(), login.port.to_string()),
            ("user".to_owned(), user.to_owned()),
        ]);
        outputs.extend(prefix.map(|prefix| ("keyPrefix".to_owned(), prefix)));
        outputs
    }
}

#[async_trait]
impl ResourceManager for Redis {
    fn kinds(&self) -> &'static [Kind] {
        &[Kind::Cache]
    }

    async fn identity(&self) -> Result<Option<ProviderIdentity>, ManagerError> {
        self.server.identity().await
    }

    /// One `ACL LIST` for all, and once a connection the commands of each category; there is nothing deeper to see.
    async fn observe(&self, targets: &[Target], _: Depth, _: &Cx<'_>) -> Result<Vec<Observation>, ManagerError> {
        let users = self.server.users().await?;
        let catalog = self.server.catalog().await?;
        Ok(targets.iter().map(|target| self.observation(target, &users, &catalog)).collect())
    }

    async fn discover(&self, _: &BTreeSet<String>, cx: &Cx<'_>) -> Result<Vec<Found>, ManagerError> {
        let users = self.server.users().await?;
        Ok(users
            .into_values()
            .filter_map(|user| {
                let object = user.object();
                let mark = user.mark()?.mark.clone();
                (mark.platform == *cx.platform && mark.key.object_name(ProviderType::Redis.name_limit()) == user.name)
                    .then_some(Found { mark, object_name: user.name, object })
            })
            .collect())
    }

    async fn apply(&self, step: &Step, cx: &Cx<'_>) -> Result<Outcome, ManagerError> {
        change::apply(&self.server, step, cx).await
    }

    /// The key prefix is among them when it is the computed one; an observation gives it in any case.
    fn outputs(&self, target: &Target) -> BTreeMap<String, String> {
        let computed = !target.fields.contains(KEY_PREFIX);
        self.outputs_with(&target.object_name, computed.then(|| user::default_prefix(&target.object_name)))
    }
}

//! The server: connections, questions, locks and changes, every one of them bounded in time.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Once};
use std::time::Duration;

use rand::TryRngCore;
use rand::rngs::OsRng;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, FromRedisValue, IntoConnectionInfo, Pipeline,
    RedisConnectionInfo, RedisError, Value, cmd,
};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::{Mutex, OnceCell};
use tokio::time::{Instant, sleep, timeout};

use super::catalog::Catalog;
use super::error;
use super::user::User;
use crate::managers::ManagerError;
use crate::model::{ProviderIdentity, Reason};

/// The beginning of the name of the user that holds the server's identity.
const ROOT: &str = "plumb_root_";
/// Where locks are. A prefix that reaches into it is refused.
pub(super) const LOCKS: &str = "plumb:lock:";
/// The lock under which the identity is made; no user can have this name.
const ROOT_LOCK: &str = " root";
/// How long a lock lasts. Long enough for a change on a busy server; one that takes longer loses it and is planned anew.
/// Whoever was killed keeps others out no longer than this.
const LOCK: Duration = Duration::from_secs(10);
/// How long a lock is waited for at least: until one that nobody lets go of has run out.
const SHORTEST_WAIT: Duration = Duration::from_secs(12);
/// How often a lock that somebody holds is tried.
const LOCK_TRIES: Duration = Duration::from_millis(20);
/// Random bytes in an id: two never meet.
const ID_BYTES: usize = 16;

/// How a connection is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Plain,
    Tls,
}

/// Where the server is and who Plumb is to it.
pub(super) struct Login {
    pub host: String,
    pub port: u16,
    pub transport: Transport,
    pub user: String,
    pub password: Option<SecretString>,
}

/// Whether users outlive a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Persistence {
    AclFile,
    Memory,
}

pub(super) struct Server {
    login: Login,
    client: Client,
    address: String,
    timeout: Duration,
    /// For looking; opened when first used, and again after it broke.
    looking: Mutex<Option<MultiplexedConnection>>,
    /// As long as the connection for looking lives.
    catalog: Mutex<Option<Arc<Catalog>>>,
    /// Filled once the identity is known to be there.
    established: OnceCell<()>,
}

impl Server {
    pub(super) fn new(login: Login, timeout: Duration) -> Result<Self, ManagerError> {
        let address = format!("{}:{}", login.host, login.port);
        let host = login.host.clone();
        let target = match login.transport {
            Transport::Plain => ConnectionAddr::Tcp(host, login.port),
            Transport::Tls => {
                install_crypto();
                ConnectionAddr::TcpTls { host, port: login.port, insecure: false, tls_params: None }
            }
        };
        let mut settings = RedisConnectionInfo::default().set_skip_set_lib_name();
        if let Some(password) = &login.password {
            settings = settings.set_username(&login.user).set_password(password.expose_secret());
        }
        let client = target
            .into_connection_info()
            .map(|info| info.set_redis_settings(settings))
            .and_then(Client::open)
            .map_err(|error| error::redis("be connected to", &address, &error))?;
        Ok(Self {
            login,
            client,
            address,
            timeout,
            looking: Mutex::default(),
            catalog: Mutex::default(),
            established: OnceCell::new(),
        })
    }

    pub(super) fn login(&self) -> &Login {
        &self.login
    }

    async fn connect(&self) -> Result<MultiplexedConnection, ManagerError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.timeout))
            .set_response_timeout(Some(self.timeout));
        match timeout(self.timeout, self.client.get_multiplexed_async_connection_with_config(&config)).await {
            Ok(connected) => connected.map_err(|error| error::redis("log in", &self.address, &error)),
            Err(_) => Err(error::timed_out("log in", &self.address)),
        }
    }

    /// Asks something that changes nothing, on the connection for looking. One that broke since it was last used, by a
    /// restart of the server for example, is opened again.
    async fn ask<T: FromRedisValue>(&self, what: &str, question: &Cmd) -> Result<T, ManagerError> {
        let mut looking = self.looking.lock().await;
        if let Some(mut connection) = looking.take() {
            match self.bounded(question.query_async(&mut connection)).await {
                Answer::Broken(_) => {}
                answer => {
                    if !matches!(answer, Answer::Late) {
                        *looking = Some(connection);
                    }
                    return self.answer(what, answer);
                }
            }
        }
        *self.catalog.lock().await = None;
        let mut connection = self.connect().await?;
        let answer = self.bounded(question.query_async(&mut connection)).await;
        if !matches!(answer, Answer::Broken(_) | Answer::Late) {
            *looking = Some(connection);
        }
        self.answer(what, answer)
    }

    async fn bounded<T>(&self, asked: impl Future<Output = Result<T, RedisError>>) -> Answer<T> {
        match timeout(self.timeout, asked).await {
            Ok(Ok(answer)) => Answer::Given(answer),
            Ok(Err(error)) if error.is_timeout() => Answer::Late,
            Ok(Err(error)) if error.is_io_error() || error.is_unrecoverable_error() => Answer::Broken(error),
            Ok(Err(error)) => Answer::Refused(error),
            Err(_) => Answer::Late,
        }
    }

    fn answer<T>(&self, what: &str, answer: Answer<T>) -> Result<T, ManagerError> {
        match answer {
            Answer::Given(answer) => Ok(answer),
            Answer::Late => Err(error::timed_out(what, &self.address)),
            Answer::Broken(error) | Answer::Refused(error) => Err(error::redis(what, &self.address, &error)),
        }
    }

    /// All users by name.
    pub(super) async fn users(&self) -> Result<BTreeMap<String, User>, ManagerError> {
        let lines: Vec<String> = self.ask("list users", cmd("ACL").arg("LIST")).await?;
        lines
            .iter()
            .map(|line| {
                let user = User::from_list(line).ok_or_else(|| self.unreadable("ACL LIST"))?;
                Ok((user.name.clone(), user))
            })
            .collect()
    }

    fn unreadable(&self, what: &str) -> ManagerError {
        ManagerError::terminal(
            Reason::Rejected,
            format!("the answer of redis {} to {what} cannot be read", self.address),
        )
    }

    /// Who the server is, as far as that can be told.
    pub(super) async fn identity(&self) -> Result<Option<ProviderIdentity>, ManagerError> {
        match self.persistence().await? {
            Persistence::Memory => Ok(Some(ProviderIdentity(format!("address:{}", self.address)))),
            Persistence::AclFile => Ok(root(&self.users().await?)),
        }
    }

    pub(super) async fn persistence(&self) -> Result<Persistence, ManagerError> {
        let answer: Vec<String> = self.ask("read the setting aclfile", cmd("CONFIG").arg("GET").arg("aclfile")).await?;
        Ok(match answer.as_slice() {
            [_, path] if !path.is_empty() => Persistence::AclFile,
            _ => Persistence::Memory,
        })
    }

    /// The commands of each category. Asked again after every reconnection: the server may be a newer one.
    pub(super) async fn catalog(&self) -> Result<Arc<Catalog>, ManagerError> {
        if let Some(catalog) = self.catalog.lock().await.as_ref() {
            return Ok(Arc::clone(catalog));
        }
        let names: Vec<String> = self.ask("list categories", cmd("ACL").arg("CAT")).await?;
        let mut categories = BTreeMap::new();
        for name in names {
            let commands: BTreeSet<String> = self.ask("list a category", cmd("ACL").arg("CAT").arg(&name)).await?;
            categories.insert(name, commands);
        }
        let catalog = Arc::new(Catalog::new(categories));
        *self.catalog.lock().await = Some(Arc::clone(&catalog));
        Ok(catalog)
    }

    /// Gives the server an identity where users are kept in a file and there is none yet.
    pub(super) async fn establish(&self, persistence: Persistence) -> Result<(), ManagerError> {
        self.established
            .get_or_try_init(|| async {
                if persistence == Persistence::Memory || root(&self.users().await?).is_some() {
                    return Ok(());
                }
                let mut locked = self.lock(ROOT_LOCK).await?;
                // Somebody may have been quicker; a lock that is not used runs out by itself.
                let made = match root(&self.users().await?) {
                    Some(_) => Ok(()),
                    None => {
                        locked.watch().await?;
                        let name = format!("{ROOT}{}", random_id()?);
                        let mut change = cmd("ACL");
                        change.arg("SETUSER").arg(name).arg("reset").arg("off");
                        locked.commit("make the server's identity", change, persistence).await
                    }
                };
                locked.release().await;
                made
            })
            .await
            .copied()
    }

    /// Waits for the lock on a name, at most the timeout or until the lock of somebody who died has run out.
    pub(super) async fn lock(&self, name: &str) -> Result<Locked<'_>, ManagerError> {
        let mut connection = self.connect().await?;
        let (key, token) = (format!("{LOCKS}{name}"), random_id()?);
        let length = u64::try_from(LOCK.as_millis()).unwrap_or(u64::MAX);
        let start = Instant::now();
        loop {
            let mut take = cmd("SET");
            take.arg(&key).arg(&token).arg("NX").arg("PX").arg(length);
            let answer = self.bounded(take.query_async::<Option<String>>(&mut connection)).await;
            if self.answer("take a lock", answer)?.is_some() {
                return Ok(Locked { server: self, connection, key, token });
            }
            if start.elapsed() >= self.timeout.max(SHORTEST_WAIT) {
                let message = format!("{name} on redis {} is being worked on by another process", self.address);
                return Err(ManagerError::locked(message));
            }
            sleep(LOCK_TRIES).await;
        }
    }
}

enum Answer<T> {
    Given(T),
    /// None in time. The connection may still get it, so it is not used again.
    Late,
    /// The connection broke.
    Broken(RedisError),
    /// The server said no.
    Refused(RedisError),
}

/// A lock on a name, with a connection of its own.
pub(super) struct Locked<'a> {
    server: &'a Server,
    connection: MultiplexedConnection,
    key: String,
    token: String,
}

impl Locked<'_> {
    async fn ask<T: FromRedisValue>(&mut self, what: &str, question: &Cmd) -> Result<T, ManagerError> {
        let answer = self.server.bounded(question.query_async(&mut self.connection)).await;
        self.server.answer(what, answer)
    }

    /// From here on a change happens only while the lock is held.
    pub(super) async fn watch(&mut self) -> Result<(), ManagerError> {
        let key = self.key.clone();
        self.ask::<()>("watch a lock", cmd("WATCH").arg(&key)).await?;
        let holder: Option<String> = self.ask("read a lock", cmd("GET").arg(&key)).await?;
        if holder.as_deref() == Some(self.token.as_str()) { Ok(()) } else { Err(self.lost()) }
    }

    fn lost(&self) -> ManagerError {
        ManagerError::conflict(format!("the lock {} on redis {} was lost", self.key, self.server.address))
    }

    /// The user of that name.
    pub(super) async fn user(&mut self, name: &str) -> Result<Option<User>, ManagerError> {
        let answer: Option<HashMap<String, Value>> =
            self.ask("read a user", cmd("ACL").arg("GETUSER").arg(name)).await?;
        answer
            .map(|answer| User::from_getuser(name, &answer).ok_or_else(|| self.server.unreadable("ACL GETUSER")))
            .transpose()
    }

    /// Does `change` and saves it, both or neither, if the lock is still held.
    pub(super) async fn commit(
        &mut self,
        what: &str,
        change: Cmd,
        persistence: Persistence,
    ) -> Result<(), ManagerError> {
        let mut pipeline = Pipeline::new();
        pipeline.atomic().add_command(change);
        if persistence == Persistence::AclFile {
            pipeline.cmd("ACL").arg("SAVE");
        }
        let answer = self.server.bounded(pipeline.query_async::<Option<Vec<Value>>>(&mut self.connection)).await;
        match self.server.answer(what, answer)? {
            Some(_) => Ok(()),
            None => Err(self.lost()),
        }
    }

    /// Lets go of the lock. When that fails, the lock runs out by itself.
    pub(super) async fn release(mut self) {
        if self.watch().await.is_ok() {
            let mut pipeline = Pipeline::new();
            pipeline.atomic().cmd("DEL").arg(&self.key);
            let answer = self.server.bounded(pipeline.query_async::<Option<Vec<Value>>>(&mut self.connection)).await;
            if !matches!(answer, Answer::Given(Some(_))) {
                tracing::debug!(server = %self.server.address, lock = %self.key, "a lock was left to run out");
            }
        }
    }
}

/// The identity that a user's name holds. Of several, which only a person can make, the first.
fn root(users: &BTreeMap<String, User>) -> Option<ProviderIdentity> {
    users.keys().find_map(|name| name.strip_prefix(ROOT)).map(|id| ProviderIdentity(id.to_owned()))
}

/// Whether a name is the server's own or Plumb's.
pub(super) fn is_reserved(name: &str, login: &Login) -> bool {
    name == "default" || name == login.user || name.starts_with(ROOT)
}

/// An id like no other.
pub(super) fn random_id() -> Result<String, ManagerError> {
    let mut bytes = [0; ID_BYTES];
    OsRng.try_fill_bytes(&mut bytes).map_err(|error| {
        ManagerError::retry(Reason::Internal, format!("the operating system gave no random numbers: {error}"))
    })?;
    Ok(hex::encode(bytes))
}

/// TLS needs a provider of cryptography for the process; one that is there already stays.
fn install_crypto() {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // Fails only when another thread was quicker, which is as good.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
    });
}

//! What the database keeps apart by itself: a store that is mistaken about the tenant that it speaks for.
//!
//! It says `checkout` in all that it asks for, as ever, but to the database it is somebody else: a relay between the two
//! changes the one word by which a transaction says for whom it is. So every statement of the product meets the policies
//! of its rows, and nothing of the product keeps it from them.

use std::io::{Read, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};

use plumb::store::audit::{AuditAction, AuditFilter};
use plumb::store::postgres::PostgresStore;
use plumb::store::{HistoryFilter, Mode, Store};

use super::isolation::{self, Write};
use super::sample::key;
use super::{ALL, Fixture, tenant};
use crate::harness::postgres::PostgresServer;

/// How the two settings of a transaction stand in a message: each with its length before it.
const SAYS: &[u8] = b"\0\0\0\x06tenant\0\0\0\x08checkout";
const HEARS: &[u8] = b"\0\0\0\x06tenant\0\0\0\x08stranger";

/// Writes that find nothing to remove where nothing is to be seen; all others are refused.
const REMOVE_NOTHING: [Write; 7] = [
    Write::Forget,
    Write::RemoveStatus,
    Write::RemoveProposal,
    Write::RemoveAttempt,
    Write::RemoveSaga,
    Write::ClearApprovals,
    Write::RemoveSecrets,
];

/// A port that leads to the server, where nobody is `checkout`.
fn relay_to(server: u16) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (client, server) = (client.unwrap(), TcpStream::connect(("127.0.0.1", server)).unwrap());
            let (from_server, to_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            std::thread::spawn(move || pass_on(from_server, to_client, |_| {}));
            std::thread::spawn(move || pass_on(client, server, mistake));
        }
    });
    port
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, change: impl Fn(&mut [u8])) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        change(&mut buffer[..length]);
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

fn mistake(message: &mut [u8]) {
    while let Some(at) = message.windows(SAYS.len()).position(|window| window == SAYS) {
        message[at..at + HEARS.len()].copy_from_slice(HEARS);
    }
}

/// All that is in the database.
fn everything(fixture: &Fixture) -> String {
    let dump = PostgresServer::shared().tool("pg_dump").args(["--data-only", fixture.database()]).output().unwrap();
    assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
    let text = String::from_utf8(dump.stdout).unwrap();
    // Newer ones begin and end with a word made by chance; numbers that were given stay so.
    text.lines().filter(|line| !line.contains("restrict ") && !line.contains("setval(")).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn the_database_shows_and_takes_nothing_whatever_a_mistaken_store_asks_for() {
    let fixture = Fixture::postgres().await;
    let executions = isolation::fill(fixture.store.as_ref()).await;
    let before = everything(&fixture);
    assert!(before.contains("checkout"), "{before}");
    let server = PostgresServer::shared().port();
    let url = fixture.url.replace(&format!(":{server}/"), &format!(":{}/", relay_to(server)));
    assert_ne!(url, fixture.url);
    let store = PostgresStore::open(&url, Mode::Append).await.unwrap();

    let orders = key("checkout", "orders");
    let mut tx = store.read(tenant("checkout")).await.unwrap();
    assert!(tx.tenants().await.unwrap().is_empty());
    assert!(tx.inventory().await.unwrap().records.is_empty());
    assert_eq!(tx.record(&orders).await.unwrap(), None);
    assert!(tx.statuses().await.unwrap().is_empty());
    assert_eq!(tx.status(&orders).await.unwrap(), None);
    assert!(tx.strays().await.unwrap().is_empty());
    assert!(tx.proposals().await.unwrap().is_empty());
    assert!(tx.attempts().await.unwrap().is_empty());
    assert_eq!(tx.attempt(&orders).await.unwrap(), None);
    assert!(tx.sagas().await.unwrap().is_empty());
    let filter = AuditFilter { limit: 1000, ..AuditFilter::default() };
    assert!(tx.audit(&filter).await.unwrap().is_empty());
    assert!(tx.last_audit("checkout", AuditAction::Commit).await.unwrap().is_none());
    assert!(tx.audit_heads().await.unwrap().is_empty());
    assert!(tx.held_plans("checkout").await.unwrap().is_empty());
    assert!(tx.approvals("checkout").await.unwrap().is_empty());
    assert!(tx.secrets(&orders, "app").await.unwrap().is_empty());
    assert!(tx.roles_with_secrets().await.unwrap().is_empty());
    assert!(tx.newest_secret().await.unwrap().is_none());
    assert!(tx.executions(&ALL).await.unwrap().is_empty());
    assert!(tx.plan_inputs(executions["checkout"]).await.unwrap().is_empty());
    assert!(tx.events(&ALL).await.unwrap().is_empty());
    let of_orders = HistoryFilter { key: Some(orders), ..ALL };
    assert!(tx.events(&of_orders).await.unwrap().is_empty());
    drop(tx);

    for write in Write::OF_A_TENANT {
        let mut tx = store.begin(tenant("checkout")).await.unwrap();
        let written = write.run(&mut *tx, "checkout", executions["checkout"]).await;
        let finds_nothing = REMOVE_NOTHING.contains(&write);
        assert_eq!(written.is_ok(), finds_nothing, "{write:?}: {written:?}");
        assert_eq!(tx.commit().await.is_ok(), finds_nothing, "{write:?}");
    }
    assert_eq!(everything(&fixture), before);
}

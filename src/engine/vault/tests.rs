use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::engine::{LEASE, Passwords};
use crate::managers::ManagerError;
use crate::model::{
    Annotations, Ask, Clock, Fields, Kind, Lease, ObjectId, ProviderIdentity, Reason, Record, Replica, ResourceKey,
    Trigger, Width,
};
use crate::store::Mode;
use crate::store::sqlite::SqliteStore;
use crate::store::{Scope, Store, StoreError, StoredSecret};

fn rng(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

fn vault(seed: u64) -> Vault {
    let mut key = KeyBytes::default();
    rand::RngCore::fill_bytes(&mut rng(seed), key.as_mut());
    Vault::with_key(&key)
}

fn orders() -> ResourceKey {
    ResourceKey::new("checkout", "staging", Kind::Database, "orders")
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

mod cipher {
    use super::*;

    #[test]
    fn what_is_encrypted_is_what_is_decrypted() {
        let vault = vault(1);
        let sealed = vault.encrypt(&mut rng(2), &orders(), "app", "r1", &"hunter2".into()).unwrap();
        assert!(!sealed.windows(7).any(|window| window == b"hunter2"));
        assert_eq!(sealed[0], VERSION);
        assert_eq!(vault.decrypt(&orders(), "app", "r1", &sealed).unwrap().expose_secret(), "hunter2");
    }

    #[test]
    fn the_same_password_never_looks_the_same_twice() {
        let (vault, mut rng) = (vault(1), rng(2));
        let one = vault.encrypt(&mut rng, &orders(), "app", "", &"hunter2".into()).unwrap();
        let two = vault.encrypt(&mut rng, &orders(), "app", "", &"hunter2".into()).unwrap();
        assert_ne!(one, two);
    }

    #[test]
    fn a_ciphertext_opens_for_its_own_role_resource_and_rotation_alone() {
        let vault = vault(1);
        let sealed = vault.encrypt(&mut rng(2), &orders(), "app", "r1", &"hunter2".into()).unwrap();
        let other = ResourceKey::new("checkout", "production", Kind::Database, "orders");
        for (key, role, rotation) in [
            (&other, "app", "r1"),
            (&orders(), "ro", "r1"),
            (&orders(), "app", "r2"),
            (&orders(), "app", ""),
            // The same letters, parted elsewhere.
            (&orders(), "appr", "1"),
        ] {
            let refused = vault.decrypt(key, role, rotation, &sealed);
            assert!(matches!(refused, Err(VaultError::Tampered { .. })), "{key} {role} {rotation}");
        }
    }

    #[test]
    fn every_changed_bit_is_noticed() {
        let vault = vault(1);
        let sealed = vault.encrypt(&mut rng(2), &orders(), "app", "", &"hunter2".into()).unwrap();
        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let refused = vault.decrypt(&orders(), "app", "", &changed).unwrap_err();
            match bit / 8 {
                0 => assert!(matches!(refused, VaultError::UnknownFormat { .. }), "{refused}"),
                1..HEADER_LENGTH => assert!(matches!(refused, VaultError::WrongKey { .. }), "{refused}"),
                _ => assert!(matches!(refused, VaultError::Tampered { .. }), "{refused}"),
            }
        }
    }

    #[test]
    fn every_shortened_ciphertext_is_refused() {
        let vault = vault(1);
        let sealed = vault.encrypt(&mut rng(2), &orders(), "app", "", &"hunter2".into()).unwrap();
        for length in 0..sealed.len() {
            let refused = vault.decrypt(&orders(), "app", "", &sealed[..length]);
            assert!(matches!(refused, Err(VaultError::Tampered { .. })), "{length}");
        }
    }

    #[test]
    fn another_key_is_named_and_so_is_the_one_that_is_needed() {
        let (right, wrong) = (vault(1), vault(9));
        let sealed = right.encrypt(&mut rng(2), &orders(), "app", "", &"hunter2".into()).unwrap();
        let message = wrong.decrypt(&orders(), "app", "", &sealed).unwrap_err().to_string();
        assert!(message.contains(&right.key_id().to_string()) && message.contains(&wrong.key_id().to_string()));
        assert!(message.contains("app of checkout/staging/Database/orders"), "{message}");
    }

    #[test]
    fn nothing_of_the_key_is_in_the_debug_output() {
        let shown = format!("{:?}", vault(1));
        assert!(shown.starts_with("Vault { id: KeyId(") && shown.len() < 60, "{shown}");
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(vault(1).decrypt(&orders(), "app", "", &bytes).is_err());
        }

        #[test]
        fn any_role_rotation_and_text_survives(role in ".{0,80}", rotation in ".{0,80}", text in ".{0,200}") {
            let vault = vault(1);
            let sealed = vault.encrypt(&mut rng(2), &orders(), &role, &rotation, &text.as_str().into()).unwrap();
            let opened = vault.decrypt(&orders(), &role, &rotation, &sealed).unwrap();
            prop_assert_eq!(opened.expose_secret(), text.as_str());
        }
    }
}

mod passwords {
    use super::*;

    #[test]
    fn a_password_has_32_letters_of_the_alphabet() {
        let password = generate_password(&mut rng(1));
        assert_eq!(password.expose_secret().len(), 32);
        assert!(password.expose_secret().bytes().all(|byte| PASSWORD_ALPHABET.contains(&byte)));
    }

    #[test]
    fn the_alphabet_has_no_letter_that_is_taken_for_another_and_none_twice() {
        let letters: BTreeSet<u8> = PASSWORD_ALPHABET.iter().copied().collect();
        assert_eq!(letters.len(), PASSWORD_ALPHABET.len());
        assert!(b"0O1lI".iter().all(|letter| !letters.contains(letter)));
        assert!(letters.iter().all(u8::is_ascii_alphanumeric));
    }

    #[test]
    fn every_letter_is_as_likely_as_the_others() {
        const PASSWORDS: usize = 4000;
        let mut rng = rng(7);
        let mut counts: BTreeMap<u8, usize> = BTreeMap::new();
        for _ in 0..PASSWORDS {
            for letter in generate_password(&mut rng).expose_secret().bytes() {
                *counts.entry(letter).or_default() += 1;
            }
        }
        let expected = PASSWORDS * PASSWORD_LENGTH / PASSWORD_ALPHABET.len();
        assert_eq!(counts.len(), PASSWORD_ALPHABET.len());
        // Five standard deviations; letters that a biased draw favours have a quarter more than the others.
        let spread = 5.0 * (expected as f64).sqrt();
        for (letter, count) in counts {
            assert!((count as f64 - expected as f64).abs() < spread, "{} {count}", char::from(letter));
        }
    }

    #[test]
    fn two_passwords_differ() {
        let mut rng = rng(1);
        assert_ne!(generate_password(&mut rng).expose_secret(), generate_password(&mut rng).expose_secret());
    }
}

mod keys {
    use super::*;

    fn write(folder: &Path, text: &str, mode: u32) -> std::path::PathBuf {
        let path = folder.join(KEY_FILE);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn a_missing_file_is_made_for_its_owner_alone_and_used_ever_after() {
        let folder = folder();
        let data_dir = folder.path().join("plumb-data");
        let made = Vault::open(&data_dir, None, &mut rng(1)).unwrap();
        let path = data_dir.join(KEY_FILE);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::metadata(&data_dir).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(std::fs::read_dir(&data_dir).unwrap().count(), 1, "nothing temporary is left");
        assert_eq!(Vault::open(&data_dir, None, &mut rng(2)).unwrap().key_id(), made.key_id());
        assert_eq!(Vault::open_existing(&data_dir, None).unwrap().key_id(), made.key_id());
    }

    #[test]
    fn readers_make_no_key() {
        let folder = folder();
        assert!(matches!(Vault::open_existing(folder.path(), None), Err(VaultError::NoKey { .. })));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn two_that_make_the_file_at_once_agree_on_one_key() {
        let folder = folder();
        let ids: Vec<String> = std::thread::scope(|threads| {
            let started: Vec<_> = (0..8)
                .map(|seed| {
                    let data_dir = folder.path();
                    threads.spawn(move || Vault::open(data_dir, None, &mut rng(seed)).unwrap().key_id().to_string())
                })
                .collect();
            started.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(ids.iter().all(|id| id == &ids[0]), "{ids:?}");
    }

    #[test]
    fn a_file_that_others_can_read_is_refused_with_the_command_that_mends_it() {
        let folder = folder();
        for mode in [0o640, 0o604, 0o620, 0o666] {
            let path = write(folder.path(), &"ab".repeat(32), mode);
            let refused = Vault::open(folder.path(), None, &mut rng(1)).unwrap_err();
            assert!(refused.to_string().contains(&format!("chmod 600 {}", path.display())), "{refused}");
        }
        write(folder.path(), &"ab".repeat(32), 0o400);
        Vault::open(folder.path(), None, &mut rng(1)).unwrap();
    }

    #[test]
    fn a_file_that_is_no_key_is_refused_and_left_as_it_is() {
        let folder = folder();
        for text in ["", "\n", "short", &"zz".repeat(32), &"ab".repeat(31), &"A".repeat(4000)] {
            let path = write(folder.path(), text, 0o600);
            let refused = Vault::open(folder.path(), None, &mut rng(1));
            assert!(matches!(refused, Err(VaultError::BadFile { .. })), "{text}");
            assert_eq!(std::fs::read_to_string(path).unwrap(), text);
        }
    }

    #[test]
    fn a_folder_in_the_place_of_the_file_is_an_error() {
        let folder = folder();
        let path = folder.path().join(KEY_FILE);
        std::fs::create_dir(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        assert!(matches!(Vault::open(folder.path(), None, &mut rng(1)), Err(VaultError::Read { .. })));
    }

    #[test]
    fn the_variable_is_read_as_hex_and_as_base64_of_either_alphabet() {
        let folder = folder();
        let open = |text: &str| Vault::open(folder.path(), Some(text.into()), &mut rng(1)).map(|vault| vault.key_id());
        let hex = open(&"fb".repeat(32)).unwrap();
        for text in [
            "+/v7+/v7+/v7+/v7+/v7+/v7+/v7+/v7+/v7+/v7+/s=",
            "+/v7+/v7+/v7+/v7+/v7+/v7+/v7+/v7+/v7+/v7+/s\n",
            "-_v7-_v7-_v7-_v7-_v7-_v7-_v7-_v7-_v7-_v7-_s=",
            &"FB".repeat(32),
        ] {
            assert_eq!(open(text).unwrap(), hex, "{text}");
        }
        for text in ["", "  ", "fb", "not a key at all, is it", &"fb".repeat(33)] {
            assert!(matches!(open(text), Err(VaultError::BadVariable)), "{text}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the variable makes no file");
    }

    #[test]
    fn the_variable_comes_before_the_file() {
        let folder = folder();
        let file = Vault::open(folder.path(), None, &mut rng(1)).unwrap();
        let variable = Vault::open(folder.path(), Some("ab".repeat(32).into()), &mut rng(1)).unwrap();
        assert_ne!(variable.key_id(), file.key_id());
    }

    #[test]
    fn no_error_shows_what_should_have_been_a_key() {
        let folder = folder();
        write(folder.path(), "almost-a-key", 0o600);
        let file = Vault::open(folder.path(), None, &mut rng(1)).unwrap_err();
        let variable = Vault::open(folder.path(), Some("almost-a-key".into()), &mut rng(1)).unwrap_err();
        for error in [file, variable] {
            assert!(!format!("{error} {error:?}").contains("almost-a-key"));
        }
    }
}

mod stored {
    use super::*;

    struct StoppedClock;

    impl Clock for StoppedClock {
        fn now(&self) -> DateTime<Utc> {
            DateTime::from_timestamp(1_700_000_000, 0).unwrap()
        }
    }

    async fn store(folder: &tempfile::TempDir) -> Arc<dyn Store> {
        Arc::new(SqliteStore::open(folder.path(), Mode::Reconcile).await.unwrap())
    }

    async fn secrets(store: &Arc<dyn Store>, vault_seed: u64) -> Result<StoredSecrets, SecretsError> {
        let vault = Arc::new(vault(vault_seed));
        // Each has other random numbers, as each process has.
        let rng = Box::new(rng(vault_seed * 1000 + Arc::strong_count(store) as u64));
        StoredSecrets::open(Arc::clone(store), vault, Arc::new(StoppedClock), rng).await
    }

    async fn to_reveal(store: &Arc<dyn Store>, vault_seed: u64) -> Result<StoredSecrets, SecretsError> {
        let vault = Arc::new(vault(vault_seed));
        StoredSecrets::open_to_reveal(Arc::clone(store), vault, Arc::new(StoppedClock), Box::new(rng(0))).await
    }

    /// The lease on the tenant of these tests, claimed where it is not yet.
    async fn lease(store: &Arc<dyn Store>) -> Lease {
        let (tenant, holder) = (orders().tenant, Replica("test".to_owned()));
        let ask = Ask { trigger: Trigger::CommandLine, width: Width::Deep };
        store.claim_tenant(&tenant, ask, &holder, LEASE).await.unwrap();
        let generation = store.place(&tenant).await.unwrap().expect("it was claimed").generation;
        Lease { tenant, holder, generation }
    }

    async fn stored(store: &Arc<dyn Store>) -> Vec<StoredSecret> {
        store.read(Scope::Platform).await.unwrap().secrets(&orders(), "app").await.unwrap()
    }

    async fn record_rotation(store: &Arc<dyn Store>, rotation: Option<&str>) {
        let record = Record {
            key: orders(),
            provider: "pg".into(),
            identity: ProviderIdentity("1".into()),
            object_name: "orders".into(),
            object: ObjectId("1".into()),
            applied: Fields::new(),
            readback: Fields::new(),
            unsettled: Default::default(),
            begun: Default::default(),
            document: Default::default(),
            annotations: Annotations { rotate: rotation.map(str::to_owned), ..Annotations::default() },
            depends_on: Vec::new(),
            file: "orders.yaml".into(),
            commit: "c0ffee".into(),
            retained: false,
            updated_at: StoppedClock.now(),
        };
        let mut tx = store.begin(Scope::Platform).await.unwrap();
        tx.put_record(&record).await.unwrap();
        tx.commit().await.unwrap();
    }

    #[tokio::test]
    async fn r12_a_password_is_stored_encrypted_before_it_is_given() {
        let folder = folder();
        let store = store(&folder).await;
        let password =
            secrets(&store, 1).await.unwrap().password(&lease(&store).await, &orders(), "app", None).await.unwrap();
        let stored = stored(&store).await;
        assert_eq!(stored.len(), 1);
        assert_eq!(
            vault(1).decrypt(&orders(), "app", "", &stored[0].ciphertext).unwrap().expose_secret(),
            password.expose_secret()
        );
        for entry in std::fs::read_dir(folder.path()).unwrap() {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            assert!(!bytes.windows(32).any(|window| window == password.expose_secret().as_bytes()));
        }
    }

    #[tokio::test]
    async fn r12_asking_again_gives_the_same_password() {
        let folder = folder();
        let store = store(&folder).await;
        let first =
            secrets(&store, 1).await.unwrap().password(&lease(&store).await, &orders(), "app", None).await.unwrap();
        let again =
            secrets(&store, 1).await.unwrap().password(&lease(&store).await, &orders(), "app", None).await.unwrap();
        assert_eq!(first.expose_secret(), again.expose_secret());
        assert_eq!(stored(&store).await.len(), 1);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn r12_two_that_ask_at_once_agree() {
        let folder = folder();
        let store = store(&folder).await;
        let mut asking = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let (secrets, lease) = (secrets(&store, 1).await.unwrap(), lease(&store).await);
            asking.spawn(async move { secrets.password(&lease, &orders(), "app", None).await.unwrap() });
        }
        let given: BTreeSet<String> =
            asking.join_all().await.iter().map(|password| password.expose_secret().to_owned()).collect();
        assert_eq!(given.len(), 1);
    }

    #[tokio::test]
    async fn r12_a_rotation_has_a_password_of_its_own_and_the_old_one_stays() {
        let folder = folder();
        let store = store(&folder).await;
        let secrets = secrets(&store, 1).await.unwrap();
        let old = secrets.password(&lease(&store).await, &orders(), "app", None).await.unwrap();
        let new = secrets.password(&lease(&store).await, &orders(), "app", Some("2024-06")).await.unwrap();
        assert_ne!(old.expose_secret(), new.expose_secret());
        assert_eq!(
            secrets.password(&lease(&store).await, &orders(), "app", None).await.unwrap().expose_secret(),
            old.expose_secret()
        );
        assert_eq!(secrets.reveal(&orders(), "app").await.unwrap().unwrap().expose_secret(), new.expose_secret());
    }

    #[tokio::test]
    async fn r12_a_rotation_that_was_taken_back_reveals_the_password_it_went_back_to() {
        let folder = folder();
        let store = store(&folder).await;
        let secrets = secrets(&store, 1).await.unwrap();
        let first = secrets.password(&lease(&store).await, &orders(), "app", Some("a")).await.unwrap();
        let second = secrets.password(&lease(&store).await, &orders(), "app", Some("b")).await.unwrap();
        record_rotation(&store, Some("a")).await;
        assert_eq!(secrets.reveal(&orders(), "app").await.unwrap().unwrap().expose_secret(), first.expose_secret());
        // A role that came after the rotation has its password under another name; no annotation says nothing.
        for rotation in [Some("c"), None] {
            record_rotation(&store, rotation).await;
            assert_eq!(
                secrets.reveal(&orders(), "app").await.unwrap().unwrap().expose_secret(),
                second.expose_secret()
            );
        }
    }

    #[tokio::test]
    async fn r12_a_password_that_was_never_stored_is_unknown() {
        let folder = folder();
        let store = store(&folder).await;
        assert!(secrets(&store, 1).await.unwrap().reveal(&orders(), "app").await.unwrap().is_none());
        assert!(stored(&store).await.is_empty(), "revealing makes nothing");
    }

    #[tokio::test]
    async fn a_store_with_passwords_of_another_key_is_refused_at_once() {
        let folder = folder();
        let store = store(&folder).await;
        secrets(&store, 1).await.unwrap().password(&lease(&store).await, &orders(), "app", None).await.unwrap();
        for refused in [secrets(&store, 2).await, to_reveal(&store, 2).await] {
            expect_another_key(&refused.unwrap_err(), 1);
        }
    }

    fn expect_another_key(refused: &SecretsError, needed: u64) {
        let id = vault(needed).key_id().to_string();
        assert!(matches!(refused, SecretsError::Vault(VaultError::AnotherKey { needed, .. }) if *needed == id));
        let told = refused.to_string();
        assert!(told.contains(&format!("Put key {id} into PLUMB_SECRET_KEY, or its file secret.key")), "{told}");
    }

    #[tokio::test]
    async fn the_first_key_is_the_only_one_before_any_password_is_stored() {
        let folder = folder();
        let store = store(&folder).await;
        // Who only reveals claims nothing.
        to_reveal(&store, 3).await.unwrap();
        assert_eq!(key_id(&store).await, None);
        secrets(&store, 1).await.unwrap();
        assert_eq!(key_id(&store).await, Some(vault(1).key_id().to_string()));
        expect_another_key(&secrets(&store, 2).await.unwrap_err(), 1);
        secrets(&store, 1).await.unwrap();
    }

    #[tokio::test]
    async fn of_many_that_come_with_keys_of_their_own_at_once_one_is_not_refused() {
        let folder = folder();
        let store = store(&folder).await;
        let coming = futures::future::join_all((1..9).map(|seed| secrets(&store, seed))).await;
        assert_eq!(coming.iter().filter(|came| came.is_ok()).count(), 1);
    }

    #[tokio::test]
    async fn the_key_of_passwords_from_before_it_was_written_down_is_the_one_that_opens_them() {
        let folder = folder();
        let store = store(&folder).await;
        store_by_hand(&store, 1, "").await;
        for refused in [secrets(&store, 2).await, to_reveal(&store, 2).await] {
            let refused = refused.unwrap_err();
            let is_other = |needed: &KeyId| *needed == vault(1).key_id();
            assert!(matches!(&refused, SecretsError::Vault(VaultError::WrongKey { needed, .. }) if is_other(needed)));
            assert!(refused.to_string().contains(&format!("put key {}", vault(1).key_id())), "{refused}");
        }
        assert_eq!(key_id(&store).await, None);
        assert!(to_reveal(&store, 1).await.unwrap().reveal(&orders(), "app").await.unwrap().is_some());
        secrets(&store, 1).await.unwrap();
        assert_eq!(key_id(&store).await, Some(vault(1).key_id().to_string()));
        // One of a version before that goes on with another key stops nobody who has the right one.
        store_by_hand(&store, 2, "2024-06").await;
        secrets(&store, 1).await.unwrap();
        expect_another_key(&secrets(&store, 2).await.unwrap_err(), 1);
    }

    async fn key_id(store: &Arc<dyn Store>) -> Option<String> {
        store.read(Scope::Platform).await.unwrap().secret_key_id().await.unwrap()
    }

    /// Stores a password as a version did that wrote no id down.
    async fn store_by_hand(store: &Arc<dyn Store>, vault_seed: u64, rotation: &str) {
        let ciphertext = vault(vault_seed).encrypt(&mut rng(9), &orders(), "app", rotation, &"hunter2".into()).unwrap();
        let secret = StoredSecret {
            key: orders(),
            role: "app".into(),
            rotation: rotation.into(),
            ciphertext,
            created_at: StoppedClock.now(),
        };
        let mut tx = store.begin(Scope::Platform).await.unwrap();
        tx.put_secret(&secret).await.unwrap();
        tx.commit().await.unwrap();
    }

    #[tokio::test]
    async fn no_new_password_is_made_beside_one_of_another_key() {
        let folder = folder();
        let store = store(&folder).await;
        // A version before that goes on with a key of its own.
        let late = secrets(&store, 2).await.unwrap();
        store_by_hand(&store, 1, "").await;
        for rotation in [None, Some(""), Some("new")] {
            let refused = late.password(&lease(&store).await, &orders(), "app", rotation).await.unwrap_err();
            assert!(matches!(refused, ManagerError::Terminal { reason: Reason::CredentialMissing, .. }), "{refused}");
        }
        assert!(late.reveal(&orders(), "app").await.is_err());
        assert_eq!(stored(&store).await.len(), 1);
    }

    #[tokio::test]
    async fn a_ciphertext_moved_to_another_role_does_not_open() {
        let folder = folder();
        let store = store(&folder).await;
        let secrets = secrets(&store, 1).await.unwrap();
        secrets.password(&lease(&store).await, &orders(), "app", None).await.unwrap();
        let moved = StoredSecret { role: "admin".into(), ..stored(&store).await.remove(0) };
        let mut tx = store.begin(Scope::Platform).await.unwrap();
        tx.put_secret(&moved).await.unwrap();
        tx.commit().await.unwrap();
        let refused = secrets.password(&lease(&store).await, &orders(), "admin", None).await.unwrap_err();
        assert!(matches!(refused, ManagerError::Terminal { reason: Reason::Internal, .. }), "{refused}");
        assert!(refused.to_string().contains("role admin of checkout/staging/Database/orders"), "{refused}");
    }

    #[tokio::test]
    async fn no_password_is_made_under_a_lease_that_was_lost() {
        let folder = folder();
        let store = store(&folder).await;
        let held = lease(&store).await;
        let lost = Lease { generation: held.generation - 1, ..held.clone() };
        let secrets = secrets(&store, 1).await.unwrap();
        let refused = secrets.password(&lost, &orders(), "app", None).await.unwrap_err();
        assert!(matches!(refused, ManagerError::Retry { .. }), "{refused}");
        assert!(stored(&store).await.is_empty());
        secrets.password(&held, &orders(), "app", None).await.unwrap();
    }

    #[tokio::test]
    async fn a_store_that_cannot_be_written_gives_no_password() {
        let folder = folder();
        let writer = store(&folder).await;
        let lease = lease(&writer).await;
        let reader: Arc<dyn Store> = Arc::new(SqliteStore::open(folder.path(), Mode::ReadOnly).await.unwrap());
        let refused = secrets(&reader, 1).await.unwrap_err();
        assert!(matches!(refused, SecretsError::Store(StoreError::ReadOnly)), "{refused}");
        let refused = to_reveal(&reader, 1).await.unwrap().password(&lease, &orders(), "app", None).await.unwrap_err();
        assert!(matches!(refused, ManagerError::Retry { .. }), "{refused}");
        assert!(refused.to_string().contains("open for reading only"), "{refused}");
    }
}

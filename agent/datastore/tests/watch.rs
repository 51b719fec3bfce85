//! Watching a directory: each way in which people and programs change files takes effect within a second, and what
//! is wrong leaves the last good snapshot.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::symlink,
    path::Path,
    time::Duration,
};

use manx_datastore::{Datastore, Update};
use tokio::{
    sync::watch::Receiver,
    time::{Instant, sleep, timeout},
};

fn node(name: &str, address: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: Node\nmetadata:\n  name: {name}\nspec:\n  bgp:\n    ipv4Address: {address}/24\n"
    )
}

async fn watch(path: &Path) -> Receiver<Update> {
    Datastore::Directory(path.to_owned()).watch().await.unwrap()
}

fn address(update: &Update, name: &str) -> Option<String> {
    Some(update.snapshot.node(name)?.spec.bgp.as_ref()?.ipv4?.addr.to_string())
}

/// Waits until the datastore says what it should; it has a second.
async fn until(updates: &mut Receiver<Update>, wanted: impl FnMut(&Update) -> bool) -> Update {
    if let Ok(update) = timeout(Duration::from_secs(1), updates.wait_for(wanted)).await {
        return update.unwrap().clone();
    }
    panic!("not within a second: {:?}", updates.borrow())
}

#[tokio::test]
async fn the_first_reading_is_there_at_once() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.yaml"), node("a", "10.0.0.1")).unwrap();
    let updates = watch(dir.path()).await;
    assert_eq!(address(&updates.borrow(), "a").as_deref(), Some("10.0.0.1"));
}

#[tokio::test]
async fn an_edit_a_rename_over_and_a_removal_take_effect() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.yaml");
    let mut updates = watch(dir.path()).await;
    fs::write(&path, node("a", "10.0.0.1")).unwrap();
    until(&mut updates, |update| address(update, "a").as_deref() == Some("10.0.0.1")).await;
    fs::write(dir.path().join(".a.yaml.new"), node("a", "10.0.0.2")).unwrap();
    fs::rename(dir.path().join(".a.yaml.new"), &path).unwrap();
    until(&mut updates, |update| address(update, "a").as_deref() == Some("10.0.0.2")).await;
    fs::remove_file(&path).unwrap();
    until(&mut updates, |update| update.snapshot.is_empty() && !update.has_errors()).await;
}

#[tokio::test]
async fn a_file_that_is_being_written_is_read_when_it_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.yaml");
    fs::write(&path, node("a", "10.0.0.1")).unwrap();
    let mut updates = watch(dir.path()).await;
    updates.mark_unchanged();
    let mut file = File::create(&path).unwrap();
    sleep(Duration::from_millis(150)).await;
    assert!(!updates.has_changed().unwrap(), "the emptied file was read: {:?}", updates.borrow());
    file.write_all(node("a", "10.0.0.2").as_bytes()).unwrap();
    drop(file);
    let update = until(&mut updates, |update| address(update, "a").as_deref() == Some("10.0.0.2")).await;
    assert_eq!(update.revision, 2);
}

#[tokio::test]
async fn a_bad_file_leaves_the_last_good_snapshot_until_it_is_corrected() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.yaml"), node("a", "10.0.0.1")).unwrap();
    fs::write(dir.path().join("b.yaml"), node("b", "10.0.0.2")).unwrap();
    let mut updates = watch(dir.path()).await;
    fs::write(dir.path().join("a.yaml"), node("a", "10.0.0.300")).unwrap();
    let update = until(&mut updates, Update::has_errors).await;
    assert_eq!(
        update.problems[0].to_string().replace(&dir.path().display().to_string(), "DIR"),
        "DIR/a.yaml:7:18: Node \"a\": spec.bgp.ipv4Address: \"10.0.0.300/24\" is not an IPv4 address with the length \
         of its network; write 192.168.80.121/24"
    );
    // Nothing else is taken meanwhile: a snapshot is one state of the whole.
    fs::write(dir.path().join("b.yaml"), node("b", "10.0.0.9")).unwrap();
    sleep(Duration::from_millis(200)).await;
    assert_eq!(address(&updates.borrow(), "a").as_deref(), Some("10.0.0.1"));
    assert_eq!(address(&updates.borrow(), "b").as_deref(), Some("10.0.0.2"));
    fs::write(dir.path().join("a.yaml"), node("a", "10.0.0.3")).unwrap();
    let update = until(&mut updates, |update| !update.has_errors()).await;
    assert_eq!(address(&update, "a").as_deref(), Some("10.0.0.3"));
    assert_eq!(address(&update, "b").as_deref(), Some("10.0.0.9"));
}

#[tokio::test]
async fn a_directory_that_does_not_exist_yet_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("etc/manx");
    let mut updates = watch(&path).await;
    assert!(updates.borrow().has_errors());
    fs::create_dir_all(&path).unwrap();
    fs::write(path.join("a.yaml"), node("a", "10.0.0.1")).unwrap();
    until(&mut updates, |update| address(update, "a").is_some()).await;
}

#[tokio::test]
async fn a_directory_that_is_removed_keeps_the_last_good_snapshot_and_is_taken_up_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("manx");
    fs::create_dir(&path).unwrap();
    fs::write(path.join("a.yaml"), node("a", "10.0.0.1")).unwrap();
    let mut updates = watch(&path).await;
    fs::rename(&path, dir.path().join("old")).unwrap();
    let update = until(&mut updates, Update::has_errors).await;
    assert_eq!(address(&update, "a").as_deref(), Some("10.0.0.1"));
    fs::create_dir(&path).unwrap();
    fs::write(path.join("a.yaml"), node("a", "10.0.0.2")).unwrap();
    until(&mut updates, |update| address(update, "a").as_deref() == Some("10.0.0.2")).await;
    fs::write(path.join("a.yaml"), node("a", "10.0.0.3")).unwrap();
    until(&mut updates, |update| address(update, "a").as_deref() == Some("10.0.0.3")).await;
}

#[tokio::test]
async fn a_config_map_is_followed_when_its_links_are_swapped() {
    let dir = tempfile::tempdir().unwrap();
    for (version, address) in [("..1", "10.0.0.1"), ("..2", "10.0.0.2")] {
        fs::create_dir(dir.path().join(version)).unwrap();
        fs::write(dir.path().join(version).join("a.yaml"), node("a", address)).unwrap();
    }
    symlink("..1", dir.path().join("..data")).unwrap();
    symlink("..data/a.yaml", dir.path().join("a.yaml")).unwrap();
    let mut updates = watch(dir.path()).await;
    assert_eq!(address(&updates.borrow(), "a").as_deref(), Some("10.0.0.1"));
    symlink("..2", dir.path().join("..data_tmp")).unwrap();
    fs::rename(dir.path().join("..data_tmp"), dir.path().join("..data")).unwrap();
    until(&mut updates, |update| address(update, "a").as_deref() == Some("10.0.0.2")).await;
}

#[tokio::test]
async fn the_directory_may_itself_be_a_link_that_is_swapped() {
    let dir = tempfile::tempdir().unwrap();
    for (version, address) in [("v1", "10.0.0.1"), ("v2", "10.0.0.2")] {
        fs::create_dir(dir.path().join(version)).unwrap();
        fs::write(dir.path().join(version).join("a.yaml"), node("a", address)).unwrap();
    }
    symlink("v1", dir.path().join("manx")).unwrap();
    let mut updates = watch(&dir.path().join("manx")).await;
    symlink("v2", dir.path().join("new")).unwrap();
    fs::rename(dir.path().join("new"), dir.path().join("manx")).unwrap();
    until(&mut updates, |update| address(update, "a").as_deref() == Some("10.0.0.2")).await;
}

#[tokio::test]
async fn the_target_of_a_link_is_watched_where_it_lies() {
    let dir = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let target = elsewhere.path().join("real.yaml");
    fs::write(&target, node("a", "10.0.0.1")).unwrap();
    symlink(&target, dir.path().join("a.yaml")).unwrap();
    let mut updates = watch(dir.path()).await;
    fs::write(&target, node("a", "10.0.0.2")).unwrap();
    until(&mut updates, |update| address(update, "a").as_deref() == Some("10.0.0.2")).await;
}

#[tokio::test]
async fn a_burst_of_changes_is_few_updates() {
    let dir = tempfile::tempdir().unwrap();
    let mut updates = watch(dir.path()).await;
    for n in 0..50 {
        fs::write(dir.path().join(format!("{n}.yaml")), node(&format!("n{n}"), &format!("10.0.0.{}", n + 1)))
            .unwrap();
    }
    let update = until(&mut updates, |update| update.snapshot.len() == 50).await;
    assert!(update.revision < 10, "{}", update.revision);
}

#[tokio::test]
async fn what_changes_nothing_is_no_update() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.yaml"), node("a", "10.0.0.1")).unwrap();
    let mut updates = watch(dir.path()).await;
    updates.mark_unchanged();
    fs::write(dir.path().join("a.yaml"), node("a", "10.0.0.1")).unwrap();
    fs::write(dir.path().join("README"), "words").unwrap();
    fs::write(dir.path().join(".a.yaml.swp"), "words").unwrap();
    sleep(Duration::from_millis(300)).await;
    assert!(!updates.has_changed().unwrap());
}

#[tokio::test]
async fn changes_without_pause_are_read_within_the_second_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let mut updates = watch(dir.path()).await;
    let start = Instant::now();
    let path = dir.path().to_owned();
    let noise = tokio::spawn(async move {
        loop {
            fs::write(path.join("noise"), "x").unwrap();
            sleep(Duration::from_millis(10)).await;
        }
    });
    fs::write(dir.path().join("a.yaml"), node("a", "10.0.0.1")).unwrap();
    until(&mut updates, |update| address(update, "a").is_some()).await;
    assert!(start.elapsed() < Duration::from_secs(1));
    noise.abort();
}

#[tokio::test]
async fn dropping_the_receiver_ends_the_watching() {
    let dir = tempfile::tempdir().unwrap();
    let updates = watch(dir.path()).await;
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    assert_eq!(tasks(), 1);
    drop(updates);
    let start = Instant::now();
    while tasks() > 0 {
        assert!(start.elapsed() < Duration::from_secs(1));
        sleep(Duration::from_millis(10)).await;
    }
}

/// What an earlier run kept, where what is there now is wrong.
#[tokio::test]
async fn a_start_with_files_that_are_wrong_goes_on_with_what_was_kept() {
    let dir = tempfile::tempdir().unwrap();
    let state = tempfile::tempdir().unwrap();
    let kept = state.path().join("resources");
    let path = dir.path().join("a.yaml");
    let start = async || Datastore::Directory(dir.path().to_owned()).watch_and_keep(&kept).await.unwrap();
    fs::write(&path, node("a", "10.0.0.1")).unwrap();
    fs::write(dir.path().join("b.yaml"), node("b", "10.0.0.2")).unwrap();
    let updates = start().await;
    assert!(updates.borrow().kept_at.is_none());
    timeout(Duration::from_secs(5), async {
        while !kept.exists() {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
    drop(updates);
    fs::write(&path, "kind: Nod").unwrap();
    let mut updates = start().await;
    let update = updates.borrow_and_update().clone();
    assert!(update.has_errors() && update.kept_at.is_some(), "{update:?}");
    assert_eq!(update.snapshot.len(), 2);
    // Good again, and the same as was kept: nothing is of an earlier run any more.
    fs::write(&path, node("a", "10.0.0.1")).unwrap();
    until(&mut updates, |update| !update.has_errors() && update.kept_at.is_none()).await;
    // From here on the last good ones are those of this run.
    fs::write(&path, "kind: Nod").unwrap();
    let update = until(&mut updates, Update::has_errors).await;
    assert!(update.kept_at.is_none() && update.snapshot.len() == 2);
    // A file that is good needs nothing that was kept.
    drop(updates);
    fs::write(&path, node("a", "10.0.0.9")).unwrap();
    let updates = start().await;
    assert_eq!(address(&updates.borrow(), "a").as_deref(), Some("10.0.0.9"));
    assert!(updates.borrow().kept_at.is_none());
}

//! Blackholes that operators order, on disk: they outlive the daemon, and expire by the wall clock. The file is
//! replaced by rename, so that it is whole at any time; one that cannot be read is set aside under another name and
//! said, since a slip in it must not keep a node from starting. Whether an order makes sense is not asked here.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use manx_api::BlackholeReply;
use manx_net::Prefix;
use serde::{Deserialize, Serialize};

use crate::state_file;

const FILE: &str = "blackholes.json";
const VERSION: u32 = 1;

/// One prefix that an operator wants to be a blackhole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Order {
    pub prefix: Prefix,
    pub reply: BlackholeReply,
    pub since: Timestamp,
    #[serde(default)]
    pub expires: Option<Timestamp>,
    pub comment: Option<String>,
    /// The operator's name and user id.
    pub who: String,
    /// What the programs had counted for this prefix, as whatever it was, when it was ordered.
    pub packets_before: u64,
    pub bytes_before: u64,
}

impl Order {
    pub fn is_over(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    blackholes: Vec<Order>,
}

/// The version, whatever else stands there.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

#[derive(Debug)]
pub struct Orders {
    directory: PathBuf,
    orders: BTreeMap<Prefix, Order>,
    /// What an earlier run kept and this one cannot read; a sentence.
    lost: Option<String>,
    /// Why what stands is not on disk; a sentence.
    unsaved: Option<String>,
}

impl Orders {
    /// Reads what an earlier run kept, if anything, expired or not.
    pub fn open(directory: &Path) -> Orders {
        let path = directory.join(FILE);
        let none =
            Orders { directory: directory.to_owned(), orders: BTreeMap::new(), lost: None, unsaved: None };
        let error = match read(&path) {
            Ok(orders) => {
                let orders = orders.into_iter().map(|order| (order.prefix, order)).collect();
                return Orders { orders, ..none };
            }
            Err(error) => error,
        };
        Orders { lost: Some(set_aside(&path, &error)), ..none }
    }

    pub fn get(&self, prefix: Prefix) -> Option<&Order> {
        self.orders.get(&prefix)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Order> {
        self.orders.values()
    }

    pub fn len(&self) -> usize {
        self.orders.len()
    }

    /// True if there was one for this prefix, which is replaced. Call [`Self::save`] when all are in.
    pub fn insert(&mut self, order: Order) -> bool {
        self.orders.insert(order.prefix, order).is_some()
    }

    /// Call [`Self::save`] when all are out.
    pub fn remove(&mut self, prefix: Prefix) -> Option<Order> {
        self.orders.remove(&prefix)
    }

    /// Takes out what is over at `now`.
    pub fn expire(&mut self, now: Timestamp) -> Vec<Order> {
        let over: Vec<Prefix> =
            self.orders.values().filter(|order| order.is_over(now)).map(|order| order.prefix).collect();
        let over: Vec<Order> = over.into_iter().filter_map(|prefix| self.orders.remove(&prefix)).collect();
        if !over.is_empty() {
            self.save();
        }
        over
    }

    /// The programs count from zero again: their maps were made anew.
    pub fn begin_counts_anew(&mut self) {
        let mut changed = false;
        for order in self.orders.values_mut() {
            changed |= order.packets_before != 0 || order.bytes_before != 0;
            (order.packets_before, order.bytes_before) = (0, 0);
        }
        if changed {
            self.save();
        }
    }

    pub fn next_expiry(&self) -> Option<Timestamp> {
        self.orders.values().filter_map(|order| order.expires).min()
    }

    /// What is wrong with keeping them, a sentence each.
    pub fn warnings(&self) -> impl Iterator<Item = &String> {
        self.lost.iter().chain(&self.unsaved)
    }

    /// Tries anew what [`Self::save`] could not do. True if it is done now; cheap while there is nothing to do.
    pub fn save_again(&mut self) -> bool {
        if self.unsaved.is_none() {
            return false;
        }
        self.save();
        self.unsaved.is_none()
    }

    /// Puts on disk what stands. What cannot be kept holds nevertheless until this process ends.
    pub fn save(&mut self) {
        let path = self.directory.join(FILE);
        self.unsaved = write(&path, &self.orders).err().map(|error| {
            format!(
                "operators' blackholes are in force but not kept over a restart, after which those ordered since are gone and \
                 those deleted since are back: cannot write {}: {error}; trying again every few seconds",
                path.display()
            )
        });
    }
}

#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    #[error("it is of version {0}, and this manxd knows version {VERSION}")]
    Version(u32),
}

fn read(path: &Path) -> Result<Vec<Order>, ReadError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let Version { version } = serde_json::from_slice(&text)?;
    if version != VERSION {
        return Err(ReadError::Version(version));
    }
    Ok(serde_json::from_slice::<Document>(&text)?.blackholes)
}

/// Moves a file that cannot be read out of the way, so that the next write does not destroy it. Says what happened.
fn set_aside(path: &Path, error: &ReadError) -> String {
    let aside = path.with_extension(format!("bad-{}", Timestamp::now().as_second()));
    let outcome = match fs::rename(path, &aside) {
        Ok(()) => format!("it is kept as {}", aside.display()),
        Err(error) => format!("it cannot be renamed ({error}), and the next order replaces it"),
    };
    format!(
        "{} cannot be read: {error}; the blackholes in it are not in force, {outcome}. Order them anew with `manxctl \
         blackhole add`",
        path.display()
    )
}

fn write(path: &Path, orders: &BTreeMap<Prefix, Order>) -> io::Result<()> {
    let document = Document { version: VERSION, blackholes: orders.values().cloned().collect() };
    let mut text = serde_json::to_vec_pretty(&document)?;
    text.push(b'\n');
    state_file::replace(path, &text)
}

/// Removes what [`Orders`] keeps. True if there was something.
pub fn cleanup(directory: &Path) -> io::Result<bool> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let mut any = false;
    for entry in entries {
        let entry = entry?;
        // With what was set aside, and what a write left that was cut short.
        if entry.file_name().to_str().is_some_and(|name| name.starts_with("blackholes.")) {
            fs::remove_file(entry.path())?;
            any = true;
        }
    }
    if directory.ends_with("manx") {
        // Ours by its name; it stays if somebody else keeps something in it.
        let _ = fs::remove_dir(directory);
    }
    Ok(any)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(prefix: &str, expires: Option<i64>) -> Order {
        Order {
            prefix: prefix.parse().unwrap(),
            reply: BlackholeReply::Unreachable,
            since: Timestamp::from_second(1_000).unwrap(),
            expires: expires.map(|second| Timestamp::from_second(second).unwrap()),
            comment: Some(String::from("attack")),
            who: String::from("alice (uid 0)"),
            packets_before: 7,
            bytes_before: 700,
        }
    }

    fn names(directory: &Path) -> Vec<String> {
        let names = fs::read_dir(directory).unwrap();
        let mut names: Vec<_> =
            names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_that_is_damaged_anywhere_is_read_or_set_aside_and_said() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        let mut orders = Orders::open(directory);
        orders.insert(order("192.0.2.1/32", Some(2_000)));
        orders.insert(order("2001:db8::/32", None));
        orders.save();
        let whole = fs::read(directory.join(FILE)).unwrap();
        let cut = (0..whole.len() - 2).map(|length| whole[..length].to_vec());
        let flipped = (0..whole.len()).flat_map(|at| {
            [0x00, b'9', b'"', 0xff].map(|octet| {
                let mut text = whole.clone();
                text[at] = octet;
                text
            })
        });
        for text in cut.chain(flipped) {
            fs::write(directory.join(FILE), &text).unwrap();
            let read = Orders::open(directory);
            let lost = read.warnings().count();
            assert_eq!(lost, usize::from(read.len() == 0), "{}", String::from_utf8_lossy(&text));
            assert_eq!(directory.join(FILE).exists(), lost == 0);
        }
    }

    #[test]
    fn what_was_ordered_is_there_after_a_restart_and_what_is_over_goes() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().join("manx");
        let mut orders = Orders::open(&directory);
        assert_eq!((orders.len(), orders.warnings().count()), (0, 0));
        assert!(!orders.insert(order("192.0.2.1/32", Some(2_000))));
        assert!(!orders.insert(order("2001:db8::/32", None)));
        assert!(orders.insert(order("192.0.2.1/32", Some(3_000))), "it was there");
        orders.save();
        let mut again = Orders::open(&directory);
        assert!(again.iter().eq(orders.iter()), "{again:?}");
        assert_eq!(names(&directory), [FILE]);
        assert_eq!(again.next_expiry(), Some(Timestamp::from_second(3_000).unwrap()));
        assert_eq!(again.expire(Timestamp::from_second(2_999).unwrap()), []);
        let over = again.expire(Timestamp::from_second(3_000).unwrap());
        assert_eq!(over, [order("192.0.2.1/32", Some(3_000))]);
        assert_eq!(Orders::open(&directory).len(), 1, "nor is it on disk any more");
        assert!(cleanup(&directory).unwrap());
        assert!(!directory.exists() && !cleanup(&directory).unwrap());
    }

    #[test]
    fn where_the_programs_count_from_zero_again_so_do_the_orders_after_the_next_restart_too() {
        let directory = tempfile::tempdir().unwrap();
        let mut orders = Orders::open(directory.path());
        orders.insert(order("192.0.2.1/32", None));
        orders.save();
        orders.begin_counts_anew();
        let again = Orders::open(directory.path());
        for orders in [&orders, &again] {
            let order = orders.get("192.0.2.1/32".parse().unwrap()).unwrap();
            assert_eq!((order.packets_before, order.bytes_before), (0, 0));
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named_and_set_aside_and_the_next_order_is_kept() {
        for text in
            ["", "{", r#"{"version": 1, "blackholes": [{"prefix": "10.0.0.1/8"}]}"#, r#"{"version": 2}"#]
        {
            let directory = tempfile::tempdir().unwrap();
            let directory = directory.path();
            fs::write(directory.join(FILE), text).unwrap();
            let mut orders = Orders::open(directory);
            assert_eq!(orders.len(), 0);
            let said = orders.warnings().next().expect("a warning").clone();
            let aside = names(directory);
            let [aside] = aside.as_slice() else { panic!("{aside:?}") };
            assert!(said.contains(FILE) && said.contains(aside.as_str()), "{said}");
            assert_eq!(fs::read_to_string(directory.join(aside)).unwrap(), text);
            orders.insert(order("192.0.2.1/32", None));
            orders.save();
            assert_eq!(Orders::open(directory).len(), 1);
            assert_eq!(fs::read_to_string(directory.join(aside)).unwrap(), text);
        }
    }

    #[test]
    fn orders_that_cannot_be_written_hold_and_it_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        // A directory cannot be made where a file is.
        let mut orders = Orders::open(&file.join("state"));
        orders.insert(order("192.0.2.1/32", None));
        orders.save();
        assert_eq!(orders.len(), 1);
        assert!(orders.warnings().any(|text| text.contains("not kept over a restart")), "{orders:?}");
    }

    #[test]
    fn what_could_not_be_written_is_written_as_soon_as_it_can_be() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        let mut orders = Orders::open(&state);
        orders.insert(order("192.0.2.1/32", None));
        orders.insert(order("192.0.2.2/32", None));
        orders.save();
        assert!(!orders.save_again(), "there is nothing to do");
        fs::remove_dir_all(&state).unwrap();
        fs::write(&state, "").unwrap();
        orders.remove("192.0.2.1/32".parse().unwrap());
        orders.save();
        assert!(!orders.save_again());
        assert_eq!(orders.warnings().count(), 1);
        fs::remove_file(&state).unwrap();
        assert!(orders.save_again());
        assert_eq!(orders.warnings().count(), 0);
        let kept: Vec<_> = Orders::open(&state).iter().map(|order| order.prefix.to_string()).collect();
        assert_eq!(kept, ["192.0.2.2/32"], "what was deleted meanwhile is not back");
    }
}

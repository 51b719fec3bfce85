//! Files of sections and keys, as systemd and NetworkManager read them: a main file, then drop-ins by name, of which the
//! administrator's stand in the place of the system's; the last word counts.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// The last ones come first where the name is the same.
const PLACES: [&str; 3] = ["usr/lib", "run", "etc"];

/// The keys of a section. `file` is below each of the places, such as `systemd/networkd.conf`; its drop-ins are in
/// `systemd/networkd.conf.d`, or for NetworkManager in `NetworkManager/conf.d`.
pub(crate) fn settings(root: &Path, file: &str, section: &str) -> BTreeMap<String, String> {
    let file = Path::new(file);
    let parent = file.parent().unwrap_or(Path::new(""));
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let drop_ins = [parent.join(format!("{name}.d")), parent.join("conf.d")];
    let main = PLACES.iter().rev().map(|place| root.join(place).join(file)).find(|path| path.is_file());
    let mut by_name: BTreeMap<String, PathBuf> = BTreeMap::new();
    for place in PLACES {
        for directory in &drop_ins {
            let entries = fs::read_dir(root.join(place).join(directory)).into_iter().flatten().flatten();
            for entry in entries {
                let name = entry.file_name().to_string_lossy().into_owned();
                if name.ends_with(".conf") {
                    by_name.insert(name, entry.path());
                }
            }
        }
    }
    let mut found = BTreeMap::new();
    for path in main.into_iter().chain(by_name.into_values()) {
        // One that cannot be read says nothing.
        read(&fs::read_to_string(path).unwrap_or_default(), section, &mut found);
    }
    found
}

fn read(text: &str, section: &str, found: &mut BTreeMap<String, String>) {
    let mut inside = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            inside = name == section;
        } else if let (true, Some((key, value))) = (inside, line.split_once('=')) {
            let (key, value) = (key.trim(), value.trim());
            match key.strip_suffix('+') {
                // NetworkManager adds to a list so.
                Some(list) => {
                    let entry: &mut String = found.entry(list.trim().to_owned()).or_default();
                    entry.push(';');
                    entry.push_str(value);
                }
                None => drop(found.insert(key.to_owned(), value.to_owned())),
            }
        }
    }
}

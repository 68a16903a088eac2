//! Kernels that a measurement on a device chose, kept in a file and taken by later plans.
//!
//! An entry is keyed by device, driver, op and operands. It holds a hash of the sources of every kernel that was in question:
//! once one of them changes, the entry no longer counts, and the op's own order of variants decides again.
//!
//! The table is JSON. Processes that write at the same time take turns by a lock beside the file, and each adds its entries to
//! those of the others; the file is replaced by renaming, so that a reader sees all of it or nothing.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::backend::{Caps, Target};
use crate::cache;
use crate::error::{Error, Result};
use crate::files;
use crate::op::{Code, Op, Site, Variant};
use crate::source;
use crate::tensor::TensorDesc;

/// Counts changes of the file's form.
const VERSION: u64 = 1;

/// Longest table that is read, in bytes: some hundred thousand entries.
const MAX_BYTES: u64 = 64 << 20;

fn fail(file: &Path, reason: impl Display) -> Error {
    Error::Call(format!("table of tuned kernels {}: {reason}", file.display()))
}

/// Which table a device's plans take.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Tuned {
    /// The file of `MUYBRIDGE_TUNED`, none where that is set and empty; otherwise `tuned.json` in the folder of caches.
    #[default]
    Usual,
    /// This file.
    File(PathBuf),
    /// None: the ops' own order of variants decides.
    Off,
}

impl Tuned {
    /// The file, where there may be one, and whether it was asked for by name, so that it must be there.
    pub fn file(&self) -> Option<(PathBuf, bool)> {
        match self {
            Tuned::Off => None,
            Tuned::File(path) => Some((path.clone(), true)),
            Tuned::Usual => match std::env::var_os("MUYBRIDGE_TUNED") {
                Some(own) if own.is_empty() => None,
                Some(own) => Some((own.into(), true)),
                None => cache::folder().map(|f| (f.join("tuned.json"), false)),
            },
        }
    }

    /// The table, where there is one.
    ///
    /// # Errors
    /// A file that was asked for by name cannot be read, or holds no table. Of the file in the folder of caches only a warning
    /// is given: plans do without it.
    pub(crate) fn load(&self) -> Result<Option<Table>> {
        let Some((file, named)) = self.file() else { return Ok(None) };
        match Table::load(&file) {
            Ok(table) => Ok(Some(table)),
            Err(e) if named => Err(e),
            Err(e) => {
                if file.exists() {
                    tracing::warn!(file = %file.display(), error = %e, "the table of tuned kernels is not used");
                }
                Ok(None)
            }
        }
    }
}

/// What was measured for one op on one device.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Name of the winner.
    pub variant: String,
    /// Its tiling, where that is not its own choice.
    pub tile: Option<String>,
    /// Hash of the sources of all kernels that were in question.
    pub sources: String,
    /// Median seconds of the winner.
    pub seconds: f64,
    /// Median seconds of the kernel that the op's own order chooses.
    pub usual_seconds: f64,
}

/// A variant and its tiling.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Winner {
    pub variant: &'static Variant,
    pub tile: Option<&'static str>,
}

/// Entries by key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    entries: BTreeMap<String, Entry>,
}

impl Table {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, or holds no table of this version.
    pub fn load(file: &Path) -> Result<Table> {
        let text = files::read(file, MAX_BYTES).map_err(|e| fail(file, e))?;
        Table::parse(&text).map_err(|e| fail(file, e))
    }

    /// As [`Table::load`], of a file that entries are to be added to: where there is none, it is an empty table.
    ///
    /// # Errors
    /// There is something that is no table of this version. It is somebody's, and not written over.
    pub fn begun(file: &Path) -> Result<Table> {
        match fs::metadata(file) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(Table::default()),
            _ => Table::load(file),
        }
    }

    fn parse(text: &[u8]) -> Result<Table, String> {
        let whole: Value = serde_json::from_slice(text).map_err(|e| e.to_string())?;
        if whole["version"].as_u64() != Some(VERSION) {
            return Err(format!("version {}, {VERSION} is known here", whole["version"]));
        }
        let entries = whole["entries"].as_object().ok_or("no entries")?;
        let entry = |(key, v): (&String, &Value)| -> Result<(String, Entry), String> {
            let text = |name: &str| v[name].as_str().map(String::from);
            let number = |name: &str| v[name].as_f64().filter(|s| s.is_finite() && *s >= 0.0);
            let read = || {
                Some(Entry {
                    variant: text("variant")?,
                    tile: text("tile"),
                    sources: text("sources")?,
                    seconds: number("seconds")?,
                    usual_seconds: number("usual_seconds")?,
                })
            };
            read().map(|e| (key.clone(), e)).ok_or(format!("an incomplete entry {key:?}"))
        };
        Ok(Table { entries: entries.iter().map(entry).collect::<Result<_, _>>()? })
    }

    fn text(&self) -> String {
        let entry = |(key, e): (&String, &Entry)| {
            let mut v = json!({
                "variant": e.variant, "sources": e.sources, "seconds": e.seconds, "usual_seconds": e.usual_seconds,
            });
            if let Some(tile) = &e.tile {
                v["tile"] = json!(tile);
            }
            (key.clone(), v)
        };
        let entries: serde_json::Map<String, Value> = self.entries.iter().map(entry).collect();
        format!("{:#}\n", json!({ "version": VERSION, "entries": entries }))
    }

    /// Adds these entries to those of the file, over older ones of the same keys. Symbolic links are followed.
    ///
    /// # Errors
    /// The file holds something else than a table (see [`Table::begun`]), or cannot be locked or replaced.
    pub fn merge_into(&self, file: &Path) -> Result<()> {
        let io = |e: std::io::Error| fail(file, e);
        let target = files::replaceable(file).map_err(io)?;
        fs::create_dir_all(files::folder(&target)).map_err(io)?;
        let lock = fs::File::create(target.with_extension("lock")).map_err(io)?;
        lock.lock().map_err(io)?;
        let mut all = Table::begun(file)?;
        all.entries.extend(self.entries.clone());
        cache::replace(&target, all.text().as_bytes()).map_err(io)
    }

    /// The entry under this [`key`].
    pub fn get(&self, key: &str) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// Puts an entry under this [`key`].
    pub fn insert(&mut self, key: String, entry: Entry) {
        self.entries.insert(key, entry);
    }

    /// Takes the entry under this [`key`] away.
    pub fn remove(&mut self, key: &str) -> Option<Entry> {
        self.entries.remove(key)
    }

    /// Adds another table's entries, over its own of the same keys.
    pub fn extend(&mut self, other: &Table) {
        self.entries.extend(other.entries.clone());
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The kernel that was measured to be the fastest, if every source is still what it was.
    pub(crate) fn winner(&self, key: &str, op: &dyn Op, site: &Site<'_>) -> Option<Winner> {
        let entry = self.entries.get(key)?;
        let known = |v: &&Variant| v.target == site.caps.target && v.name == entry.variant && !op.by_pin(v);
        let variant = op.variants().iter().find(known)?;
        let tile = match &entry.tile {
            Some(name) => Some(op.tiles(variant).iter().copied().find(|t| t == name)?),
            None => None,
        };
        (entry.sources == sources(op, site)).then_some(Winner { variant, tile })
    }
}

/// Key of an op on operands on a device: what is measured under it is measured once.
pub fn key(op: &dyn Op, site: &Site<'_>) -> String {
    let Caps { name, driver, .. } = site.caps;
    let operand = |(desc, weight): (&TensorDesc, &bool)| format!("{}{desc}", if *weight { "weight " } else { "" });
    let operands: Vec<String> = site.inputs.iter().zip(site.is_weight).map(operand).collect();
    format!("{name} | {driver} | {} {} | {}", op.name(), op.identity(), operands.join(", "))
}

/// Hash of the sources of every kernel of the op that fits this site, in every tiling.
pub fn sources(op: &dyn Op, site: &Site<'_>) -> String {
    let mut hash = cache::START;
    for variant in op.variants().iter().filter(|v| v.target == site.caps.target) {
        for tile in std::iter::once(None).chain(op.tiles(variant).iter().map(|t| Some(*t))) {
            let Some(lowering) = op.lower(variant, &Site { tile, ..*site }) else { continue };
            for launch in &lowering.launches {
                let text = match (&launch.code, site.caps.target) {
                    (Code::Host(kernel), _) => format!("{} {}", kernel.name, op.revision()),
                    (Code::Kernel(kernel), Target::Cuda) => source::cuda(kernel, &launch.args),
                    (Code::Kernel(kernel), _) => source::wgsl(kernel, false),
                };
                hash = cache::hash_on(hash, text.as_bytes());
                hash = cache::hash_on(hash, format!("{:?}{:?}", launch.grid, launch.block).as_bytes());
            }
        }
    }
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write!(out, "{hash:032x}");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(seconds: f64) -> Entry {
        Entry { variant: "tiled".into(), tile: None, sources: "0".into(), seconds, usual_seconds: 2.0 }
    }

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("muybridge-tuned-{name}-{}", std::process::id()));
        drop(fs::remove_dir_all(&folder));
        folder
    }

    #[test]
    fn a_table_is_read_as_it_was_written() {
        let folder = folder("round");
        let file = folder.join("tuned.json");
        let mut table = Table::default();
        table.insert("a".into(), entry(1.25e-3));
        table.insert("b \"quoted\"".into(), Entry { tile: Some("4x64".into()), ..entry(0.1) });
        table.merge_into(&file).expect("writable");
        assert_eq!(Table::load(&file).expect("readable"), table);
        fs::write(&file, "{").expect("writable");
        assert!(Table::load(&file).is_err(), "a torn file");
        fs::write(&file, r#"{"version": 1, "entries": {"a": {"variant": "tiled"}}}"#).expect("writable");
        assert!(Table::load(&file).is_err(), "an incomplete entry");
        assert!(table.merge_into(&file).is_err(), "what is no table is not written over");
        fs::remove_file(&file).expect("removable");
        table.merge_into(&file).expect("writable");
        assert_eq!(Table::begun(&file).expect("readable"), table);
        assert!(Table::begun(&folder.join("none")).expect("nothing there").is_empty());
        fs::remove_dir_all(folder).expect("removable");
    }

    #[test]
    fn concurrent_writers_lose_nothing() {
        let folder = folder("race");
        let file = folder.join("tuned.json");
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let file = &file;
                scope.spawn(move || {
                    for i in 0..8 {
                        let mut table = Table::default();
                        table.insert(format!("{writer}.{i}"), entry(1.0));
                        table.merge_into(file).expect("writable");
                    }
                });
            }
        });
        assert_eq!(Table::load(&file).expect("readable").len(), 32);
        fs::remove_dir_all(folder).expect("removable");
    }
}

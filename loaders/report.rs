//! What a checkpoint holds, and what became of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use crate::table::{Asked, Listed, Table};

/// One tensor of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CensusEntry {
    /// The name that models ask for.
    pub name: String,
    /// The name that the file gives to it: another one where names were mapped.
    pub stored_name: String,
    /// The stored type, in the words of the format (`F16`, `I64`).
    pub dtype: String,
    /// Its extents, outermost first.
    pub shape: Vec<usize>,
    /// Its size in bytes.
    pub bytes: u64,
    /// The file that holds it.
    pub file: PathBuf,
}

impl CensusEntry {
    pub(crate) fn new(name: &str, listed: &Listed) -> CensusEntry {
        CensusEntry {
            name: name.into(),
            stored_name: listed.stored_name.clone(),
            dtype: listed.dtype.clone(),
            shape: listed.shape.clone(),
            bytes: listed.bytes,
            file: listed.file.to_path_buf(),
        }
    }
}

/// What was asked for of a checkpoint, and what was not.
#[derive(Clone, Debug, Default)]
pub struct LoadReport {
    /// Names that were asked for, those of a procedural source included.
    pub used: Vec<String>,
    /// Names that are present, that nothing asked for, and that are not ignored.
    pub unused: Vec<String>,
    /// Names that are present, that nothing asked for, and that need not be.
    pub ignored: Vec<String>,
    /// Tensors that a shard has beside those that the index puts there, and that need be asked for.
    pub unmapped: Vec<String>,
    /// Files of the checkpoint.
    pub files: Vec<PathBuf>,
    /// Safetensors files in the directory of a sharded checkpoint that its index does not name.
    pub stray_files: Vec<PathBuf>,
    /// Bytes of the tensors of the checkpoint.
    pub bytes: u64,
    /// Number of tensors of each stored type.
    pub dtypes: BTreeMap<String, usize>,
}

/// Buffers that PyTorch saves along with the weights, and that no network here reads.
const BUFFERS: [&str; 2] = ["position_ids", "num_batches_tracked"];

impl LoadReport {
    pub(crate) fn new<'a>(
        tensors: impl Iterator<Item = (&'a String, &'a Listed)>,
        table: &Table,
        asked: &Asked,
    ) -> LoadReport {
        let mut report = LoadReport { stray_files: table.stray_files.clone(), ..LoadReport::default() };
        let mut files: BTreeSet<&Path> = BTreeSet::new();
        for (name, listed) in tensors {
            files.insert(&listed.file);
            report.bytes += listed.bytes;
            *report.dtypes.entry(listed.dtype.clone()).or_default() += 1;
            let list = if asked.names.contains(name) {
                &mut report.used
            } else if is_ignored(name, asked) {
                &mut report.ignored
            } else {
                &mut report.unused
            };
            list.push(name.clone());
        }
        report.files = files.into_iter().map(Path::to_path_buf).collect();
        let unmapped = table.unmapped.iter().map(|listed| &listed.stored_name);
        report.unmapped = unmapped.filter(|name| !is_ignored(name, asked)).cloned().collect();
        if table.any.is_some() {
            report.used = asked.names.iter().cloned().collect();
            report.used.sort();
        }
        report
    }
}

fn is_ignored(name: &str, asked: &Asked) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    let within = |part: &String| name.strip_prefix(part.as_str()).is_some_and(|r| r.is_empty() || r.starts_with('.'));
    BUFFERS.contains(&last) || asked.ignored.iter().any(within)
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dtypes: Vec<String> = self.dtypes.iter().map(|(dtype, n)| format!("{n} {dtype}")).collect();
        write!(f, "{} tensors used, {} unused", self.used.len(), self.unused.len() + self.unmapped.len())?;
        write!(f, ", {} ignored; {} files, {} bytes", self.ignored.len(), self.files.len(), self.bytes)?;
        if dtypes.is_empty() { Ok(()) } else { write!(f, " ({})", dtypes.join(", ")) }
    }
}

//! The index of a sharded checkpoint: which tensor is in which file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::error::{LoadError, Result, shown};
use crate::json::{UniqueMap, check_length};

/// A checked `*.safetensors.index.json`: every shard is a plain file name, to be found beside the index.
#[derive(Clone, Debug)]
pub struct Index {
    /// Tensor name → name of the file that holds it.
    pub weight_map: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct StoredIndex {
    weight_map: UniqueMap<String>,
    #[serde(default, rename = "metadata")]
    _metadata: IgnoredAny,
}

impl Index {
    /// Longest index that is read, in bytes.
    pub const MAX_BYTES: u64 = 32 << 20;
    /// Most shards of one checkpoint.
    pub const MAX_SHARDS: usize = 1024;

    /// Parses the bytes of an index; `file` is only used in errors. No shard is opened.
    ///
    /// # Errors
    /// [`LoadError::Index`] where the index as a whole is at fault, [`LoadError::Shard`] where one of its entries is: a
    /// shard's name is absolute, has a separator or `..` in it, or does not end in `.safetensors`.
    pub fn parse(bytes: &[u8], file: impl AsRef<Path>) -> Result<Index> {
        let file = file.as_ref();
        let bad = |reason: String| LoadError::Index { file: file.into(), reason };
        check_length(file, bytes.len() as u64, Index::MAX_BYTES)?;
        let stored: StoredIndex = serde_json::from_slice(bytes).map_err(|e| bad(e.to_string()))?;
        let weight_map = stored.weight_map.0;
        if weight_map.is_empty() {
            return Err(bad("maps no tensor".into()));
        }
        for (tensor, shard) in &weight_map {
            check_name(shard).map_err(|reason| LoadError::Shard {
                file: file.into(),
                tensor: shown(tensor),
                shard: shown(shard),
                reason: reason.into(),
            })?;
        }
        let index = Index { weight_map };
        let shards = index.shards().len();
        if shards > Index::MAX_SHARDS {
            return Err(bad(format!("{shards} shards, where at most {} are read", Index::MAX_SHARDS)));
        }
        Ok(index)
    }

    /// The names of the files, each once.
    pub fn shards(&self) -> BTreeSet<&str> {
        self.weight_map.values().map(String::as_str).collect()
    }
}

/// A plain name on every system: no separator of any of them, no drive, no step upwards.
fn check_name(shard: &str) -> Result<(), &'static str> {
    if Path::new(shard).is_absolute() || shard.starts_with(['/', '\\']) {
        return Err("its path is absolute");
    }
    if shard.split(['/', '\\']).any(|part| part == "..") {
        return Err("its path leads out of the checkpoint's directory");
    }
    let mut parts = Path::new(shard).components();
    let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
    if !plain || shard.len() > 255 || shard.contains(|c: char| matches!(c, '/' | '\\' | ':') || c.is_control()) {
        return Err("is not a plain file name");
    }
    if !shard.ends_with(".safetensors") {
        return Err("is not a safetensors file");
    }
    Ok(())
}

//! Where the storages of a checkpoint lie in its file: the two forms that PyTorch has written.

use std::collections::BTreeMap;
use std::ops::Range;

use safetensors::tensor::Dtype;

use crate::error::shown;
use crate::torch::pickle::{Node, Pickle, Storage};
use crate::torch::zip::Archive;

/// How a checkpoint begins that PyTorch wrote before 1.6: a pickle of the number 0x1950a86a20f9469cfc6c.
pub(crate) const LEGACY: &[u8] = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.";

/// The pickle of a checkpoint, and the bytes of each storage that it refers to.
pub(crate) struct Places<'a> {
    pub(crate) pickle: Pickle<'a>,
    pub(crate) storages: BTreeMap<String, Range<usize>>,
}

/// Longest pickle of an archive that is read, in bytes.
const MOST_PICKLE: usize = 1 << 26;

impl<'a> Places<'a> {
    /// Finds the pickle and the storages of a checkpoint.
    ///
    /// # Errors
    /// It is none, or its parts don't fit each other.
    pub(crate) fn of(bytes: &'a [u8]) -> Result<Places<'a>, String> {
        if Archive::is(bytes) {
            of_archive(bytes)
        } else if bytes.starts_with(LEGACY) {
            of_sequence(bytes)
        } else {
            Err("neither of PyTorch's two formats".into())
        }
    }
}

/// Since 1.6: an archive with `ROOT/data.pkl` and each storage in `ROOT/data/KEY`.
fn of_archive(bytes: &[u8]) -> Result<Places<'_>, String> {
    let Archive { files, compressed } = Archive::parse(bytes)?;
    let mut roots =
        files.keys().filter_map(|name| name.strip_suffix("data.pkl").filter(|r| r.is_empty() || r.ends_with('/')));
    let root = roots.next().ok_or("no data.pkl is in it")?;
    if roots.next().is_some() {
        return Err("several data.pkl are in it".into());
    }
    if files.keys().any(|name| name.strip_prefix(root).is_some_and(|rest| rest.starts_with("code/"))) {
        return Err("it is a TorchScript program, not a checkpoint: its code is not executed here".into());
    }
    if let Some(name) = compressed.first() {
        return Err(format!("the file {} is compressed; PyTorch stores its files as they are", shown(name)));
    }
    if files.get(&format!("{root}byteorder")).is_some_and(|range| bytes[range.clone()] != *b"little") {
        return Err("its numbers are big-endian".into());
    }
    let pickled = &bytes[files[&format!("{root}data.pkl")].clone()];
    if pickled.len() > MOST_PICKLE {
        return Err(format!("a pickle of {} bytes, where at most {MOST_PICKLE} are read", pickled.len()));
    }
    let pickle = Pickle::read(pickled)?;
    let mut storages = BTreeMap::new();
    for (key, storage) in stored(&pickle)? {
        let place = files.get(&format!("{root}data/{key}"));
        let place = place.ok_or_else(|| format!("the storage {} is not in it", shown(&key)))?;
        if length(&storage) != Some(place.len() as u64) {
            return Err(format!(
                "the storage {} has {} bytes, not those of {} elements",
                shown(&key),
                place.len(),
                storage.count
            ));
        }
        storages.insert(key, place.clone());
    }
    Ok(Places { pickle, storages })
}

/// Before 1.6: pickles one after another (the magic number, the protocol, the machine, the object, the keys of the
/// storages), then each storage after a count of its elements.
fn of_sequence(bytes: &[u8]) -> Result<Places<'_>, String> {
    let mut at = LEGACY.len();
    let mut next = || {
        let pickle = Pickle::read(&bytes[at..])?;
        at += pickle.length;
        Ok::<Pickle<'_>, String>(pickle)
    };
    let (protocol, machine, pickle, keys) = (next()?, next()?, next()?, next()?);
    if !matches!(protocol.node(protocol.result), Node::Int(1001)) {
        return Err("its protocol is not 1001".into());
    }
    let Node::Dict(facts) = machine.node(machine.result) else {
        return Err("it does not say of which machine it is".into());
    };
    let order = facts.iter().find(|(key, _)| machine.text(*key) == Some("little_endian"));
    if !order.is_some_and(|(_, value)| matches!(machine.node(*value), Node::Bool(true))) {
        return Err("its numbers are not little-endian".into());
    }
    let Node::List(list) = keys.node(keys.result) else { return Err("its storages have no keys".into()) };
    let known = stored(&pickle)?;
    let mut storages = BTreeMap::new();
    for id in list {
        let key = keys.text(*id).ok_or("a storage has no key")?;
        let named = || format!("the storage {}", shown(key));
        let storage = known.get(key).ok_or_else(|| format!("{} is of no type", named()))?;
        let cut = || format!("it ends before {}", named());
        let count = bytes.get(at..).and_then(|rest| rest.first_chunk()).ok_or_else(cut)?;
        if u64::from_le_bytes(*count) != storage.count {
            return Err(format!("{} has another count of elements than its tensors say", named()));
        }
        let start = at + 8;
        let end = length(storage).and_then(|n| start.checked_add(usize::try_from(n).ok()?)).ok_or_else(cut)?;
        bytes.get(start..end).ok_or_else(cut)?;
        if storages.insert(key.to_string(), start..end).is_some() {
            return Err(format!("{} is there twice", named()));
        }
        at = end;
    }
    match known.keys().find(|key| !storages.contains_key(*key)) {
        Some(key) => Err(format!("the storage {} is not in it", shown(key))),
        None => Ok(Places { pickle, storages }),
    }
}

/// Bytes of a storage.
fn length(storage: &Storage) -> Option<u64> {
    storage.count.checked_mul(storage.dtype.map_or(1, width))
}

/// Bytes of an element.
pub(crate) fn width(dtype: Dtype) -> u64 {
    (dtype.bitsize() / 8) as u64
}

/// The storages that a pickle refers to, each once.
fn stored(pickle: &Pickle<'_>) -> Result<BTreeMap<String, Storage>, String> {
    let mut all: BTreeMap<String, Storage> = BTreeMap::new();
    for node in &pickle.nodes {
        let Node::Storage(storage) = node else { continue };
        let key = String::from_utf8_lossy(&pickle.bytes[storage.key.clone()]);
        match all.get(key.as_ref()) {
            Some(other) if (other.dtype, other.count) != (storage.dtype, storage.count) => {
                return Err(format!("the storage {} is of two types or lengths", shown(&key)));
            }
            Some(_) => {}
            None => drop(all.insert(key.into_owned(), storage.clone())),
        }
    }
    Ok(all)
}

//! One checkpoint of PyTorch, memory-mapped: its tensors by name.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use muybridge_runtime::ByteOwner;
use safetensors::tensor::Dtype;

use crate::error::{LoadError, Result, shown};
use crate::json::MAX_NAMES;
use crate::map::MappedFile;
use crate::torch::pickle::{Id, MOST_KEY, Node, Pickle, Tensor};
use crate::torch::places::{LEGACY, Places, width};
use crate::torch::zip::Archive;

/// A tensor of a checkpoint: a view of a storage, which it may share with others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TorchTensor {
    /// Its name: the keys that lead to it, joined by dots.
    pub name: String,
    /// The type of its elements.
    pub dtype: Dtype,
    /// Its extents, outermost first.
    pub shape: Vec<usize>,
    /// Steps along each axis, in elements.
    strides: Vec<usize>,
    /// Where its first element lies, in bytes from the start of the file.
    start: usize,
}

impl TorchTensor {
    /// How many elements it has.
    fn count(&self) -> usize {
        self.shape.iter().product()
    }

    /// Its bytes, where they lie in order and without gaps.
    pub(crate) fn range(&self) -> Option<Range<usize>> {
        if self.count() == 0 {
            return Some(self.start..self.start);
        }
        let mut step = 1;
        for (extent, stride) in self.shape.iter().zip(&self.strides).rev() {
            if *extent != 1 && *stride != step {
                return None;
            }
            step *= extent;
        }
        Some(self.start..self.start + self.count() * width(self.dtype) as usize)
    }
}

/// A memory-mapped checkpoint of PyTorch, in either of its formats, whose pickle has been read but not executed. No tensor
/// has been read yet.
pub struct TorchFile {
    path: PathBuf,
    map: MappedFile,
    tensors: Vec<TorchTensor>,
    left_out: Vec<String>,
}

/// Most steps from the outermost dictionary to a tensor.
const MOST_DEPTH: usize = 8;
/// Most elements of a tensor that repeats those of a smaller storage.
const MOST_REPEATED: u64 = 1 << 24;
/// Keys under which trainers put the network itself.
const WRAPPERS: [&str; 6] = ["state_dict", "model_state_dict", "model", "module", "params_ema", "params"];

impl TorchFile {
    /// Whether a file begins as one of PyTorch's checkpoints does.
    pub(crate) fn is(start: &[u8]) -> bool {
        Archive::is(start) || start.starts_with(LEGACY)
    }

    /// Maps a file and reads its pickle.
    ///
    /// A checkpoint may hold the network under a key of its own (`state_dict`), beside what a trainer wants to remember:
    /// then only that is taken. Names of all tensors lose the wrappers `module.` and `_orig_mod.`. What is no tensor is
    /// left out, see [`TorchFile::left_out`].
    ///
    /// # Errors
    /// [`LoadError::Torch`] where the file is no such checkpoint, names something that would have to be executed, or its
    /// parts do not fit; [`LoadError::Range`] where a tensor does not lie within its storage.
    pub fn open(path: impl AsRef<Path>) -> Result<Arc<TorchFile>> {
        let path = path.as_ref();
        let map = MappedFile::open(path)?;
        let (tensors, left_out) = read(map.bytes(), path)?;
        Ok(Arc::new(TorchFile { path: path.into(), map, tensors, left_out }))
    }

    /// Reads the tensors of a checkpoint in memory, for tests of hostile ones; `file` is only used in errors.
    ///
    /// # Errors
    /// As [`TorchFile::open`].
    pub fn parse(bytes: &[u8], file: impl AsRef<Path>) -> Result<Vec<TorchTensor>> {
        read(bytes, file.as_ref()).map(|(tensors, _)| tensors)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its tensors, sorted by name.
    pub fn tensors(&self) -> &[TorchTensor] {
        &self.tensors
    }

    /// Names of what is in it and no tensor: `epoch`, `optimizer_states`.
    pub fn left_out(&self) -> &[String] {
        &self.left_out
    }

    /// The elements of a tensor, row-major: borrowed where they are stored so.
    ///
    /// # Errors
    /// The tensor is another file's, and lies outside this one.
    pub fn data(&self, tensor: &TorchTensor) -> Result<Cow<'_, [u8]>> {
        let outside = || LoadError::Range {
            file: self.path.clone(),
            tensor: shown(&tensor.name),
            reason: "its bytes lie outside the file".into(),
        };
        if let Some(range) = tensor.range() {
            return self.map.bytes().get(range).map(Cow::Borrowed).ok_or_else(outside);
        }
        gather(self.map.bytes(), tensor).map(Cow::Owned).ok_or_else(outside)
    }
}

/// The elements of a tensor in row-major order.
fn gather(bytes: &[u8], tensor: &TorchTensor) -> Option<Vec<u8>> {
    let width = width(tensor.dtype) as usize;
    let mut out = Vec::with_capacity(tensor.count() * width);
    let mut place = vec![0; tensor.shape.len()];
    for _ in 0..tensor.count() {
        let steps: usize = place.iter().zip(&tensor.strides).map(|(p, s)| p * s).sum();
        let at = tensor.start + steps * width;
        out.extend_from_slice(bytes.get(at..at + width)?);
        for (p, extent) in place.iter_mut().zip(&tensor.shape).rev() {
            *p += 1;
            if *p < *extent {
                break;
            }
            *p = 0;
        }
    }
    Some(out)
}

impl ByteOwner for TorchFile {
    fn bytes(&self) -> &[u8] {
        self.map.bytes()
    }

    fn release(&self, range: Range<usize>) {
        self.map.release(range);
    }
}

impl fmt::Debug for TorchFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TorchFile({}, {} tensors)", self.path.display(), self.tensors.len())
    }
}

fn read(bytes: &[u8], path: &Path) -> Result<(Vec<TorchTensor>, Vec<String>)> {
    let bad = |reason: String| LoadError::Torch { file: path.into(), reason };
    let places = Places::of(bytes).map_err(bad)?;
    let (root, left_out) = unwrapped(&places.pickle);
    let mut walk = Walk { places: &places, path, tensors: Vec::new(), left_out, visits: 0 };
    walk.descend(root, String::new(), 0)?;
    let Walk { mut tensors, mut left_out, .. } = walk;
    if tensors.is_empty() {
        return Err(bad("no tensor is in it".into()));
    }
    strip(&mut tensors);
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    if let Some((a, _)) = tensors.iter().zip(&tensors[1..]).find(|(a, b)| a.name == b.name) {
        let reason = "two tensors have this name".into();
        return Err(LoadError::Duplicate { file: path.into(), tensor: shown(&a.name), reason });
    }
    let mut seen = BTreeSet::new();
    left_out.retain(|name| seen.insert(name.clone()));
    Ok((tensors, left_out))
}

/// The dictionary of the network, and the names of what is beside it.
fn unwrapped(pickle: &Pickle<'_>) -> (Id, Vec<String>) {
    let (mut root, mut beside) = (pickle.result, Vec::new());
    for _ in 0..MOST_DEPTH {
        let Node::Dict(entries) = pickle.node(root) else { break };
        let is_dict = |id: &Id| matches!(pickle.node(*id), Node::Dict(_));
        if entries.iter().any(|(_, value)| matches!(pickle.node(*value), Node::Tensor(_))) {
            break;
        }
        let wrapped = WRAPPERS.iter().find_map(|wrapper| {
            entries.iter().find(|(key, value)| pickle.text(*key) == Some(wrapper) && is_dict(value))
        });
        let Some((_, network)) = wrapped else { break };
        let others = entries.iter().filter(|(_, value)| value != network);
        beside.extend(others.filter_map(|(key, _)| pickle.text(*key)).map(shown));
        root = *network;
    }
    (root, beside)
}

/// Takes off what wraps all names.
fn strip(tensors: &mut [TorchTensor]) {
    while let Some(wrapper) = ["module.", "_orig_mod."]
        .into_iter()
        .find(|w| tensors.iter().all(|t| t.name.starts_with(w) && t.name.len() > w.len()))
    {
        tensors.iter_mut().for_each(|t| drop(t.name.drain(..wrapper.len())));
    }
}

/// The way through the dictionaries to the tensors.
struct Walk<'a> {
    places: &'a Places<'a>,
    path: &'a Path,
    tensors: Vec<TorchTensor>,
    left_out: Vec<String>,
    visits: usize,
}

impl Walk<'_> {
    fn bad(&self, reason: &str) -> LoadError {
        LoadError::Torch { file: self.path.into(), reason: reason.into() }
    }

    /// Counts an entry; a name that is longer than names are counts as several.
    fn visit(&mut self, name: &str) -> Result<()> {
        self.visits += 1 + name.len() / 256;
        if self.visits > MAX_NAMES { Err(self.bad("it has more names than any checkpoint")) } else { Ok(()) }
    }

    fn descend(&mut self, id: Id, name: String, depth: usize) -> Result<()> {
        self.visit(&name)?;
        if depth > MOST_DEPTH || name.len() > MOST_KEY {
            return Err(self.bad("its dictionaries lie too deep within each other"));
        }
        let below = |part: &str| if name.is_empty() { part.to_string() } else { format!("{name}.{part}") };
        match self.places.pickle.node(id) {
            Node::Tensor(tensor) => {
                let found = self.locate(tensor, name)?;
                self.tensors.push(found);
            }
            Node::Dict(entries) => {
                for (key, value) in entries {
                    let part = match self.places.pickle.node(*key) {
                        Node::Int(number) => number.to_string(),
                        Node::Text(range) if range.len() > MOST_KEY => {
                            return Err(
                                self.bad(&format!("a key has {} bytes, at most {MOST_KEY} are read", range.len()))
                            );
                        }
                        _ => match self.places.pickle.text(*key) {
                            Some(text) => text.to_string(),
                            None => {
                                self.visit("")?;
                                continue;
                            }
                        },
                    };
                    self.descend(*value, below(&part), depth + 1)?;
                }
            }
            Node::List(items) | Node::Tuple(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.descend(*item, below(&index.to_string()), depth + 1)?;
                }
            }
            _ => self.left_out.push(shown(&name)),
        }
        Ok(())
    }

    /// Where a tensor lies, once it is known to lie within its storage.
    fn locate(&self, tensor: &Tensor, name: String) -> Result<TorchTensor> {
        let wrong = |reason: String| LoadError::Range { file: self.path.into(), tensor: shown(&name), reason };
        let pickle = &self.places.pickle;
        let Node::Storage(storage) = pickle.node(tensor.storage) else { return Err(wrong("it has no storage".into())) };
        let key = String::from_utf8_lossy(&pickle.bytes[storage.key.clone()]);
        let place = self.places.storages.get(key.as_ref()).ok_or_else(|| wrong("its storage is not there".into()))?;
        let held = place.len() as u64 / width(tensor.dtype);
        let count = tensor.size.iter().try_fold(1u64, |n, extent| n.checked_mul(*extent));
        let count = count.filter(|n| *n <= held.max(MOST_REPEATED)).ok_or_else(|| {
            wrong(format!("its extents {:?} are beyond the {held} elements of its storage", tensor.size))
        })?;
        let last = tensor.size.iter().zip(&tensor.stride).try_fold(tensor.offset, |last, (extent, stride)| {
            last.checked_add(extent.saturating_sub(1).checked_mul(*stride)?)
        });
        let fits = if count == 0 { tensor.offset <= held } else { last.is_some_and(|last| last < held) };
        if !fits {
            return Err(wrong(format!("its elements reach beyond the {held} of its storage")));
        }
        // All of these are within the file, so they fit.
        let sized = |values: &[u64]| values.iter().map(|v| usize::try_from(*v).unwrap_or(usize::MAX)).collect();
        let (shape, strides) =
            (sized(&tensor.size), if count == 0 { vec![0; tensor.size.len()] } else { sized(&tensor.stride) });
        let start = place.start + (tensor.offset * width(tensor.dtype)) as usize;
        Ok(TorchTensor { name, dtype: tensor.dtype, shape, strides, start })
    }
}

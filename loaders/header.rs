//! The header of a safetensors file: parsed and checked before any tensor is touched.
//!
//! The format: eight bytes with the header's length `n` (little-endian), `n` bytes of JSON (tensor name → dtype, shape,
//! byte range), then the tensors' bytes without gaps. <https://github.com/huggingface/safetensors#format>

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::path::Path;

use muybridge_runtime::{DType, Shape};
use safetensors::tensor::{Dtype, TensorInfo};
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, Visitor};
use serde::{Deserialize, de};

use crate::error::{LoadError, Result, shown};
use crate::json::{MAX_NAMES, UniqueMap};

/// One tensor of a safetensors file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorEntry {
    /// Its name.
    pub name: String,
    /// Its stored type; many of these cannot be a weight.
    pub dtype: Dtype,
    /// Its extents, outermost first.
    pub shape: Vec<usize>,
    /// Where its bytes lie, counted from the start of the file.
    pub range: Range<usize>,
}

impl TensorEntry {
    /// The stored type as the engine's, where it can be a weight.
    pub fn element(&self) -> Option<DType> {
        element(self.dtype)
    }

    /// The extents as the engine's shape.
    ///
    /// # Errors
    /// The rank or the number of elements is beyond what the engine holds.
    pub(crate) fn dims(&self, file: &Path) -> Result<Shape> {
        Shape::new(&self.shape).map_err(|e| LoadError::tensor(file, &self.name, e))
    }
}

/// A stored type as the engine's, where it can be a weight.
pub(crate) fn element(dtype: Dtype) -> Option<DType> {
    match dtype {
        Dtype::F32 => Some(DType::F32),
        Dtype::F16 => Some(DType::F16),
        Dtype::BF16 => Some(DType::BF16),
        _ => None,
    }
}

/// A checked header: every tensor lies within the file, none overlaps another, and no byte is left over.
#[derive(Clone, Debug)]
pub struct Header {
    /// Text that the writer attached (`format: pt`).
    pub metadata: BTreeMap<String, String>,
    /// The tensors, in the order of their bytes.
    pub tensors: Vec<TensorEntry>,
}

/// Bytes of the length field.
const PREFIX: usize = 8;

impl Header {
    /// Longest header that is read, in bytes: more than [`Header::MAX_TENSORS`] usual entries take.
    pub const MAX_BYTES: usize = 32 << 20;
    /// Most tensors in one file.
    pub const MAX_TENSORS: usize = MAX_NAMES;
    /// Longest name of a tensor, in bytes.
    pub const MAX_NAME: usize = 512;
    /// Highest rank of a tensor.
    pub const MAX_RANK: usize = 32;

    /// Parses the header of a file whose bytes these are; `file` is only used in errors.
    ///
    /// # Errors
    /// [`LoadError::Header`] where the header as a whole is at fault; [`LoadError::Tensor`], [`LoadError::Duplicate`] or
    /// [`LoadError::Range`] where one of its tensors is.
    pub fn parse(bytes: &[u8], file: impl AsRef<Path>) -> Result<Header> {
        let file = file.as_ref();
        let text = header_text(bytes).map_err(|reason| LoadError::Header { file: file.into(), reason })?;
        let mut fault = Fault::default();
        let mut json = serde_json::Deserializer::from_str(&text);
        let parsed = HeaderSeed { fault: &mut fault }.deserialize(&mut json).and_then(|h| json.end().map(|()| h));
        let (metadata, tensors) = parsed.map_err(|e| fault.explain(file, &e))?;
        let start = PREFIX + text.len();
        let tensors = place(tensors, start, bytes.len(), file)?;
        Ok(Header { metadata, tensors })
    }
}

/// The JSON text, once its claimed length has been compared with the bytes that are there.
/// It is copied, because a mapped file can change under its reader and a checked string must not.
fn header_text(bytes: &[u8]) -> Result<String, String> {
    let (prefix, rest) = bytes
        .split_first_chunk::<PREFIX>()
        .ok_or_else(|| format!("the file has {} bytes, fewer than the {PREFIX} of the header's length", bytes.len()))?;
    let claimed = u64::from_le_bytes(*prefix);
    if claimed > Header::MAX_BYTES as u64 {
        return Err(format!("claims a length of {claimed} bytes, where at most {} are read", Header::MAX_BYTES));
    }
    let text = usize::try_from(claimed).ok().and_then(|n| rest.get(..n));
    let text = text.ok_or_else(|| format!("claims a length of {claimed} bytes, the file has {} more", rest.len()))?;
    if text.first() != Some(&b'{') {
        return Err("does not begin with a brace".into());
    }
    String::from_utf8(text.to_vec()).map_err(|e| format!("is not UTF-8: {e}"))
}

/// Sorts the tensors by their place and checks that they fill the file's data without gap or overlap.
fn place(mut tensors: Vec<(String, TensorInfo)>, start: usize, end: usize, file: &Path) -> Result<Vec<TensorEntry>> {
    let have = end - start;
    tensors.sort_by(|(a, x), (b, y)| x.data_offsets.cmp(&y.data_offsets).then_with(|| a.cmp(b)));
    let mut placed = Vec::with_capacity(tensors.len());
    let (mut filled, mut before) = (0, String::new());
    for (name, info) in tensors {
        let (from, to) = info.data_offsets;
        let wrong = |reason: String| LoadError::Range { file: file.into(), tensor: shown(&name), reason };
        let wanted = byte_count(&info).ok_or_else(|| wrong(format!("the extents {:?} overflow", info.shape)))?;
        if to < from {
            return Err(wrong(format!("its bytes {from}..{to} end before they begin")));
        }
        if to > have {
            return Err(wrong(format!("its bytes {from}..{to} lie outside the file, which has {have} bytes of data")));
        }
        if from < filled {
            return Err(wrong(format!("its bytes {from}..{to} overlap those of {before}, which end at {filled}")));
        }
        if from > filled {
            return Err(wrong(format!("bytes {filled}..{from} before it belong to no tensor")));
        }
        if (to - from) as u64 != wanted {
            let shape = &info.shape;
            return Err(wrong(format!("{} bytes, where {}{shape:?} takes {wanted}", to - from, info.dtype)));
        }
        (filled, before) = (to, shown(&name));
        placed.push(TensorEntry { name, dtype: info.dtype, shape: info.shape, range: start + from..start + to });
    }
    if filled < have {
        let reason = format!("{} bytes after the last tensor belong to no tensor", have - filled);
        return Err(LoadError::Header { file: file.into(), reason });
    }
    Ok(placed)
}

/// Bytes that a tensor of this type and shape takes; none where that is not a whole number or overflows.
fn byte_count(info: &TensorInfo) -> Option<u64> {
    let elements = info.shape.iter().try_fold(1usize, |p, &e| p.checked_mul(e))?;
    let bits = elements.checked_mul(info.dtype.bitsize())?;
    bits.is_multiple_of(8).then_some(bits as u64 / 8)
}

/// Where in the header parsing stopped.
#[derive(Default)]
struct Fault {
    tensor: Option<String>,
    duplicate: bool,
}

impl Fault {
    fn explain(&self, file: &Path, error: &serde_json::Error) -> LoadError {
        let file = file.to_path_buf();
        match &self.tensor {
            Some(tensor) if self.duplicate => {
                LoadError::Duplicate { file, tensor: shown(tensor), reason: "the header names it twice".into() }
            }
            Some(tensor) => LoadError::tensor(&file, tensor, error),
            None => LoadError::Header { file, reason: error.to_string() },
        }
    }
}

type Parsed = (BTreeMap<String, String>, Vec<(String, TensorInfo)>);

struct HeaderSeed<'f> {
    fault: &'f mut Fault,
}

impl<'de> DeserializeSeed<'de> for HeaderSeed<'_> {
    type Value = Parsed;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Parsed, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for HeaderSeed<'_> {
    type Value = Parsed;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object from tensor names to tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Parsed, A::Error> {
        let mut metadata = None;
        let mut tensors: Vec<(String, TensorInfo)> = Vec::new();
        let mut seen = BTreeSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                let text: Option<UniqueMap<String>> = map.next_value()?;
                if metadata.replace(text.map(|t| t.0).unwrap_or_default()).is_some() {
                    return Err(A::Error::custom("__metadata__ is there twice"));
                }
                continue;
            }
            if name.len() > Header::MAX_NAME {
                let most = Header::MAX_NAME;
                return Err(A::Error::custom(format!("a name of {} bytes, where at most {most} are read", name.len())));
            }
            if tensors.len() == Header::MAX_TENSORS {
                return Err(A::Error::custom(format!("more than {} tensors", Header::MAX_TENSORS)));
            }
            self.fault.tensor = Some(name.clone());
            if !seen.insert(name.clone()) {
                self.fault.duplicate = true;
                return Err(A::Error::custom("named twice"));
            }
            let stored: StoredInfo = map.next_value()?;
            self.fault.tensor = None;
            tensors.push((name, stored.into()));
        }
        Ok((metadata.unwrap_or_default(), tensors))
    }
}

/// [`TensorInfo`] with a bounded shape, so that a long header cannot ask for much more memory than it has itself.
#[derive(Deserialize)]
struct StoredInfo {
    dtype: Dtype,
    shape: BoundedShape,
    data_offsets: (usize, usize),
}

impl From<StoredInfo> for TensorInfo {
    fn from(stored: StoredInfo) -> TensorInfo {
        TensorInfo { dtype: stored.dtype, shape: stored.shape.0, data_offsets: stored.data_offsets }
    }
}

struct BoundedShape(Vec<usize>);

impl<'de> Deserialize<'de> for BoundedShape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Extents;
        impl<'de> Visitor<'de> for Extents {
            type Value = BoundedShape;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of extents")
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<BoundedShape, A::Error> {
                let mut extents = Vec::new();
                while let Some(extent) = seq.next_element()? {
                    if extents.len() == Header::MAX_RANK {
                        return Err(A::Error::custom(format!("a rank above {}", Header::MAX_RANK)));
                    }
                    extents.push(extent);
                }
                Ok(BoundedShape(extents))
            }
        }
        deserializer.deserialize_seq(Extents)
    }
}

//! Small safetensors files of plain tensors: recorded inputs and outputs, not checkpoints.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use muybridge_runtime::{DType, HostTensor, TensorDesc};
use safetensors::tensor::{Dtype, TensorView};

use crate::error::{LoadError, Result};
use crate::file::SafetensorsFile;
use crate::header::{Header, TensorEntry};
use crate::partial::Partial;

/// Reads all tensors of a file into memory. Floats of 16 and 32 bits stay as they are; integers, booleans and f64
/// become f32, f64 rounded to nearest even. What a tensor was stored as is told by [`SafetensorsFile::header`].
///
/// # Errors
/// The file cannot be read, its header lies, or a tensor holds something that f32 cannot: an integer that is not exact
/// there, a finite f64 beyond its range, or a type such as f8.
pub fn read_tensors(path: impl AsRef<Path>) -> Result<BTreeMap<String, HostTensor>> {
    let file = SafetensorsFile::open(path)?;
    let read = |entry: &TensorEntry| Ok((entry.name.clone(), read_tensor(&file, entry)?));
    file.header().tensors.iter().map(read).collect()
}

fn read_tensor(file: &SafetensorsFile, entry: &TensorEntry) -> Result<HostTensor> {
    let wrong = |reason: String| LoadError::tensor(file.path(), &entry.name, reason);
    let (shape, bytes) = (entry.dims(file.path())?, file.data(entry)?);
    if let Some(dtype) = entry.element() {
        return HostTensor::from_bytes(TensorDesc { shape, dtype }, bytes).map_err(|e| wrong(e.to_string()));
    }
    let values = match entry.dtype {
        Dtype::BOOL | Dtype::U8 => widen(bytes, |b: [u8; 1]| Some(f32::from(b[0]))),
        Dtype::I8 => widen(bytes, |b| Some(f32::from(i8::from_le_bytes(b)))),
        Dtype::U16 => widen(bytes, |b| Some(f32::from(u16::from_le_bytes(b)))),
        Dtype::I16 => widen(bytes, |b| Some(f32::from(i16::from_le_bytes(b)))),
        Dtype::U32 => widen(bytes, |b| exact(u32::from_le_bytes(b).into())),
        Dtype::I32 => widen(bytes, |b| exact(i32::from_le_bytes(b).into())),
        Dtype::U64 => widen(bytes, |b| exact(u64::from_le_bytes(b).into())),
        Dtype::I64 => widen(bytes, |b| exact(i64::from_le_bytes(b).into())),
        Dtype::F64 => widen(bytes, |b| rounded(f64::from_le_bytes(b))),
        other => return Err(wrong(format!("the type {other} is not read"))),
    };
    let values = values.map_err(|i| wrong(format!("element {i} of {} does not fit f32", entry.dtype)))?;
    HostTensor::new(shape, values).map_err(|e| wrong(e.to_string()))
}

/// Every element as f32, or the position of the first that cannot be one.
fn widen<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> Option<f32>) -> Result<Vec<f32>, usize> {
    bytes.as_chunks::<N>().0.iter().enumerate().map(|(i, b)| value(*b).ok_or(i)).collect()
}

fn exact(integer: i128) -> Option<f32> {
    let float = integer as f32;
    (float as i128 == integer).then_some(float)
}

fn rounded(wide: f64) -> Option<f32> {
    let narrow = wide as f32;
    (narrow.is_finite() || !wide.is_finite()).then_some(narrow)
}

/// Writes tensors to a file. The file appears under its name when it is complete and on disk, or not at all: it is
/// written under another name in the same directory and then renamed.
///
/// # Errors
/// The system refuses to write, or the tensors' names do not fit a header.
pub fn write_tensors(path: impl AsRef<Path>, tensors: &BTreeMap<String, HostTensor>) -> Result<()> {
    let path = path.as_ref();
    let mut views = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let view = TensorView::new(format_dtype(tensor.dtype()), tensor.shape().dims().to_vec(), tensor.bytes());
        views.push((name, view.map_err(|e| LoadError::tensor(path, name, e))?));
    }
    let bytes = safetensors::serialize(views, None)
        .map_err(|e| LoadError::Header { file: path.into(), reason: e.to_string() })?;
    // A name that the format keeps for itself, or that is too long, would make a file that nobody can read.
    Header::parse(&bytes, path)?;
    write_whole(path, &bytes).map_err(LoadError::io(path))
}

pub(crate) fn format_dtype(dtype: DType) -> Dtype {
    match dtype {
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
    }
}

fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let (partial, mut file) = Partial::file(path)?;
    file.write_all(bytes)?;
    partial.commit(file)
}

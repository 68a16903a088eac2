//! Copying tensors into a new safetensors file, one after another: no more than one is in memory at a time.

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use muybridge_runtime::DType;
use safetensors::tensor::Dtype;
use serde_json::{Map, json};

use crate::error::{LoadError, Result, shown};
use crate::header::{Header, element};
use crate::partial::Partial;
use crate::weights::Weights;

/// What of a stored tensor goes into a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// All of it.
    Whole,
    /// All of it, without extents of 1 at the end of its shape: a matrix of what is stored as a convolution of one point.
    Squeezed,
    /// A matrix with rows and columns exchanged.
    Transposed,
    /// One of several equal runs of rows: queries, keys and values that are stored together.
    Part {
        /// Which of them, from 0.
        index: usize,
        /// How many there are.
        of: usize,
    },
}

/// A tensor of a new file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its name.
    pub target: String,
    /// The name of what it is made of.
    pub source: String,
    /// What of that it takes.
    pub cut: Cut,
}

impl Piece {
    /// A tensor under a new name.
    pub fn new(target: impl Into<String>, source: impl Into<String>) -> Piece {
        Piece { target: target.into(), source: source.into(), cut: Cut::Whole }
    }
}

/// A piece that was looked up.
struct Planned<'a> {
    piece: &'a Piece,
    stored: Dtype,
    written: Dtype,
    shape: Vec<usize>,
}

/// Elements that are converted at a time.
const CHUNK: usize = 1 << 18;

/// Writes tensors of a checkpoint to a new safetensors file, and tells the bytes that it has. With a type, floats are
/// converted to it (rounded to nearest even); integers and booleans stay. `progress` is told of bytes as they are written,
/// and ends the work by saying no. The file appears under its name when it is complete and on disk, or not at all.
///
/// # Errors
/// A tensor is missing or can't be cut as asked, two have one name, a number is beyond the range of the type, the work was
/// ended, or the system refuses to write.
pub fn copy_tensors(
    weights: &Weights,
    pieces: &[Piece],
    to: impl AsRef<Path>,
    dtype: Option<DType>,
    progress: &mut dyn FnMut(u64) -> bool,
) -> Result<u64> {
    let to = to.as_ref();
    let mut planned = pieces.iter().map(|piece| plan(weights, piece, dtype)).collect::<Result<Vec<_>>>()?;
    // Wide types first: every tensor begins at a multiple of its own width.
    planned.sort_by(|a, b| (b.written.bitsize(), &a.piece.target).cmp(&(a.written.bitsize(), &b.piece.target)));
    let (header, length) = header(&planned, to)?;
    let (partial, file) = Partial::file(to).map_err(LoadError::io(to))?;
    let mut out = Output { path: to.into(), to: BufWriter::new(file), progress };
    out.write(&header)?;
    for tensor in &planned {
        let bytes = weights.stored_bytes(&tensor.piece.source)?;
        let cut = cut(&bytes, weights, tensor)?;
        match convertible(tensor) {
            Some(wanted) => out.convert(&cut, tensor, wanted)?,
            None => cut.chunks(CHUNK * 8).try_for_each(|chunk| out.write(chunk))?,
        }
        weights.release(&tensor.piece.source);
    }
    let file = out.to.into_inner().map_err(|e| LoadError::io(to)(e.into_error()))?;
    partial.commit(file).map_err(LoadError::io(to))?;
    Ok(header.len() as u64 + length)
}

fn plan<'a>(weights: &Weights, piece: &'a Piece, dtype: Option<DType>) -> Result<Planned<'a>> {
    let (stored, mut shape) = weights.stored_form(&piece.source)?;
    let wrong = |reason: String| LoadError::tensor(weights.label(), &piece.source, reason);
    // Elements of four or six bits share bytes.
    if stored.bitsize() < 8 && matches!(piece.cut, Cut::Transposed | Cut::Part { .. }) {
        return Err(wrong(format!("its numbers of {} bits ({stored}) can only be taken whole", stored.bitsize())));
    }
    match piece.cut {
        Cut::Whole => {}
        Cut::Squeezed => {
            while shape.len() > 2 && shape.last() == Some(&1) {
                shape.pop();
            }
        }
        Cut::Transposed => match shape[..] {
            [rows, columns] => shape = vec![columns, rows],
            _ => return Err(wrong(format!("wanted a matrix, found the shape {shape:?}"))),
        },
        Cut::Part { index, of } => match shape.first_mut() {
            Some(rows) if of > 0 && rows.is_multiple_of(of) && index < of => *rows /= of,
            _ => return Err(wrong(format!("its shape {shape:?} can't be cut in {of}"))),
        },
    }
    let float = matches!(stored, Dtype::F32 | Dtype::F16 | Dtype::BF16 | Dtype::F64);
    let written = match dtype.filter(|_| float) {
        Some(DType::F32) => Dtype::F32,
        Some(DType::F16) => Dtype::F16,
        Some(DType::BF16) => Dtype::BF16,
        None => stored,
    };
    Ok(Planned { piece, stored, written, shape })
}

/// The type to convert to, where it is another one.
fn convertible(tensor: &Planned<'_>) -> Option<DType> {
    element(tensor.written).filter(|_| tensor.written != tensor.stored)
}

/// The header of the new file, and the bytes after it.
fn header(planned: &[Planned<'_>], to: &Path) -> Result<(Vec<u8>, u64)> {
    let (mut entries, mut at) = (Map::new(), 0u64);
    entries.insert("__metadata__".into(), json!({ "format": "pt" }));
    for Planned { piece, written, shape, .. } in planned {
        let elements: u64 = shape.iter().map(|e| *e as u64).product();
        let end = at + elements * written.bitsize() as u64 / 8;
        let entry = json!({ "dtype": written.to_string(), "shape": shape, "data_offsets": [at, end] });
        if entries.insert(piece.target.clone(), entry).is_some() {
            let reason = "two tensors would have this name".into();
            return Err(LoadError::Duplicate { file: to.into(), tensor: shown(&piece.target), reason });
        }
        at = end;
    }
    let mut text = serde_json::Value::Object(entries).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    if text.len() as u64 > Header::MAX_BYTES as u64 {
        return Err(LoadError::Header { file: to.into(), reason: "too long: too many tensors".into() });
    }
    Ok(([&(text.len() as u64).to_le_bytes(), &text[..]].concat(), at))
}

fn cut<'a>(bytes: &'a [u8], weights: &Weights, tensor: &Planned<'_>) -> Result<Cow<'a, [u8]>> {
    let Planned { piece, stored, shape, .. } = tensor;
    let width = stored.bitsize() / 8;
    match piece.cut {
        Cut::Whole | Cut::Squeezed => Ok(Cow::Borrowed(bytes)),
        Cut::Part { index, of } => {
            let length = bytes.len() / of;
            let part = bytes.get(index * length..(index + 1) * length);
            part.map(Cow::Borrowed).ok_or_else(|| LoadError::tensor(weights.label(), &piece.source, "is too short"))
        }
        Cut::Transposed => {
            let (columns, rows) = (shape[0], shape[1]);
            let mut out = Vec::with_capacity(bytes.len());
            for column in 0..columns {
                for row in 0..rows {
                    out.extend_from_slice(&bytes[(row * columns + column) * width..][..width]);
                }
            }
            Ok(Cow::Owned(out))
        }
    }
}

struct Output<'a> {
    path: PathBuf,
    to: BufWriter<File>,
    progress: &'a mut dyn FnMut(u64) -> bool,
}

impl Output<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.to.write_all(bytes).map_err(LoadError::io(&self.path))?;
        if (self.progress)(bytes.len() as u64) {
            return Ok(());
        }
        let ended = std::io::Error::new(std::io::ErrorKind::Interrupted, "interrupted; nothing was written");
        Err(LoadError::io(&self.path)(ended))
    }

    fn convert(&mut self, bytes: &[u8], tensor: &Planned<'_>, wanted: DType) -> Result<()> {
        let width = tensor.stored.bitsize() / 8;
        let mut out = Vec::with_capacity(CHUNK * 4);
        for (chunk, part) in bytes.chunks(CHUNK * width).enumerate() {
            out.clear();
            for (i, raw) in part.chunks_exact(width).enumerate() {
                let wide = widened(tensor.stored, raw);
                if !narrowed(wide, wanted, &mut out) {
                    let reason = format!("element {} is {wide}, beyond the range of {wanted}", chunk * CHUNK + i);
                    return Err(LoadError::tensor(&self.path, &tensor.piece.source, reason));
                }
            }
            self.write(&out)?;
        }
        Ok(())
    }
}

/// A float of any type, without loss.
fn widened(dtype: Dtype, raw: &[u8]) -> f64 {
    let two = || [raw[0], raw[1]];
    match dtype {
        Dtype::F16 => f16::from_le_bytes(two()).to_f64(),
        Dtype::BF16 => bf16::from_le_bytes(two()).to_f64(),
        Dtype::F32 => f32::from_le_bytes(std::array::from_fn(|i| raw[i])).into(),
        _ => f64::from_le_bytes(std::array::from_fn(|i| raw[i])),
    }
}

/// Appends a number, rounded once; not, where a finite one would become an infinity.
fn narrowed(wide: f64, dtype: DType, out: &mut Vec<u8>) -> bool {
    let fits = |finite: bool| finite || !wide.is_finite();
    match dtype {
        DType::F32 => {
            let value = wide as f32;
            out.extend_from_slice(&value.to_le_bytes());
            fits(value.is_finite())
        }
        DType::F16 => {
            let value = f16::from_f64(wide);
            out.extend_from_slice(&value.to_le_bytes());
            fits(value.is_finite())
        }
        DType::BF16 => {
            let value = bf16::from_f64(wide);
            out.extend_from_slice(&value.to_le_bytes());
            fits(value.is_finite())
        }
    }
}

//! Embeddings of clips in Parquet files: columns `id`, `hash` and `embedding`, a list of floats of one length.
//!
//! What made them (a hash of weights and preprocessing) is in the file's metadata, since embeddings of two models do not
//! compare. A set may lie in several files of a folder, in the order of their names.

use std::fs::File;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::basic::{Repetition, Type};
use parquet::column::reader::{ColumnReaderImpl, get_typed_column_reader};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, FloatType};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{FileReader, RowGroupReader, SerializedFileReader};
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;

use crate::error::{Error, Result};
use crate::files;

/// Name of the metadata that says what made the embeddings.
const MODEL_KEY: &str = "muybridge.model";

const SCHEMA: &str = "message clips {
    REQUIRED BYTE_ARRAY id (UTF8);
    REQUIRED BYTE_ARRAY hash (UTF8);
    REQUIRED group embedding (LIST) { REPEATED group list { REQUIRED FLOAT element; } }
}";

/// Most numbers of an embedding, and most bytes of an id or a hash.
const MAX_WIDTH: usize = 1 << 16;
const MAX_TEXT: usize = 1 << 10;
/// Texts that are decoded at a time: encodings that repeat a text make many long ones of few bytes.
const TEXTS: usize = 256;

/// Clips and their embeddings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Embeddings {
    /// What made them: a hash of weights and preprocessing.
    pub model: String,
    /// Length of an embedding.
    pub width: usize,
    /// Name of each clip.
    pub ids: Vec<String>,
    /// Hash of each clip's content.
    pub hashes: Vec<String>,
    /// The embeddings, one after the other.
    pub rows: Vec<f32>,
}

impl Embeddings {
    /// Number of clips.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is no clip.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The embedding of clip `i`.
    pub fn row(&self, i: usize) -> &[f32] {
        &self.rows[i * self.width..(i + 1) * self.width]
    }

    /// One clip more.
    ///
    /// # Errors
    /// An embedding of another length, or with a number that is not finite.
    pub fn push(&mut self, id: &str, hash: &str, row: &[f32]) -> Result<()> {
        if self.is_empty() {
            self.width = row.len();
        }
        if row.is_empty() || row.len() != self.width || row.iter().any(|v| !v.is_finite()) {
            let reason = format!("clip {id}: {} numbers, wanted {} finite ones", row.len(), self.width);
            return Err(Error::call("embeddings", reason));
        }
        self.ids.push(id.into());
        self.hashes.push(hash.into());
        self.rows.extend_from_slice(row);
        Ok(())
    }

    /// Reads a Parquet file, or all those of a folder.
    ///
    /// # Errors
    /// There is none, one of them does not hold embeddings, or they are of different models or lengths.
    pub fn open(path: impl AsRef<Path>) -> Result<Embeddings> {
        let path = path.as_ref();
        let mut all = Embeddings::default();
        for file in parts(path)? {
            let part = read(&file)?;
            if !all.is_empty() && !part.is_empty() && (&part.model, part.width) != (&all.model, all.width) {
                let reason = format!("model {:?}, width {}", part.model, part.width);
                let other = format!("the files before it have model {:?}, width {}", all.model, all.width);
                return Err(Error::File { file, reason: format!("{reason}; {other}") });
            }
            if all.is_empty() {
                all = part;
            } else {
                all.ids.extend(part.ids);
                all.hashes.extend(part.hashes);
                all.rows.extend(part.rows);
            }
        }
        Ok(all)
    }

    /// Writes a Parquet file, under its name when it is complete.
    ///
    /// # Errors
    /// The system refuses to write.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        files::write_with(path, |file| self.encode(file).map_err(|e| refused(path, e)))
    }

    fn encode(&self, file: &mut File) -> Result<(), ParquetError> {
        let schema = Arc::new(parse_message_type(SCHEMA)?);
        let model = KeyValue::new(MODEL_KEY.to_string(), self.model.clone());
        let properties = WriterProperties::builder().set_key_value_metadata(Some(vec![model]));
        // Floats of embeddings hardly repeat.
        let properties = Arc::new(properties.set_dictionary_enabled(false).build());
        let mut writer = SerializedFileWriter::new(file, schema, properties)?;
        let mut group = writer.next_row_group()?;
        let text = |values: &[String]| values.iter().map(|v| ByteArray::from(v.as_str())).collect::<Vec<_>>();
        column::<ByteArrayType, _>(&mut group, &text(&self.ids), None)?;
        column::<ByteArrayType, _>(&mut group, &text(&self.hashes), None)?;
        // Each list begins anew (0) and goes on (1).
        let repeated: Vec<i16> = (0..self.rows.len()).map(|i| i16::from(i % self.width != 0)).collect();
        column::<FloatType, _>(&mut group, &self.rows, Some(&repeated))?;
        group.close()?;
        writer.close()?;
        Ok(())
    }
}

fn column<T: DataType, W: std::io::Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    values: &[T::T],
    repeated: Option<&[i16]>,
) -> Result<(), ParquetError> {
    let missing = || ParquetError::General("the schema has fewer columns".into());
    let mut column = group.next_column()?.ok_or_else(missing)?;
    let defined = repeated.map(|r| vec![1i16; r.len()]);
    column.typed::<T>().write_batch(values, defined.as_deref(), repeated)?;
    column.close()
}

fn refused(path: &Path, e: ParquetError) -> Error {
    Error::File { file: path.into(), reason: e.to_string() }
}

/// The Parquet files of a folder by name, or the one file.
fn parts(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.into()]);
    }
    let wrong = |reason: String| Error::File { file: path.into(), reason };
    let entries = std::fs::read_dir(path).map_err(|e| wrong(e.to_string()))?;
    let mut files: Vec<PathBuf> = entries.filter_map(|e| e.ok().map(|e| e.path())).collect();
    files.retain(|f| {
        let hidden = f.file_name().is_none_or(|n| n.to_string_lossy().starts_with('.'));
        !hidden && f.extension().is_some_and(|e| e == "parquet")
    });
    files.sort();
    if files.is_empty() { Err(wrong("no .parquet file in it".into())) } else { Ok(files) }
}

/// Memory that a file may still ask for: encodings repeat what they hold, but clips and their embeddings hardly do, so that a
/// file takes little more memory than it has bytes.
struct Budget(u64);

impl Budget {
    fn of(file: &File) -> std::io::Result<Budget> {
        Ok(Budget((64 << 20) + file.metadata()?.len().saturating_mul(64)))
    }

    fn take(&mut self, bytes: u64) -> Result<(), ParquetError> {
        let beyond = || ParquetError::General("far more values than the file has bytes for".into());
        self.0 = self.0.checked_sub(bytes).ok_or_else(beyond)?;
        Ok(())
    }

    /// Takes what the pages of a column say that they hold.
    fn take_pages(&mut self, group: &dyn RowGroupReader, column: usize) -> Result<(), ParquetError> {
        let mut pages = group.get_column_page_reader(column)?;
        while let Some(page) = pages.peek_next_page()? {
            if !page.is_dict {
                let levels = page.num_levels.or(page.num_rows).unwrap_or(0);
                self.take((levels as u64).saturating_mul(size_of::<f32>() as u64))?;
            }
            pages.skip_next_page()?;
        }
        Ok(())
    }
}

/// Reads one file. The parquet crate answers some that are damaged with a panic; nothing that it held is used after that.
fn read(path: &Path) -> Result<Embeddings> {
    let wrong = |reason: &str| Error::File { file: path.into(), reason: reason.into() };
    catch_unwind(|| decode(path)).unwrap_or_else(|_| Err(wrong("damaged: its pages do not fit its metadata")))
}

fn decode(path: &Path) -> Result<Embeddings> {
    let wrong = |reason: &str| Error::File { file: path.into(), reason: reason.into() };
    let file = File::open(path).map_err(|e| wrong(&e.to_string()))?;
    let mut budget = Budget::of(&file).map_err(|e| wrong(&e.to_string()))?;
    let reader = SerializedFileReader::new(file).map_err(|e| refused(path, e))?;
    let metadata = reader.metadata().file_metadata();
    let names: Vec<String> = metadata.schema_descr().columns().iter().map(|c| c.path().string()).collect();
    let place = |name: &str| names.iter().position(|n| n == name);
    let list = names.iter().position(|n| n.starts_with("embedding."));
    let (Some(id), Some(hash), Some(list)) = (place("id"), place("hash"), list) else {
        return Err(wrong("wanted columns id, hash and embedding"));
    };
    let schema = metadata.schema_descr();
    let flat = |i: usize| {
        let column = schema.column(i);
        let required = column.self_type().get_basic_info().repetition() == Repetition::REQUIRED;
        required && column.max_rep_level() == 0 && column.physical_type() == Type::BYTE_ARRAY
    };
    let floats = schema.column(list).physical_type() == Type::FLOAT && schema.column(list).max_rep_level() == 1;
    if !flat(id) || !flat(hash) || !floats {
        return Err(wrong("columns id and hash must be required texts, embedding a list of floats"));
    }
    let pairs = metadata.key_value_metadata().map_or(&[][..], Vec::as_slice);
    let model = pairs.iter().find(|p| p.key == MODEL_KEY).and_then(|p| p.value.clone());
    let mut all = Embeddings { model: model.unwrap_or_default(), ..Embeddings::default() };
    for i in 0..reader.num_row_groups() {
        let group = reader.get_row_group(i).map_err(|e| refused(path, e))?;
        let (rows, part) = columns(&*group, [id, hash, list], &mut budget).map_err(|e| refused(path, e))?;
        let Columns { ids, hashes, repeated, values } = part;
        let starts = repeated.iter().filter(|r| **r == 0).count();
        if (ids.len(), hashes.len(), starts) != (rows, rows, rows) || values.len() != repeated.len() {
            return Err(wrong("columns of different lengths, or empty lists"));
        }
        let width = values.len().checked_div(rows).unwrap_or(0);
        let even = repeated.iter().enumerate().all(|(i, r)| (i % width.max(1) == 0) == (*r == 0));
        if rows > 0 && (!even || !(1..=MAX_WIDTH).contains(&width)) {
            return Err(wrong("lists of different lengths"));
        }
        for ((id, hash), row) in ids.iter().zip(&hashes).zip(values.chunks(width.max(1))) {
            all.push(id, hash, row).map_err(|e| wrong(&e.to_string()))?;
        }
    }
    Ok(all)
}

/// What the columns of a row group hold.
struct Columns {
    ids: Vec<String>,
    hashes: Vec<String>,
    /// 0 where a list begins.
    repeated: Vec<i16>,
    values: Vec<f32>,
}

/// The rows that a group says it has, and its columns.
fn columns(
    group: &dyn RowGroupReader,
    [id, hash, list]: [usize; 3],
    budget: &mut Budget,
) -> Result<(usize, Columns), ParquetError> {
    let rows = usize::try_from(group.metadata().num_rows()).unwrap_or(usize::MAX);
    budget.take(rows as u64)?;
    [id, hash, list].into_iter().try_for_each(|column| budget.take_pages(group, column))?;
    let mut text = |column: usize| texts(get_typed_column_reader(group.get_column_reader(column)?), rows, budget);
    let (ids, hashes) = (text(id)?, text(hash)?);
    let mut column = get_typed_column_reader::<FloatType>(group.get_column_reader(list)?);
    let (mut defined, mut repeated, mut values) = (Vec::new(), Vec::new(), Vec::new());
    column.read_records(rows, Some(&mut defined), Some(&mut repeated), &mut values)?;
    Ok((rows, Columns { ids, hashes, repeated, values }))
}

fn texts(
    mut column: ColumnReaderImpl<ByteArrayType>,
    rows: usize,
    budget: &mut Budget,
) -> Result<Vec<String>, ParquetError> {
    let mut texts = Vec::new();
    while texts.len() < rows {
        let mut values = Vec::new();
        column.read_records(TEXTS.min(rows - texts.len()), None, None, &mut values)?;
        if values.is_empty() {
            break;
        }
        for value in &values {
            if value.len() > MAX_TEXT {
                let reason = format!("an id or hash of {} bytes, at most {MAX_TEXT} are read", value.len());
                return Err(ParquetError::General(reason));
            }
            budget.take(value.len() as u64)?;
            texts.push(value.as_utf8()?.to_string());
        }
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(first: usize, count: usize, model: &str) -> Embeddings {
        let mut e = Embeddings { model: model.into(), ..Embeddings::default() };
        for i in first..first + count {
            let row = [i as f32, -0.5, 1.0 / (i + 1) as f32];
            e.push(&format!("clip {i} é"), &format!("{i:064x}"), &row).expect("finite");
        }
        e
    }

    #[test]
    fn what_is_written_is_read() -> Result<()> {
        let dir = tempfile::tempdir().expect("a folder");
        let all = some(0, 700, "m");
        let file = dir.path().join("all.parquet");
        all.write(&file)?;
        assert_eq!(Embeddings::open(&file)?, all);
        let parts = dir.path().join("parts");
        std::fs::create_dir(&parts).expect("a folder");
        some(0, 300, "m").write(parts.join("00000.parquet"))?;
        some(300, 400, "m").write(parts.join("00001.parquet"))?;
        assert_eq!(Embeddings::open(&parts)?, all);
        some(0, 1, "another").write(parts.join("00002.parquet"))?;
        assert!(Embeddings::open(&parts).is_err_and(|e| e.to_string().contains("00002.parquet")));
        Ok(())
    }

    #[test]
    fn other_files_are_refused_by_name() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("x.parquet");
        for bytes in [&b""[..], b"PAR1", b"no parquet at all, but long enough", &[0xff; 300]] {
            std::fs::write(&file, bytes).expect("written");
            assert!(Embeddings::open(&file).is_err_and(|e| e.to_string().contains("x.parquet")));
        }
        let empty = dir.path().join("empty");
        std::fs::create_dir(&empty).expect("a folder");
        assert!(Embeddings::open(&empty).is_err());
        let long = "x".repeat(MAX_TEXT + 1);
        Embeddings { width: 1, ids: vec![long], hashes: vec![String::new()], rows: vec![1.0], ..Embeddings::default() }
            .write(&file)
            .expect("written");
        assert!(Embeddings::open(&file).is_err_and(|e| e.to_string().contains("1025 bytes")));
        let mut e = Embeddings::default();
        assert!(e.push("a", "", &[]).is_err() && e.push("a", "", &[f32::NAN]).is_err());
        assert!(e.push("a", "", &[1.0]).is_ok() && e.push("b", "", &[1.0, 2.0]).is_err());
    }

    #[test]
    fn damaged_files_are_refused_without_a_panic() -> Result<()> {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("damaged.parquet");
        some(0, 40, "m").write(&file)?;
        let sound = std::fs::read(&file).expect("read");
        for (i, flip) in (0..sound.len()).step_by(7).flat_map(|i| [(i, 0xff), (i, 0x10)]) {
            let mut bytes = sound.clone();
            bytes[i] ^= flip;
            std::fs::write(&file, bytes).expect("written");
            // Not every byte makes a difference that can be seen.
            assert!(Embeddings::open(&file).map_or_else(|e| matches!(e, Error::File { .. }), |e| e.len() <= 40));
        }
        Ok(())
    }

    #[test]
    fn a_file_asks_for_no_more_memory_than_its_bytes_allow() {
        let mut budget = Budget(10);
        assert!(budget.take(8).is_ok() && budget.take(3).is_err() && budget.take(2).is_ok());
    }
}

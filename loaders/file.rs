//! One safetensors file, memory-mapped and checked.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use muybridge_runtime::ByteOwner;

use crate::error::{LoadError, Result, shown};
use crate::header::{Header, TensorEntry};
use crate::map::MappedFile;

/// A memory-mapped safetensors file whose header has been checked. No tensor has been read yet.
pub struct SafetensorsFile {
    path: PathBuf,
    header: Header,
    map: MappedFile,
}

impl SafetensorsFile {
    /// Maps a file and checks its header.
    ///
    /// # Errors
    /// The file cannot be mapped, or its header lies: see [`Header::parse`].
    pub fn open(path: impl AsRef<Path>) -> Result<Arc<SafetensorsFile>> {
        let path = path.as_ref();
        let map = MappedFile::open(path)?;
        let header = Header::parse(map.bytes(), path)?;
        Ok(Arc::new(SafetensorsFile { path: path.into(), header, map }))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its checked header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The bytes of one of its tensors.
    ///
    /// # Errors
    /// The entry is another file's, and its range lies outside this one.
    pub fn data(&self, entry: &TensorEntry) -> Result<&[u8]> {
        self.map.bytes().get(entry.range.clone()).ok_or_else(|| LoadError::Range {
            file: self.path.clone(),
            tensor: shown(&entry.name),
            reason: format!("its bytes {:?} lie outside the file", entry.range),
        })
    }
}

impl ByteOwner for SafetensorsFile {
    fn bytes(&self) -> &[u8] {
        self.map.bytes()
    }

    fn release(&self, range: Range<usize>) {
        self.map.release(range);
    }
}

impl fmt::Debug for SafetensorsFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SafetensorsFile({}, {} tensors)", self.path.display(), self.header.tensors.len())
    }
}

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
    content: Content,
}

/// Where the bytes are.
enum Content {
    Mapped(MappedFile),
    /// In the program itself.
    Embedded(&'static [u8]),
}

impl Content {
    fn bytes(&self) -> &[u8] {
        match self {
            Content::Mapped(map) => map.bytes(),
            Content::Embedded(bytes) => bytes,
        }
    }
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
        Ok(Arc::new(SafetensorsFile { path: path.into(), header, content: Content::Mapped(map) }))
    }

    /// A file that was built into the program; `path` is what errors call it.
    ///
    /// # Errors
    /// Its header lies: see [`Header::parse`].
    pub fn embedded(path: impl AsRef<Path>, bytes: &'static [u8]) -> Result<Arc<SafetensorsFile>> {
        let path = path.as_ref();
        let header = Header::parse(bytes, path)?;
        Ok(Arc::new(SafetensorsFile { path: path.into(), header, content: Content::Embedded(bytes) }))
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
        self.content.bytes().get(entry.range.clone()).ok_or_else(|| LoadError::Range {
            file: self.path.clone(),
            tensor: shown(&entry.name),
            reason: format!("its bytes {:?} lie outside the file", entry.range),
        })
    }
}

impl ByteOwner for SafetensorsFile {
    fn bytes(&self) -> &[u8] {
        self.content.bytes()
    }

    fn release(&self, range: Range<usize>) {
        if let Content::Mapped(map) = &self.content {
            map.release(range);
        }
    }
}

impl fmt::Debug for SafetensorsFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SafetensorsFile({}, {} tensors)", self.path.display(), self.header.tensors.len())
    }
}

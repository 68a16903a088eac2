//! The memory map: the one place of this crate that needs `unsafe`.
#![allow(unsafe_code)]

use std::ops::Range;
use std::path::Path;

use crate::error::{LoadError, Result};
use crate::json::open_regular;

/// A multiple of every page size in use (4, 16 and 64 KiB).
const PAGE: usize = 1 << 16;

/// A file's bytes, read by the system when they are first touched.
pub(crate) struct MappedFile(memmap2::Mmap);

impl MappedFile {
    /// Maps a regular file, read-only.
    pub(crate) fn open(path: &Path) -> Result<MappedFile> {
        let (file, _) = open_regular(path)?;
        // SAFETY: the map is read-only and private to this type, and no reference into it outlives it. What the type
        // system cannot rule out is another process that changes or truncates the file meanwhile: bytes may then change
        // (they are only ever read as plain numbers, whose ranges and offsets were checked on the header's own copy), or
        // the system ends the process. Checkpoints are not written in place while they are in use; `write_tensors`
        // replaces a file by renaming, which leaves an existing map intact.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(LoadError::io(path))?;
        Ok(MappedFile(map))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Lets go of the whole pages within a range; touching them again reads them again.
    #[cfg(unix)]
    pub(crate) fn release(&self, range: Range<usize>) {
        let start = range.start.next_multiple_of(PAGE);
        let end = range.end.min(self.0.len()) / PAGE * PAGE;
        if start < end {
            // SAFETY: `DontNeed` drops pages of memory that is backed by nothing but itself, and leaves a read-only map
            // of a file intact: the next access reads the same bytes from the file. The range lies within the map.
            let dropped =
                unsafe { self.0.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, end - start) };
            // Only advice: where the system refuses it, the pages stay until it needs the room.
            let _ = dropped;
        }
    }

    /// Lets go of nothing: there is no such advice on this system.
    #[cfg(not(unix))]
    pub(crate) fn release(&self, _range: Range<usize>) {}
}

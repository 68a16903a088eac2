//! What can go wrong.

use std::path::{Path, PathBuf};

use muybridge_runtime::files::replaceable;

/// What a call into this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Every way a measurement can fail.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The engine failed.
    #[error(transparent)]
    Runtime(#[from] muybridge_runtime::Error),
    /// The caller asked to stop.
    #[error("interrupted; nothing was written")]
    Interrupted,
    /// A file cannot be read or written, or holds something else.
    #[error("{}: {reason}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// What was asked for does not exist or does not fit.
    #[error("{0}")]
    Call(String),
}

impl Error {
    pub(crate) fn file(file: &Path, reason: impl ToString) -> Error {
        Error::File { file: file.into(), reason: reason.to_string() }
    }
}

/// Writes a file under a temporary name beside it, then renames it. Symbolic links are followed.
///
/// # Errors
/// The file cannot be written, or a device or a pipe has its name: it is not replaced.
pub fn write(file: &Path, bytes: &[u8]) -> Result<()> {
    let target = replaceable(file).map_err(|e| Error::file(file, e))?;
    let mut temporary = target.as_os_str().to_owned();
    temporary.push(format!(".{}.part", std::process::id()));
    let done = std::fs::write(&temporary, bytes).and_then(|()| std::fs::rename(&temporary, &target));
    done.map_err(|e| {
        // What could not be renamed is of no use; if it cannot be removed either, it is only litter.
        drop(std::fs::remove_file(&temporary));
        Error::file(file, e)
    })
}

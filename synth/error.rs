//! What can go wrong when a world is written to disk.

use std::path::{Path, PathBuf};

/// A failure, with the file or option it concerns.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A picture cannot be encoded.
    #[error("{path}: {source}")]
    Picture {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: image::ImageError,
    },
    /// What is there already was made with other options.
    #[error("{path}: {reason}")]
    Other {
        /// Which file or folder.
        path: PathBuf,
        /// In what it differs.
        reason: String,
    },
    /// An option is out of range.
    #[error("{0}")]
    Options(String),
    /// The system makes no threads.
    #[error("threads cannot be made: {0}")]
    Threads(std::io::Error),
    /// The caller asked to stop. What was finished is kept.
    #[error("interrupted: {0} finished, nothing of the rest was left behind")]
    Interrupted(usize),
}

/// A result with this crate's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Error + '_ {
        move |source| Error::Io { path: path.into(), source }
    }
}

//! Everything that can go wrong with a model.

use std::path::PathBuf;

use muybridge_loaders::LoadError;

/// What a call into the models returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Every way that a model can fail: below it, with its files, or with what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Shapes that do not fit, a device that fails, too little memory.
    #[error(transparent)]
    Runtime(#[from] muybridge_runtime::Error),
    /// A file, a tensor or a field of a configuration that cannot be used.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A call that does not fit the model: operands that are missing, options that exclude each other.
    #[error("{model}: {reason}")]
    Call {
        /// The model, by the name of its class.
        model: &'static str,
        /// What was wanted and what was there.
        reason: String,
    },
    /// A run was stopped by its listener.
    #[error("interrupted")]
    Interrupted,
    /// A file that cannot be read, written or understood.
    #[error("{}: {reason}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A recorded case that cannot be read or run.
    #[error("{}: {reason}", file.display())]
    Case {
        /// The case's file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl Error {
    pub(crate) fn call(model: &'static str, reason: impl Into<String>) -> Error {
        Error::Call { model, reason: reason.into() }
    }
}

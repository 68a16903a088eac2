//! What can be wrong with a file.

use std::fmt::Write;
use std::path::{Path, PathBuf};

/// What a call into the loaders returns.
pub type Result<T, E = LoadError> = std::result::Result<T, E>;

/// Every way that loading can fail. Each failure names its file, and its tensor or field where there is one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The operating system refused.
    #[error("{}: {source}", file.display())]
    Io {
        /// The file or directory.
        file: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// There is no checkpoint to open at this place, or more than one.
    #[error("{}: {reason}", file.display())]
    NotFound {
        /// The file or directory that was given.
        file: PathBuf,
        /// What was looked for, and what was there.
        reason: String,
    },
    /// A file is longer than such a file can reasonably be, and was not read.
    #[error("{}: {length} bytes, where at most {most} are read", file.display())]
    TooLong {
        /// The file.
        file: PathBuf,
        /// Its length in bytes.
        length: u64,
        /// The most that is read.
        most: u64,
    },
    /// A safetensors header cannot be believed.
    #[error("{}: bad safetensors header: {reason}", file.display())]
    Header {
        /// The safetensors file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The bytes of a tensor lie outside its file, overlap another tensor, or are not as many as its shape says.
    #[error("{}: tensor {tensor}: {reason}", file.display())]
    Range {
        /// The safetensors file.
        file: PathBuf,
        /// Name of the tensor.
        tensor: String,
        /// What is wrong with its range.
        reason: String,
    },
    /// Two tensors have one name.
    #[error("{}: tensor {tensor}: {reason}", file.display())]
    Duplicate {
        /// The file in which the name is met for the second time.
        file: PathBuf,
        /// The name.
        tensor: String,
        /// Where the other one is.
        reason: String,
    },
    /// Something else is wrong with one tensor.
    #[error("{}: tensor {tensor}: {reason}", file.display())]
    Tensor {
        /// The file that holds the tensor.
        file: PathBuf,
        /// Name of the tensor.
        tensor: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A tensor that was asked for does not exist.
    #[error("{}: no tensor {tensor}{}", file.display(), hint(near))]
    Missing {
        /// The file or directory that was opened.
        file: PathBuf,
        /// The name that was asked for.
        tensor: String,
        /// Names that exist and look alike.
        near: Vec<String>,
    },
    /// A tensor has another shape than the one asked for.
    #[error("{}: tensor {tensor}: wanted the shape {wanted}, found {found}", file.display())]
    Shape {
        /// The file that holds the tensor.
        file: PathBuf,
        /// Name of the tensor.
        tensor: String,
        /// The shape that was asked for.
        wanted: String,
        /// The shape that is stored.
        found: String,
    },
    /// A tensor is stored in a type that cannot be a weight.
    #[error("{}: tensor {tensor}: wanted one of F32, F16, BF16, found {found}", file.display())]
    DType {
        /// The file that holds the tensor.
        file: PathBuf,
        /// Name of the tensor.
        tensor: String,
        /// The stored type, in the words of the format.
        found: String,
    },
    /// A weight holds NaN or an infinity.
    #[error("{}: tensor {tensor}: element {index} is {value}", file.display())]
    NonFinite {
        /// The file that holds the tensor.
        file: PathBuf,
        /// Name of the tensor.
        tensor: String,
        /// Position of the first such element, row-major.
        index: usize,
        /// The value there.
        value: f32,
    },
    /// A tokenizer's file is not what it should be.
    #[error("{}: {reason}", file.display())]
    Tokenizer {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The index of a sharded checkpoint cannot be believed.
    #[error("{}: bad index: {reason}", file.display())]
    Index {
        /// The index file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The index of a sharded checkpoint is wrong about one tensor.
    #[error("{}: tensor {tensor}: shard {shard:?}: {reason}", file.display())]
    Shard {
        /// The index file.
        file: PathBuf,
        /// Name of the tensor.
        tensor: String,
        /// Name of the shard it is said to be in.
        shard: String,
        /// What is wrong.
        reason: String,
    },
    /// A configuration, or one field of it, cannot be used.
    #[error("{}: {}{reason}", file.display(), field_prefix(field))]
    Config {
        /// The configuration file.
        file: PathBuf,
        /// The field, `outer.inner` where nested; empty where the whole file is meant.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A checkpoint of PyTorch cannot be read, or not without executing what it names.
    #[error("{}: bad PyTorch checkpoint: {reason}", file.display())]
    Torch {
        /// The checkpoint.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A picture cannot be read or written.
    #[error("{}: bad picture: {reason}", file.display())]
    Picture {
        /// The picture's file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A motion's frames cannot be read or written: a video, an animation, or a folder of pictures.
    #[error("{}: {reason}", file.display())]
    Video {
        /// The file or folder.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Tensors are present that nothing asked for.
    #[error("{}: {} tensors that nothing asked for: {}", file.display(), tensors.len(), listed(tensors, 8))]
    Unused {
        /// The file or directory that was opened.
        file: PathBuf,
        /// Their names.
        tensors: Vec<String>,
    },
}

impl LoadError {
    pub(crate) fn io(file: &Path) -> impl FnOnce(std::io::Error) -> LoadError {
        let file = file.to_path_buf();
        move |source| LoadError::Io { file, source }
    }

    pub(crate) fn tensor(file: &Path, tensor: &str, reason: impl ToString) -> LoadError {
        LoadError::Tensor { file: file.into(), tensor: shown(tensor), reason: reason.to_string() }
    }

    pub(crate) fn picture(file: &Path, reason: impl ToString) -> LoadError {
        LoadError::Picture { file: file.into(), reason: reason.to_string() }
    }

    pub(crate) fn video(file: &Path, reason: impl ToString) -> LoadError {
        LoadError::Video { file: file.into(), reason: reason.to_string() }
    }

    pub(crate) fn config(file: &Path, field: &str, reason: impl ToString) -> LoadError {
        LoadError::Config { file: file.into(), field: shown(field), reason: reason.to_string() }
    }
}

/// A name from a file as it may be shown: control characters escaped, and not longer than a line or two. A long one is
/// cut in the middle, because a path says most at its end.
pub(crate) fn shown(name: &str) -> String {
    const START: usize = 80;
    const END: usize = 120;
    let count = name.chars().count();
    let cut = if count > START + END { START..count - END } else { 0..0 };
    let mut text = String::new();
    for (i, c) in name.chars().enumerate() {
        if i == cut.start && !cut.is_empty() {
            text.push('…');
        }
        if cut.contains(&i) {
            continue;
        }
        if c.is_control() { text.extend(c.escape_debug()) } else { text.push(c) }
    }
    text
}

fn listed(names: &[String], most: usize) -> String {
    let mut text = names.iter().take(most).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > most {
        let _ = write!(text, ", … ({} more)", names.len() - most);
    }
    text
}

fn hint(near: &[String]) -> String {
    if near.is_empty() { String::new() } else { format!(" (there is {})", near.join(", ")) }
}

fn field_prefix(field: &str) -> String {
    if field.is_empty() { String::new() } else { format!("field {field}: ") }
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn a_name_is_shown_whole_or_by_both_its_ends() {
        assert_eq!(shown("mid.attn\u{1b}[2J\n.weight"), "mid.attn\\u{1b}[2J\\n.weight");
        assert_eq!(shown(&"é".repeat(200)), "é".repeat(200));
        let long = shown(&format!("a.{}.weight", "x".repeat(1000)));
        assert!(long.starts_with("a.x") && long.contains("x…x") && long.ends_with("x.weight"), "{long}");
        assert_eq!(long.chars().count(), 201);
    }
}

//! Files that appear under their name when they are complete, or not at all.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use muybridge_runtime::files::replaceable;

use crate::error::{Error, Result};

/// Writes a file by way of one with another name in the same directory, which is renamed when it is complete and on disk.
/// Symbolic links are followed; a device or a pipe of this name is refused, not replaced.
///
/// # Errors
/// What `write` says, or what the system does; nothing is left behind then.
pub fn write_with(path: &Path, write: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    let io = |e: std::io::Error| Error::File { file: path.into(), reason: e.to_string() };
    let target = replaceable(path).map_err(io)?;
    let hidden = hidden(&target)?;
    let attempt = || {
        let mut file = File::create(&hidden).map_err(io)?;
        write(&mut file)?;
        file.sync_all().map_err(io)?;
        fs::rename(&hidden, &target).map_err(io)
    };
    attempt().inspect_err(|_| {
        // What cannot be removed either is beyond help.
        let _ = fs::remove_file(&hidden);
    })
}

/// As [`write_with`], of bytes.
///
/// # Errors
/// The system refuses to write.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    write_with(path, |file| file.write_all(bytes).map_err(|e| Error::File { file: path.into(), reason: e.to_string() }))
}

fn hidden(path: &Path) -> Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| Error::File { file: path.into(), reason: "names no file".into() })?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}.partial", std::process::id()));
    Ok(path.with_file_name(hidden))
}

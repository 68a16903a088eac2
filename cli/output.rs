//! Outputs, looked at before the work: what cannot be written is told then, not after it.

use std::path::Path;

use muybridge::runtime::files;

use crate::Failure;

/// Looks whether a file of this name can be written.
///
/// # Errors
/// A folder, a device or a pipe has the name, or no file can be made beside it.
pub fn file(path: &Path) -> Result<(), Failure> {
    let target = files::replaceable(path).map_err(|e| refused(path, &e))?;
    within(files::folder(&target), path)
}

/// Looks whether a folder of this name is there or can be made, with those above it.
///
/// # Errors
/// Something else has the name of one of them, or the system refuses.
pub fn folder(path: &Path) -> Result<(), Failure> {
    let there = path.ancestors().find(|p| p.exists());
    within(there.unwrap_or(Path::new(".")), path)
}

/// Files can be made in this folder; `path` is what is to be.
fn within(folder: &Path, path: &Path) -> Result<(), Failure> {
    if !folder.is_dir() {
        return Err(refused(path, &format!("{} is no folder", folder.display())));
    }
    // It has no name, and is gone at once.
    tempfile::tempfile_in(folder).map(drop).map_err(|e| refused(path, &e))
}

fn refused(path: &Path, why: &dyn std::fmt::Display) -> Failure {
    Failure(format!("{}: cannot be written: {why}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_written_is_told() -> Result<(), Failure> {
        let dir = tempfile::tempdir()?;
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("there"), "")?;
        file(&at("there"))?;
        file(&at("new"))?;
        for bad in ["none/new", "there/new", "", "."] {
            assert!(file(&at(bad)).is_err_and(|e| e.0.contains("cannot be written")), "{bad}");
        }
        folder(dir.path())?;
        folder(&at("a/b/c"))?;
        for bad in ["there", "there/new"] {
            assert!(folder(&at(bad)).is_err_and(|e| e.0.contains("is no folder")), "{bad}");
        }
        assert_eq!(std::fs::read_dir(dir.path())?.count(), 1, "nothing is left");
        Ok(())
    }
}

//! Files and folders that appear under their name when they are complete and on disk, or not at all.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use muybridge_runtime::files::{folder, followed, replaceable};

/// Something that is written under another name in the same directory, and renamed at the end. Dropped before that, it
/// leaves nothing behind.
pub(crate) struct Partial {
    path: PathBuf,
    hidden: PathBuf,
    finished: bool,
}

impl Partial {
    /// A new file, to be written and read through the handle. Symbolic links of its name are followed; a device or a pipe that
    /// has it is refused, not replaced.
    pub(crate) fn file(path: &Path) -> io::Result<(Partial, File)> {
        let path = replaceable(path)?;
        let hidden = hidden_name(&path)?;
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&hidden)?;
        Ok((Partial { path, hidden, finished: false }, file))
    }

    /// A new folder. Where one of its name exists, maybe by way of symbolic links, it must be empty.
    pub(crate) fn folder(path: &Path) -> io::Result<Partial> {
        let path = followed(path)?;
        if path.exists() && fs::read_dir(&path)?.next().is_some() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the folder exists and is not empty"));
        }
        let hidden = hidden_name(&path)?;
        fs::create_dir(&hidden)?;
        Ok(Partial { path, hidden, finished: false })
    }

    /// Where it is written.
    pub(crate) fn hidden(&self) -> &Path {
        &self.hidden
    }

    /// Brings a file to the disk and gives it its name.
    pub(crate) fn commit(mut self, file: File) -> io::Result<()> {
        file.sync_all()?;
        drop(file);
        self.rename()
    }

    /// Gives a folder its name.
    pub(crate) fn commit_folder(mut self) -> io::Result<()> {
        if self.path.is_dir() {
            // Empty, or this fails; not every system renames over it.
            fs::remove_dir(&self.path)?;
        }
        self.rename()
    }

    fn rename(&mut self) -> io::Result<()> {
        fs::rename(&self.hidden, &self.path)?;
        self.finished = true;
        // The name is on disk only when its directory is. Some systems cannot sync a directory: there, it follows later.
        if let Ok(dir) = File::open(folder(&self.path)) {
            let _ = dir.sync_all();
        }
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.finished {
            // Nothing more can be done about what cannot be removed either.
            let _ = if self.hidden.is_dir() { fs::remove_dir_all(&self.hidden) } else { fs::remove_file(&self.hidden) };
        }
    }
}

fn hidden_name(path: &Path) -> io::Result<PathBuf> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().ok_or_else(|| io::Error::other("names no file"))?;
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}.{}.partial", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    Ok(folder(path).join(hidden))
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_stay_links_and_devices_stay_devices() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("far"))?;
        symlink("far/film", at("film"))?;
        symlink("far/frames", at("frames"))?;
        symlink("/dev/null", at("null"))?;
        let (partial, file) = Partial::file(&at("film"))?;
        assert!(partial.hidden().starts_with(at("far")));
        partial.commit(file)?;
        Partial::folder(&at("frames"))?.commit_folder()?;
        Partial::folder(&at("frames"))?.commit_folder()?;
        assert!(at("far/film").is_file() && at("far/frames").is_dir());
        assert!(at("film").is_symlink() && at("frames").is_symlink());
        assert!(Partial::file(&at("null")).is_err_and(|e| e.to_string().contains("regular")));
        assert_eq!(fs::read_dir(at("far"))?.count(), 2, "nothing is left behind");
        Ok(())
    }
}

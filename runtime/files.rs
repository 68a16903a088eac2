//! Files whose names come from people: what may be read whole, and what may be replaced.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

/// Opens a regular file and tells its length in bytes. Pipes and devices are refused before they are opened: they could block, or
/// never end.
///
/// # Errors
/// What the system says, or that it is no regular file.
pub fn open(path: &Path) -> io::Result<(File, u64)> {
    if !fs::metadata(path)?.is_file() {
        return Err(not_regular());
    }
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    Ok((file, length))
}

/// Reads a regular file whole.
///
/// # Errors
/// As [`open`], or it has more than `most` bytes.
pub fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let (file, length) = open(path)?;
    let within = |length: u64| {
        let reason =
            || io::Error::new(ErrorKind::FileTooLarge, format!("{length} bytes, where at most {most} are read"));
        if length > most { Err(reason()) } else { Ok(()) }
    };
    within(length)?;
    let mut bytes = Vec::with_capacity(length as usize);
    // It may grow meanwhile.
    file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    within(bytes.len() as u64)?;
    Ok(bytes)
}

/// Links that lead to links are followed so many times, as systems do.
const MOST_LINKS: usize = 40;

/// The path that an output of this name is renamed to: the name itself, or where its symbolic links lead, so that they stay links.
///
/// # Errors
/// Something other than a regular file is there. A folder cannot be replaced by a file; a device or a pipe can, where the user may
/// do everything, and nobody wants that. The system may refuse to follow links, too.
pub fn replaceable(path: &Path) -> io::Result<PathBuf> {
    match fs::metadata(path) {
        Ok(meta) if !meta.is_file() => return Err(not_regular()),
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    followed(path)
}

/// Where the symbolic links of this name lead, whether or not anything is there.
///
/// # Errors
/// The system refuses to follow them, or they never end.
pub fn followed(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_path_buf();
    for _ in 0..MOST_LINKS {
        match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_symlink() => path = folder(&path).join(fs::read_link(&path)?),
            Ok(_) => return Ok(path),
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(path),
            Err(e) => return Err(e),
        }
    }
    Err(io::Error::other("its symbolic links lead round in a circle"))
}

/// The folder of a file.
pub fn folder(path: &Path) -> &Path {
    path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn not_regular() -> io::Error {
    io::Error::other("is not a regular file")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_of_bounded_length_are_read() -> io::Result<()> {
        let file = std::env::temp_dir().join(format!("muybridge-files-read-{}", std::process::id()));
        fs::write(&file, "1234")?;
        assert_eq!(read(&file, 4)?, b"1234");
        assert!(read(&file, 3).is_err_and(|e| e.to_string().contains("at most 3")));
        assert!(read(&std::env::temp_dir(), 4).is_err_and(|e| e.to_string().contains("regular")));
        #[cfg(unix)]
        assert!(read(Path::new("/dev/zero"), 4).is_err_and(|e| e.to_string().contains("regular")));
        fs::remove_file(file)
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_and_devices_are_left_alone() -> io::Result<()> {
        use std::os::unix::fs::symlink;

        let dir = std::env::temp_dir().join(format!("muybridge-files-links-{}", std::process::id()));
        drop(fs::remove_dir_all(&dir));
        fs::create_dir_all(dir.join("sub"))?;
        symlink("sub/b", dir.join("a"))?;
        symlink("c", dir.join("sub/b"))?;
        assert_eq!(replaceable(&dir.join("a"))?, dir.join("sub/c"), "nothing is there yet");
        fs::write(dir.join("sub/c"), "")?;
        assert_eq!(replaceable(&dir.join("a"))?, dir.join("sub/c"));
        assert_eq!(replaceable(&dir.join("new"))?, dir.join("new"));
        symlink("round", dir.join("round"))?;
        symlink("/dev/null", dir.join("null"))?;
        for refused in ["round", "null", "sub"] {
            assert!(replaceable(&dir.join(refused)).is_err(), "{refused}");
        }
        fs::remove_dir_all(dir)
    }
}

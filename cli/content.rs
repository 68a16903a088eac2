//! What files hold, told in a line: reports and tables name weights by it.

use std::io::Read;
use std::path::Path;

use muybridge::runtime::files;
use sha2::{Digest, Sha256};

use crate::{Failure, interrupt};

/// Longest text that is read, in bytes: a list of a million clips, say.
const MAX_BYTES: u64 = 1 << 30;

/// The text of a regular file.
pub fn text(path: &Path) -> Result<String, Failure> {
    let bytes = files::read(path, MAX_BYTES).map_err(|e| Failure(format!("{}: {e}", path.display())))?;
    String::from_utf8(bytes).map_err(|e| Failure(format!("{}: no text: {e}", path.display())))
}

/// The name of a file or folder of weights and the first digits of its hash: fine-tuned weights are of the same length and name.
pub fn named(path: &Path) -> Result<String, Failure> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    Ok(format!("{name} (sha256 {})", &hash_of(path)?[..12]))
}

/// The digits of a hash.
pub fn hexadecimal(hasher: Sha256) -> String {
    hasher.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

/// SHA-256 of a regular file, or of a folder's files one after the other, in the order of their names.
pub fn hash_of(path: &Path) -> Result<String, Failure> {
    let wrong = |p: &Path, e: std::io::Error| Failure(format!("{}: {e}", p.display()));
    let mut all = vec![path.to_path_buf()];
    if path.is_dir() {
        let entries = std::fs::read_dir(path).map_err(|e| wrong(path, e))?;
        all = entries.flatten().map(|e| e.path()).filter(|p| p.is_file()).collect();
        all.retain(|p| p.file_name().is_some_and(|n| !n.to_string_lossy().starts_with('.')));
        all.sort();
    }
    let (mut hasher, mut buffer) = (Sha256::new(), vec![0u8; 1 << 16]);
    for path in &all {
        let (mut file, length) = files::open(path).map_err(|e| wrong(path, e))?;
        hasher.update(length.to_le_bytes());
        loop {
            interrupt::check()?;
            match file.read(&mut buffer).map_err(|e| wrong(path, e))? {
                0 => break,
                n => hasher.update(&buffer[..n]),
            }
        }
    }
    Ok(hexadecimal(hasher))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn a_hash_is_of_the_content_alone() -> Result<(), Failure> {
        let dir = tempfile::tempdir()?;
        let make = |name: &str, frames: &[&str]| -> Result<PathBuf, Failure> {
            let folder = dir.path().join(name);
            std::fs::create_dir(&folder)?;
            for (i, text) in frames.iter().enumerate() {
                std::fs::write(folder.join(format!("{name}{i}.png")), text)?;
            }
            Ok(folder)
        };
        let (a, b, c) = (make("a", &["one", "two"])?, make("b", &["one", "two"])?, make("c", &["onet", "wo"])?);
        assert_eq!(hash_of(&a)?, hash_of(&b)?);
        assert_ne!(hash_of(&a)?, hash_of(&c)?);
        assert!(hash_of(&dir.path().join("none")).is_err());
        #[cfg(unix)]
        for refused in [hash_of(Path::new("/dev/zero")), text(Path::new("/dev/zero"))] {
            assert!(refused.is_err_and(|e| e.0.contains("/dev/zero: is not a regular file")));
        }
        // FIPS 180-2: SHA-256 of "abc".
        let mut hasher = Sha256::new();
        hasher.update(b"abc");
        assert!(hexadecimal(hasher).starts_with("ba7816bf8f01cfea"));
        Ok(())
    }
}

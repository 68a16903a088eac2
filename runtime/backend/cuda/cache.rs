//! Compiled kernels on disk.
//!
//! One file per kernel, named by a hash of everything that the compiler was given: source, options, architecture. The file
//! holds that text again, so that a collision of hashes is a miss and nothing worse, and a checksum of the code, so that a
//! torn or damaged file is a miss too. A file appears by renaming, so that a reader sees all of it or nothing, however many
//! processes write. Nothing here fails: without a cache, kernels are compiled again.

use std::fs;
use std::path::PathBuf;

use crate::cache::{START, hash_on, replace};

/// First bytes of every file; the digit counts changes of the format.
const MAGIC: &[u8; 8] = b"muycu\0\x001";

/// The cache of this user.
#[derive(Clone, Debug, Default)]
pub(super) struct Cache(Option<PathBuf>);

impl Cache {
    /// The folder `cuda` in `MUYBRIDGE_CACHE` (no cache where that is set and empty), or in the user's folder for caches.
    pub fn from_env() -> Cache {
        Cache(crate::cache::folder().map(|f| f.join("cuda")))
    }

    fn file(&self, key: &str) -> Option<PathBuf> {
        Some(self.0.as_ref()?.join(format!("{:032x}.kernel", hash(key.as_bytes()))))
    }

    /// The code that was stored under exactly this key, if it is whole.
    pub fn load(&self, key: &str) -> Option<Vec<u8>> {
        decode(&fs::read(self.file(key)?).ok()?, key)
    }

    /// Stores code under this key, over what may be there.
    pub fn store(&self, key: &str, code: &[u8]) {
        let Some(file) = self.file(key) else { return };
        if let Err(e) = replace(&file, &encode(key, code)) {
            tracing::debug!(file = %file.display(), error = %e, "a compiled kernel was not kept");
        }
    }
}

fn encode(key: &str, code: &[u8]) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend((key.len() as u64).to_le_bytes());
    out.extend((code.len() as u64).to_le_bytes());
    out.extend(hash(code).to_le_bytes());
    out.extend(key.as_bytes());
    out.extend(code);
    out
}

fn decode(file: &[u8], key: &str) -> Option<Vec<u8>> {
    let rest = file.strip_prefix(MAGIC)?;
    let (key_len, rest) = rest.split_first_chunk::<8>()?;
    let (code_len, rest) = rest.split_first_chunk::<8>()?;
    let (sum, rest) = rest.split_first_chunk::<16>()?;
    let [key_len, code_len] = [key_len, code_len].map(|n| u64::from_le_bytes(*n));
    let (stored, code) = rest.split_at_checked(usize::try_from(key_len).ok()?)?;
    let whole = stored == key.as_bytes() && code.len() as u64 == code_len && hash(code) == u128::from_le_bytes(*sum);
    whole.then(|| code.to_vec())
}

fn hash(bytes: &[u8]) -> u128 {
    hash_on(START, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn temporary(name: &str) -> (PathBuf, Cache) {
        let folder = std::env::temp_dir().join(format!("muybridge-cache-{name}-{}", std::process::id()));
        drop(fs::remove_dir_all(&folder));
        (folder.clone(), Cache(Some(folder)))
    }

    #[test]
    fn what_is_stored_is_found_and_what_is_damaged_is_not() {
        let (folder, cache) = temporary("damage");
        assert_eq!(cache.load("key"), None);
        cache.store("key", b"machine code");
        assert_eq!(cache.load("key").as_deref(), Some(&b"machine code"[..]));
        assert_eq!(cache.load("another key"), None);
        let file = cache.file("key").expect("a folder");
        let whole = fs::read(&file).expect("just written");
        // Torn at every length, and every byte flipped.
        for i in 0..whole.len() {
            fs::write(&file, &whole[..i]).expect("writable");
            assert_eq!(cache.load("key"), None, "cut to {i} bytes");
            let mut flipped = whole.clone();
            flipped[i] ^= 0x10;
            fs::write(&file, &flipped).expect("writable");
            assert_eq!(cache.load("key"), None, "byte {i} flipped");
        }
        cache.store("key", b"machine code");
        assert!(cache.load("key").is_some(), "a damaged file is written again");
        fs::remove_dir_all(folder).expect("removable");
    }

    #[test]
    fn a_collision_of_hashes_is_a_miss() {
        let (folder, cache) = temporary("collision");
        cache.store("key", b"code");
        let [own, other] = ["key", "other"].map(|k| cache.file(k).expect("a folder"));
        fs::rename(own, other).expect("renamable");
        assert_eq!(cache.load("other"), None);
        fs::remove_dir_all(folder).expect("removable");
    }

    #[test]
    fn readers_never_see_a_part_while_writers_race() {
        let (folder, cache) = temporary("race");
        let code: Vec<u8> = (0..200_000u32).map(|i| i as u8).collect();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| (0..20).for_each(|_| cache.store("key", &code)));
            }
            scope.spawn(|| {
                for _ in 0..200 {
                    let Some(file) = fs::read(cache.file("key").expect("a folder")).ok() else { continue };
                    assert!(decode(&file, "key").is_some(), "a part of {} bytes was seen", file.len());
                }
            });
        });
        let left: Vec<_> = fs::read_dir(&folder).expect("readable").flatten().collect();
        assert_eq!(left.len(), 1, "temporaries are left: {left:?}");
        fs::remove_dir_all(folder).expect("removable");
    }

    #[test]
    fn without_a_folder_nothing_is_kept_and_nothing_fails() {
        let none = Cache(None);
        none.store("key", b"code");
        assert_eq!(none.load("key"), None);
        let refused = Cache(Some(PathBuf::from("/dev/null/cuda")));
        refused.store("key", b"code");
        assert_eq!(refused.load("key"), None);
    }
}

//! Compiled kernels on disk.
//!
//! One file per kernel, named by a hash of everything that the compiler was given: source, options, architecture. The file
//! holds that text again, so that a collision of hashes is a miss and nothing worse, a checksum of the code, so that a
//! torn or damaged file is a miss too, and the compiler's version, so that a newer compiler replaces what an older one made.
//! Where there is no compiler, code of any version will do. A file appears by renaming, so that a reader sees all of it or
//! nothing, however many processes write. Nothing here fails: without a cache, kernels are compiled again. Kernels that were not
//! used for long go when the folder grows beyond [`MOST`].

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::cache::{START, hash_on, replace};

/// First bytes of every file; the digit counts changes of the format.
const MAGIC: &[u8; 8] = b"muycu\0\x002";

/// Bytes of the folder beyond which it is swept, down to three quarters of this.
const MOST: u64 = 256 << 20;

/// How long the temporary file of a writer that was killed is left alone.
const LITTER: Duration = Duration::from_secs(3600);

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

    /// The code that was stored under exactly this key, if it is whole and was made by this compiler, where there is one.
    pub fn load(&self, key: &str, compiler: Option<u32>) -> Option<Vec<u8>> {
        let path = self.file(key)?;
        let code = decode(&fs::read(&path).ok()?, key, compiler)?;
        // Marks it as used. Where that is refused, it merely goes sooner.
        drop(fs::File::options().append(true).open(path).and_then(|f| f.set_modified(SystemTime::now())));
        Some(code)
    }

    /// Stores code that this compiler made under this key, over what may be there.
    pub fn store(&self, key: &str, compiler: u32, code: &[u8]) {
        let Some(file) = self.file(key) else { return };
        if let Err(e) = replace(&file, &encode(key, compiler, code)) {
            tracing::debug!(file = %file.display(), error = %e, "a compiled kernel was not kept");
        }
    }

    /// Removes what was not used for longest where the folder has grown too large.
    pub fn sweep(&self) {
        if let Some(folder) = &self.0 {
            sweep(folder, MOST);
        }
    }
}

/// Other processes may remove, replace or read the same files meanwhile: a file that is gone is as good as removed, and one
/// that is being read stays readable until it is closed (elsewhere than on Windows, where it then stays).
fn sweep(folder: &Path, most: u64) {
    let mut kept = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, Ok(about)) = (entry.path(), entry.metadata()) else { continue };
        let used = about.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        match path.extension().and_then(|e| e.to_str()) {
            Some("kernel") => kept.push((used, about.len(), path)),
            Some("part") if used.elapsed().is_ok_and(|age| age > LITTER) => drop(fs::remove_file(path)),
            _ => {}
        }
    }
    let mut bytes: u64 = kept.iter().map(|(_, bytes, _)| bytes).sum();
    if bytes <= most {
        return;
    }
    kept.sort();
    for (_, size, path) in kept {
        if bytes <= most / 4 * 3 {
            break;
        }
        drop(fs::remove_file(path));
        bytes -= size;
    }
}

fn encode(key: &str, compiler: u32, code: &[u8]) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend(compiler.to_le_bytes());
    out.extend((key.len() as u64).to_le_bytes());
    out.extend((code.len() as u64).to_le_bytes());
    out.extend(hash(code).to_le_bytes());
    out.extend(key.as_bytes());
    out.extend(code);
    out
}

fn decode(file: &[u8], key: &str, compiler: Option<u32>) -> Option<Vec<u8>> {
    let (made_by, rest) = file.strip_prefix(MAGIC)?.split_first_chunk::<4>()?;
    if compiler.is_some_and(|c| c != u32::from_le_bytes(*made_by)) {
        return None;
    }
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
        assert_eq!(cache.load("key", Some(9)), None);
        cache.store("key", 9, b"machine code");
        assert_eq!(cache.load("key", Some(9)).as_deref(), Some(&b"machine code"[..]));
        assert_eq!(cache.load("another key", Some(9)), None);
        let file = cache.file("key").expect("a folder");
        let whole = fs::read(&file).expect("just written");
        // Torn at every length, and every byte flipped.
        for i in 0..whole.len() {
            fs::write(&file, &whole[..i]).expect("writable");
            assert_eq!(cache.load("key", Some(9)), None, "cut to {i} bytes");
            let mut flipped = whole.clone();
            flipped[i] ^= 0x10;
            fs::write(&file, &flipped).expect("writable");
            assert_eq!(cache.load("key", Some(9)), None, "byte {i} flipped");
        }
        cache.store("key", 9, b"machine code");
        assert!(cache.load("key", Some(9)).is_some(), "a damaged file is written again");
        fs::remove_dir_all(folder).expect("removable");
    }

    #[test]
    fn a_collision_of_hashes_is_a_miss() {
        let (folder, cache) = temporary("collision");
        cache.store("key", 9, b"code");
        let [own, other] = ["key", "other"].map(|k| cache.file(k).expect("a folder"));
        fs::rename(own, other).expect("renamable");
        assert_eq!(cache.load("other", Some(9)), None);
        fs::remove_dir_all(folder).expect("removable");
    }

    #[test]
    fn readers_never_see_a_part_while_writers_race() {
        let (folder, cache) = temporary("race");
        let code: Vec<u8> = (0..200_000u32).map(|i| i as u8).collect();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| (0..20).for_each(|_| cache.store("key", 9, &code)));
            }
            scope.spawn(|| {
                for _ in 0..200 {
                    let Some(file) = fs::read(cache.file("key").expect("a folder")).ok() else { continue };
                    assert!(decode(&file, "key", None).is_some(), "a part of {} bytes was seen", file.len());
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
        none.store("key", 9, b"code");
        assert_eq!(none.load("key", None), None);
        let refused = Cache(Some(PathBuf::from("/dev/null/cuda")));
        refused.store("key", 9, b"code");
        assert_eq!(refused.load("key", None), None);
    }

    #[test]
    fn another_compiler_is_a_miss_and_none_takes_any() {
        let (folder, cache) = temporary("compiler");
        cache.store("key", 9, b"code");
        assert_eq!(cache.load("key", Some(10)), None);
        assert!(cache.load("key", None).is_some());
        cache.store("key", 10, b"newer");
        assert_eq!(cache.load("key", Some(10)).as_deref(), Some(&b"newer"[..]));
        fs::remove_dir_all(folder).expect("removable");
    }

    #[test]
    fn what_was_used_last_stays() {
        let (folder, cache) = temporary("sweep");
        for (i, key) in ["a", "b", "c", "d"].into_iter().enumerate() {
            cache.store(key, 9, &[0; 1000]);
            let past = SystemTime::now() - Duration::from_secs(1000 - i as u64);
            let file = fs::File::options().append(true).open(cache.file(key).expect("a folder")).expect("written");
            file.set_modified(past).expect("settable");
        }
        let litter = folder.join("1-2-3.part");
        fs::write(&litter, "torn").expect("writable");
        let old = fs::File::options().append(true).open(&litter).expect("written");
        old.set_modified(SystemTime::now() - 2 * LITTER).expect("settable");
        assert!(cache.load("a", Some(9)).is_some(), "the oldest is used again");
        sweep(&folder, 1 << 20);
        assert!(cache.load("b", None).is_some() && !litter.exists(), "within the limit only litter goes");
        // Of 4180 bytes, 3075 may stay at most: c and d are now the ones unused for longest.
        sweep(&folder, 4100);
        let there: Vec<&str> = ["a", "b", "c", "d"].into_iter().filter(|k| cache.load(k, None).is_some()).collect();
        assert_eq!(there, ["a", "b"], "the two used last");
        fs::remove_dir_all(folder).expect("removable");
    }
}

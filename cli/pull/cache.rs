//! The cache that Hugging Face's programs share: blobs by their hash, and for each commit a folder of links to them.

use std::fs;
use std::path::{Component, Path, PathBuf};

use super::hub::RemoteFile;
use crate::Failure;

/// The folder of the cache.
pub(super) struct Cache(PathBuf);

fn failed(path: &Path) -> impl FnOnce(std::io::Error) -> Failure {
    let path = path.to_path_buf();
    move |e| Failure(format!("{}: {e}", path.display()))
}

impl Cache {
    /// `HF_HUB_CACHE`, `HF_HOME/hub`, or the usual place in the home folder.
    pub(super) fn of_environment() -> Result<Cache, Failure> {
        let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let home = || {
            set("HF_HOME").or_else(|| {
                Some(set("XDG_CACHE_HOME").or_else(|| Some(std::env::home_dir()?.join(".cache")))?.join("huggingface"))
            })
        };
        let folder = set("HF_HUB_CACHE").or_else(|| Some(home()?.join("hub")));
        folder.map(Cache).ok_or_else(|| Failure("there is no home folder; set HF_HUB_CACHE".into()))
    }

    fn repository(&self, repo: &str) -> PathBuf {
        self.0.join(format!("models--{}", repo.replace('/', "--")))
    }

    /// The folder of a commit.
    pub(super) fn snapshot(&self, repo: &str, commit: &str) -> PathBuf {
        self.repository(repo).join("snapshots").join(commit)
    }

    /// Where a file's content lies, or will.
    pub(super) fn blob(&self, repo: &str, file: &RemoteFile) -> Result<PathBuf, Failure> {
        let folder = self.repository(repo).join("blobs");
        fs::create_dir_all(&folder).map_err(failed(&folder))?;
        Ok(folder.join(&file.hash))
    }

    /// Whether the content is there: it got its name when its hash was right.
    pub(super) fn has(&self, blob: &Path, file: &RemoteFile) -> bool {
        fs::metadata(blob).is_ok_and(|meta| meta.len() == file.size)
    }

    /// Puts a file's name into the folder of its commit.
    pub(super) fn link(&self, repo: &str, commit: &str, file: &RemoteFile, blob: &Path) -> Result<(), Failure> {
        let place = self.snapshot(repo, commit).join(&file.name);
        let folder = place.parent().unwrap_or(&self.0);
        fs::create_dir_all(folder).map_err(failed(folder))?;
        if place.exists() {
            return Ok(());
        }
        // A link from a former, broken attempt is in the way.
        let _ = fs::remove_file(&place);
        link(blob, &file.name, &place).map_err(failed(&place))
    }

    /// Notes which commit a branch was.
    pub(super) fn name(&self, repo: &str, revision: &str, commit: &str) -> Result<(), Failure> {
        let place = self.repository(repo).join("refs").join(plain(revision)?);
        let folder = place.parent().unwrap_or(&self.0);
        fs::create_dir_all(folder).map_err(failed(folder))?;
        fs::write(&place, commit).map_err(failed(&place))
    }

    /// The folder of a revision that was fetched before, with the files in it.
    ///
    /// # Errors
    /// It was not, or one of the files is missing.
    pub(super) fn find(&self, repo: &str, revision: &str, files: &[String]) -> Result<PathBuf, Failure> {
        let noted = fs::read_to_string(self.repository(repo).join("refs").join(plain(revision)?));
        let commit = noted.map_or_else(|_| revision.to_string(), |text| text.trim().to_string());
        let folder = self.snapshot(repo, plain(&commit)?);
        if !folder.is_dir() {
            let cache = self.0.display();
            return Err(Failure(format!(
                "{repo} at {revision} is not in {cache}, and this is offline: nothing is fetched"
            )));
        }
        match files.iter().find(|name| !name.starts_with('.') && !folder.join(name).exists()) {
            Some(absent) => Err(Failure(format!("{}: {absent} is missing, and this is offline", folder.display()))),
            None => Ok(folder),
        }
    }
}

/// A name that stays within its folder.
pub(super) fn plain(name: &str) -> Result<&str, Failure> {
    let inside = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
    let strange = name.is_empty() || name.contains(['\\', ':']) || name.contains(|c: char| c.is_control());
    if inside && !strange { Ok(name) } else { Err(Failure(format!("{name:?} is no plain name"))) }
}

#[cfg(unix)]
fn link(blob: &Path, name: &str, place: &Path) -> std::io::Result<()> {
    // Up from the file to the commit, and from there past `snapshots`: the cache may be moved as a whole.
    let up = "../".repeat(name.matches('/').count() + 2);
    let target = Path::new(&up).join("blobs").join(blob.file_name().unwrap_or_default());
    std::os::unix::fs::symlink(target, place)
}

#[cfg(not(unix))]
fn link(blob: &Path, _name: &str, place: &Path) -> std::io::Result<()> {
    fs::hard_link(blob, place).or_else(|_| fs::copy(blob, place).map(drop))
}

//! Sets of clips: a folder of them, or a manifest that lists them.

use std::path::{Path, PathBuf};

use muybridge::metrics::evaluate::Points;
use serde::Deserialize;

use crate::Failure;
use crate::content::text;

/// One clip.
#[derive(Clone, Debug, Deserialize)]
pub struct Clip {
    /// Its name.
    pub id: String,
    /// A folder of frames, or an animated GIF or WebP, or H.264 in MP4. In a manifest, from the manifest's own folder.
    pub path: PathBuf,
    /// Five points of the face in each frame, or null where there is none.
    #[serde(default)]
    pub landmarks: Vec<Option<Points>>,
    /// A picture of the person.
    #[serde(default)]
    pub reference: Option<PathBuf>,
    /// Five points of the face in it.
    #[serde(default)]
    pub reference_landmarks: Option<Points>,
}

/// The clips of a folder by name (its folders, GIF, WebP and MP4 files; or itself, where it holds frames), or of a manifest with
/// one JSON object per line.
pub fn read(path: &Path) -> Result<Vec<Clip>, Failure> {
    let clips = if path.is_dir() { of_folder(path)? } else { of_manifest(path)? };
    if clips.is_empty() {
        return Err(Failure(format!(
            "{}: no clip in it: folders of frames, animated GIF or WebP, or MP4",
            path.display()
        )));
    }
    if let Some(pair) = clips.windows(2).find(|pair| pair[0].id == pair[1].id) {
        return Err(Failure(format!("{}: two clips are called {}", path.display(), pair[0].id)));
    }
    Ok(clips)
}

fn of_folder(path: &Path) -> Result<Vec<Clip>, Failure> {
    let wrong = |e: std::io::Error| Failure(format!("{}: {e}", path.display()));
    let entries = std::fs::read_dir(path).map_err(wrong)?.map(|e| e.map(|e| e.path()));
    let mut entries = entries.collect::<Result<Vec<_>, _>>().map_err(wrong)?;
    entries.retain(|e| !e.file_name().is_none_or(|n| n.to_string_lossy().starts_with('.')));
    entries.sort();
    let ends = |e: &Path, names: &[&str]| {
        e.extension().is_some_and(|x| names.contains(&x.to_string_lossy().to_lowercase().as_str()))
    };
    let clip = |id: Option<&std::ffi::OsStr>, path: &Path| Clip {
        id: id.unwrap_or_default().to_string_lossy().into_owned(),
        path: path.into(),
        landmarks: Vec::new(),
        reference: None,
        reference_landmarks: None,
    };
    if !entries.iter().any(|e| e.is_dir()) && entries.iter().any(|e| ends(e, &["png", "jpg", "jpeg"])) {
        return Ok(vec![clip(path.file_name(), path)]);
    }
    let clips = entries.iter().filter(|e| e.is_dir() || ends(e, &["gif", "webp", "mp4"]));
    let mut clips: Vec<Clip> = clips.map(|e| clip(if e.is_dir() { e.file_name() } else { e.file_stem() }, e)).collect();
    clips.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(clips)
}

fn of_manifest(path: &Path) -> Result<Vec<Clip>, Failure> {
    let wrong = |reason: String| Failure(format!("{}: {reason}", path.display()));
    let text = text(path)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let clip = |(i, line): (usize, &str)| -> Result<Clip, Failure> {
        let mut clip: Clip = serde_json::from_str(line).map_err(|e| wrong(format!("line {}: {e}", i + 1)))?;
        clip.path = folder.join(&clip.path);
        clip.reference = clip.reference.map(|r| folder.join(r));
        Ok(clip)
    };
    let mut clips = lines.map(clip).collect::<Result<Vec<_>, _>>()?;
    clips.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(clips)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_and_manifests() -> Result<(), Failure> {
        let dir = tempfile::tempdir()?;
        for name in ["b", "a", ".hidden"] {
            std::fs::create_dir(dir.path().join(name))?;
        }
        std::fs::write(dir.path().join("c.gif"), b"")?;
        std::fs::write(dir.path().join("notes.txt"), b"")?;
        let ids = |clips: Vec<Clip>| clips.into_iter().map(|c| c.id).collect::<Vec<_>>();
        assert_eq!(ids(read(dir.path())?), ["a", "b", "c"]);
        assert!(read(&dir.path().join("a")).is_err(), "an empty folder");
        std::fs::write(dir.path().join("a/000.png"), b"")?;
        assert_eq!(ids(read(&dir.path().join("a"))?), ["a"]);
        let manifest = dir.path().join("m.jsonl");
        std::fs::write(
            &manifest,
            "{\"id\":\"x\",\"path\":\"a\"}\n\n{\"id\":\"w\",\"path\":\"b\",\"landmarks\":[null]}\n",
        )?;
        let clips = read(&manifest)?;
        assert_eq!(clips[1].path, dir.path().join("a"));
        assert_eq!(clips[0].landmarks.len(), 1);
        std::fs::write(&manifest, "{\"id\":\"x\",\"path\":\"a\"}\n{\"id\":\"x\",\"path\":\"b\"}\n")?;
        assert!(read(&manifest).is_err_and(|e| e.0.contains("called x")));
        std::fs::write(&manifest, "{\"id\":1}")?;
        assert!(read(&manifest).is_err_and(|e| e.0.contains("line 1")));
        Ok(())
    }
}

//! Where faces are in a motion and in a reference, from a file.

use std::path::{Path, PathBuf};

use muybridge::metrics::evaluate::Points;
use serde::Deserialize;

use crate::Failure;
use crate::content::text;

/// Five points of each frame's face.
#[derive(Debug, Deserialize)]
pub struct Landmarks {
    /// Width and height of the frames that the points are of.
    size: [f32; 2],
    /// In the reference, in its own pixels.
    #[serde(default)]
    reference: Option<Points>,
    frames: Vec<Option<Points>>,
    #[serde(skip)]
    source: PathBuf,
}

/// A line of the manifest that `synth` writes.
#[derive(Deserialize)]
struct Line {
    folder: String,
    options: Extents,
    reference: Person,
    frames: Vec<Person>,
}

#[derive(Deserialize)]
struct Extents {
    width: f32,
    height: f32,
}

#[derive(Deserialize)]
struct Person {
    face: Face,
}

#[derive(Deserialize)]
struct Face {
    visible: bool,
    /// x, y, and how well it is seen.
    landmarks: [[f32; 3]; 5],
}

impl Face {
    fn points(&self) -> Option<Points> {
        self.visible.then(|| self.landmarks.map(|[x, y, _]| [x, y]))
    }
}

impl Landmarks {
    /// Reads a file of landmarks.
    pub fn read(path: &Path) -> Result<Landmarks, Failure> {
        let wrong = |reason: String| Failure(format!("{}: {reason}", path.display()));
        let found: Landmarks = serde_json::from_str(&text(path)?).map_err(|e| wrong(e.to_string()))?;
        if found.size.iter().any(|n| !(*n >= 1.0 && n.is_finite())) {
            return Err(wrong(format!("a size of {:?}", found.size)));
        }
        Ok(Landmarks { source: path.into(), ..found })
    }

    /// Those that lie with a motion: `landmarks.json` in its folder, or the line about the folder, or about the one around it, in
    /// the manifest beside it.
    pub fn beside(motion: &Path) -> Result<Option<Landmarks>, Failure> {
        let own = motion.join("landmarks.json");
        if own.exists() {
            return Landmarks::read(&own).map(Some);
        }
        let Ok(motion) = motion.canonicalize() else { return Ok(None) };
        for folder in motion.ancestors().take(2) {
            let (Some(name), Some(around)) = (folder.file_name(), folder.parent()) else { continue };
            let manifest = around.join("manifest.jsonl");
            if manifest.exists()
                && let Some(found) = Landmarks::of_line(&manifest, &name.to_string_lossy())?
            {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn of_line(manifest: &Path, folder: &str) -> Result<Option<Landmarks>, Failure> {
        let text = text(manifest)?;
        // A manifest of clips for `evaluate` has other lines.
        let line = text.lines().filter_map(|l| serde_json::from_str::<Line>(l).ok()).find(|l| l.folder == folder);
        Ok(line.map(|l| Landmarks {
            size: [l.options.width, l.options.height],
            reference: l.reference.face.points(),
            frames: l.frames.iter().map(|f| f.face.points()).collect(),
            source: manifest.into(),
        }))
    }

    /// The file.
    pub fn source(&self) -> &Path {
        &self.source
    }

    /// Points of the reference's face.
    pub fn reference(&self) -> Option<Points> {
        self.reference
    }

    /// Points of a frame's face, in frames of this width and height.
    pub fn frame(&self, i: usize, size: [usize; 2]) -> Option<Points> {
        let scale = [0, 1].map(|axis| size[axis] as f32 / self.size[axis]);
        let points = self.frames.get(i).copied().flatten()?;
        Some(points.map(|[x, y]| [x * scale[0], y * scale[1]]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn landmarks_come_from_a_file_or_from_the_manifest_of_synth() -> Result<(), Failure> {
        let dir = tempfile::tempdir()?;
        let clip = dir.path().join("00003");
        std::fs::create_dir_all(clip.join("dwpose"))?;
        assert!(Landmarks::beside(&clip)?.is_none());
        let face = |visible: bool, x: f32| {
            let points = [[x, 2.0, 1.0]; 5];
            serde_json::json!({"face": {"box": [0, 0, 1, 1], "visible": visible, "landmarks": points}, "keypoints": []})
        };
        let line = |folder: &str, x: f32| {
            serde_json::json!({"clip": 3, "folder": folder, "options": {"width": 64, "height": 32, "rate": 12.0},
                "reference": face(true, 7.0), "frames": [face(true, x), face(false, x)]})
        };
        std::fs::write(dir.path().join("manifest.jsonl"), format!("{}\n{}\n", line("00002", 1.0), line("00003", 9.0)))?;
        for motion in [clip.clone(), clip.join("dwpose")] {
            let found = Landmarks::beside(&motion)?.ok_or_else(|| Failure("no landmarks".into()))?;
            assert_eq!(found.reference(), Some([[7.0, 2.0]; 5]));
            assert_eq!(found.frame(0, [128, 32]), Some([[18.0, 2.0]; 5]));
            assert_eq!((found.frame(1, [64, 32]), found.frame(2, [64, 32])), (None, None));
        }
        std::fs::write(clip.join("landmarks.json"), "{\"size\":[64,32],\"frames\":[null]}")?;
        assert!(Landmarks::beside(&clip)?.is_some_and(|l| l.reference().is_none()));
        std::fs::write(clip.join("landmarks.json"), "{\"size\":[0,32],\"frames\":[]}")?;
        assert!(Landmarks::beside(&clip).is_err_and(|e| e.0.contains("landmarks.json")));
        Ok(())
    }
}

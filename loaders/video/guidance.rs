//! Guidance of several types, side by side: what Champ's renderer leaves in a folder.

use std::path::{Path, PathBuf};

use crate::error::{LoadError, Result};
use crate::picture::Picture;
use crate::video::frames::Frames;
use crate::video::rate::FrameRate;

/// The type whose frames are blackened where a mask says so.
const MASKED: &str = "semantic_map";

/// A motion given by several types of guidance at once: a folder with a sub-folder of pictures for each
/// (`depth/ normal/ semantic_map/ dwpose/`), or a video (`depth.webp`). A step gives one RGB picture of each type.
///
/// Beside them may be a folder `mask/` with a picture for each of `semantic_map/`, of the same name and size: where a
/// channel of the mask is 0, that channel of the map becomes 0 (what Champ does when it loads them).
#[derive(Debug)]
pub struct Guidance {
    path: PathBuf,
    types: Vec<String>,
    streams: Vec<Frames>,
    masks: Option<Masks>,
    step: usize,
    ended: bool,
}

#[derive(Debug)]
struct Masks {
    folder: PathBuf,
    /// Which stream they belong to.
    stream: usize,
    /// Names of the maps, in order.
    names: std::vec::IntoIter<PathBuf>,
}

impl Guidance {
    /// Types that Champ's checkpoints have an encoder for, in its order.
    pub const TYPES: [&str; 4] = ["depth", "normal", "semantic_map", "dwpose"];

    /// Opens a folder of guidance. Streams come in the order of `types`; with none given, those of
    /// [`Guidance::TYPES`] that are there.
    ///
    /// # Errors
    /// A type is missing or can't be opened, or two of them differ in their number of frames.
    pub fn open(folder: impl AsRef<Path>, types: &[impl AsRef<str>]) -> Result<Guidance> {
        let folder = folder.as_ref();
        let wanted: Vec<&str> = types.iter().map(AsRef::as_ref).collect();
        let mut guidance = Guidance {
            path: folder.into(),
            types: Vec::new(),
            streams: Vec::new(),
            masks: None,
            step: 0,
            ended: false,
        };
        for name in if wanted.is_empty() { &Guidance::TYPES[..] } else { &wanted[..] } {
            match place(folder, name) {
                Some(found) => guidance.add(name, &found)?,
                None if wanted.is_empty() => {}
                None => return Err(LoadError::video(folder, format!("has no guidance of the type {name}"))),
            }
        }
        if guidance.streams.is_empty() {
            let reason = format!("has no guidance; wanted folders of pictures: {}", Guidance::TYPES.join(", "));
            return Err(LoadError::video(folder, reason));
        }
        Ok(guidance)
    }

    /// Whether there are pictures of a type in a folder.
    pub fn has(folder: impl AsRef<Path>, name: &str) -> bool {
        place(folder.as_ref(), name).is_some()
    }

    fn add(&mut self, name: &str, found: &Path) -> Result<()> {
        let frames = Frames::open(found)?;
        if let Some(first) = self.streams.first()
            && let (Some(many), Some(few)) = (first.frame_count(), frames.frame_count())
            && many != few
        {
            let (first, found) = (first.path().display(), found.display());
            let reason = format!("{first} has {many} frames, {found} has {few}");
            return Err(LoadError::video(&self.path, reason));
        }
        let masks = self.path.join("mask");
        if name == MASKED && found.is_dir() && masks.is_dir() {
            let names = crate::video::frames::pictures(found)?.into_iter();
            self.masks = Some(Masks { folder: masks, stream: self.streams.len(), names });
        }
        self.types.push(name.into());
        self.streams.push(frames);
        Ok(())
    }

    /// The types, in the order of the pictures of a step.
    pub fn types(&self) -> &[String] {
        &self.types
    }

    /// Whether semantic maps are blackened by masks.
    pub fn is_masked(&self) -> bool {
        self.masks.is_some()
    }

    /// How many steps there are, where the files say.
    pub fn frame_count(&self) -> Option<usize> {
        self.streams.iter().find_map(Frames::frame_count)
    }

    /// Their rate, where one of the files has one.
    pub fn rate(&self) -> Option<FrameRate> {
        self.streams.iter().find_map(Frames::rate)
    }

    fn read(&mut self) -> Result<Option<Vec<Picture>>> {
        let mut pictures = Vec::with_capacity(self.streams.len());
        for stream in &mut self.streams {
            if let Some(picture) = stream.next() {
                pictures.push(picture?.rgb());
            }
        }
        if pictures.is_empty() {
            return Ok(None);
        }
        if pictures.len() < self.streams.len() {
            let reason = format!("one type has more than {} frames, another has not", self.step);
            return Err(LoadError::video(&self.path, reason));
        }
        if let Some(Masks { folder, stream, names }) = &mut self.masks
            && let Some(name) = names.next().as_ref().and_then(|n| n.file_name())
        {
            blacken(&mut pictures[*stream], &folder.join(name))?;
        }
        self.step += 1;
        Ok(Some(pictures))
    }
}

impl Iterator for Guidance {
    type Item = Result<Vec<Picture>>;

    fn next(&mut self) -> Option<Result<Vec<Picture>>> {
        if self.ended {
            return None;
        }
        let next = self.read().transpose();
        self.ended = !matches!(next, Some(Ok(_)));
        next
    }
}

/// The folder or file of one type.
fn place(folder: &Path, name: &str) -> Option<PathBuf> {
    let ends = ["", ".mp4", ".webp", ".gif"];
    let mut places = ends.iter().map(|end| folder.join(format!("{name}{end}")));
    places.find(|place| place.exists())
}

fn blacken(map: &mut Picture, mask: &Path) -> Result<()> {
    let shade = Picture::open(mask)?.rgb();
    if (shade.width, shade.height) != (map.width, map.height) {
        let (sizes, wanted) = ((shade.width, shade.height), (map.width, map.height));
        let reason = format!("{} x {} pixels, its map has {} x {}", sizes.0, sizes.1, wanted.0, wanted.1);
        return Err(LoadError::picture(mask, reason));
    }
    for (value, _) in map.pixels.iter_mut().zip(&shade.pixels).filter(|(_, shade)| **shade == 0) {
        *value = 0;
    }
    Ok(())
}

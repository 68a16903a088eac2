//! Reading a motion frame by frame.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::error::{LoadError, Result};
use crate::json::first_bytes;
use crate::locate::file_names;
use crate::picture::Picture;
use crate::video::rate::FrameRate;
use crate::video::{gif, webp};

/// The frames of a motion, in order, each decoded when it is asked for. After an error there are no more.
pub struct Frames {
    path: PathBuf,
    rate: Option<FrameRate>,
    count: Option<usize>,
    source: Box<dyn Iterator<Item = Result<Picture>> + Send>,
    ended: bool,
}

/// Ends of names that pictures of a folder may have.
const PICTURES: [&str; 4] = [".png", ".jpg", ".jpeg", ".webp"];

impl Frames {
    /// Opens a folder of PNG, JPEG or WebP pictures, in the order of their names; an animated GIF or WebP; or
    /// H.264 in MP4 (with the feature `h264`). What a file is, its first bytes tell.
    ///
    /// # Errors
    /// There is no such motion, the folder has no picture or its numbers don't sort, the file is of another kind, or its
    /// tables lie. Damage further inside shows when the frame is asked for.
    pub fn open(path: impl AsRef<Path>) -> Result<Frames> {
        let path = path.as_ref();
        if path.is_dir() {
            return Frames::of_folder(path);
        }
        let start = first_bytes(path)?;
        if start.starts_with(b"GIF8") {
            gif::open(path)
        } else if start.starts_with(b"RIFF") && start[8..].starts_with(b"WEBP") {
            webp::open(path)
        } else if matches!(&start[4..8], b"ftyp" | b"moov" | b"mdat" | b"wide" | b"free") {
            open_mp4(path)
        } else {
            let reason = "neither an animated GIF or WebP, nor H.264 in MP4";
            Err(LoadError::video(path, format!("{reason}; {}", make_frames(path))))
        }
    }

    pub(crate) fn new(
        path: &Path,
        rate: Option<FrameRate>,
        count: Option<usize>,
        source: impl Iterator<Item = Result<Picture>> + Send + 'static,
    ) -> Frames {
        Frames { path: path.into(), rate, count, source: Box::new(source), ended: false }
    }

    fn of_folder(path: &Path) -> Result<Frames> {
        let files = pictures(path)?;
        let count = Some(files.len());
        Ok(Frames::new(path, None, count, files.into_iter().map(Picture::open)))
    }

    /// Where they come from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Their rate, where the file has one: the mean, where it varies. A folder has none.
    pub fn rate(&self) -> Option<FrameRate> {
        self.rate
    }

    /// How many there are in all, where the file says.
    pub fn frame_count(&self) -> Option<usize> {
        self.count
    }
}

impl Iterator for Frames {
    type Item = Result<Picture>;

    fn next(&mut self) -> Option<Result<Picture>> {
        if self.ended {
            return None;
        }
        let next = self.source.next();
        self.ended = !matches!(next, Some(Ok(_)));
        next
    }
}

impl fmt::Debug for Frames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frames({}, {:?} frames at {:?})", self.path.display(), self.count, self.rate)
    }
}

#[cfg(feature = "h264")]
fn open_mp4(path: &Path) -> Result<Frames> {
    crate::video::mp4::open(path)
}

#[cfg(not(feature = "h264"))]
fn open_mp4(path: &Path) -> Result<Frames> {
    Err(LoadError::video(path, format!("this build reads no H.264 (feature h264); {}", make_frames(path))))
}

/// What to do about a video that is not read here.
pub(crate) fn make_frames(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().display();
    format!("make a folder of frames from it: mkdir frames && ffmpeg -i {name} frames/%06d.png")
}

/// The pictures of a folder, sorted by name, character by character: the order of the field's own programs.
///
/// # Errors
/// There are none, or their names hold numbers that this order would shuffle (`10.png` before `2.png`).
pub(crate) fn pictures(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut names: Vec<String> = file_names(folder)?.into_iter().collect();
    names.retain(|name| {
        let lower = name.to_lowercase();
        !name.starts_with('.') && PICTURES.iter().any(|end| lower.ends_with(end))
    });
    if names.is_empty() {
        return Err(LoadError::video(folder, format!("has no picture ({})", PICTURES.join(", "))));
    }
    if let Some((first, second)) = names.iter().zip(&names[1..]).find(|(a, b)| natural(a) > natural(b)) {
        let reason = format!("by name {first} comes before {second}: give the numbers leading zeros");
        return Err(LoadError::video(folder, reason));
    }
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

/// A name cut into text and numbers, which compares as people count.
fn natural(name: &str) -> Vec<(&str, u64)> {
    let mut parts = Vec::new();
    let mut rest = name;
    while !rest.is_empty() {
        let text = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let digits = rest[text..].find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len() - text);
        parts.push((&rest[..text], rest[text..text + digits].parse().unwrap_or(u64::MAX)));
        rest = &rest[text + digits..];
    }
    parts
}

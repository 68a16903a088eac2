//! Writing a motion frame by frame.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::error::{LoadError, Result};
use crate::partial::Partial;
use crate::picture::Picture;
use crate::video::gif::GifSink;
#[cfg(feature = "h264")]
use crate::video::mp4::Mp4Sink;
use crate::video::rate::FrameRate;
use crate::video::webp::WebpSink;

/// Where frames go.
pub(crate) trait Sink: Send {
    /// Writes one frame, of the first one's size and channels.
    fn push(&mut self, picture: &Picture) -> Result<()>;

    /// Brings everything to the disk and gives it its name.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// A motion in the making. It appears under its name when it is finished, or not at all: dropped before that, it leaves
/// nothing behind. Frames are written as they come.
pub struct VideoWriter {
    path: PathBuf,
    sink: Box<dyn Sink>,
    form: Option<(usize, usize, usize)>,
    count: usize,
}

impl VideoWriter {
    /// Begins a motion. What it is, the end of its name tells: `.mp4` H.264 in MP4 (with the feature `h264`), which
    /// makes extents even by repeating the last row or column; `.gif` an animated GIF; `.webp` an animated WebP without
    /// loss; without an ending, a folder of numbered PNG pictures, which keeps no rate.
    ///
    /// # Errors
    /// The ending is another one, the format can't have the rate, or the system refuses to write there.
    pub fn create(path: impl AsRef<Path>, rate: FrameRate) -> Result<VideoWriter> {
        let path = path.as_ref();
        let ending = path.extension().map(|e| e.to_string_lossy().to_lowercase());
        let sink: Box<dyn Sink> = match ending.as_deref() {
            None => Box::new(PngSink::create(path)?),
            Some("gif") => Box::new(GifSink::create(path, rate)?),
            Some("webp") => Box::new(WebpSink::create(path, rate)?),
            #[cfg(feature = "h264")]
            Some("mp4") => Box::new(Mp4Sink::create(path, rate)?),
            Some(other) => {
                let reason =
                    format!("no video is written as .{other}; wanted .mp4, .gif, .webp, or no ending for a folder");
                return Err(LoadError::video(path, reason));
            }
        };
        Ok(VideoWriter { path: path.into(), sink, form: None, count: 0 })
    }

    /// Writes the next frame.
    ///
    /// # Errors
    /// Its pixels don't fit its extents, it has not the first frame's size and channels, the format can't hold it, or
    /// the system refuses to write.
    pub fn push(&mut self, picture: &Picture) -> Result<()> {
        picture.check(&self.path)?;
        let form = (picture.width, picture.height, picture.channels);
        let first = *self.form.get_or_insert(form);
        if form != first {
            let said = |(w, h, c): (usize, usize, usize)| format!("{w} x {h} pixels of {c} channels");
            let reason = format!("frame {} has {}, the first has {}", self.count, said(form), said(first));
            return Err(LoadError::video(&self.path, reason));
        }
        self.sink.push(picture)?;
        self.count += 1;
        Ok(())
    }

    /// Frames written so far.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Ends the motion and gives it its name.
    ///
    /// # Errors
    /// There is no frame in it, or the system refuses.
    pub fn finish(self) -> Result<()> {
        if self.count == 0 {
            return Err(LoadError::video(&self.path, "a motion without frames is not written"));
        }
        self.sink.finish()
    }
}

/// A folder of PNG pictures in the making.
struct PngSink {
    path: PathBuf,
    partial: Partial,
    count: usize,
}

impl PngSink {
    fn create(path: &Path) -> Result<PngSink> {
        let partial = Partial::folder(path).map_err(LoadError::io(path))?;
        Ok(PngSink { path: path.into(), partial, count: 0 })
    }
}

impl Sink for PngSink {
    fn push(&mut self, picture: &Picture) -> Result<()> {
        // Six digits keep names and numbers in one order for as long as any motion is.
        let file = self.partial.hidden().join(format!("{:06}.png", self.count));
        picture.encode_png(&File::create_new(&file).map_err(LoadError::io(&file))?, &file)?;
        self.count += 1;
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.partial.commit_folder().map_err(LoadError::io(&self.path))
    }
}

//! Clips on disk: a folder each, in the layout that a reader of Champ's guidance expects, and a manifest of all of them.
//!
//! ```text
//! OUT/manifest.jsonl                      a line for each clip
//! OUT/clip_000000/reference.png           the person at ease, and reference_nocs.png
//! OUT/clip_000000/frames/0000.png …       ground truth
//! OUT/clip_000000/normal/0000.png …       and depth/, semantic_map/, dwpose/, nocs/
//! OUT/clip_000000/clip.json               the clip's line of the manifest
//! ```
//!
//! A clip is written under another name and renamed when it is complete; one that is there is not made again.

use std::fs;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder};
use rayon::ThreadPoolBuilder;
use rayon::prelude::*;
use serde_json::{Value, json};

use crate::clip::{Clip, ClipOptions, Frame};
use crate::error::{Error, Result};
use crate::landmarks::Landmarks;
use crate::packed::Shard;
use crate::render::Picture;
use crate::shape::Part;

/// The pictures of a frame that can be written, by the names of their folders.
pub const MAPS: [&str; 5] = ["normal", "depth", "semantic_map", "dwpose", "nocs"];

/// The map of which the reference has one too.
pub(crate) const NOCS: &str = "nocs";

impl Frame {
    /// The map of a name of [`MAPS`].
    pub fn map(&self, name: &str) -> Option<&Picture> {
        match name {
            "normal" => Some(&self.normal),
            "depth" => Some(&self.depth),
            "semantic_map" => Some(&self.semantic_map),
            "dwpose" => Some(&self.dwpose),
            "nocs" => Some(&self.nocs),
            _ => None,
        }
    }
}

impl Picture {
    /// Writes a PNG file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut to = BufWriter::new(fs::File::create(path).map_err(Error::io(path))?);
        PngEncoder::new_with_quality(&mut to, CompressionType::Fast, FilterType::Adaptive)
            .write_image(&self.pixels, self.width as u32, self.height as u32, ExtendedColorType::Rgb8)
            .map_err(|source| Error::Picture { path: path.into(), source })?;
        to.flush().map_err(Error::io(path))
    }
}

/// What is written, and how far it is.
pub struct Job<'a> {
    /// The folder.
    pub out: &'a Path,
    /// What the clips are.
    pub options: &'a ClipOptions,
    /// How many.
    pub clips: usize,
    /// Which maps beside the pictures.
    pub maps: &'a [String],
    /// Clips of a packed shard; 0 for a folder of PNG files a clip.
    pub packed: usize,
    /// Called after each clip with the number of frames made.
    pub progress: &'a (dyn Fn(usize) + Sync),
    /// Whether to go on.
    pub go_on: &'a (dyn Fn() -> bool + Sync),
}

impl Job<'_> {
    /// Writes what is not there yet, then the manifest. Returns how many clips were made.
    ///
    /// # Errors
    /// Options out of range, files that cannot be written or were made with other options, threads that the system refuses,
    /// an interruption. What was finished stays.
    pub fn run(&self) -> Result<usize> {
        self.options.check()?;
        self.options.check_pixels(self.packed.min(self.clips).max(1))?;
        if let Some(other) = self.maps.iter().find(|m| !MAPS.contains(&m.as_str())) {
            return Err(Error::Options(format!("no map {other:?}; known: {}", MAPS.join(", "))));
        }
        fs::create_dir_all(self.out).map_err(Error::io(self.out))?;
        // A pool of its own: where no threads can be made, the common one panics.
        let pool = ThreadPoolBuilder::new().build().map_err(|e| Error::Threads(std::io::Error::other(e)))?;
        pool.install(|| self.make())
    }

    fn make(&self) -> Result<usize> {
        let units = if self.packed == 0 { self.clips } else { self.clips.div_ceil(self.packed) };
        let (made, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let step = |unit: usize| {
            if stop.load(Ordering::Relaxed) || !(self.go_on)() {
                stop.store(true, Ordering::Relaxed);
                return Ok(());
            }
            made.fetch_add(if self.packed == 0 { self.clip(unit)? } else { self.shard(unit)? }, Ordering::Relaxed);
            Ok(())
        };
        // Frames of a clip are made in parallel, and clips too: small ones would leave threads idle at their end.
        let done: Result<()> = if self.packed == 0 {
            (0..units).into_par_iter().with_max_len(1).try_for_each(step)
        } else {
            (0..units).try_for_each(step)
        };
        self.manifest(units)?;
        done?;
        let made = made.into_inner();
        if stop.into_inner() { Err(Error::Interrupted(made)) } else { Ok(made) }
    }

    fn name(&self, unit: usize) -> String {
        if self.packed == 0 { format!("clip_{unit:06}") } else { format!("shard_{unit:05}") }
    }

    fn lines_of(&self, unit: usize) -> PathBuf {
        let file = if self.packed == 0 { "clip.json" } else { "clips.jsonl" };
        self.out.join(self.name(unit)).join(file)
    }

    /// Whether a unit is there already. One that was made with other options is an error.
    fn is_there(&self, unit: usize) -> Result<bool> {
        let path = self.lines_of(unit);
        let Ok(text) = fs::read_to_string(&path) else { return Ok(false) };
        let first = text.lines().next().and_then(|l| serde_json::from_str::<Value>(l).ok()).unwrap_or_default();
        let wanted = options_line(self.options, self.maps);
        if first["options"] != wanted {
            let reason = format!("was made with the options {}, asked for are {wanted}", first["options"]);
            return Err(Error::Other { path, reason });
        }
        let clips = if self.packed == 0 { 1 } else { self.packed.min(self.clips - unit * self.packed) };
        if text.lines().count() != clips {
            let reason = format!("has {} clips, wanted {clips}; choose another folder", text.lines().count());
            return Err(Error::Other { path, reason });
        }
        Ok(true)
    }

    /// Makes a folder under another name, and renames it.
    fn folder(&self, unit: usize, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let (name, path) = (self.name(unit), self.out.join(self.name(unit)));
        let hidden = self.out.join(format!(".{name}.partial"));
        let _ = fs::remove_dir_all(&hidden);
        fs::create_dir(&hidden).map_err(Error::io(&hidden))?;
        let filled = fill(&hidden);
        if filled.is_err() {
            let _ = fs::remove_dir_all(&hidden);
        }
        filled?;
        fs::rename(&hidden, &path).map_err(Error::io(&path))
    }

    fn clip(&self, unit: usize) -> Result<usize> {
        if self.is_there(unit)? {
            (self.progress)(self.options.frames);
            return Ok(0);
        }
        let clip = Clip::new(self.options, unit as u64);
        let (reference, frames) = clip.render();
        self.folder(unit, |dir| {
            reference.colour.save(&dir.join("reference.png"))?;
            if self.maps.iter().any(|m| m == NOCS) {
                reference.nocs.save(&dir.join("reference_nocs.png"))?;
            }
            self.pictures(&dir.join("frames"), &frames, |f| Some(&f.colour))?;
            for map in self.maps {
                self.pictures(&dir.join(map), &frames, |f| f.map(map))?;
            }
            let line = manifest_line(&clip, &self.name(unit), 0, &reference, &frames, self.maps);
            write_whole(&dir.join("clip.json"), [format!("{line}\n")])
        })?;
        (self.progress)(frames.len());
        Ok(1)
    }

    fn pictures<'f>(
        &self,
        dir: &Path,
        frames: &'f [Frame],
        of: impl Fn(&'f Frame) -> Option<&'f Picture> + Sync,
    ) -> Result<()> {
        fs::create_dir(dir).map_err(Error::io(dir))?;
        let save = |(i, frame): (usize, &'f Frame)| match of(frame) {
            Some(picture) => picture.save(&dir.join(format!("{i:04}.png"))),
            None => Ok(()),
        };
        frames.par_iter().enumerate().try_for_each(save)
    }

    fn shard(&self, unit: usize) -> Result<usize> {
        let range = unit * self.packed..((unit + 1) * self.packed).min(self.clips);
        if self.is_there(unit)? {
            (self.progress)(range.len() * self.options.frames);
            return Ok(0);
        }
        let clips: Vec<_> = range.clone().into_par_iter().map(|i| self.packed_clip(unit, i)).collect();
        // An interruption leaves holes: then there is no shard.
        let Some(clips) = clips.into_iter().collect::<Option<Vec<_>>>() else { return Err(Error::Interrupted(0)) };
        self.folder(unit, |dir| {
            let shard = Shard { options: self.options, maps: self.maps };
            shard.write(dir, clips.iter().map(|(_, r, f)| (r, f.as_slice())), clips.len())?;
            write_whole(&dir.join("clips.jsonl"), clips.iter().map(|(line, ..)| format!("{line}\n")))
        })?;
        Ok(range.len())
    }

    fn packed_clip(&self, unit: usize, i: usize) -> Option<(Value, Frame, Vec<Frame>)> {
        if !(self.go_on)() {
            return None;
        }
        let clip = Clip::new(self.options, i as u64);
        let (reference, frames) = clip.render();
        let line = manifest_line(&clip, &self.name(unit), i % self.packed, &reference, &frames, self.maps);
        (self.progress)(frames.len());
        Some((line, reference, frames))
    }

    /// The manifest: the lines of all units that are there, in order. What the folder holds is looked at, not what was asked
    /// for: of millions, an interruption leaves few.
    fn manifest(&self, units: usize) -> Result<()> {
        let mut there = Vec::new();
        for entry in fs::read_dir(self.out).map_err(Error::io(self.out))? {
            let name = entry.map_err(Error::io(self.out))?.file_name();
            let unit = name.to_str().and_then(|name| name.rsplit_once('_')?.1.parse().ok());
            there.extend(unit.filter(|unit| *unit < units && *name == *self.name(*unit)));
        }
        there.sort_unstable();
        let lines = there.into_iter().filter_map(|unit| fs::read_to_string(self.lines_of(unit)).ok());
        write_whole(&self.out.join("manifest.jsonl"), lines)
    }
}

/// Writes a file under another name and renames it.
fn write_whole(path: &Path, parts: impl IntoIterator<Item = String>) -> Result<()> {
    let hidden = path.with_extension("partial");
    let mut file = fs::File::create(&hidden).map_err(Error::io(&hidden))?;
    let written = parts.into_iter().try_for_each(|part| file.write_all(part.as_bytes()));
    written.and_then(|()| file.sync_all()).map_err(Error::io(&hidden))?;
    fs::rename(&hidden, path).map_err(Error::io(path))
}

fn options_line(o: &ClipOptions, maps: &[String]) -> Value {
    json!({
        "width": o.width, "height": o.height, "frames": o.frames, "rate": o.rate, "seed": o.seed, "split": o.split.name(),
        "look": o.look.map_or("mixed", |l| l.name()), "identities": o.identities, "moving_camera": o.moving_camera, "maps": maps,
    })
}

fn manifest_line(clip: &Clip, folder: &str, at: usize, reference: &Frame, frames: &[Frame], maps: &[String]) -> Value {
    let colours: Vec<Value> = Part::ALL.iter().map(|p| json!([format!("{p:?}"), p.colour()])).collect();
    json!({
        "clip": clip.index,
        "folder": folder,
        "at": at,
        "identity": format!("{:016x}", clip.identity.id),
        "motion": { "id": format!("{:016x}", clip.motion.id), "name": clip.motion.name() },
        "seed": format!("{:016x}", clip.seed),
        "look": clip.look.name(),
        "split": clip.options().split.name(),
        "options": options_line(clip.options(), maps),
        "reference": points(&reference.landmarks),
        "frames": frames.iter().map(|f| points(&f.landmarks)).collect::<Vec<_>>(),
        "parts": colours,
    })
}

/// Pixels to a hundredth.
fn points(l: &Landmarks) -> Value {
    let round = |v: f32| f64::from((v * 100.0).round()) / 100.0;
    let all = |points: &[[f32; 3]]| -> Value { points.iter().map(|p| p.map(round)).map(|p| json!(p)).collect() };
    json!({
        "face": { "box": l.face_box.map(round), "visible": l.face_visible, "landmarks": all(&l.five) },
        "keypoints": all(&l.body),
        "hands": [all(&l.hands[0]), all(&l.hands[1])],
    })
}

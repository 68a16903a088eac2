//! `muybridge embed`

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};
use muybridge::clip::{ClipVision, Preprocess};
use muybridge::loaders::{Frames, Picture};
use muybridge::metrics::evaluate::embed;
use muybridge::selection::{Embeddings, of_frames, spread};
use muybridge::{DType, Plan};
use sha2::{Digest, Sha256};

use crate::clips::{self, Clip};
use crate::content::{hash_of, hexadecimal};
use crate::evaluate::open_preprocess;
use crate::table::{say, tell};
use crate::{DeviceArgs, Failure, interrupt, output};

/// Options of the verb.
#[derive(clap::Args)]
pub struct Args {
    /// The clips: a folder of folders of frames, GIF, WebP or MP4 files, or a manifest with a line {"id", "path"} for each
    clips: PathBuf,
    /// Folder of a CLIP picture tower with a projection: config.json and its weights
    #[arg(long, value_name = "FOLDER")]
    clip: PathBuf,
    /// Folder for the Parquet files; run again with the same folder to go on where it stopped
    #[arg(long, short, value_name = "FOLDER")]
    output: PathBuf,
    /// Frames of a clip that are looked at, evenly spread
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    frames: u16,
    /// Clips of a Parquet file
    #[arg(long, default_value_t = 256, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    part: u32,
    /// Numbers of the network's activations: f32, f16 or bf16
    #[arg(long, default_value = "f32", value_name = "DTYPE")]
    dtype: DType,
    #[command(flatten)]
    device: DeviceArgs,
}

/// The network and how pictures come into it.
struct Tower {
    net: ClipVision,
    preprocess: Preprocess,
    plan: Plan,
    frames: usize,
    dtype: DType,
}

/// What happened to the clips.
#[derive(Default)]
struct Tally {
    made: usize,
    same: usize,
    failed: usize,
}

/// Embeds the clips that are not in the output yet. Exits with 1 if a clip could not be read.
pub fn execute(args: &Args) -> Result<ExitCode, Failure> {
    output::folder(&args.output)?;
    let clips = clips::read(&args.clips)?;
    let device = args.device.open()?;
    let (net, preprocess) = (ClipVision::open(&args.clip, &device)?, open_preprocess(&args.clip)?);
    let frames = usize::from(args.frames);
    let plan = net.plan(frames, 0, args.dtype)?;
    let tower = Tower { net, preprocess, plan, frames, dtype: args.dtype };
    let model = tower.hash(&args.clip)?;
    std::fs::create_dir_all(&args.output)?;
    let before = read_parts(&args.output, &model)?;
    let known: HashSet<&String> = before.ids.iter().collect();
    let mut by_hash: HashMap<String, String> = before.hashes.iter().cloned().zip(before.ids.iter().cloned()).collect();
    let bar = ProgressBar::new(clips.len() as u64).with_style(
        ProgressStyle::with_template("{msg} {bar:30} {pos}/{len} clips {eta} left")
            .unwrap_or(ProgressStyle::default_bar()),
    );
    let mut part = Part { folder: args.output.clone(), held: Embeddings { model, ..Embeddings::default() } };
    let mut tally = Tally::default();
    for clip in &clips {
        bar.inc(1);
        if known.contains(&clip.id) {
            continue;
        }
        if interrupt::check().is_err() {
            part.flush()?;
            return Err(Failure(format!("interrupted; {} clips more are embedded: run again to go on", tally.made)));
        }
        bar.set_message(clip.id.clone());
        match one(&tower, clip, &mut by_hash) {
            Ok(Some((hash, row))) => {
                part.held.push(&clip.id, &hash, &row)?;
                tally.made += 1;
                if part.held.len() >= args.part as usize {
                    part.flush()?;
                }
            }
            Ok(None) => tally.same += 1,
            Err(Failure(reason)) => {
                bar.suspend(|| tell!("muybridge: clip {} is left out: {reason}", clip.id));
                tally.failed += 1;
            }
        }
    }
    part.flush()?;
    bar.finish_and_clear();
    let Tally { made, same, failed } = tally;
    say!("{made} clips embedded, {} were there, {same} have the content of another, {failed} left out", before.len());
    Ok(if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Hash and embedding of a clip; none if its content was met before.
fn one(
    tower: &Tower,
    clip: &Clip,
    by_hash: &mut HashMap<String, String>,
) -> Result<Option<(String, Vec<f32>)>, Failure> {
    let hash = hash_of(&clip.path)?;
    if let Some(other) = by_hash.get(&hash) {
        tell!("muybridge: clip {} has the content of {other}", clip.id);
        return Ok(None);
    }
    let total = match Frames::open(&clip.path)?.frame_count() {
        Some(n) => n,
        None => Frames::open(&clip.path)?.try_fold(0, |n, f| f.map(|_| n + 1))?,
    };
    let places = spread(total, tower.frames);
    let mut pictures: Vec<Picture> = Vec::with_capacity(places.len());
    for (i, frame) in Frames::open(&clip.path)?.enumerate() {
        let picture = frame?;
        if places.binary_search(&i).is_ok() {
            pictures.push(picture.rgb());
        }
        if pictures.len() == places.len() {
            break;
        }
    }
    if pictures.is_empty() {
        return Err(Failure("no frames".into()));
    }
    let frames = embed(&tower.net, &tower.preprocess, &tower.plan, &pictures, tower.dtype)?;
    by_hash.insert(hash.clone(), clip.id.clone());
    Ok(Some((hash, of_frames(&frames))))
}

/// The embeddings that are in the folder already.
fn read_parts(folder: &Path, model: &str) -> Result<Embeddings, Failure> {
    let any = std::fs::read_dir(folder)?.flatten().any(|e| e.path().extension().is_some_and(|x| x == "parquet"));
    let before = if any { Embeddings::open(folder)? } else { Embeddings::default() };
    if !before.is_empty() && before.model != model {
        let at = folder.display();
        return Err(Failure(format!("{at}: embeddings of another model or preprocessing; choose another --output")));
    }
    Ok(before)
}

/// Embeddings on their way to a file.
struct Part {
    folder: PathBuf,
    held: Embeddings,
}

impl Part {
    /// Writes what is held to a file of its own.
    fn flush(&mut self) -> Result<(), Failure> {
        if self.held.is_empty() {
            return Ok(());
        }
        let name = (0..).map(|i| self.folder.join(format!("{i:05}.parquet"))).find(|f| !f.exists());
        let file = name.ok_or_else(|| Failure("no name is left for a file".into()))?;
        self.held.write(file)?;
        self.held = Embeddings { model: std::mem::take(&mut self.held.model), ..Embeddings::default() };
        Ok(())
    }
}

impl Tower {
    /// A hash of the weights, and of everything that is done to a clip before them.
    fn hash(&self, folder: &Path) -> Result<String, Failure> {
        let how = format!("{:?} {} frames {}", self.preprocess, self.frames, self.dtype);
        let mut hasher = Sha256::new();
        hasher.update(how.as_bytes());
        hasher.update(hash_of(folder)?.as_bytes());
        Ok(hexadecimal(hasher))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use clap::Parser;
    use muybridge::metrics::cosine;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn clip(folder: &Path, frames: usize, seed: usize) -> Result<(), Failure> {
        std::fs::create_dir_all(folder)?;
        for t in 0..frames {
            let pixels = (0..50 * 60 * 3).map(|i| ((i * (seed + 3) / 7 + t * 11) % 256) as u8).collect();
            Picture { width: 50, height: 60, channels: 3, pixels }.write_png(folder.join(format!("{t:03}.png")))?;
        }
        Ok(())
    }

    #[test]
    fn clips_are_embedded_once() -> Result<(), Failure> {
        let dir = tempfile::tempdir()?;
        let clips = dir.path().join("clips");
        for (name, frames, seed) in [("a", 9, 1), ("b", 2, 5), ("copy", 9, 1), ("d", 5, 9)] {
            clip(&clips.join(name), frames, seed)?;
        }
        std::fs::create_dir(clips.join("empty"))?;
        let tower = format!("{}/tests/golden/clip_vision", env!("CARGO_MANIFEST_DIR"));
        let out = dir.path().join("out");
        let run = |more: &[&str]| {
            let (clips, out) = (clips.to_string_lossy(), out.to_string_lossy());
            let own = ["embed", &clips, "--clip", &tower, "-o", &out, "--device", "cpu", "--part", "2"];
            let line = Line::try_parse_from([&own[..], more].concat())?;
            execute(&line.args)
        };
        run(&[])?;
        let first = Embeddings::open(&out)?;
        assert_eq!(first.ids, ["a", "b", "d"], "a copy and an empty folder are left out");
        assert_eq!((first.width, first.model.len()), (40, 64));
        assert!(out.join("00000.parquet").exists() && out.join("00001.parquet").exists());
        assert!((cosine(first.row(0), first.row(0)) - 1.0).abs() < 1e-6);
        assert!(cosine(first.row(0), first.row(1)) < 0.999_99);
        // A clip more, and only that one is embedded.
        clip(&clips.join("c"), 3, 20)?;
        run(&[])?;
        let second = Embeddings::open(&out)?;
        assert_eq!(second.ids, ["a", "b", "d", "c"]);
        assert_eq!(second.rows[..first.rows.len()], first.rows);
        assert!(run(&["--frames", "4"]).is_err_and(|e| e.0.contains("another --output")));
        Ok(())
    }
}

//! `muybridge evaluate`

mod report;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};
use muybridge::clip::{ClipVision, Preprocess};
use muybridge::loaders::{Config, Frames, Picture};
use muybridge::metrics::evaluate::{ClipScores, Evaluator, Faces, Networks, Protocol};
use muybridge::metrics::{I3d, IResNet, Lpips, Scrfd, i3d, lpips};
use muybridge::{DType, Device, files};
use serde::{Deserialize, Serialize};

use crate::clips::{self, Clip};
use crate::content::{named, text};
use crate::table::tell;
use crate::{DeviceArgs, Failure, interrupt, output};

/// Options of the verb.
#[derive(clap::Args)]
pub struct Args {
    /// The real clips: a folder of folders of frames, GIF, WebP or MP4 files, or a manifest with a line {"id", "path"} for each
    real: PathBuf,
    /// The generated clips, of the same names; a manifest may give landmarks, reference and reference_landmarks
    generated: PathBuf,
    /// Folder for the results; run again with the same folder to go on where it stopped
    #[arg(long, short, value_name = "FOLDER")]
    output: PathBuf,
    /// Bring both to this size first (bicubic); without it, sizes must be equal
    #[arg(long, value_name = "WxH")]
    size: Option<Size>,
    /// Weights for LPIPS: one file, or a trunk's and the metric's own
    #[arg(long, value_name = "FILE", num_args = 1..=2)]
    lpips: Vec<PathBuf>,
    /// The trunk of LPIPS: alex, vgg or squeeze
    #[arg(long, default_value = "alex", value_name = "NET")]
    lpips_net: lpips::Trunk,
    /// Weights of I3D, for the Fréchet video distance
    #[arg(long, value_name = "FILE")]
    i3d: Option<PathBuf>,
    /// Whose I3D: videogpt or piergiaj
    #[arg(long, default_value = "videogpt", value_name = "SOURCE")]
    i3d_source: i3d::Source,
    /// Frames of a window for I3D
    #[arg(long, default_value_t = 16, value_name = "N")]
    frames: usize,
    /// Every how many frames one enters a window
    #[arg(long, default_value_t = 1, value_name = "N")]
    stride: usize,
    /// Weights of an IResNet, for CSIM; needs landmarks in the manifests, or a detector
    #[arg(long, value_name = "FILE")]
    faces: Option<PathBuf>,
    /// Weights of SCRFD, which finds the faces of clips without landmarks
    #[arg(long, value_name = "FILE", requires = "faces")]
    detector: Option<PathBuf>,
    /// Folder of a CLIP picture tower, for the consistency of frames
    #[arg(long, value_name = "FOLDER")]
    clip: Option<PathBuf>,
    /// Numbers of the networks' activations: f32, f16 or bf16
    #[arg(long, default_value = "f32", value_name = "DTYPE")]
    dtype: DType,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Width and height.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Size([usize; 2]);

impl std::str::FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Size, String> {
        let bad = || format!("{text:?} is not of the form WxH, with numbers from 1 to 32768");
        let (w, h) = text.split_once('x').ok_or_else(bad)?;
        let one = |part: &str| part.parse().ok().filter(|n| (1..=32_768).contains(n)).ok_or_else(bad);
        Ok(Size([one(w)?, one(h)?]))
    }
}

/// Side of I3D's frames.
const SIDE: usize = 224;

/// How frames come to that.
const RESIZE: &str = "shorter side to 224 (bilinear, no antialiasing), middle square";

/// What was done, as it stands in the outputs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// Where the clips were.
    real: String,
    generated: String,
    /// How they were looked at; "networks" names the weights of each.
    protocol: BTreeMap<String, String>,
}

/// Scores every pair of clips. Exits with 1 if a clip could not be scored.
pub fn execute(args: &Args) -> Result<ExitCode, Failure> {
    output::folder(&args.output)?;
    let pairs = pairs(clips::read(&args.real)?, clips::read(&args.generated)?, &args.real)?;
    let device = args.device.open()?;
    let networks = args.networks(&device)?;
    let blind = networks.faces.is_some() && networks.detector.is_none();
    if blind && pairs.iter().all(|(_, g)| g.landmarks.is_empty()) {
        return Err(Failure("--faces needs landmarks in the manifest of the generated clips, or a --detector".into()));
    }
    let protocol = Protocol {
        size: args.size.map(|s| s.0),
        window: args.frames,
        stride: args.stride,
        side: SIDE,
        dtype: args.dtype,
    };
    let mut evaluator = Evaluator::new(networks, protocol)?;
    std::fs::create_dir_all(&args.output)?;
    let done = args.done()?;
    let (mut journal, mut scores) = Journal::open(&args.output.join("clips.jsonl"), &done)?;
    scores.retain(|s| pairs.iter().any(|(r, _)| r.id == s.id));
    let bar = ProgressBar::new(pairs.len() as u64).with_style(
        ProgressStyle::with_template("{msg} {bar:30} {pos}/{len} clips {eta} left")
            .unwrap_or(ProgressStyle::default_bar()),
    );
    bar.set_position(scores.len() as u64);
    for (real, generated) in &pairs {
        if scores.iter().any(|s| s.id == real.id) {
            continue;
        }
        if interrupt::check().is_err() {
            let (n, of, at) = (scores.len(), pairs.len(), args.output.display());
            return Err(Failure(format!("interrupted; {n} of {of} clips are in {at}: run again to go on")));
        }
        bar.set_message(real.id.clone());
        let one = score(&mut evaluator, real, generated).unwrap_or_else(|Failure(reason)| {
            bar.suspend(|| tell!("muybridge: clip {} is left out: {reason}", real.id));
            ClipScores { id: real.id.clone(), error: Some(reason), ..ClipScores::default() }
        });
        journal.add(&one)?;
        scores.push(one);
        bar.inc(1);
    }
    bar.finish_and_clear();
    scores.sort_by(|a, b| a.id.cmp(&b.id));
    report::write(args, &done, &pairs, &scores)?;
    let failed = scores.iter().any(|s| s.error.is_some());
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Clips of the same name; or the only one of each side.
fn pairs(real: Vec<Clip>, generated: Vec<Clip>, place: &Path) -> Result<Vec<(Clip, Clip)>, Failure> {
    if let ([real], [generated]) = (&real[..], &generated[..]) {
        return Ok(vec![(real.clone(), generated.clone())]);
    }
    let mut by_id: BTreeMap<String, Clip> = real.into_iter().map(|c| (c.id.clone(), c)).collect();
    let missing = |id: &str| Failure(format!("{}: no clip {id}, which was generated", place.display()));
    let pair = |g: Clip| by_id.remove(&g.id).map(|r| (r, g.clone())).ok_or_else(|| missing(&g.id));
    let pairs = generated.into_iter().map(pair).collect::<Result<Vec<_>, _>>()?;
    if !by_id.is_empty() {
        tell!("muybridge: {} real clips have no generated one and are left out", by_id.len());
    }
    Ok(pairs)
}

fn score(evaluator: &mut Evaluator, real: &Clip, generated: &Clip) -> Result<ClipScores, Failure> {
    let reference = generated.reference.as_ref().map(Picture::open).transpose()?;
    let faces = Faces {
        real: &real.landmarks,
        generated: &generated.landmarks,
        reference: reference.as_ref().map(|r| (r, generated.reference_landmarks)),
    };
    Ok(evaluator.clip(&real.id, Frames::open(&real.path)?, Frames::open(&generated.path)?, &faces)?)
}

impl Args {
    fn networks(&self, device: &Device) -> Result<Networks, Failure> {
        let lpips = || Lpips::open(self.lpips_net, &self.lpips, device);
        let tower =
            |dir: &PathBuf| -> Result<_, Failure> { Ok((ClipVision::open(dir, device)?, open_preprocess(dir)?)) };
        Ok(Networks {
            lpips: (!self.lpips.is_empty()).then(lpips).transpose()?,
            i3d: self.i3d.as_ref().map(|f| I3d::open(f, self.i3d_source, device)).transpose()?,
            faces: self.faces.as_ref().map(|f| IResNet::open(f, device)).transpose()?,
            detector: self.detector.as_ref().map(|f| Scrfd::open(f, device)).transpose()?,
            clip: self.clip.as_ref().map(tower).transpose()?,
        })
    }

    fn done(&self) -> Result<Done, Failure> {
        let mut protocol = BTreeMap::new();
        let mut say = |name: &str, value: String| protocol.insert(name.to_string(), value);
        say("size", self.size.map_or("as they are".into(), |Size([w, h])| format!("{w}x{h}, bicubic")));
        say("dtype", self.dtype.to_string());
        if !self.lpips.is_empty() {
            let files: Vec<String> = self.lpips.iter().map(|f| named(f)).collect::<Result<_, _>>()?;
            say("lpips", format!("{:?}, {}", self.lpips_net, files.join(" + ")).to_lowercase());
        }
        if let Some(file) = &self.i3d {
            let (frames, stride) = (self.frames, self.stride);
            let windows = format!("windows of {frames} frames, stride {stride}, one after the other");
            say("fvd", format!("I3D {} ({:?}); {windows}; {RESIZE}", named(file)?, self.i3d_source));
        }
        if let Some(file) = &self.faces {
            let found = self.detector.as_deref().map_or(Ok("landmarks of the manifests".into()), named)?;
            say("csim", format!("{}, faces: {found}", named(file)?));
        }
        if let Some(folder) = &self.clip {
            say("clip", named(folder)?);
        }
        let [real, generated] = [&self.real, &self.generated].map(|p| p.display().to_string());
        Ok(Done { real, generated, protocol })
    }
}

/// The preprocessing that lies beside a CLIP tower, or CLIP's own for its size of pictures.
pub fn open_preprocess(dir: &Path) -> Result<Preprocess, Failure> {
    let file = dir.join("preprocessor_config.json");
    if file.exists() {
        return Ok(Preprocess::read(&Config::open(file)?)?);
    }
    let config = Config::open(dir)?;
    let vision = config.object("vision_config")?;
    Ok(Preprocess::clip(vision.as_ref().unwrap_or(&config).or("image_size", 224usize)?))
}

/// Scores as they come, one JSON object per line below one that says how they were made.
struct Journal {
    file: std::fs::File,
    path: PathBuf,
}

impl Journal {
    /// Opens or begins it. What an earlier run with the same protocol left is given; clips that failed are tried again.
    fn open(path: &Path, done: &Done) -> Result<(Journal, Vec<ClipScores>), Failure> {
        let text = if path.exists() { text(path)? } else { String::new() };
        let mut lines = text.lines();
        let (mut kept, mut whole) = (Vec::new(), serde_json::to_string(done)? + "\n");
        if let Some(first) = lines.next() {
            if serde_json::from_str::<Done>(first).ok().as_ref() != Some(done) {
                let at = path.display();
                return Err(Failure(format!(
                    "{at}: scores of other clips or another protocol; choose another --output"
                )));
            }
            // A line that was cut short is of a clip that will be scored again.
            for (line, scores) in lines.filter_map(|l| Some((l, serde_json::from_str::<ClipScores>(l).ok()?))) {
                if scores.error.is_none() {
                    whole += &format!("{line}\n");
                    kept.push(scores);
                }
            }
        }
        files::write(path, whole.as_bytes())?;
        let file = std::fs::OpenOptions::new().append(true).open(path)?;
        Ok((Journal { file, path: path.into() }, kept))
    }

    fn add(&mut self, scores: &ClipScores) -> Result<(), Failure> {
        let line = serde_json::to_string(scores)? + "\n";
        let written = self.file.write_all(line.as_bytes()).and_then(|()| self.file.sync_data());
        written.map_err(|e| Failure(format!("{}: {e}", self.path.display())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn golden(name: &str) -> String {
        format!("{}/tests/golden/{name}", env!("CARGO_MANIFEST_DIR"))
    }

    /// A clip of `frames` moving pictures, the further from the real one the greater `noise`.
    fn clip(folder: &Path, frames: usize, noise: usize) -> Result<(), Failure> {
        std::fs::create_dir_all(folder)?;
        let (width, height) = (66, 64);
        for t in 0..frames {
            let value =
                |i: usize| (i / 3 % width * 3 + i / 3 / width + 5 * t) % 200 + ((i + 5 * t) * 7919 % 13) * noise;
            let pixels = (0..width * height * 3).map(|i| value(i).min(255) as u8).collect();
            Picture { width, height, channels: 3, pixels }.write_png(folder.join(format!("{t:03}.png")))?;
        }
        Ok(())
    }

    /// Four clips: two good ones, one that is too short, one that is no picture.
    fn clips(dir: &Path) -> Result<(), Failure> {
        for (side, noise) in [("real", 0), ("generated", 1)] {
            clip(&dir.join(side).join("a"), 17, noise)?;
            clip(&dir.join(side).join("b"), 17, 3 * noise)?;
            clip(&dir.join(side).join("short"), 5 - noise, 0)?;
            clip(&dir.join(side).join("torn"), 2, 0)?;
        }
        std::fs::write(dir.join("generated/torn/001.png"), b"no picture")?;
        let face = "[[20,20],[44,20],[32,32],[24,44],[42,44]]";
        for side in ["real", "generated"] {
            let line = |id: &str, frames: usize| {
                let mut faces = vec![face; frames];
                faces[1] = "null";
                let person = format!("\"reference\":\"real/{id}/000.png\",\"reference_landmarks\":{face}");
                format!("{{\"id\":\"{id}\",\"path\":\"{side}/{id}\",\"landmarks\":[{}],{person}}}\n", faces.join(","))
            };
            let lines = [line("a", 17), line("b", 17), line("short", 5), line("torn", 2)];
            std::fs::write(dir.join(format!("{side}.jsonl")), lines.concat())?;
        }
        Ok(())
    }

    fn run(line: &[&str]) -> Result<ExitCode, Failure> {
        let line = Line::try_parse_from([&["evaluate"], line].concat())?;
        execute(&line.args)
    }

    #[test]
    fn clips_are_scored_reported_and_not_scored_again() -> Result<(), Failure> {
        let dir = tempfile::tempdir()?;
        clips(dir.path())?;
        let at = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
        let weights = [golden("iresnet18_narrow/model.safetensors"), golden("i3d_narrow/model.safetensors")];
        let (real, generated, out) = (at("real.jsonl"), at("generated.jsonl"), at("out"));
        let clip = golden("clip_vision");
        let networks = ["--faces", &weights[0], "--i3d", &weights[1], "--clip", &clip];
        let line = [&[real.as_str(), &generated, "-o", &out, "--device", "cpu"], &networks[..]].concat();
        assert_eq!(format!("{:?}", run(&line)?), format!("{:?}", ExitCode::FAILURE), "two clips are broken");

        let report: serde_json::Value = serde_json::from_slice(&std::fs::read(Path::new(&out).join("report.json"))?)?;
        let mean = |name: &str| report["metrics"][name]["mean"].as_f64().unwrap_or(f64::NAN);
        assert!(mean("psnr") > 15.0 && mean("psnr") < 45.0, "{report}");
        assert!(mean("ssim_wang") < 1.0 && mean("clip_consistency") <= 1.0 && mean("second_difference") > 0.0);
        assert!((mean("csim_reference") - 1.0).abs() < 1.0 && mean("csim_truth") <= 1.0 + 1e-9);
        assert!(report["fvd"]["distance"].as_f64() > Some(0.0), "{report}");
        assert_eq!(report["fvd"]["windows"], serde_json::json!([2, 2]));
        assert_eq!((&report["faces"]["found"], &report["faces"]["frames"]), (&32.into(), &34.into()));
        let errors: Vec<&str> = (0..4).filter_map(|i| report["clips"][i]["error"].as_str()).collect();
        assert!(errors[0].contains("only the real clip has more than 4 frames"), "{errors:?}");
        assert!(errors[1].contains("001.png"), "{errors:?}");
        let page = std::fs::read_to_string(Path::new(&out).join("report.html"))?;
        assert!(page.contains("data:image/png;base64,") && page.contains("<polyline") && page.contains("torn"));
        assert_eq!(std::fs::read_to_string(Path::new(&out).join("clips.csv"))?.lines().count(), 5);

        // A second run scores nothing anew but what failed: the real frames of a good clip may be gone.
        let journal = Path::new(&out).join("clips.jsonl");
        let first = std::fs::read_to_string(&journal)?;
        run(&line)?;
        assert_eq!(std::fs::read_to_string(&journal)?, first);
        // A line that was cut short is scored again; other options are refused.
        let cut: String = first.lines().take(2).map(|l| format!("{l}\n")).collect::<String>() + "{\"id\":\"b\",\"fra";
        std::fs::write(&journal, cut)?;
        run(&line)?;
        assert_eq!(std::fs::read_to_string(&journal)?, first);
        assert!(run(&[&line[..], &["--stride", "2"]].concat()).is_err_and(|e| e.0.contains("another --output")));
        Ok(())
    }

    #[test]
    fn sizes_are_read_strictly() {
        assert_eq!("64x96".parse(), Ok(Size([64, 96])));
        ["", "64", "0x4", "4x", "4x-1", "1x2x3", "99999x1"].iter().for_each(|t| assert!(t.parse::<Size>().is_err()));
    }
}

//! How like the reference's face those of generated frames are, as the frames come, and the best of several seeds.

mod landmarks;

use std::path::{Path, PathBuf};

use muybridge::loaders::Picture;
use muybridge::metrics::bootstrap::mean_interval;
use muybridge::metrics::identity::{Faces, Identity};
use muybridge::metrics::{IResNet, Scrfd};
use muybridge::{DType, Device, files};
use serde::{Deserialize, Serialize};

use self::landmarks::Landmarks;
use crate::content::{named, text};
use crate::table::{Table, say};
use crate::{Failure, html};

/// Options of verbs that make videos of a person.
#[derive(clap::Args)]
// Verbs flatten it beside their own `Args`, whose group has that name.
#[group(skip)]
#[command(next_help_heading = "Identity")]
pub struct Args {
    /// Score every frame's face against the reference's, and write the scores here
    #[arg(long, value_name = "FILE.json", requires_all = ["faces", "reference", "motion"])]
    report: Option<PathBuf>,
    /// Weights of ArcFace's IResNet: safetensors or .pth
    #[arg(long, value_name = "FILE")]
    faces: Option<PathBuf>,
    /// Weights of SCRFD, which finds the faces
    #[arg(long, value_name = "FILE", requires = "faces")]
    detector: Option<PathBuf>,
    /// Where the faces are, in place of a detector: {"size": [W, H], "reference": [[x, y] x 5], "frames": [[[x, y] x 5] or
    /// null, ...]}; by default landmarks.json in the motion's folder, or the line of `synth` about it
    #[arg(long, value_name = "FILE.json", requires = "faces")]
    landmarks: Option<PathBuf>,
    /// Make it with so many seeds, from --seed on, and keep the one whose faces are most like the reference's
    #[arg(long, default_value_t = 1, value_name = "N", requires = "report", value_parser = clap::value_parser!(u16).range(1..))]
    best_of: u16,
}

/// What a video is made of, as far as faces go.
pub struct Subject<'a> {
    /// The person.
    pub reference: &'a Picture,
    /// Its file.
    pub reference_file: &'a Path,
    /// The motion.
    pub motion: &'a Path,
    /// Width and height of the frames.
    pub size: [usize; 2],
    /// Frames made of each of the motion.
    pub interpolate: usize,
    /// Everything but the seed that decides about the video.
    pub fingerprint: u64,
}

/// Scores of the video of one seed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Scored {
    seed: u64,
    /// The mean cosine, where a face was found at all, and the interval of the bootstrap over frames.
    csim: Option<f64>,
    interval_95: Option<[f64; 2]>,
    /// Frames, and those with a face.
    frames: usize,
    found: usize,
    /// By frame; null where there is no face.
    series: Vec<Option<f64>>,
}

/// All that the report says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Report {
    reference: String,
    backbone: String,
    faces_by: String,
    fingerprint: String,
    /// Seeds that are asked for.
    seeds: [u64; 2],
    best_seed: Option<u64>,
    runs: Vec<Scored>,
}

/// Scores videos as they are made.
pub struct Scorer {
    identity: Identity,
    landmarks: Option<Landmarks>,
    size: [usize; 2],
    interpolate: usize,
    file: PathBuf,
    report: Report,
    now: Scored,
}

impl Args {
    /// Where the scores go.
    pub fn report(&self) -> Option<&Path> {
        self.report.as_deref()
    }

    /// Seeds to make the video with.
    pub fn seeds(&self, first: u64) -> Vec<u64> {
        (0..u64::from(self.best_of)).map(|i| first.wrapping_add(i)).collect()
    }

    /// The scorer, where a report is asked for. What an interrupted run of the same command scored is read from it.
    pub fn open(
        &self,
        device: &Device,
        dtype: DType,
        first: u64,
        subject: &Subject<'_>,
    ) -> Result<Option<Scorer>, Failure> {
        let (Some(file), Some(weights)) = (&self.report, &self.faces) else { return Ok(None) };
        let landmarks = match (&self.landmarks, &self.detector) {
            (Some(file), _) => Some(Landmarks::read(file)?),
            (None, Some(_)) => None,
            (None, None) => Landmarks::beside(subject.motion)?,
        };
        if landmarks.is_none() && self.detector.is_none() {
            let at = subject.motion.display();
            return Err(Failure(format!(
                "--report: no --detector, no --landmarks, and none with the motion ({at}): nothing says where faces are"
            )));
        }
        let detector = self.detector.as_ref().map(|f| Scrfd::open(f, device)).transpose()?;
        let faces = Faces::new(IResNet::open(weights, device)?, detector, dtype)?;
        let points = landmarks.as_ref().filter(|_| !faces.detects()).and_then(Landmarks::reference);
        let identity = Identity::of(faces, subject.reference, points)?;
        let by = match (&self.detector, &landmarks) {
            (Some(file), _) => format!("SCRFD {}", named(file)?),
            (None, given) => given.as_ref().map_or(String::new(), |l| format!("landmarks of {}", l.source().display())),
        };
        let report = Report {
            reference: subject.reference_file.display().to_string(),
            backbone: format!("IResNet {}", named(weights)?),
            faces_by: by,
            fingerprint: format!("{:016x}", subject.fingerprint),
            seeds: [first, u64::from(self.best_of)],
            ..Report::default()
        };
        let mut scorer = Scorer {
            identity,
            landmarks,
            size: subject.size,
            interpolate: subject.interpolate.max(1),
            file: file.clone(),
            report,
            now: Scored::default(),
        };
        scorer.resume();
        Ok(Some(scorer))
    }
}

impl Scorer {
    /// Takes over the runs of a report of the same video that is not complete.
    fn resume(&mut self) {
        let text = text(&self.file).unwrap_or_default();
        let Ok(before) = serde_json::from_str::<Report>(&text) else { return };
        let same = Report { runs: Vec::new(), best_seed: None, ..before.clone() } == self.report;
        if same && (before.runs.len() as u64) < self.report.seeds[1] {
            self.report = before;
        }
    }

    /// Whether an interrupted run of the same command has made and scored this seed.
    pub fn knows(&self, seed: u64) -> bool {
        self.report.runs.iter().any(|r| r.seed == seed)
    }

    /// A video of this seed begins.
    pub fn begin(&mut self, seed: u64) {
        self.now = Scored { seed, ..Scored::default() };
    }

    /// Its next frame.
    pub fn frame(&mut self, picture: &Picture) -> Result<(), Failure> {
        let i = self.now.frames;
        // A frame between two of the motion has no landmarks of its own.
        let given = self.landmarks.as_ref().filter(|_| i.is_multiple_of(self.interpolate));
        let points = given.and_then(|l| l.frame(i / self.interpolate, self.size));
        let score = self.identity.score(picture, points)?;
        self.now.frames += 1;
        self.now.found += usize::from(score.is_some());
        self.now.series.push(score);
        Ok(())
    }

    /// The video is done: whether it is the best so far, to be kept.
    pub fn end(&mut self) -> bool {
        let mut now = std::mem::take(&mut self.now);
        let scores: Vec<f64> = now.series.iter().filter_map(|s| *s).collect();
        if let Some((mean, interval)) = mean_interval(&scores) {
            (now.csim, now.interval_95) = (Some(mean), Some(interval));
        }
        // Without a face it is worse than any with one; of two that are as good the first stays.
        let rank = |s: &Scored| s.csim.unwrap_or(f64::NEG_INFINITY);
        let best = self.report.runs.iter().all(|r| rank(&now) > rank(r));
        if best {
            self.report.best_seed = Some(now.seed);
        }
        self.report.runs.push(now);
        best
    }

    /// Writes what is known so far. To be called when the video of [`Scorer::end`] is where it belongs.
    pub fn write(&self) -> Result<(), Failure> {
        Ok(files::write(&self.file, serde_json::to_string_pretty(&self.report)?.as_bytes())?)
    }

    /// Prints the scores of all seeds.
    pub fn print(&self) {
        let mut table = Table::new(&[">seed", ">csim", ">95 % interval", ">faces", ">frames", ""]);
        for run in &self.report.runs {
            let number = run.csim.map_or("-".into(), html::short);
            let ends = run
                .interval_95
                .map_or("-".into(), |[low, high]| format!("{} .. {}", html::short(low), html::short(high)));
            let kept = if self.report.best_seed == Some(run.seed) { "kept" } else { "" };
            table.row([run.seed.to_string(), number, ends, run.found.to_string(), run.frames.to_string(), kept.into()]);
        }
        table.print();
        say!("identity: {} ({}; {})", self.file.display(), self.report.backbone, self.report.faces_by);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn golden(path: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(path)
    }

    /// A face that `shade` moves away from the first one.
    fn face(shade: usize) -> Picture {
        let value = |i: usize| ((i * 31 % 251) as u8).wrapping_add((shade * (i % 17)) as u8);
        Picture { width: 112, height: 112, channels: 3, pixels: (0..112 * 112 * 3).map(value).collect() }
    }

    fn args(dir: &Path, best_of: u16) -> Args {
        Args {
            report: Some(dir.join("report.json")),
            faces: Some(golden("iresnet18_narrow/model.safetensors")),
            detector: None,
            landmarks: Some(dir.join("points.json")),
            best_of,
        }
    }

    const POINTS: &str = "[[38.3,51.7],[73.5,51.5],[56.0,71.7],[41.5,92.4],[70.7,92.2]]";

    #[test]
    fn the_seed_whose_faces_are_most_like_the_reference_is_kept() -> Result<(), Failure> {
        let dir = tempfile::tempdir()?;
        let text = format!("{{\"size\":[112,112],\"reference\":{POINTS},\"frames\":[{POINTS},null,{POINTS}]}}");
        std::fs::write(dir.path().join("points.json"), text)?;
        let (device, reference) = (Device::open("cpu")?, face(0));
        let subject = Subject {
            reference: &reference,
            reference_file: Path::new("me.png"),
            motion: dir.path(),
            size: [112, 112],
            interpolate: 1,
            fingerprint: 7,
        };
        let args = args(dir.path(), 3);
        assert_eq!(args.seeds(40), [40, 41, 42]);
        let open = |subject: &Subject<'_>| args.open(&device, DType::F32, 40, subject);
        let mut scorer = open(&subject)?.ok_or_else(|| Failure("no scorer".into()))?;
        let make = |scorer: &mut Scorer, seed: u64, shade: usize| -> Result<bool, Failure> {
            scorer.begin(seed);
            (0..4).try_for_each(|_| scorer.frame(&face(shade)))?;
            let best = scorer.end();
            scorer.write()?;
            Ok(best)
        };
        assert!(make(&mut scorer, 40, 5)?);
        assert!(make(&mut scorer, 41, 0)?, "the reference itself");
        // An interrupted run goes on with what it scored; another video does not.
        let mut scorer = open(&subject)?.ok_or_else(|| Failure("no scorer".into()))?;
        assert!(scorer.knows(41) && !scorer.knows(42));
        assert!(!open(&Subject { fingerprint: 8, ..subject })?.is_some_and(|s| s.knows(41)));
        assert!(!make(&mut scorer, 42, 9)?);
        let report: Report = serde_json::from_slice(&std::fs::read(dir.path().join("report.json"))?)?;
        assert_eq!((report.best_seed, report.runs.len()), (Some(41), 3));
        let best = &report.runs[1];
        assert!(best.csim.is_some_and(|c| (c - 1.0).abs() < 1e-5), "{best:?}");
        assert_eq!((best.frames, best.found), (4, 2), "a null, and a frame beyond the landmarks");
        assert!(report.runs.iter().all(|r| r.seed == 41 || r.csim < best.csim));
        // A complete report is begun anew.
        assert!(!open(&subject)?.is_some_and(|s| s.knows(40)));
        Ok(())
    }

    #[test]
    fn nothing_that_says_where_faces_are_is_an_error() -> Result<(), Failure> {
        let dir = tempfile::tempdir()?;
        let (device, reference) = (Device::open("cpu")?, face(0));
        let subject = Subject {
            reference: &reference,
            reference_file: Path::new("me.png"),
            motion: dir.path(),
            size: [112, 112],
            interpolate: 1,
            fingerprint: 7,
        };
        let blind = Args { landmarks: None, ..args(dir.path(), 1) };
        let refused = blind.open(&device, DType::F32, 0, &subject).err();
        assert!(refused.is_some_and(|Failure(m)| m.contains("nothing says where faces are")));
        std::fs::write(dir.path().join("points.json"), "{\"size\":[112,112],\"frames\":[]}")?;
        let refused = args(dir.path(), 1).open(&device, DType::F32, 0, &subject).err();
        assert!(refused.is_some_and(|Failure(m)| m.contains("no face in the reference")));
        Ok(())
    }
}

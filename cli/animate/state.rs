//! Runs that were interrupted, and go on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use muybridge::loaders::{Frames, Picture, read_tensors, write_tensors};
use muybridge::pipelines::Checkpoint;
use muybridge::{Error, HostTensor};

use crate::Failure;
use crate::table::tell;

/// What is kept of an interrupted run, beside its output: `OUTPUT.state.safetensors` and `OUTPUT.frames`.
pub struct State {
    file: PathBuf,
    folder: PathBuf,
    fingerprint: Vec<f32>,
    /// Steps taken, and the latents after them.
    last: Option<(usize, HostTensor)>,
    written: Instant,
}

/// Time between two savings of the latents, at least.
const SAVED_EVERY: Duration = Duration::from_secs(60);

impl State {
    pub fn of(output: &Path, fingerprint: u64) -> State {
        let beside = |end: &str| {
            let mut name = output.as_os_str().to_os_string();
            name.push(end);
            PathBuf::from(name)
        };
        // Sixteen bits each, which a float holds.
        let fingerprint = (0..4).map(|i| (fingerprint >> (16 * i) & 0xFFFF) as f32).collect();
        let (file, folder) = (beside(".state.safetensors"), beside(".frames"));
        State { file, folder, fingerprint, last: None, written: Instant::now() }
    }

    /// The state of a run of the same options and pictures, if there is one.
    pub fn read(&mut self) -> Result<Option<Checkpoint>, Failure> {
        if !self.file.exists() {
            return Ok(None);
        }
        let tensors = read_tensors(&self.file)?;
        let get = |name: &str| tensors.get(name).map(HostTensor::to_f32).unwrap_or_default();
        if get("fingerprint") != self.fingerprint {
            tell!("{}: the state of another run, left alone; it is replaced", self.file.display());
            return Ok(None);
        }
        let (Some(steps), Some(latents)) = (get("steps").first().copied(), tensors.get("latents")) else {
            return Err(Failure(format!("{}: no steps and latents; remove it to begin anew", self.file.display())));
        };
        self.last = Some((steps as usize, latents.clone()));
        Ok(Some(Checkpoint { steps: steps as usize, latents: latents.clone(), frames: 0 }))
    }

    /// Frames that the interrupted run finished.
    pub fn finished(&self, resume: Option<&Checkpoint>) -> Result<Vec<Picture>, Failure> {
        if resume.is_none() || !self.folder.is_dir() {
            return Ok(Vec::new());
        }
        Ok(Frames::open(&self.folder)?.map(|p| p.map(Picture::rgb)).collect::<Result<_, _>>()?)
    }

    pub fn save(&self) -> Result<(), Failure> {
        let Some((steps, latents)) = &self.last else { return Ok(()) };
        let tensors = BTreeMap::from([
            ("latents".to_string(), latents.clone()),
            ("steps".to_string(), HostTensor::from_fn([1], |_| *steps as f32)),
            ("fingerprint".to_string(), HostTensor::new([4], self.fingerprint.clone()).map_err(Error::from)?),
        ]);
        Ok(write_tensors(&self.file, &tensors)?)
    }

    /// A step was taken: saved now and then, in case that nothing else is.
    pub fn step(&mut self, steps: usize, latents: &HostTensor) -> Result<(), Failure> {
        self.last = Some((steps, latents.clone()));
        if self.written.elapsed() > SAVED_EVERY {
            self.save()?;
            self.written = Instant::now();
        }
        Ok(())
    }

    /// Keeps everything that is done, and says so.
    pub fn keep(&self, pictures: &[Picture]) -> Result<String, Failure> {
        let Some((steps, _)) = &self.last else { return Ok("interrupted before the first step".into()) };
        self.save()?;
        if !pictures.is_empty() {
            std::fs::create_dir_all(&self.folder)?;
        }
        for (i, picture) in pictures.iter().enumerate() {
            let file = self.folder.join(format!("{i:06}.png"));
            if !file.exists() {
                picture.write_png(&file)?;
            }
        }
        let kept = format!("{} after {steps} steps", self.file.display());
        let frames = if pictures.is_empty() { String::new() } else { format!(", {} frames", pictures.len()) };
        Ok(format!("interrupted; kept {kept}{frames}: the same command goes on from there"))
    }

    /// The video is done: nothing needs to be kept. What cannot be removed does no harm.
    pub fn clear(&self) {
        let _ = std::fs::remove_file(&self.file);
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

//! Profiles a whole run of a pipeline.

use std::path::Path;
use std::sync::Arc;

use muybridge::Device;
use muybridge::loaders::Picture;
use muybridge::pipelines::stable::{self, Checkpoint, Generate};
use muybridge::pipelines::{AnimateInput, AnimateOptions, Animator, Components, Event, Flow, Motion};
use muybridge::profiling::groups::{By, groups};
use muybridge::profiling::{self, Report, Roofs};
use muybridge::runtime::Recorder;

use super::{Args, bar, of_groups, tables, whole};
use crate::component::Extents;
use crate::progress::Shown;
use crate::table::{self, say};
use crate::{Failure, interrupt};

/// Pixels of a latent cell's side.
const CELL: usize = 8;

/// A pipeline by its folder.
pub enum Pipeline<'a> {
    /// From words to a picture, or with more than one frame to a clip.
    Stable(&'a Path),
    /// From a picture and a motion to a clip.
    Animate(&'a Path),
}

impl Pipeline<'_> {
    /// The pipeline in the folder that was named, if it is one.
    ///
    /// # Errors
    /// It is one, and a part of it was asked for.
    pub fn find(args: &Args) -> Result<Option<Pipeline<'_>>, Failure> {
        let dir = Path::new(&args.model.model);
        let networks = ["denoising_unet", "reference_unet"].iter().any(|n| dir.join(n).exists());
        let found = if dir.join("model_index.json").exists() {
            Pipeline::Stable(dir)
        } else if networks {
            Pipeline::Animate(dir)
        } else {
            return Ok(None);
        };
        match &args.part {
            Some(part) => {
                Err(Failure(format!("{}: --part {part} is of a network, and this is a pipeline", dir.display())))
            }
            None => Ok(Some(found)),
        }
    }

    /// Runs it with every plan timed.
    pub fn profile(&self, args: &Args, device: &Device) -> Result<Report, Failure> {
        let roofs = Roofs::measure(device, args.model.dtype, &mut bar("roofs"))?;
        let recorder = Arc::new(Recorder::new());
        device.record(Some(recorder.clone()));
        let done = match self {
            Pipeline::Stable(dir) => run_stable(args, dir, device, &recorder),
            Pipeline::Animate(dir) => run_animate(args, dir, device, &recorder),
        };
        let seconds = recorder.seconds();
        device.record(None);
        done?;
        let Extents([_, h, w]) = args.model.shape;
        let (frames, steps) = (args.model.frames, args.steps);
        let frames = if frames > 1 { format!(", {frames} frames") } else { String::new() };
        let subject =
            format!("{} {}x{}{frames}, {steps} steps {}", args.model.model, CELL * w, CELL * h, args.model.dtype);
        Ok(profiling::pipeline::report(&subject, device, roofs, &recorder.plans(), seconds))
    }
}

/// Shows how far the run is, and names plans by the stage that they served: what ran up to a stage's unit of work is its own.
fn hear(shown: &mut Shown<'_>, recorder: &Recorder, event: &Event<'_>) -> Flow {
    match event {
        Event::Progress(p) if p.done > 0 => recorder.name(&p.stage.to_string()),
        // Notes on files are for those who run it in earnest.
        Event::Loaded(_) => return shown.judge(Ok(())),
        _ => {}
    }
    shown.hear(event)
}

fn run_stable(args: &Args, dir: &Path, device: &Device, recorder: &Recorder) -> Result<(), Failure> {
    let checkpoint = Checkpoint::open(dir)?;
    let Extents([count, h, w]) = args.model.shape;
    let (size, dtype, steps) = (Some([CELL * w, CELL * h]), args.model.dtype, args.steps);
    let mut shown = Shown::new(None, checkpoint.is_xl()?);
    let mut listener = |event: Event<'_>| hear(&mut shown, recorder, &event);
    let done = if args.model.frames > 1 {
        let request = stable::Motion { size, frames: args.model.frames, steps, dtype, ..stable::Motion::default() };
        stable::motion(&checkpoint, None, &request, device, &mut listener).map(drop)
    } else {
        let seeds = (0..count as u64).collect();
        let request = Generate { size, seeds, steps, dtype, ..Generate::default() };
        stable::generate(&checkpoint, &request, device, &mut listener).map(drop)
    };
    shown.end()?;
    finished(done)
}

fn run_animate(args: &Args, dir: &Path, device: &Device, recorder: &Recorder) -> Result<(), Failure> {
    let Extents([_, h, w]) = args.model.shape;
    let (width, height, frames, dtype) = (CELL * w, CELL * h, args.model.frames, args.model.dtype);
    let components = Components::open(dir, dtype)?;
    let kinds = components.kinds();
    let usual = AnimateOptions::default();
    let window = frames.min(usual.window).max(1);
    let overlap = usual.overlap.min(window - 1);
    let options = AnimateOptions { width, height, frames, steps: args.steps, dtype, window, overlap, ..usual };
    // Pictures are made up after the extents have been checked.
    let animator = Animator::open(components, device, options)?;
    let motion = |kind: String| Motion { kind, frames: (0..frames).map(|f| picture(width, height, f)).collect() };
    let input = AnimateInput::new(picture(width, height, 0), kinds.into_iter().map(motion).collect());
    let mut shown = Shown::new(None, false);
    let mut listener = |event: Event<'_>| hear(&mut shown, recorder, &event);
    let done = animator.run(&input, &mut listener);
    shown.end()?;
    finished(done)
}

fn finished(done: muybridge::Result<()>) -> Result<(), Failure> {
    match done {
        Err(muybridge::Error::Interrupted) => interrupt::check(),
        done => Ok(done?),
    }
}

/// Something to look at: what it shows makes no difference to the time.
fn picture(width: usize, height: usize, frame: usize) -> Picture {
    let value = |i: usize| ((i / 3 % width + i / 3 / width + 8 * frame) % 256) as u8;
    Picture { width, height, channels: 3, pixels: (0..3 * width * height).map(value).collect() }
}

/// Prints the parts of the pipeline, then the tables of any profile.
pub fn print(r: &Report, rows: usize) {
    let wall = r.wall.median();
    let parts = groups(r, By::Part);
    let busy = r.busy().median();
    say!("{} on {} ({})", r.subject, r.device.name, r.device.model);
    say!("the whole {wall:.2} s, loading and planning included; kernels {:.1} % of it", 100.0 * r.accounted.median());
    say!(
        "{} in {} launches; largest arena {}, weights of all networks {}",
        table::flop(r.plan.flop),
        r.plan.launches,
        table::bytes(r.plan.arena),
        table::bytes(r.plan.weights),
    );
    let (rate, bytes) = (whole(r.roofs.flop_rate / 1e9), r.roofs.byte_rate / 1e9);
    say!("roofs: {rate} GFLOP/s ({}); {bytes:.1} GB/s ({})", r.roofs.product, r.roofs.copy);
    say!("");
    of_groups("part", &parts, busy, parts.len()).print();
    say!("{:.1} ms outside of kernels", 1e3 * (wall - busy).max(0.0));
    tables(r, rows);
}

//! How good a model is on people and motions that no training saw, beside what it does without its parts.

use std::path::Path;

use indicatif::{ProgressBar, ProgressStyle};
use muybridge::Device;
use muybridge::carry::carry;
use muybridge::loaders::Picture;
use muybridge::metrics::image::{Frame, Ssim, psnr_capped, ssim};
use muybridge::pipelines::{AnimateInput, AnimateOptions, Animator, Components, Event, Flow};
use muybridge_synth::Part;

use super::person::{Person, sheet};
use super::picture;
use crate::table::{Table, say};
use crate::{Failure, interrupt};

/// Rows of the table: the model, the same for the clips of each look (even ones have textures and noise), and what was tried beside
/// it for every clip.
const ROWS: [&str; 7] = [
    "model",
    "model, textured look",
    "model, plain look",
    "reference repeated",
    "reference not carried",
    "without ReferenceNet features",
    "without motion modules",
];

/// Pieces of clothing, by the parts of the body that wear them.
const GARMENTS: [(&str, &[Part]); 3] =
    [("top", &[Part::Chest]), ("bottom", &[Part::Hips, Part::LeftThigh, Part::RightThigh]), ("head", &[Part::Head])];
/// Fewer pixels of a garment than these say nothing of its colour.
const LEAST: usize = 12;

/// Mean scores of a clip: PSNR, SSIM, differences of garments' colours, flicker.
#[derive(Clone, Debug, Default)]
struct Scores {
    psnr: Vec<f64>,
    ssim: Vec<f64>,
    garments: [Vec<f64>; 3],
    flicker: Vec<f64>,
}

/// Makes `count` clips and prints their mean scores. Contact sheets go to `folder`, where one is given.
pub fn execute(
    open: &dyn Fn() -> Result<Components, Failure>,
    device: &Device,
    options: &AnimateOptions,
    count: usize,
    folder: Option<&Path>,
) -> Result<(), Failure> {
    if count == 0 {
        return Err(Failure("--held-out 0: no clip, no quality".into()));
    }
    let silent = AnimateOptions { reads_reference: false, ..options.clone() };
    let animators = [
        Animator::open(open()?, device, options.clone())?,
        Animator::open(open()?, device, silent)?,
        Animator::open(open()?.without_motion(), device, options.clone())?,
    ];
    let (kinds, carries) = (open()?.kinds(), open()?.guided_by_reference());
    if let Some(folder) = folder {
        std::fs::create_dir_all(folder)?;
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} clips, {eta} left");
    let bar = ProgressBar::new(count as u64).with_style(style.unwrap_or(ProgressStyle::default_bar()));
    let mut scores: [Scores; 7] = Default::default();
    for n in 0..count {
        let person = Person::draw(n as u64, [options.width, options.height], options.frames)?;
        let (reference, truth) = (person.reference(), person.truth());
        let mut input = AnimateInput::new(reference.clone(), person.motion(&kinds));
        let guidance = input.motion.first().map(|m| m.frames.clone()).unwrap_or_default();
        if carries {
            input.carried = carry(&reference, &person.reference_nocs(), &person.nocs())?;
        }
        let made = animators.iter().map(|animator| video(animator, &input)).collect::<Result<Vec<_>, _>>()?;
        if let Some(folder) = folder {
            sheet(&reference, &[&guidance, &made[0], &truth])?.write_png(folder.join(format!("clip_{n:02}.png")))?;
        }
        let repeated = vec![reference; truth.len()];
        for (row, frames) in [(0, &made[0]), (1 + n % 2, &made[0]), (3, &repeated), (5, &made[1]), (6, &made[2])] {
            scores[row].add(frames, &person, &truth)?;
        }
        if carries {
            input.carried.clear();
            scores[4].add(&video(&animators[0], &input)?, &person, &truth)?;
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    let mut table = Table::new(&["", ">PSNR dB", ">SSIM", ">top", ">bottom", ">head", ">flicker"]);
    for (name, s) in ROWS.iter().zip(&scores).filter(|(_, s)| !s.psnr.is_empty()) {
        let mut row = vec![name.to_string(), format!("{:.2}", mean(&s.psnr)), format!("{:.4}", mean(&s.ssim))];
        row.extend(s.garments.iter().map(|g| format!("{:.1}", mean(g))));
        row.push(format!("{:+.2}", mean(&s.flicker)));
        table.row(row);
    }
    say!("{count} held-out clips of {} frames, {} steps, guidance {}", options.frames, options.steps, options.guidance);
    table.print();
    say!(
        "top, bottom, head: differences of mean colours, of 255; flicker: mean second difference in time beyond the truth's, of 255"
    );
    Ok(())
}

fn video(animator: &Animator, input: &AnimateInput) -> Result<Vec<Picture>, Failure> {
    let mut frames = Vec::new();
    animator.run(input, &mut |event| {
        if let Event::Frame { pixels, .. } = event {
            frames.push(picture(pixels));
        }
        if interrupt::check().is_ok() { Flow::Continue } else { Flow::Stop }
    })?;
    Ok(frames)
}

impl Scores {
    fn add(&mut self, made: &[Picture], person: &Person, truth: &[Picture]) -> Result<(), Failure> {
        let [p, s] = likeness(made, truth)?;
        self.psnr.push(p);
        self.ssim.push(s);
        for ((_, parts), sums) in GARMENTS.iter().zip(&mut self.garments) {
            let each = made.iter().zip(truth).zip(&person.frames);
            let found: Vec<f64> =
                each.filter_map(|((a, b), frame)| garment(a, b, &frame.semantic_map.pixels, parts)).collect();
            if !found.is_empty() {
                sums.push(mean(&found));
            }
        }
        self.flicker.push(unrest(made) - unrest(truth));
        Ok(())
    }
}

/// Mean PSNR in dB and SSIM (Gaussian window, RGB) of frames against what they should be.
pub fn likeness(made: &[Picture], truth: &[Picture]) -> Result<[f64; 2], Failure> {
    let (mut p, mut s) = (Vec::new(), Vec::new());
    for (a, b) in made.iter().zip(truth) {
        let (a, b) = (Frame::new(a.width, a.height, &a.pixels)?, Frame::new(b.width, b.height, &b.pixels)?);
        p.push(psnr_capped(&a, &b)?);
        s.push(ssim(&a, &b, Ssim::Gaussian)?);
    }
    Ok([mean(&p), mean(&s)])
}

/// The difference of the mean colours of some parts of the body, where there is enough of them.
fn garment(a: &Picture, b: &Picture, map: &[u8], parts: &[Part]) -> Option<f64> {
    let colours: Vec<[u8; 3]> = parts.iter().map(|part| Part::COLOURS[*part as usize]).collect();
    let (mut sums, mut count) = ([0i64; 3], 0);
    for (i, _) in map.chunks_exact(3).enumerate().filter(|(_, seen)| colours.iter().any(|c| c == seen)) {
        count += 1;
        sums.iter_mut().enumerate().for_each(|(c, sum)| {
            *sum += i64::from(a.pixels[3 * i + c]) - i64::from(b.pixels[3 * i + c]);
        });
    }
    (count >= LEAST).then(|| sums.iter().map(|s| s.abs() as f64 / count as f64).sum::<f64>() / 3.0)
}

/// Mean absolute second difference in time.
fn unrest(frames: &[Picture]) -> f64 {
    let second = |w: &[Picture]| {
        let each = w[0].pixels.iter().zip(&w[1].pixels).zip(&w[2].pixels);
        let sum: i64 = each.map(|((a, b), c)| (i64::from(*a) - 2 * i64::from(*b) + i64::from(*c)).abs()).sum();
        sum as f64 / w[0].pixels.len().max(1) as f64
    };
    mean(&frames.windows(3).map(second).collect::<Vec<_>>())
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

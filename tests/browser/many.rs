//! Many clips that the built-in model made: scored in memory that does not grow with their number, and a page that still works.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use libtest_mimic::Failed;
use muybridge::carry::carry;
use muybridge::loaders::Picture;
use muybridge::pipelines::{AnimateInput, AnimateOptions, Animator, Event, Flow, Motion};
use muybridge::{Device, bundled};
use muybridge_synth::{Clip, ClipOptions, Split};
use serde_json::Value;

use crate::pages::tables_and_plots;
use crate::{Browser, NARROW, holds};

const CLIPS: usize = 256;
/// The first of them.
const FEW: usize = 32;
/// As many as a second difference in time needs.
const FRAMES: usize = 3;
/// Bytes that may come with eight times as many clips, whose frames are 72 MiB: scores are kept, frames are not.
const GROWTH: u64 = 4 << 20;

/// Makes and evaluates the clips, and opens the page.
pub fn an_evaluation_of_many(browser: &Browser) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    make(folder.path())?;
    let (few, many) = (evaluate(folder.path(), FEW)?, evaluate(folder.path(), CLIPS)?);
    if let (Some(few), Some(many)) = (few, many) {
        let grown = format!("{CLIPS} clips take {many} bytes, {FEW} take {few}");
        holds(many < few + GROWTH, &Value::Null, &grown)?;
    }
    let out = folder.path().join(format!("scores{CLIPS}"));
    let report: Value = serde_json::from_slice(&std::fs::read(out.join("report.json"))?)?;
    let psnr = &report["metrics"]["psnr"];
    // A reference that is merely repeated has less than 22 dB.
    holds(psnr["clips"] == CLIPS && psnr["mean"].as_f64() > Some(24.0), psnr, "other scores than of these clips")?;
    let found = browser.use_page(&out.join("report.html"), NARROW)?;
    tables_and_plots(&found, 2)?;
    let clips = found["tables"].as_array().and_then(|t| t.last()).cloned().unwrap_or_default();
    holds(clips["rows"] == CLIPS, &found, "a row for each clip")
}

/// The truth under `real`, what the model makes of it under `made`, and manifests of the first clips and of all.
fn make(folder: &Path) -> Result<(), Failed> {
    let [width, height] = [bundled::SIDE; 2];
    let few = AnimateOptions { width, height, frames: FRAMES, steps: 2, ..Default::default() };
    let options = AnimateOptions { guidance: bundled::GUIDANCE, ..few };
    let components = bundled::components()?;
    let kinds = components.kinds();
    let animator = Animator::open(components, &Device::open("cpu")?, options)?;
    let unseen = ClipOptions { width, height, frames: FRAMES, split: Split::Test, seed: 23, ..Default::default() };
    let people = ClipOptions { look: None, ..unseen };
    for n in 0..CLIPS {
        let (reference, frames) = Clip::new(&people, n as u64).render();
        let motion = kinds.iter().map(|kind| Motion {
            kind: kind.clone(),
            frames: frames.iter().filter_map(|f| Some(picture(f.map(kind)?))).collect(),
        });
        let places: Vec<Picture> = frames.iter().map(|f| picture(&f.nocs)).collect();
        let (reference, place) = (picture(&reference.colour), picture(&reference.nocs));
        let carried = carry(&reference, &place, &places)?;
        let input = AnimateInput { carried, ..AnimateInput::new(reference, motion.collect()) };
        let mut made = Vec::new();
        animator.run(&input, &mut |event| {
            if let Event::Frame { pixels, .. } = event {
                let pixels = pixels.to_f32().into_iter().map(|v| (v * 255.0).round() as u8).collect();
                made.push(Picture { width, height, channels: 3, pixels });
            }
            Flow::Continue
        })?;
        write(&folder.join(format!("made/{n:03}")), &made)?;
        write(&folder.join(format!("real/{n:03}")), &frames.iter().map(|f| picture(&f.colour)).collect::<Vec<_>>())?;
    }
    for (side, count) in ["real", "made"].into_iter().flat_map(|side| [(side, FEW), (side, CLIPS)]) {
        let line = |n| format!("{{\"id\":\"{n:03}\",\"path\":\"{side}/{n:03}\"}}\n");
        std::fs::write(folder.join(format!("{side}{count}.jsonl")), (0..count).map(line).collect::<String>())?;
    }
    Ok(())
}

fn picture(drawn: &muybridge_synth::Picture) -> Picture {
    Picture { width: drawn.width, height: drawn.height, channels: 3, pixels: drawn.pixels.clone() }
}

fn write(folder: &Path, frames: &[Picture]) -> Result<(), Failed> {
    std::fs::create_dir_all(folder)?;
    for (t, frame) in frames.iter().enumerate() {
        frame.write_png(folder.join(format!("{t:02}.png")))?;
    }
    Ok(())
}

/// Scores the first `count` clips; the most memory that took, in bytes, where the system tells.
fn evaluate(folder: &Path, count: usize) -> Result<Option<u64>, Failed> {
    let mut run = Command::new(env!("CARGO_BIN_EXE_muybridge"))
        .args(["evaluate", &format!("real{count}.jsonl"), &format!("made{count}.jsonl"), "--device", "cpu"])
        .args(["-o", &format!("scores{count}")])
        .current_dir(folder)
        .stdout(Stdio::null())
        .spawn()?;
    // The peak that the kernel keeps of a process is gone with it: it is asked for until then.
    let status = format!("/proc/{}/status", run.id());
    let mut peak = None;
    while run.try_wait()?.is_none() {
        peak = std::fs::read_to_string(&status).ok().as_deref().and_then(peak_of).max(peak);
        std::thread::sleep(Duration::from_millis(2));
    }
    let done = run.wait()?;
    if done.success() { Ok(peak) } else { Err(format!("evaluate of {count} clips: {done}").into()) }
}

/// The line `VmHWM: N kB` of a process's status (proc(5)), in bytes.
fn peak_of(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib << 10)
}

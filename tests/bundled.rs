//! The main job, with nothing to fetch: quality of the built-in model on people and motions that no training saw.

use std::path::Path;
use std::process::{Command, Output};

use muybridge::loaders::{Frames, Picture};
use muybridge::metrics::image::{Frame, Ssim, psnr_capped, ssim};
use muybridge::pipelines::{AnimateInput, AnimateOptions, Animator, Event, Flow, Motion};
use muybridge::{Device, Result, bundled};
use muybridge_synth::{Clip, ClipOptions, Split};

fn animate(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_muybridge"));
    let made = command.current_dir(folder).arg("animate").args(args).output().unwrap();
    assert!(made.status.success(), "{args:?}: {}", String::from_utf8_lossy(&made.stderr));
    made
}

fn frames(file: &Path) -> Vec<Picture> {
    Frames::open(file).unwrap().map(|p| p.unwrap().rgb()).collect()
}

/// Reference and truth of a held-out clip, drawn here.
fn clip(n: u64, frames: usize) -> (Picture, Vec<Picture>) {
    let options = ClipOptions { frames, look: None, split: Split::Test, seed: 7, ..ClipOptions::default() };
    let (reference, frames) = Clip::new(&options, n).render();
    let picture = |f: &muybridge_synth::Frame| {
        let c = &f.colour;
        Picture { width: c.width, height: c.height, channels: 3, pixels: c.pixels.clone() }
    };
    (picture(&reference), frames.iter().map(picture).collect())
}

/// Mean PSNR and SSIM.
fn scores(made: &[Picture], truth: &[Picture]) -> [f64; 2] {
    assert_eq!(made.len(), truth.len());
    let mut sums = [0.0; 2];
    for (a, b) in made.iter().zip(truth) {
        let frame = |p| Frame::new(128, 128, p).unwrap();
        let (a, b) = (frame(&a.pixels[..]), frame(&b.pixels[..]));
        sums[0] += psnr_capped(&a, &b).unwrap() / made.len() as f64;
        sums[1] += ssim(&a, &b, Ssim::Gaussian).unwrap() / made.len() as f64;
    }
    sums
}

#[test]
fn one_command_animates_an_unseen_person() {
    let folder = tempfile::tempdir().unwrap();
    let said = String::from_utf8(animate(folder.path(), &["--device", "cpu"]).stdout).unwrap();
    let steps = format!("{} steps of", bundled::STEPS);
    for part in [&steps, "animate.webp", "animate.png", "PSNR"] {
        assert!(said.contains(part), "{said}");
    }
    let (reference, truth) = clip(7, bundled::FRAMES);
    let made = frames(&folder.path().join("animate.webp"));
    let [psnr, similarity] = scores(&made, &truth);
    assert!(psnr > 28.0 && similarity > 0.90, "PSNR {psnr}, SSIM {similarity}");
    let [still, _] = scores(&vec![reference; truth.len()], &truth);
    assert!(psnr > still + 2.0, "PSNR {psnr}, where the reference itself has {still}");
    let sheet = Picture::open(folder.path().join("animate.png")).unwrap();
    assert_eq!((sheet.width, sheet.height), (9 * 128, 3 * 128));
    if cfg!(feature = "h264") {
        let video = frames(&folder.path().join("animate.mp4"));
        let [psnr, _] = scores(&video, &truth);
        assert!(psnr > 26.0, "the video has PSNR {psnr}");
    }
}

/// Its parts do what they are there for, on several people.
#[test]
fn every_part_of_the_model_counts() {
    let folder = tempfile::tempdir().unwrap();
    let options = ["--device", "cpu", "--held-out", "4", "--steps", "6", "--frames", "8", "-o", "sheets"];
    let said = String::from_utf8(animate(folder.path(), &options).stdout).unwrap();
    let row = |name: &str| -> Vec<f64> {
        let line = said.lines().find(|l| l.trim_start().starts_with(name)).unwrap_or_else(|| panic!("{said}"));
        line.trim_start()[name.len()..].split_whitespace().map(|n| n.parse().unwrap()).collect()
    };
    let (model, repeated, blind) = (row("model"), row("reference repeated"), row("without ReferenceNet features"));
    let still = row("reference not carried");
    assert!(model[0] > 26.0 && model[1] > 0.84, "{said}");
    assert!(model[0] > repeated[0] + 2.0 && model[0] > blind[0] + 2.0 && model[0] > still[0] + 0.4, "{said}");
    assert!(folder.path().join("sheets/clip_03.png").is_file());
}

/// What is read from files is what is drawn inside, coordinates on the body among it.
#[test]
fn files_give_what_the_synthetic_person_gives() {
    let folder = tempfile::tempdir().unwrap();
    let muybridge = |args: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_muybridge")).current_dir(folder.path()).args(args).output().unwrap()
    };
    let held_out =
        ["synth", "people", "--split", "test", "--seed", "7", "--look", "mixed", "--clips", "2", "--frames", "3"];
    assert!(muybridge(&held_out).status.success());
    let common = ["--device", "cpu", "--frames", "3", "--steps", "2", "-o"];
    let made = |name: &str, args: &[&str]| {
        animate(folder.path(), &[&common[..], &[name], args].concat());
        frames(&folder.path().join(name))
    };
    let reference = "people/clip_000001/reference.png";
    let (files, place) =
        (["--reference", reference, "--motion", "people/clip_000001"], "people/clip_000001/reference_nocs.png");
    let inside = made("inside.webp", &["--person", "1"]);
    let carried = made("carried.webp", &[&files[..], &["--reference-nocs", place]].concat());
    assert_eq!(inside, carried);
    assert_ne!(carried, made("still.webp", &files), "without coordinates the reference stays where it is");
    std::fs::remove_dir_all(folder.path().join("people/clip_000001/nocs")).unwrap();
    let refused = muybridge(&[&["animate", "--reference-nocs", place], &files[..]].concat());
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("the motion has no pictures nocs"), "{said}");
}

#[test]
fn a_carried_reference_goes_before_the_reference_itself() -> Result<()> {
    let noise = |seed: usize| Picture {
        width: 32,
        height: 32,
        channels: 3,
        pixels: (0..3 * 32 * 32).map(|i| ((i * 7919 + seed * 104_729) % 251) as u8).collect(),
    };
    let options = AnimateOptions { width: 32, height: 32, frames: 3, steps: 2, guidance: 1.0, ..Default::default() };
    let animator = Animator::open(bundled::components()?, &Device::open("cpu")?, options)?;
    let values = |carried: Vec<Picture>| -> Result<Vec<Vec<f32>>> {
        let motion = vec![Motion { kind: "normal".into(), frames: (0..3).map(noise).collect() }];
        let mut values = Vec::new();
        animator.run(&AnimateInput { carried, ..AnimateInput::new(noise(9), motion) }, &mut |event| {
            if let Event::Frame { pixels, .. } = event {
                values.push(pixels.to_f32());
            }
            Flow::Continue
        })?;
        Ok(values)
    };
    let apart = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let (itself, every) = (values(Vec::new())?, values(vec![noise(9); 3])?);
    let most = itself.iter().zip(&every).map(|(a, b)| apart(a, b)).fold(0.0, f32::max);
    assert!(most < 1e-4, "the reference in every frame: {most}");
    let other = values(vec![noise(9), noise(9), noise(5)])?;
    assert!(apart(&itself[2], &other[2]) > 1e-2, "a frame sees its own picture");
    let few = values(vec![noise(9); 2]).unwrap_err().to_string();
    assert!(few.contains("2 frames of the carried reference"), "{few}");
    Ok(())
}

#[test]
fn cpu_and_vulkan_make_the_same_frames() {
    if cfg!(not(feature = "wgpu")) || Device::open("wgpu:0").is_err() {
        assert!(std::env::var_os("CI").is_none() || cfg!(not(feature = "wgpu")), "no Vulkan driver");
        eprintln!("no Vulkan driver: nothing compared");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let on = |device: &str| {
        let output = format!("{}.webp", device.replace(':', ""));
        let options = ["--device", device, "--dtype", "f32", "--frames", "4", "--steps", "3", "-o", &output];
        animate(folder.path(), &options);
        frames(&folder.path().join(output))
    };
    let (a, b) = (on("cpu"), on("wgpu:0"));
    let apart = |(a, b): (&Picture, &Picture)| a.pixels.iter().zip(&b.pixels).map(|(a, b)| a.abs_diff(*b)).max();
    let most = a.iter().zip(&b).filter_map(apart).max();
    assert!(a.len() == 4 && most.is_some_and(|d| d <= 1), "{most:?} of 255 apart");
}

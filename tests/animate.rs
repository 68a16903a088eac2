//! The pipeline that animates a person: its ways through memory and time lead to the same video.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use muybridge::context::{Between, Weighting};
use muybridge::loaders::Picture;
use muybridge::pipelines::{
    AnimateInput, AnimateOptions, Animator, Checkpoint, Components, Event, Flow, Halves, MemoryPlan, Motion, Stage,
};
use muybridge::presets::Preset;
use muybridge::{Config, DType, Device, Error, HostTensor, Result, Weights};

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(path)
}

/// The networks of the recorded pipeline.
fn components() -> Result<Components> {
    let part = |name: &str, dir: &str| -> Result<(String, (Config, Weights))> {
        let dir = golden(dir).join(name);
        Ok((name.to_string(), (Config::open(&dir)?, Weights::open(&dir)?)))
    };
    let denoise = ["denoising_unet", "reference_unet", "pose_guider"].map(|n| part(n, "aa_denoise_v2"));
    let pipeline = ["vae", "image_encoder"].map(|n| part(n, "aa_pipeline"));
    let parts = denoise.into_iter().chain(pipeline).collect::<Result<BTreeMap<_, _>>>()?;
    Components::of(parts, Some(Config::open(golden("aa_pipeline/scheduler/config.json"))?))
}

fn picture(width: usize, height: usize, seed: usize) -> Picture {
    let byte = |i: usize| ((i * 7919 + seed * 104_729) % 251) as u8;
    Picture { width, height, channels: 3, pixels: (0..3 * width * height).map(byte).collect() }
}

fn options() -> AnimateOptions {
    AnimateOptions { width: 32, height: 48, frames: 6, steps: 3, window: 4, overlap: 2, ..AnimateOptions::default() }
}

fn input() -> AnimateInput {
    let frames = (0..6).map(|f| picture(40, 40, f)).collect();
    let motion = vec![Motion { kind: "pose".into(), frames }];
    AnimateInput { reference: picture(30, 50, 9), motion, latents: None, resume: None }
}

#[derive(Debug, Default)]
struct Heard {
    frames: Vec<HostTensor>,
    last: Option<Checkpoint>,
    stages: Vec<Stage>,
}

/// Runs, and stops after so many steps.
fn run(options: &AnimateOptions, input: &AnimateInput, stop: usize) -> Result<(MemoryPlan, Heard)> {
    let animator = Animator::open(components()?, &Device::open("cpu")?, options.clone())?;
    let mut heard = Heard::default();
    let ran = animator.run(input, &mut |event| {
        match event {
            Event::Progress(p) if p.done == p.of => heard.stages.push(p.stage),
            Event::Frame { index, pixels } => {
                assert_eq!(index, heard.frames.len(), "frames come in order");
                heard.frames.push(pixels.clone());
            }
            Event::Step { step, latents, .. } => {
                heard.last = Some(Checkpoint { steps: step + 1, latents: latents.clone(), frames: 0 });
            }
            _ => {}
        }
        if heard.last.as_ref().is_some_and(|c| c.steps == stop) { Flow::Stop } else { Flow::Continue }
    });
    match ran {
        Err(Error::Interrupted) if stop > 0 => {}
        other => other?,
    }
    Ok((animator.memory().clone(), heard))
}

fn difference(a: &[HostTensor], b: &[HostTensor]) -> f32 {
    assert_eq!(a.len(), b.len());
    let pairs = a.iter().flat_map(HostTensor::to_f32).zip(b.iter().flat_map(HostTensor::to_f32));
    pairs.map(|(x, y)| (x - y).abs()).fold(0.0, f32::max)
}

#[test]
fn a_run_that_was_stopped_goes_on_to_the_same_video() -> Result<()> {
    let (_, whole) = run(&options(), &input(), 0)?;
    assert_eq!(whole.frames.len(), 6);
    let order =
        [Stage::Embedding, Stage::Encoding, Stage::Guidance, Stage::Reference, Stage::Denoising, Stage::Decoding];
    assert_eq!(whole.stages, order);
    let (_, stopped) = run(&options(), &input(), 2)?;
    assert!(stopped.frames.is_empty());
    let (_, resumed) = run(&options(), &AnimateInput { resume: stopped.last, ..input() }, 0)?;
    assert_eq!(difference(&whole.frames, &resumed.frames), 0.0);
    // After the last step only frames are left to make.
    let (_, again) = run(&options(), &AnimateInput { resume: whole.last, ..input() }, 0)?;
    assert_eq!(difference(&whole.frames, &again.frames), 0.0);
    assert_eq!(again.stages, [Stage::Decoding]);
    Ok(())
}

#[test]
fn a_limit_of_memory_is_kept_or_refused_with_the_least_that_can_be() -> Result<()> {
    let (plenty, whole) = run(&options(), &input(), 0)?;
    assert_eq!((plenty.halves, plenty.tiling), (Halves::Together, None));
    let limited = |limit| AnimateOptions { max_memory: Some(limit), ..options() };
    let (scarce, in_turn) = run(&limited(plenty.peak() - 1), &input(), 0)?;
    assert_eq!(scarce.halves, Halves::InTurn);
    assert!(scarce.peak() < plenty.peak() && scarce.spatial_frames.is_none());
    let d = difference(&whole.frames, &in_turn.frames);
    assert!(d < 1e-4, "{d}");
    let (portions, in_portions) = run(&limited(scarce.of(Stage::Denoising) - 1), &input(), 0)?;
    assert_eq!((portions.halves, portions.spatial_frames), (Halves::InTurn, Some(2)), "{portions}");
    assert!(portions.of(Stage::Denoising) < scarce.of(Stage::Denoising));
    let d = difference(&whole.frames, &in_portions.frames);
    assert!(d < 1e-4, "{d}");
    let refused = run(&limited(1000), &input(), 0).unwrap_err().to_string();
    assert!(refused.contains("the least") && refused.contains("1000"), "{refused}");
    let least: u64 = refused.split_whitespace().find_map(|word| word.parse().ok()).unwrap_or(0);
    assert!(run(&limited(least), &input(), 0).is_ok(), "{refused}");
    assert!(run(&limited(least - 1), &input(), 0).is_err());
    Ok(())
}

#[test]
fn seeds_windows_and_frames_between_decide_the_video() -> Result<()> {
    let (_, whole) = run(&options(), &input(), 0)?;
    let (_, same) = run(&options(), &input(), 0)?;
    assert_eq!(difference(&whole.frames, &same.frames), 0.0);
    let (_, other) = run(&AnimateOptions { seed: 43, ..options() }, &input(), 0)?;
    assert!(difference(&whole.frames, &other.frames) > 1e-2);
    let blended = AnimateOptions { weighting: Weighting::Pyramid, moving: true, ..options() };
    let (_, blended) = run(&blended, &input(), 0)?;
    assert!(difference(&whole.frames, &blended.frames) > 1e-4);
    let between = AnimateOptions { between: Some((2, Between::Slerp)), ..options() };
    let (_, between) = run(&between, &input(), 0)?;
    assert_eq!(between.frames.len(), 11);
    let kept: Vec<HostTensor> = between.frames.into_iter().step_by(2).collect();
    assert_eq!(difference(&whole.frames, &kept), 0.0);
    let (unguided, _) = run(&AnimateOptions { guidance: 1.0, ..options() }, &input(), 0)?;
    assert_eq!(unguided.halves, Halves::Conditional);
    Ok(())
}

#[test]
fn what_does_not_fit_is_named() -> Result<()> {
    let message = |o: AnimateOptions, i: AnimateInput| run(&o, &i, 0).unwrap_err().to_string();
    assert!(message(AnimateOptions { width: 33, ..options() }, input()).contains("33 x 48"));
    assert!(message(AnimateOptions { overlap: 4, ..options() }, input()).contains("overlap of 4"));
    let depth = vec![Motion { kind: "depth".into(), frames: vec![picture(8, 8, 0); 6] }];
    assert!(message(options(), AnimateInput { motion: depth, ..input() }).contains("pose"));
    let short = vec![Motion { kind: "pose".into(), frames: vec![picture(8, 8, 0); 5] }];
    assert!(message(options(), AnimateInput { motion: short, ..input() }).contains("5 frames"));
    let refused = Components::open(golden("aa_denoise_v2"), DType::F32).unwrap_err().to_string();
    assert!(refused.contains("vae"), "{refused}");
    Ok(())
}

/// The published networks, with random weights.
fn published(champ: bool) -> Result<Components> {
    let vision =
        br#"{"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 24,
        "patch_size": 14, "projection_dim": 768, "architectures": ["CLIPVisionModelWithProjection"]}"#;
    let preset = |name: &str| Preset::find(name)?.config();
    let bare = |json: &[u8]| Config::parse(json, "config.json");
    let guidance = br#"{"attention_num_heads": 8}"#;
    let mut configs = vec![
        ("denoising_unet".to_string(), preset("animateanyone-unet3d")?),
        ("reference_unet".to_string(), preset("animateanyone-reference")?),
        ("vae".to_string(), preset("sd-vae")?),
        ("image_encoder".to_string(), bare(vision)?),
    ];
    if champ {
        for kind in ["depth", "normal", "semantic_map", "dwpose"] {
            configs.push((format!("guidance_encoder_{kind}"), bare(guidance)?));
        }
    } else {
        configs.push(("pose_guider".to_string(), bare(b"{}")?));
    }
    let part = |(name, config)| (name, (config, Weights::procedural(1, DType::F16)));
    Components::of(configs.into_iter().map(part).collect(), None)
}

#[test]
fn published_networks_stay_within_their_memory() -> Result<()> {
    let device = Device::open("trace:cuda")?;
    let video = |champ, frames, max_memory| -> Result<MemoryPlan> {
        let dtype = DType::F16;
        let options =
            AnimateOptions { width: 512, height: 768, frames, dtype, max_memory, ..AnimateOptions::default() };
        Ok(Animator::open(published(champ)?, &device, options)?.memory().clone())
    };
    let short = video(false, 24, None)?;
    println!("{short}");
    assert!(short.peak() < 6_000_000_000, "{short}");
    let limited = video(false, 24, Some(4_500_000_000))?;
    println!("{limited}");
    assert!(limited.peak() <= 4_500_000_000 && limited.tiling.is_none(), "{limited}");
    assert_eq!((limited.halves, limited.spatial_frames), (Halves::InTurn, None));
    let tight = video(false, 24, Some(limited.of(Stage::Denoising) - 1))?;
    println!("{tight}");
    assert!(tight.spatial_frames.is_some() && tight.peak() < limited.of(Stage::Denoising), "{tight}");
    // Ten times the frames take nothing more on the device: latents and features of all frames wait on the host.
    let long = video(false, 240, Some(4_500_000_000))?;
    assert_eq!(long.peak(), limited.peak(), "{long}");
    assert!(long.host < 12 * limited.host, "{long}");
    let champ = video(true, 24, Some(4_500_000_000))?;
    assert!(champ.peak() <= 4_500_000_000, "{champ}");
    Ok(())
}

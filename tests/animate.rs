//! The pipeline that animates a person: its ways through memory and time lead to the same video.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use muybridge::context::{Between, Weighting};
use muybridge::loaders::{Frames, Picture, read_tensors, write_tensors};
use muybridge::pipelines::{
    AnimateInput, AnimateOptions, Animator, Checkpoint, Components, ControlInput, Event, Flow, Halves, MemoryPlan,
    Motion, Stage,
};
use muybridge::presets::Preset;
use muybridge::runtime::TensorDesc;
use muybridge::{Config, DType, Device, Error, HostTensor, Result, Unet, UnetShape, Weights};

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
    AnimateInput::new(picture(30, 50, 9), motion)
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
    let carried = vec![picture(32, 48, 0); 6];
    assert!(message(options(), AnimateInput { carried, ..input() }).contains("guidance_encoder_reference"));
    let between = Some((usize::MAX, Between::Linear));
    assert!(message(AnimateOptions { between, ..options() }, input()).contains("too many"));
    let done = Checkpoint { steps: 99, latents: HostTensor::from_fn([6], |_| 0.0), frames: 0 };
    assert!(message(options(), AnimateInput { resume: Some(done), ..input() }).contains("latents"));
    let refused = Components::open(golden("aa_denoise_v2"), DType::F32).unwrap_err().to_string();
    assert!(refused.contains("vae"), "{refused}");
    Ok(())
}

/// A ControlNet for the recorded network.
fn control_net() -> Result<(Config, Weights)> {
    let config = br#"{"_class_name": "ControlNetModel", "block_out_channels": [32, 64], "layers_per_block": 1,
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"], "attention_head_dim": 4, "cross_attention_dim": 40,
        "norm_num_groups": 8, "conditioning_embedding_out_channels": [8, 8, 8, 16]}"#;
    Ok((Config::parse(config, "config.json")?, Weights::procedural(3, DType::F32)))
}

#[test]
fn controlnets_steer_beside_the_guider() -> Result<()> {
    let device = Device::open("cpu")?;
    let frames = |controls: Vec<ControlInput>, options: AnimateOptions| -> Result<(MemoryPlan, Vec<HostTensor>)> {
        let mut made = components()?;
        for _ in &controls {
            let (config, weights) = control_net()?;
            made = made.with_control_of("control", config, weights);
        }
        let animator = Animator::open(made, &device, AnimateOptions { steps: 2, ..options })?;
        let mut frames = Vec::new();
        animator.run(&AnimateInput { controls, ..input() }, &mut |event| {
            if let Event::Frame { pixels, .. } = event {
                frames.push(pixels.clone());
            }
            Flow::Continue
        })?;
        Ok((animator.memory().clone(), frames))
    };
    let control = |seed: usize, scale: f32| {
        let pictures = (0..6).map(|f| picture(20, 30, seed + f)).collect();
        ControlInput { pictures, scale, range: [0.0, 1.0] }
    };
    let (plain, alone) = frames(Vec::new(), options())?;
    let (memory, silent) = frames(vec![control(0, 0.0)], options())?;
    assert!(memory.halves == Halves::InTurn && memory.of(Stage::Denoising) != plain.of(Stage::Denoising));
    let d = difference(&alone, &silent);
    assert!(d < 1e-4, "{d}");
    let (_, steered) = frames(vec![control(0, 1.0)], options())?;
    assert!(difference(&alone, &steered) > 1e-3);
    let (_, other) = frames(vec![control(1, 1.0)], options())?;
    assert!(difference(&steered, &other) > 1e-4, "each frame follows its own picture");
    let (_, both) = frames(vec![control(0, 1.0), control(9, 0.0)], options())?;
    assert!(difference(&steered, &both) < 1e-4);
    // Outside its share of the run a ControlNet is silent, and one picture serves all frames.
    let (_, late) = frames(vec![ControlInput { range: [1.0, 1.0], ..control(0, 1.0) }], options())?;
    assert!(difference(&alone, &late) < 1e-4);
    let still = |n: usize| ControlInput { pictures: vec![picture(20, 30, 0); n], ..control(0, 1.0) };
    assert_eq!(difference(&frames(vec![still(1)], options())?.1, &frames(vec![still(6)], options())?.1), 0.0);
    let tight = AnimateOptions { max_memory: Some(memory.of(Stage::Denoising) - 1), ..options() };
    let (portions, same) = frames(vec![control(0, 1.0)], tight)?;
    assert!(portions.spatial_frames.is_some() && difference(&steered, &same) < 1e-4, "{portions}");
    let wrong = frames(vec![ControlInput { pictures: vec![picture(8, 8, 0); 5], ..control(0, 1.0) }], options());
    assert!(wrong.unwrap_err().to_string().contains("5 pictures"));
    assert!(run(&options(), &AnimateInput { controls: vec![control(0, 1.0)], ..input() }, 0).is_err());
    Ok(())
}

/// What leaves a part out leaves out just that.
#[test]
fn parts_can_be_left_out() -> Result<()> {
    let device = Device::open("cpu")?;
    let frames = |components: Components, reads_reference: bool| -> Result<Vec<HostTensor>> {
        let animator = Animator::open(components, &device, AnimateOptions { reads_reference, steps: 2, ..options() })?;
        let mut frames = Vec::new();
        animator.run(&input(), &mut |event| {
            if let Event::Frame { pixels, .. } = event {
                frames.push(pixels.clone());
            }
            Flow::Continue
        })?;
        Ok(frames)
    };
    let whole = frames(components()?, true)?;
    let (blind, still) = (frames(components()?, false)?, frames(components()?.without_motion(), true)?);
    assert!(
        difference(&whole, &blind) > 1e-4 && difference(&whole, &still) > 1e-4 && difference(&blind, &still) > 1e-4
    );
    Ok(())
}

/// Norms over all frames (AnimateAnyone's first version) are kept whole; a clip need not divide evenly.
#[test]
fn spatial_work_in_portions_gives_the_same_prediction() -> Result<()> {
    let device = Device::open("cpu")?;
    for case in ["aa_denoise_v1", "aa_denoise_v2"] {
        let unet = Unet::open(golden(case).join("denoising_unet"), &device)?;
        let clip = UnetShape { height: 8, width: 6, context: 3, frames: 5, ..UnetShape::default() };
        let run = |at_a_time: usize| -> Result<(Vec<f32>, usize)> {
            let plan = unet.plan(UnetShape { at_a_time, ..clip })?;
            let operand = |(name, desc): (&str, TensorDesc)| match name {
                "timestep" => device.tensor(&HostTensor::from_fn(desc.shape, |_| 300.0)),
                _ => device.tensor(&HostTensor::from_fn(desc.shape, |i| ((i * 7919) % 1000) as f32 / 500.0 - 1.0)),
            };
            let operands = plan.inputs().map(operand).collect::<std::result::Result<Vec<_>, _>>()?;
            let results = plan.run(&operands.iter().collect::<Vec<_>>())?;
            Ok((results[0].to_host()?.to_f32(), plan.report().nodes.len()))
        };
        let (whole, nodes) = run(0)?;
        for at_a_time in [1, 2, 3] {
            let (cut, more) = run(at_a_time)?;
            let d = whole.iter().zip(&cut).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
            assert!(d < 1e-5 && more > nodes, "{case}, {at_a_time} at a time: {d}");
        }
        assert_eq!(run(5)?.1, nodes);
        assert!(unet.plan(UnetShape { at_a_time: 2, batch: 2, ..clip }).is_err());
    }
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

/// A checkpoint's folder in the published layout, made of the recorded networks.
fn published_folder() -> tempfile::TempDir {
    let made = tempfile::tempdir().unwrap();
    let parts = ["denoising_unet", "reference_unet", "pose_guider"].map(|name| ("aa_denoise_v2", name));
    for (case, name) in parts.into_iter().chain(["vae", "image_encoder", "scheduler"].map(|n| ("aa_pipeline", n))) {
        std::fs::create_dir(made.path().join(name)).unwrap();
        for entry in std::fs::read_dir(golden(case).join(name)).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, made.path().join(name).join(path.file_name().unwrap())).unwrap();
        }
    }
    made
}

/// Everything that `muybridge animate` reads and writes.
struct Job {
    folder: tempfile::TempDir,
}

impl Job {
    fn new() -> Job {
        let folder = published_folder();
        picture(30, 50, 9).write_png(folder.path().join("me.png")).unwrap();
        std::fs::create_dir(folder.path().join("motion")).unwrap();
        for f in 0..6 {
            picture(40, 40, f).write_png(folder.path().join(format!("motion/{f}.png"))).unwrap();
        }
        Job { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, output: &str, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_muybridge"));
        command.args(["animate", "--device", "cpu", "--size", "32x48", "--window", "4", "--overlap", "2"]);
        command.arg("--model").arg(self.folder.path()).arg("--reference").arg(self.path("me.png"));
        command.arg("--motion").arg(self.path("motion")).arg("--output").arg(self.path(output));
        command.args(more).stderr(Stdio::piped()).stdout(Stdio::piped());
        command
    }

    /// Frames of a folder that was written.
    fn frames(&self, output: &str) -> Vec<Picture> {
        Frames::open(self.path(output)).unwrap().map(|f| f.unwrap().rgb()).collect()
    }
}

/// Ctrl-C in the midst of the steps, and in the midst of decoding: what is done is kept, and gone on from.
#[cfg(unix)]
#[test]
fn an_interrupted_command_goes_on_where_it_was() {
    interrupted(&["--steps", "8", "--interpolate", "9"], 46);
    interrupted(&["--steps", "1", "--interpolate", "41"], 206);
}

#[cfg(unix)]
fn interrupted(options: &[&str], frames: usize) {
    let job = Job::new();
    assert!(job.command("whole", options).output().unwrap().status.success());
    let seen = job.path("seen.png");
    let watched = [options, &["--preview", seen.to_str().unwrap()]].concat();
    let mut child = job.command("cut", &watched).spawn().unwrap();
    // A preview is written after every step.
    let began = Instant::now();
    while !seen.exists() && child.try_wait().unwrap().is_none() {
        assert!(began.elapsed() < Duration::from_secs(60), "no step in a minute");
        std::thread::sleep(Duration::from_millis(5));
    }
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let stopped = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&stopped.stderr).into_owned();
    assert_eq!(stopped.status.code(), Some(2), "{said}");
    assert!(said.contains("the same command goes on from there"), "{said}");
    assert!(job.path("cut.state.safetensors").exists() && !job.path("cut").exists());
    // Frames are told where there are some, and then they lie there.
    let kept = if job.path("cut.frames").is_dir() { job.frames("cut.frames").len() } else { 0 };
    assert_eq!(kept > 0, said.contains(" frames: "), "{kept}: {said}");
    let resumed = job.command("cut", &watched).output().unwrap();
    let said = String::from_utf8_lossy(&resumed.stderr).into_owned();
    assert!(resumed.status.success() && said.contains("going on after step"), "{said}");
    assert!(!job.path("cut.state.safetensors").exists() && !job.path("cut.frames").exists());
    let (whole, cut) = (job.frames("whole"), job.frames("cut"));
    assert!(whole.len() == frames && whole == cut, "{} and {} frames", whole.len(), cut.len());
}

/// Files of one checkpoint each, as they are published, become folders that are read as such.
#[test]
fn published_files_become_folders() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let network = read_tensors(golden("aa_denoise_v2/denoising_unet/model.safetensors")).unwrap();
    let (motion, rest): (BTreeMap<_, _>, BTreeMap<_, _>) =
        network.iter().map(|(n, t)| (n.clone(), t.clone())).partition(|(n, _)| n.contains("motion_modules"));
    assert!(!motion.is_empty() && !rest.is_empty());
    write_tensors(from.path().join("denoising_unet.safetensors"), &rest).unwrap();
    write_tensors(from.path().join("motion_module.safetensors"), &motion).unwrap();
    let pickled = Path::new(env!("CARGO_MANIFEST_DIR")).join("loaders/tests/torch/archive.pth");
    std::fs::copy(&pickled, from.path().join("pose_guider.pth")).unwrap();
    let convert = |from: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_muybridge"));
        command.arg("convert").arg(from).arg(to.path()).output().unwrap()
    };
    let done = convert(from.path());
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let written = |name: &str| to.path().join(name).join("diffusion_pytorch_model.safetensors");
    assert_eq!(read_tensors(written("denoising_unet")).unwrap(), network);
    assert!(Config::open(to.path().join("denoising_unet")).is_ok());
    let (ours, theirs) = (Weights::open(written("pose_guider")).unwrap(), Weights::open(&pickled).unwrap());
    assert!(!theirs.census().is_empty());
    for entry in theirs.census() {
        // Those that are no weights (bytes, say) are copied, too.
        let read = |w: &Weights| w.get_any(&entry.name).ok().map(|w| w.bytes().to_vec());
        assert!(ours.has(&entry.name) && read(&ours) == read(&theirs), "{}", entry.name);
    }
    // What both files have is not chosen from silently.
    write_tensors(from.path().join("motion_module.safetensors"), &network).unwrap();
    let refused = convert(from.path());
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("both"));
    let none = convert(tempfile::tempdir().unwrap().path());
    assert!(!none.status.success() && String::from_utf8_lossy(&none.stderr).contains("denoising_unet"));
}

//! Whole runs against those of diffusers: the latents after every step, and the pictures.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use libtest_mimic::{Arguments, Failed, Trial};
use muybridge::loaders::{read_tensors, write_tensors};
use muybridge::lora::Lora;
use muybridge::pipelines::stable::{
    Checkpoint, Control, Generate, Motion, MotionControl, PromptOptions, Start, generate, motion,
};
use muybridge::pipelines::{Event, Flow, Halves, MemoryPlan, Stage};
use muybridge::resize::Picture;
use muybridge::runtime::{DType, Device, HostTensor, PlanOptions, Tensor, TensorDesc, Weight};
use muybridge::{Config, ControlNet, StepPlan, Unet, UnetShape, Weights};
use serde_json::Value;

type Tensors = BTreeMap<String, HostTensor>;

fn main() {
    let arguments = Arguments::from_args();
    let mut trials = Vec::new();
    for folder in ["pipeline_sd", "pipeline_xl", "pipeline_more", "pipeline_motion"] {
        let dir = golden(folder);
        let expected = Arc::new(read_tensors(dir.join("expected.safetensors")).unwrap());
        let runs: Vec<Value> = serde_json::from_slice(&std::fs::read(dir.join("runs.json")).unwrap()).unwrap();
        for run in runs {
            for name in ["cpu", "wgpu:0"] {
                let opened = Device::open(name).map_err(|e| e.to_string());
                let skipped = opened.as_ref().err().filter(|_| std::env::var_os("CI").is_none()).cloned();
                let (dir, run, expected) = (dir.clone(), run.clone(), expected.clone());
                let mut title = format!("{folder}/{}/{name}", run["name"].as_str().unwrap());
                if let Some(reason) = &skipped {
                    title = format!("{title} ({reason})");
                }
                let clip = folder == "pipeline_motion";
                let compare = if clip { compare_clip } else { compare_picture };
                let trial = Trial::test(title, move || compare(&dir, &run, &expected, &opened?));
                trials.push(trial.with_ignored_flag(skipped.is_some()));
            }
        }
    }
    trials.push(Trial::test("halves_and_tiles_within_a_limit", || within_limits().map_err(Failed::from)));
    trials.push(Trial::test("long_clips_are_cut_into_windows", || windows().map_err(Failed::from)));
    trials.push(Trial::test("controlnets_steer_video_networks", || steered().map_err(Failed::from)));
    trials.push(Trial::test("loras_that_fit_nothing_are_refused", || unfit().map_err(Failed::from)));
    trials.push(Trial::test("a_run_can_be_ended", || ended().map_err(Failed::from)));
    libtest_mimic::run(&arguments, trials).exit();
}

fn golden(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(folder)
}

fn picture(tensors: &Tensors, key: &str) -> Picture {
    let tensor = &tensors[key];
    let dims = tensor.shape();
    let channels = if dims.rank() == 3 { dims[2] } else { 1 };
    let pixels = tensor.to_f32().iter().map(|p| *p as u8).collect();
    Picture { width: dims[1], height: dims[0], channels, pixels }
}

fn request(dir: &Path, run: &Value, tensors: &Tensors) -> Generate {
    let number = |name: &str| run[name].as_f64();
    let text = |name: &str| run[name].as_str().map(String::from);
    let strength = number("strength").unwrap_or(1.0) as f32;
    let whole = || picture(tensors, "picture.whole");
    let start = match run["start"].as_str() {
        Some("picture") => Start::Picture { picture: whole(), strength },
        Some(_) => Start::Inpaint { picture: whole(), mask: picture(tensors, "picture.hole"), strength },
        None => Start::Noise,
    };
    let control = |c: &Value| Control {
        dir: dir.join(c["net"].as_str().unwrap()),
        picture: picture(tensors, &format!("picture.{}", c["picture"].as_str().unwrap())),
        scale: c["scale"].as_f64().unwrap() as f32,
        range: [0, 1].map(|i| c["range"][i].as_f64().unwrap() as f32),
    };
    Generate {
        prompt: PromptOptions {
            prompt: text("prompt").unwrap(),
            negative_prompt: text("negative_prompt"),
            clip_skip: number("clip_skip").unwrap_or(0.0) as usize,
            guided: false,
        },
        size: number("width").zip(number("height")).map(|(w, h)| [w as usize, h as usize]),
        steps: number("num_inference_steps").unwrap() as usize,
        scheduler: text("scheduler"),
        guidance_scale: number("guidance_scale").unwrap() as f32,
        guidance_rescale: number("guidance_rescale").unwrap_or(0.0) as f32,
        eta: number("eta").unwrap_or(0.0),
        seeds: vec![number("seed").unwrap() as u64],
        start,
        controls: run["controls"].as_array().map_or(Vec::new(), |list| list.iter().map(control).collect()),
        guess_mode: run["guess_mode"].as_bool().unwrap_or(false),
        ..Generate::default()
    }
}

/// The folder that a run reads: its own, or a copy of another one with other configurations.
fn folder(dir: &Path, run: &Value) -> (PathBuf, Option<tempfile::TempDir>) {
    let Some(base) = run["base"].as_str() else { return (dir.to_path_buf(), None) };
    let made = tempfile::tempdir().unwrap();
    copy(&golden(base), made.path());
    for (file, fields) in run["configs"].as_object().into_iter().flatten() {
        let path = made.path().join(file);
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        config.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        std::fs::write(path, config.to_string()).unwrap();
    }
    for net in run["controls"].as_array().into_iter().flatten().map(|c| c["net"].as_str().unwrap()) {
        // Its trunk is that of the UNet.
        let trunk = ["conv_in", "time_embedding", "add_embedding", "down_blocks", "mid_block"];
        let mut tensors = read_tensors(golden(base).join("unet/diffusion_pytorch_model.safetensors")).unwrap();
        tensors.retain(|name, _| trunk.iter().any(|t| name.starts_with(t)));
        tensors.extend(read_tensors(dir.join(format!("{net}.safetensors"))).unwrap());
        copy(&dir.join(net), &made.path().join(net));
        write_tensors(made.path().join(net).join("diffusion_pytorch_model.safetensors"), &tensors).unwrap();
    }
    (made.path().to_path_buf(), Some(made))
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (path, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if path.is_dir() {
            copy(&path, &to);
        } else {
            std::fs::copy(path, to).unwrap();
        }
    }
}

/// The checkpoint, with another UNet or LoRAs where the run has them.
fn checkpoint(dir: &Path, run: &Value) -> (Checkpoint, Option<tempfile::TempDir>) {
    let mut checkpoint = Checkpoint::open(dir).unwrap();
    for lora in run["loras"].as_array().into_iter().flatten() {
        let file = dir.join(lora[0].as_str().unwrap());
        checkpoint = checkpoint.lora(Lora::open(file, lora[1].as_f64().unwrap() as f32).unwrap()).unwrap();
    }
    let Some(unet) = run["unet"].as_str() else { return (checkpoint, None) };
    let other = tempfile::tempdir().unwrap();
    copy(dir, other.path());
    copy(&dir.join(unet), &other.path().join("unet"));
    (Checkpoint::open(other.path()).unwrap(), Some(other))
}

fn compare_picture(dir: &Path, run: &Value, tensors: &Tensors, device: &Device) -> Result<(), Failed> {
    let (dir, _made) = folder(dir, run);
    let (checkpoint, _folder) = checkpoint(&dir, run);
    let request = request(&dir, run, tensors);
    let mut seen: Vec<Vec<f32>> = Vec::new();
    let mut watch = |event: Event<'_>| {
        if let Event::Step { latents, .. } = event {
            seen.push(latents.nhwc_to_nchw().unwrap().to_f32());
        }
        Flow::Continue
    };
    let generated = generate(&checkpoint, &request, device, &mut watch).map_err(|e| e.to_string())?;
    judge(run, tensors, &seen, &generated.pictures)
}

fn motion_request(run: &Value, tensors: &Tensors) -> Motion {
    let base = golden("pipeline_sd");
    let mut plain = run.clone();
    plain["controls"] = Value::Null;
    let Generate { prompt, size, steps, scheduler, guidance_scale, seeds, .. } = request(&base, &plain, tensors);
    let control = |c: &Value| MotionControl {
        dir: base.join(c["net"].as_str().unwrap()),
        pictures: (0..5).map(|i| picture(tensors, &format!("picture.frame_{i}"))).collect(),
        scale: c["scale"].as_f64().unwrap() as f32,
        range: [0, 1].map(|i| c["range"][i].as_f64().unwrap() as f32),
    };
    let frames = run["num_frames"].as_u64().unwrap() as usize;
    let controls = run["controls"].as_array().map_or(Vec::new(), |list| list.iter().map(control).collect());
    Motion { prompt, size, frames, steps, scheduler, guidance_scale, seed: seeds[0], controls, ..Motion::default() }
}

fn compare_clip(dir: &Path, run: &Value, tensors: &Tensors, device: &Device) -> Result<(), Failed> {
    let checkpoint = Checkpoint::open(golden("pipeline_sd")).unwrap();
    let request = motion_request(run, tensors);
    let mut seen: Vec<Vec<f32>> = Vec::new();
    let mut watch = |event: Event<'_>| {
        if let Event::Step { latents, .. } = event {
            seen.push(latents.permute(&[3, 0, 1, 2]).unwrap().to_f32());
        }
        Flow::Continue
    };
    let adapter = dir.join("motion_adapter");
    let moved = motion(&checkpoint, Some(&adapter), &request, device, &mut watch);
    judge(run, tensors, &seen, &moved.map_err(|e| e.to_string())?.frames)
}

/// Latents after every step, and pictures, against those recorded.
fn judge(run: &Value, tensors: &Tensors, seen: &[Vec<f32>], pictures: &[Picture]) -> Result<(), Failed> {
    let name = run["name"].as_str().unwrap();
    let wanted = &tensors[&format!("{name}.latents")];
    if wanted.shape()[0] != seen.len() {
        return Err(format!("{} steps, {} recorded", seen.len(), wanted.shape()[0]).into());
    }
    let wanted = wanted.to_f32();
    for (i, (latents, wanted)) in seen.iter().zip(wanted.chunks(wanted.len() / seen.len())).enumerate() {
        let most = wanted.iter().fold(0f32, |m, v| m.max(v.abs()));
        let error = latents.iter().zip(wanted).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
        // Guidance and solvers amplify the last bits of sums in another order.
        if error.is_nan() || error > 1e-4 * most.max(1.0) || latents.len() != wanted.len() {
            return Err(format!("latents after step {i} are {error:e} off, where the largest is {most}").into());
        }
    }
    let wanted = &tensors[&format!("{name}.picture")];
    let dims = wanted.shape();
    let (height, width) = (dims[dims.rank() - 3], dims[dims.rank() - 2]);
    let bytes: Vec<u8> = pictures.iter().flat_map(|p| p.pixels.iter().copied()).collect();
    if bytes.len() != dims.count() || pictures.iter().any(|p| (p.width, p.height) != (width, height)) {
        return Err(format!("{} pictures of {} bytes, where {dims} is recorded", pictures.len(), bytes.len()).into());
    }
    let off = bytes.iter().zip(wanted.to_f32()).map(|(a, b)| a.abs_diff(b as u8)).max().unwrap_or(0);
    if off > 1 { Err(format!("a pixel is {off} levels off").into()) } else { Ok(()) }
}

/// Every frame is seen in some window, ControlNets follow the pictures of its frames, and more memory than needed is no
/// condition.
fn windows() -> Result<(), String> {
    let dir = golden("pipeline_motion");
    let tensors = read_tensors(dir.join("expected.safetensors")).unwrap();
    let runs: Vec<Value> = serde_json::from_slice(&std::fs::read(dir.join("runs.json")).unwrap()).unwrap();
    let run = runs.iter().find(|run| run["name"] == "controlled").unwrap();
    let device = Device::open("cpu").map_err(|e| e.to_string())?;
    let checkpoint = Checkpoint::open(golden("pipeline_sd")).unwrap();
    let base = motion_request(run, &tensors);
    let latents = |request: Motion| {
        let mut watch = |_: Event<'_>| Flow::Continue;
        let adapter = dir.join("motion_adapter");
        let moved = motion(&checkpoint, Some(&adapter), &request, &device, &mut watch);
        moved.map(|m| (m.frames.len(), m.latents.to_f32(), m.memory)).map_err(|e| e.to_string())
    };
    let (_, whole, memory) = latents(base.clone())?;
    let (count, cut, smaller) = latents(Motion { window: 3, overlap: 1, ..base.clone() })?;
    assert!(count == 5 && cut.iter().all(|v| v.is_finite()) && cut != whole);
    assert!(smaller.of(Stage::Denoising) < memory.of(Stage::Denoising));
    // Less memory: halves of guidance in turn, then frames in portions; the clip stays what it is.
    let large = Motion { size: Some([96, 64]), steps: 2, controls: Vec::new(), ..base.clone() };
    let limit = |of: &MemoryPlan| Motion { max_memory: Some(of.of(Stage::Denoising) - 1), ..large.clone() };
    let (_, free, together) = latents(large.clone())?;
    let (_, turned, in_turn) = latents(limit(&together))?;
    let (_, cut_up, portions) = latents(limit(&in_turn))?;
    assert!(in_turn.halves == Halves::InTurn && portions.spatial_frames.is_some(), "{portions}");
    for other in [turned, cut_up] {
        let error = other.iter().zip(&free).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
        assert!(error < 1e-3, "{error}");
    }
    let mut other = base.clone();
    other.controls[0].pictures.swap(3, 4);
    let (_, moved, _) = latents(Motion { window: 3, overlap: 1, ..other })?;
    assert!(moved != cut);
    let refusal = latents(Motion { frames: 9, window: 9, controls: Vec::new(), ..base.clone() }).unwrap_err();
    assert!(refusal.contains('8'), "{refusal}");
    let few = Motion { frames: 4, ..base };
    assert!(latents(few).unwrap_err().contains("5 pictures for 4 frames"));
    Ok(())
}

/// Beside features of poses, a UNet3D takes the residuals of ControlNets: built into its plan, or as operands.
fn steered() -> Result<(), String> {
    let device = Device::open("cpu").map_err(|e| e.to_string())?;
    let unet = Unet::open(golden("aa_denoise_v2/denoising_unet"), &device).map_err(|e| e.to_string())?;
    let config = r#"{"_class_name": "ControlNetModel", "block_out_channels": [32, 64], "layers_per_block": 1,
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"], "cross_attention_dim": 40, "attention_head_dim": 4,
        "norm_num_groups": 8, "conditioning_embedding_out_channels": [8, 8]}"#;
    let config = Config::parse(config.as_bytes(), "config.json").map_err(|e| e.to_string())?;
    let net = ControlNet::of(&config, Weights::procedural(5, DType::F32), &device).map_err(|e| e.to_string())?;
    let shape = UnetShape { height: 6, width: 4, context: 2, frames: 3, pose_features: true, ..UnetShape::default() };
    let noise = |name: &str, desc: TensorDesc| {
        let seed = name.bytes().map(u64::from).sum();
        let tensor = match name {
            "timestep" => HostTensor::from_fn(desc.shape, |_| 300.0),
            _ if name.starts_with("scales") => net.scales(0.8, false),
            _ => Weight::procedural(name, desc, seed, 1.0, 0.0).read().unwrap(),
        };
        device.tensor(&tensor).unwrap()
    };
    // The operand of one condition is called `cond` in a plan of its own, and `cond.0` beside a UNet.
    let plain = |name: &str| name.trim_end_matches(".0").to_string();
    let run = |plan: &StepPlan, residuals: &BTreeMap<String, Tensor>| -> Result<BTreeMap<String, Tensor>, String> {
        let operand = |(name, desc)| residuals.get(name).cloned().unwrap_or_else(|| noise(&plain(name), desc));
        let operands: Vec<Tensor> = plan.inputs().map(operand).collect();
        let results = plan.run(&operands.iter().collect::<Vec<_>>()).map_err(|e| e.to_string())?;
        Ok(plan.outputs().map(|(name, _)| name.to_string()).zip(results).collect())
    };
    let bare = UnetShape { pose_features: false, ..shape };
    let made = run(&net.plan(bare).map_err(|e| e.to_string())?, &BTreeMap::new())?;
    let named = |(name, tensor): (String, Tensor)| match name.strip_prefix("down.") {
        Some(i) => (format!("down_residual.{i}"), tensor),
        None => ("mid_residual".to_string(), tensor),
    };
    let residuals: BTreeMap<String, Tensor> = made.into_iter().map(named).collect();
    let values = |results: BTreeMap<String, Tensor>| results["sample"].to_host().unwrap().to_f32();
    let options = PlanOptions::default();
    let together = unet.plan_with(shape, &[&net], &options).map_err(|e| e.to_string())?;
    let together = values(run(&together, &BTreeMap::new())?);
    let apart = unet.plan(UnetShape { residuals: true, ..shape }).map_err(|e| e.to_string())?;
    let apart = values(run(&apart, &residuals)?);
    let alone = values(run(&unet.plan(shape).map_err(|e| e.to_string())?, &BTreeMap::new())?);
    let distance = |a: &[f32], b: &[f32]| a.iter().zip(b).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
    let (same, other) = (distance(&together, &apart), distance(&together, &alone));
    if same < 1e-4 && other > 0.1 { Ok(()) } else { Err(format!("{same:e} from itself, {other:e} from no control")) }
}

fn unfit() -> Result<(), String> {
    let (sd, xl) = (golden("pipeline_sd"), golden("pipeline_xl"));
    let open = |dir: &Path, file: PathBuf| {
        let lora = Lora::open(file, 1.0).map_err(|e| e.to_string())?;
        Checkpoint::open(dir).unwrap().lora(lora).map(|_| ()).map_err(|e| e.to_string())
    };
    open(&xl, xl.join("lora_original.safetensors"))?;
    let refusal = open(&sd, xl.join("lora_original.safetensors")).unwrap_err();
    assert!(refusal.contains("lora_te2_text_model_encoder_layers_2_mlp_fc2"), "{refusal}");
    let refusal = open(&sd, sd.join("unet/diffusion_pytorch_model.safetensors")).unwrap_err();
    assert!(refusal.contains("conv_in.bias"), "{refusal}");
    Ok(())
}

/// Less memory gives the same latents; too little is refused by the least that would do.
fn within_limits() -> Result<(), String> {
    let dir = golden("pipeline_sd");
    let device = Device::open("cpu").map_err(|e| e.to_string())?;
    let checkpoint = Checkpoint::open(&dir).unwrap();
    let words = PromptOptions { prompt: "a cat".into(), ..PromptOptions::default() };
    let base = Generate { prompt: words, size: Some([64, 64]), steps: 2, seeds: vec![1, 2], ..Generate::default() };
    let run = |limit: Option<u64>| {
        let request = Generate { max_memory: limit, ..base.clone() };
        let mut watch = |_: Event<'_>| Flow::Continue;
        generate(&checkpoint, &request, &device, &mut watch).map_err(|e| e.to_string())
    };
    let free = run(None)?;
    assert!(free.memory.halves == Halves::Together && free.memory.tiling.is_none(), "{}", free.memory);
    assert_ne!(free.pictures[0], free.pictures[1]);
    let tight = run(Some(free.memory.of(Stage::Denoising) - 1))?;
    assert!(tight.memory.halves == Halves::InTurn && tight.memory.peak() < free.memory.peak(), "{}", tight.memory);
    for (a, b) in tight.latents.iter().zip(&free.latents) {
        let error = a.to_f32().iter().zip(b.to_f32()).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
        assert!(error < 1e-3, "{error}");
    }
    let refusal = run(Some(1000)).unwrap_err();
    assert!(refusal.contains("the least"), "{refusal}");
    let least = refusal.split(" bytes wanted").next().and_then(|t| t.rsplit(' ').next()).and_then(|n| n.parse().ok());
    let least: u64 = least.ok_or(refusal)?;
    assert!(run(Some(least)).is_ok() && run(Some(least - 1)).is_err());
    Ok(())
}

fn ended() -> Result<(), String> {
    let checkpoint = Checkpoint::open(golden("pipeline_sd")).unwrap();
    let request = Generate { size: Some([16, 16]), steps: 9, dtype: DType::F32, ..Generate::default() };
    let mut steps = 0;
    let mut watch = |event: Event<'_>| {
        steps += usize::from(matches!(event, Event::Step { .. }));
        assert!(!matches!(event, Event::Progress(p) if p.stage == Stage::Decoding));
        if steps == 3 { Flow::Stop } else { Flow::Continue }
    };
    let device = Device::open("cpu").map_err(|e| e.to_string())?;
    let error = generate(&checkpoint, &request, &device, &mut watch).unwrap_err();
    assert!(matches!(error, muybridge::Error::Interrupted) && steps == 3);
    Ok(())
}

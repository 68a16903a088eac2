//! Full-size networks: they ask for exactly the tensors of the published checkpoints, and they can be planned anywhere.
//!
//! `tests/keys/*.tsv` hold every name and shape of a checkpoint. The tensors are procedural, so nothing is read.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use muybridge::clip::ClipTextShape;
use muybridge::presets::{PRESETS, Preset};
use muybridge::runtime::{DType, Device, PlanReport};
use muybridge::{
    ClipText, ClipVision, Config, ControlNet, Guider, GuiderConfig, GuiderKind, ReferenceNet, Result, Tiling, Unet,
    UnetShape, Vae, VaeShape, Weights,
};

type Names = BTreeMap<String, Vec<usize>>;

fn names(table: &str) -> Names {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/keys").join(table);
    let text = std::fs::read_to_string(path).unwrap();
    let lines = text.lines().filter(|l| !l.starts_with('#') && !l.is_empty());
    let entry = |line: &str| {
        let (name, shape) = line.split_once('\t').unwrap();
        (name.to_string(), shape.split('x').map(|n| n.parse().unwrap()).collect())
    };
    lines.map(entry).collect()
}

fn source(names: &Names) -> Weights {
    let rule = |(name, shape): (&String, &Vec<usize>)| {
        format!("{name:?}: {{\"shape\": {shape:?}, \"seed\": 1, \"amp\": 0.1}}")
    };
    let rules: Vec<String> = names.iter().map(rule).collect();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("weights_spec.json");
    std::fs::write(&file, format!("{{{}}}", rules.join(",\n"))).unwrap();
    Weights::open_spec(&file).unwrap()
}

/// Opens a preset over these tensors; it fails unless it asks for all of them, and in these shapes.
fn open(preset: &Preset, names: &Names) -> Result<usize> {
    let (config, weights, device) = (preset.config()?, source(names), Device::open("trace:cpu")?);
    Ok(match preset.class {
        "UNet2DConditionModel" => Unet::of(&config, weights, &device)?.load_report().used.len(),
        "ControlNetModel" => ControlNet::of(&config, weights, &device)?.load_report().used.len(),
        _ => Vae::of(&config, weights, &device)?.load_report().used.len(),
    })
}

const TABLES: [(&str, &str, usize); 5] = [
    ("sd15-unet", "unet2d_sd15.tsv", 859_520_964),
    ("sd21-unet", "unet2d_sd21.tsv", 865_910_724),
    ("sdxl-unet", "unet2d_sdxl.tsv", 2_567_463_684),
    ("sd15-controlnet", "controlnet_sd15.tsv", 361_279_120),
    ("sd-vae", "autoencoderkl_sd.tsv", 83_653_863),
];

#[test]
fn networks_ask_for_the_tensors_of_the_published_files() {
    for (preset, table, parameters) in TABLES {
        let names = names(table);
        let count: usize = names.values().map(|shape| shape.iter().product::<usize>()).sum();
        assert_eq!(count, parameters, "{table}");
        let used = open(Preset::find(preset).unwrap(), &names).unwrap_or_else(|e| panic!("{preset}: {e}"));
        assert_eq!(used, names.len(), "{preset}");
    }
}

#[test]
fn guiders_ask_for_the_tensors_of_the_published_files() {
    let device = Device::open("trace:cpu").unwrap();
    let (pose, guidance) = (names("pose_guider.tsv"), names("champ_guidance_encoder.tsv"));
    let guider = Guider::with(GuiderKind::Pose, GuiderConfig::default(), &source(&pose), &device).unwrap();
    assert_eq!(guider.load_report().used.len(), pose.len());
    // Of 149 tensors it reads the convolutions and the last of the transformers.
    let open = |names: &Names| Guider::with(GuiderKind::Guidance, GuiderConfig::default(), &source(names), &device);
    assert_eq!(open(&guidance).unwrap().load_report().used.len(), 16 + 19);
    let published: Names = guidance.into_iter().filter(|(n, _)| !n.starts_with("guidance_attention")).collect();
    assert_eq!(open(&published).unwrap().load_report().used.len(), 16 + 19);
    let last = published.iter().filter(|(n, _)| !n.starts_with("attentions.5")).map(|(n, s)| (n.clone(), s.clone()));
    assert!(open(&last.collect()).unwrap_err().to_string().contains("attentions.5.norm.weight"));
    let bare: Names = published.into_iter().filter(|(n, _)| !n.starts_with("attentions")).collect();
    let bare = open(&bare).unwrap();
    assert!(bare.load_report().used.len() == 16 && !bare.attends());
}

#[test]
fn clip_asks_for_the_tensors_of_the_published_files() {
    let device = Device::open("trace:cpu").unwrap();
    let parse = |json: &str| Config::parse(json.as_bytes(), "config.json").unwrap();
    let text = parse(
        r#"{"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12,
            "projection_dim": 768, "eos_token_id": 2, "architectures": ["CLIPTextModel"]}"#,
    );
    let vision = parse(
        r#"{"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 24,
            "patch_size": 14, "projection_dim": 768, "architectures": ["CLIPVisionModelWithProjection"]}"#,
    );
    let (text_names, vision_names) = (names("clip_text_vitl14.tsv"), names("clip_vision_vitl14_proj768.tsv"));
    let bare = |names: &Names, prefix: &str| -> Names {
        names.iter().map(|(n, s)| (n.strip_prefix(prefix).unwrap_or(n).to_string(), s.clone())).collect()
    };
    for names in [&text_names, &bare(&text_names, "text_model.")] {
        let clip = ClipText::of(&text, source(names), &device).unwrap();
        assert_eq!(clip.load_report().used.len(), names.len());
        assert!(clip.unread_fields().is_empty());
        let shape = ClipTextShape { batch: 2, tokens: 77, dtype: DType::F16, mask: false, skip: 0 };
        // Seven launches a layer, and the last norm.
        assert_eq!(clip.plan(shape).unwrap().report().nodes.len(), 12 * 7 + 1);
    }
    for names in [&vision_names, &bare(&vision_names, "vision_model.")] {
        let clip = ClipVision::of(&vision, source(names), &device).unwrap();
        assert_eq!(clip.load_report().used.len(), names.len());
        assert_eq!(clip.plan(1, 1, DType::F16).unwrap().report().nodes.len(), 24 * 7 + 6);
    }
    let both: Names = text_names.iter().chain(&vision_names).map(|(n, s)| (n.clone(), s.clone())).collect();
    assert_eq!(ClipText::of(&text, source(&both), &device).unwrap().load_report().used.len(), text_names.len());
}

#[test]
fn a_tensor_that_is_missing_left_over_or_of_another_shape_is_named() {
    let preset = Preset::find("sd15-unet").unwrap();
    let all = names("unet2d_sd15.tsv");
    let name = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight";
    let mut less = all.clone();
    less.remove(name);
    let mut more = all.clone();
    more.insert("down_blocks.1.attentions.7.norm.weight".into(), vec![640]);
    let mut other = all.clone();
    other.insert(name.into(), vec![640, 640]);
    for (names, word) in [(less, name), (more, "attentions.7.norm.weight"), (other, name)] {
        let error = open(preset, &names).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
}

fn quickly<T>(what: &str, f: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let made = f();
    let limit = Duration::from_secs(if cfg!(debug_assertions) { 5 } else { 1 });
    assert!(start.elapsed() < limit, "{what} took {:?}", start.elapsed());
    made
}

fn unet_report(device: &str, preset: &str, size: usize, dtype: DType) -> PlanReport {
    let device = Device::open(device).unwrap();
    let config = Preset::find(preset).unwrap().config().unwrap();
    quickly(preset, || {
        let unet = Unet::of(&config, Weights::procedural(1, DType::F16), &device).unwrap();
        let shape = UnetShape { batch: 2, height: size, width: size, dtype, ..UnetShape::default() };
        let plan = unet.plan(shape).unwrap();
        println!("{preset} {size}x{size} {dtype} on {}: {plan}", device.name());
        plan.report().clone()
    })
}

const MIB: u64 = 1 << 20;

#[test]
fn a_step_of_sd15_is_339_launches_in_100_mb() {
    // 22 residual blocks of four, 14 shortcuts, 16 transformers of fourteen; the ends, the time and changes of resolution.
    let nodes = 22 * 4 + 14 + 16 * 14 + 13;
    // A kernel may split the sums of a norm from what follows them: at most one launch more for each of the 61 norms.
    for (device, more) in [("trace:cpu", 0), ("trace:wgpu", 61)] {
        let report = unet_report(device, "sd15-unet", 64, DType::F16);
        assert_eq!(report.nodes.len(), nodes);
        assert!(report.launches() <= nodes + more, "{report}");
        assert!(report.arena <= 100 * MIB, "{report}");
    }
    let report = unet_report("trace:cpu", "sd15-unet", 64, DType::F16);
    // About 800 GFLOP an item; the keys of the context are the clip's.
    let gflop = report.cost().flop / 1_000_000_000;
    assert!((1_500..1_700).contains(&gflop), "{gflop}");
}

#[test]
fn other_networks_can_be_planned_without_their_weights() {
    unet_report("trace:cpu", "sd21-unet", 96, DType::F16);
    unet_report("trace:wgpu", "sdxl-unet", 128, DType::F16);
    let device = Device::open("trace:cpu").unwrap();
    let config = Preset::find("sd15-controlnet").unwrap().config().unwrap();
    let net = ControlNet::of(&config, Weights::procedural(1, DType::F16), &device).unwrap();
    let shape = UnetShape { batch: 2, dtype: DType::F16, ..UnetShape::default() };
    println!("sd15-controlnet: {}", quickly("controlnet", || net.plan(shape).unwrap()));
    let config = Preset::find("sd15-unet").unwrap().config().unwrap();
    let unet = Unet::of(&config, Weights::procedural(1, DType::F16), &device).unwrap();
    let both = unet.plan_with(shape, &[&net, &net], &Default::default()).unwrap();
    println!("sd15-unet with two ControlNets: {both}");
}

#[test]
fn tiles_bound_the_memory_of_the_vae() {
    let device = Device::open("trace:cpu").unwrap();
    let config = Preset::find("sd-vae").unwrap().config().unwrap();
    let vae = Vae::of(&config, Weights::procedural(1, DType::F16), &device).unwrap();
    // Tiles of 64 latents as the field has them, and of 32 for small memories.
    for (tile, dtype, most) in [(64, DType::F32, 720), (64, DType::F16, 400), (32, DType::F32, 200)] {
        let Tiling { tile: size, .. } = Tiling::of(tile);
        let plan = vae.decoder(VaeShape { batch: 1, height: size, width: size, dtype }).unwrap();
        println!("sd-vae decoder {size}x{size} {dtype}: {plan}");
        assert!(plan.report().arena <= most * MIB, "{plan}");
    }
    let plan = vae.encoder(VaeShape { batch: 1, height: 512, width: 512, dtype: DType::F16 }).unwrap();
    println!("sd-vae encoder 512x512 f16: {plan}");
}

#[test]
fn presets_hold_no_field_that_the_engine_does_not_know() {
    for preset in PRESETS {
        let (config, device) = (preset.config().unwrap(), Device::open("trace:cpu").unwrap());
        let weights = Weights::procedural(1, DType::F16);
        let unread = match preset.class {
            "UNet2DConditionModel" => Unet::of(&config, weights, &device).unwrap().unread_fields().to_vec(),
            "UNet3DConditionModel" => Unet::of(&config, weights, &device).unwrap().unread_fields().to_vec(),
            "ReferenceUNet2DConditionModel" => {
                ReferenceNet::of(&config, weights, &device).unwrap().unread_fields().to_vec()
            }
            "ControlNetModel" => ControlNet::of(&config, weights, &device).unwrap().unread_fields().to_vec(),
            _ => Vae::of(&config, weights, &device).unwrap().unread_fields().to_vec(),
        };
        assert!(unread.is_empty(), "{}: {unread:?}", preset.name);
    }
}

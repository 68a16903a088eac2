//! Networks for clips: the algebra that spares work changes nothing but the work, and full-size networks ask for the tensors
//! of the published files.

use std::collections::BTreeMap;
use std::path::Path;

use muybridge::kernels as ops;
use muybridge::presets::Preset;
use muybridge::runtime::{Graph, Plan, TensorDesc, Weight};
use muybridge::transformer::{Context, SelfAttention};
use muybridge::{
    Config, DType, Device, FusionBlocks, HostTensor, ReferenceNet, ReferenceShape, Result, Tensor, Unet, UnetShape,
    Weights,
};

fn noise(shape: impl Into<muybridge::runtime::Shape>, seed: u64) -> HostTensor {
    let desc = TensorDesc { shape: shape.into(), dtype: DType::F32 };
    Weight::procedural("noise", desc, seed, 1.0, 0.0).read().unwrap()
}

fn largest_difference(a: &HostTensor, b: &HostTensor) -> f32 {
    assert_eq!(a.shape(), b.shape());
    a.to_f32().iter().zip(b.to_f32()).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max)
}

/// A network of two levels with 4 × 8 and 4 × 16 channels a head, motion modules everywhere.
fn small(device: &Device) -> Result<Unet> {
    let config = Config::parse(
        br#"{"_class_name": "UNet3DConditionModel", "block_out_channels": [32, 64], "layers_per_block": 1,
            "down_block_types": ["CrossAttnDownBlock3D", "DownBlock3D"], "attention_head_dim": 4,
            "up_block_types": ["UpBlock3D", "CrossAttnUpBlock3D"], "cross_attention_dim": 24, "norm_num_groups": 8,
            "use_inflated_groupnorm": true, "use_motion_module": true, "motion_module_mid_block": true,
            "motion_module_type": "Vanilla", "motion_module_kwargs": {"num_attention_heads": 4,
            "num_transformer_block": 1, "temporal_position_encoding": true, "temporal_position_encoding_max_len": 24}}"#,
        "a small network for clips",
    )?;
    Unet::of(&config, Weights::procedural(3, DType::F32), device)
}

/// Runs a plan of the network on operands that are asked for by name.
fn run(unet: &Unet, shape: UnetShape, operand: impl Fn(&str, TensorDesc) -> HostTensor) -> Result<HostTensor> {
    let plan = unet.plan(shape)?;
    let operands: Vec<HostTensor> = plan.inputs().map(|(name, desc)| operand(name, desc)).collect();
    let device = plan.step_plan().device().clone();
    let tensors = operands.iter().map(|t| device.tensor(t)).collect::<Result<Vec<_>, _>>()?;
    Ok(plan.run(&tensors.iter().collect::<Vec<&Tensor>>())?[0].to_host()?)
}

/// The same noise for an operand of the same name.
fn named(name: &str, desc: TensorDesc) -> HostTensor {
    if name == "timestep" {
        return HostTensor::from_fn(desc.shape, |_| 500.0);
    }
    noise(desc.shape, name.bytes().fold(7, |h: u64, b| h.wrapping_mul(31).wrapping_add(u64::from(b))))
}

const FRAMES: usize = 3;

fn shape() -> UnetShape {
    UnetShape { frames: FRAMES, height: 6, width: 8, context: 1, pose_features: true, ..UnetShape::default() }
}

fn reference(first_clip: usize) -> Option<ReferenceShape> {
    Some(ReferenceShape { items: 1, height: 6, width: 8, first_clip, blocks: FusionBlocks::Full })
}

#[test]
fn a_context_of_one_token_is_a_constant() -> Result<()> {
    let unet = small(&Device::open("cpu")?)?;
    // Two equal tokens share the softmax evenly, so attention to them is the general path's answer for one.
    let token = noise([1, 1, 24], 5).to_f32();
    let context = |tokens: usize| HostTensor::from_fn([1, tokens, 24], |i| token[i % 24]);
    let with = |tokens: usize| {
        run(&unet, UnetShape { context: tokens, ..shape() }, |name, desc| match name {
            "encoder_hidden_states" => context(tokens),
            _ => named(name, desc),
        })
    };
    let difference = largest_difference(&with(1)?, &with(2)?);
    assert!(difference < 2e-5, "{difference}");
    let launches =
        |tokens| -> Result<usize> { Ok(unet.plan(UnetShape { context: tokens, ..shape() })?.report().nodes.len()) };
    // Norm, queries, attention and projection of each of the four cross-attentions.
    assert_eq!(launches(2)? - launches(1)?, 4 * 4);
    Ok(())
}

#[test]
fn halves_of_guidance_are_what_they_are_alone() -> Result<()> {
    let unet = small(&Device::open("cpu")?)?;
    let context = noise([2, 1, 24], 6);
    let part = |i: usize| HostTensor::new([1, 1, 24], context.to_f32()[24 * i..24 * (i + 1)].to_vec()).unwrap();
    let given = |context: HostTensor| {
        move |name: &str, desc| if name == "encoder_hidden_states" { context.clone() } else { named(name, desc) }
    };
    let both = UnetShape { batch: 2, shared: true, reference: reference(1), ..shape() };
    let both = run(&unet, both, given(context.clone()))?;
    let uncond = run(&unet, shape(), given(part(0)))?;
    let cond = run(&unet, UnetShape { reference: reference(0), ..shape() }, given(part(1)))?;
    let values = both.to_f32();
    let (first, second) = values.split_at(values.len() / 2);
    for (half, alone) in [(first, uncond), (second, cond)] {
        let half = HostTensor::new(alone.shape(), half.to_vec())?;
        let difference = largest_difference(&half, &alone);
        assert!(difference < 2e-5, "{difference}");
    }
    Ok(())
}

#[test]
fn cached_keys_of_a_reference_are_those_of_its_tokens_behind_the_own_ones() -> Result<()> {
    let device = Device::open("cpu")?;
    let (frames, own, other, c, heads) = (3, 10, 7, 24, 3);
    let w = Weights::procedural(11, DType::F32);
    let attention = SelfAttention::open(&w.at("attn1"), c, heads, false)?;
    let (x, features) = (noise([frames, own, 1, c], 1), noise([1, other, 1, c], 2));

    let mut g = Graph::new();
    let desc = |t: &HostTensor| t.desc();
    let (own_tokens, bank) = (g.input("x", desc(&x)), g.input("features", desc(&features)));
    let kv = attention.reference_keys(&mut g, bank)?;
    let reference = [(attention.path().to_string(), kv)].into();
    let context = Context { reference, first_reader: 1, ..Context::default() };
    let y = attention.add_context(&mut g, own_tokens, &context, None, own_tokens)?;
    g.output("y", y);
    let cached = Plan::new(&g, &device)?.run_host(&[&x, &features])?.remove(0);

    // The concatenating form, frame by frame: keys and values of own and reference tokens together.
    let weight = |part: &str| w.at("attn1").get(format!("{part}.weight"), [c, c]);
    let bias = w.at("attn1").get("to_out.0.bias", [c])?;
    for frame in 0..frames {
        let tokens = x.to_f32()[frame * own * c..(frame + 1) * own * c].to_vec();
        let mut all = tokens.clone();
        if frame > 0 {
            all.extend(features.to_f32());
        }
        let (n, all) = (all.len() / c, HostTensor::new([1, all.len() / c, c], all)?);
        let tokens = HostTensor::new([1, own, c], tokens)?;
        let mut g = Graph::new();
        let (q_in, kv_in) = (g.input("q", desc(&tokens)), g.input("kv", desc(&all)));
        let product = |g: &mut Graph, x, w: &Weight| {
            let w = g.weight(w);
            g.node("product", ops::Matmul::default(), &[x, w])
        };
        let q = product(&mut g, q_in, &weight("to_q")?)?;
        let (k, v) = (product(&mut g, kv_in, &weight("to_k")?)?, product(&mut g, kv_in, &weight("to_v")?)?);
        let kv = g.node("kv", ops::Layout::Concat, &[k, v])?;
        let h = g.node("attention", ops::Attention::cross(heads), &[q, kv])?;
        let operands = [h, g.weight(&weight("to_out.0")?), g.weight(&bias), q_in];
        let y = g.node("out", ops::Matmul { bias: true, residual: true, ..Default::default() }, &operands)?;
        g.output("y", y);
        let want = Plan::new(&g, &device)?.run_host(&[&tokens, &all])?.remove(0);
        let got = cached.to_f32()[frame * own * c..(frame + 1) * own * c].to_vec();
        let difference = largest_difference(&HostTensor::new([1, own, c], got)?, &want);
        assert!(difference < 5e-6, "frame {frame} with {n} keys: {difference}");
    }
    Ok(())
}

#[test]
fn frames_beyond_the_positions_and_clips_that_do_not_fit_are_named() -> Result<()> {
    let unet = small(&Device::open("trace:cpu")?)?;
    let message = |shape: UnetShape| unet.plan(shape).unwrap_err().to_string();
    let long = message(UnetShape { frames: 25, ..shape() });
    assert!(long.contains("25 frames") && long.contains("24 positions"), "{long}");
    let none = message(UnetShape { frames: 0, ..shape() });
    assert!(none.contains("extents of zero"), "{none}");
    let late = message(UnetShape { reference: reference(1), ..shape() });
    assert!(late.contains("second segment"), "{late}");
    Ok(())
}

type Names = BTreeMap<String, Vec<usize>>;

fn names(table: &str) -> Names {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/keys").join(table);
    let text = std::fs::read_to_string(path).unwrap();
    let entry = |line: &str| {
        let (name, shape) = line.split_once('\t').unwrap();
        (name.to_string(), shape.split('x').map(|n| n.parse().unwrap()).collect())
    };
    text.lines().filter(|l| !l.starts_with('#') && !l.is_empty()).map(entry).collect()
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

/// The names of a motion adapter, from those of the published motion module.
fn adapter(names: &Names) -> Names {
    let rules =
        [(".temporal_transformer", ""), (".attention_blocks.0.", ".attn1."), (".attention_blocks.1.", ".attn2.")];
    let rules = rules.into_iter().chain([(".norms.0.", ".norm1."), (".norms.1.", ".norm2."), (".ff_norm.", ".norm3.")]);
    let rules: Vec<_> = rules.collect();
    let rename = |name: &str| rules.iter().fold(name.to_string(), |n, (old, new)| n.replace(old, new));
    let kept = names.iter().filter(|(n, _)| !n.ends_with(".pe"));
    kept.map(|(n, shape)| (rename(n), shape.clone())).collect()
}

#[test]
fn networks_for_clips_ask_for_the_tensors_of_the_published_files() -> Result<()> {
    let device = Device::open("trace:cpu")?;
    let (spatial, motion) = (names("unet2d_sd15.tsv"), names("motion_module_v2.tsv"));
    let count = |names: &Names| names.values().map(|s| s.iter().product::<usize>()).sum::<usize>();
    assert_eq!(count(&spatial) + count(&motion), 1_313_938_564);
    let config = Preset::find("animateanyone-unet3d")?.config()?;
    for motion in [&motion, &adapter(&motion)] {
        let unet = Unet::of(&config, source(&spatial).and(&source(motion))?, &device)?;
        assert_eq!(unet.load_report().used.len(), spatial.len() + motion.len());
        assert!(unet.unread_fields().is_empty(), "{:?}", unet.unread_fields());
    }
    let mut less = motion.clone();
    less.retain(|name, _| !name.starts_with("mid_block"));
    let missing = Unet::of(&config, source(&spatial).and(&source(&less))?, &device).unwrap_err().to_string();
    assert!(missing.contains("mid_block.motion_modules.0"), "{missing}");

    let joined = Preset::find("sd15-unet")?.config()?;
    let adapter_config = Config::parse(br#"{"_class_name": "MotionAdapter", "motion_max_seq_length": 32}"#, "adapter")?;
    let modules = source(&adapter(&motion));
    let unet = Unet::with_motion((&joined, source(&spatial)), (&adapter_config, &modules), &device)?;
    assert_eq!(unet.load_report().used.len(), spatial.len() + adapter(&motion).len());

    let reference = names("reference_unet.tsv");
    let config = Preset::find("animateanyone-reference")?.config()?;
    let net = ReferenceNet::of(&config, source(&reference), &device)?;
    assert_eq!(net.load_report().used.len(), reference.len());
    assert_eq!(net.blocks(FusionBlocks::Full).count(), 16);
    assert_eq!(net.blocks(FusionBlocks::MidUp).count(), 10);
    // A whole UNet serves as well: its last norm and convolution are left alone.
    assert!(ReferenceNet::of(&config, source(&spatial), &device).is_ok());
    Ok(())
}

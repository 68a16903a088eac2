//! Plans of full-size networks, with no weights and no device: launches, memory and work.

use muybridge::kernels;
use muybridge::presets::Preset;
use muybridge::runtime::{Graph, PlanReport, TensorDesc};
use muybridge::{
    ControlNet, DType, Device, FusionBlocks, HostTensor, Plan, ReferenceShape, Result, Tiling, Unet, UnetShape, Vae,
    VaeShape, Weights,
};

/// The kernel languages that every network must be plannable in.
const TARGETS: [&str; 3] = ["trace:cpu", "trace:wgpu", "trace:cuda"];

fn shape(batch: usize, side: usize, dtype: DType) -> UnetShape {
    UnetShape { batch, height: side, width: side, dtype, ..UnetShape::default() }
}

/// Reports of a network's step and of what it computes once per clip.
fn unet(preset: &str, device: &str, shape: UnetShape) -> Result<[PlanReport; 2]> {
    let device = Device::open(device)?;
    let weights = Weights::procedural(0, DType::F16);
    let net = Unet::of(&Preset::find(preset)?.config()?, weights, &device)?;
    let plan = net.plan(shape)?;
    Ok([plan.report().clone(), plan.clip_plan().report().clone()])
}

fn vae_decoder(device: &str, side: usize, dtype: DType) -> Result<PlanReport> {
    let device = Device::open(device)?;
    let vae = Vae::of(&Preset::find("sd-vae")?.config()?, Weights::procedural(0, DType::F16), &device)?;
    Ok(vae.decoder(VaeShape { batch: 1, height: side, width: side, dtype })?.report().clone())
}

/// What holds for every plan.
#[track_caller]
fn sound(report: &PlanReport) {
    let (arena, least) = (report.arena as f64, report.arena_lower_bound as f64);
    assert!(
        arena <= 1.05 * least,
        "arena of {arena} bytes, {:.1} % over the lower bound",
        100.0 * (arena / least - 1.0)
    );
    for n in &report.nodes {
        assert!(n.launches <= n.declared as usize, "{}: {} launches, {} declared", n.path, n.launches, n.declared);
    }
}

#[track_caller]
fn near(flop: u64, want: f64) {
    let ratio = flop as f64 / want;
    assert!((0.99..=1.01).contains(&ratio), "{flop} flop is {ratio:.4} of the {want} counted by the specification");
}

#[test]
fn tiles_keep_decoding_within_a_limit_of_memory() -> Result<()> {
    let device = Device::open("trace:cpu")?;
    let vae = Vae::of(&Preset::find("sd-vae")?.config()?, Weights::procedural(0, DType::F32), &device)?;
    let at_most = |megabytes: u64| vae.tiling_within([1, 64, 64], DType::F32, megabytes * 1_000_000);
    assert_eq!(at_most(1_000)?, None, "a whole picture of 512 pixels takes under a gigabyte");
    let tiling = at_most(290)?.expect("tiles");
    assert_eq!(tiling, Tiling::of(16));
    let extent = tiling.tile;
    let one = VaeShape { batch: 1, height: extent, width: extent, dtype: DType::F32 };
    assert!(vae.decoder_memory(one)? <= 290_000_000);
    let refused = at_most(100).expect_err("the weights alone are larger").to_string();
    assert!(refused.contains("limit 100000000 bytes") && refused.contains("smallest tiles"), "{refused}");
    Ok(())
}

#[test]
fn a_guided_sd15_step_is_within_its_budgets() -> Result<()> {
    for target in TARGETS {
        let [step, clip] = unet("sd15-unet", target, shape(2, 64, DType::F16))?;
        sound(&step);
        sound(&clip);
        // 22 resnets × 4 + 14 shortcuts + 16 transformers × 14 + 13, with room for a norm in two launches is CUDA's budget;
        // here nodes count, because a norm may take two launches.
        assert!(step.nodes.len() <= 345, "{} nodes", step.nodes.len());
        assert!(target != "trace:cuda" || step.launches() <= 345, "{} launches", step.launches());
        assert!(step.arena <= 100_000_000, "{}: arena of {} bytes", target, step.arena);
        near(step.cost().flop + clip.cost().flop, 2.0 * 803.3e9);
    }
    Ok(())
}

/// Where a group of channels does not fit on chip, its sums come with the convolution before: as many launches, one read less.
#[test]
fn norms_of_large_maps_take_their_sums_from_convolutions() -> Result<()> {
    let decoder = vae_decoder("trace:cuda", 64, DType::F16)?;
    let with = |variant| decoder.nodes.iter().filter(move |n| n.op == "group_norm" && n.variant == variant);
    let read_twice: Vec<&str> = with("two_pass").map(|n| n.path.as_str()).collect();
    assert!(with("from_moments").count() >= 15 && read_twice.is_empty(), "read twice: {read_twice:?}");
    assert!(with("from_moments").all(|n| n.launches == 2));
    Ok(())
}

#[test]
fn work_of_the_other_networks_is_as_specified() -> Result<()> {
    let vae = vae_decoder("trace:cpu", 64, DType::F32)?;
    sound(&vae);
    near(vae.cost().flop, 2514.5e9);
    let device = Device::open("trace:cpu")?;
    let config = Preset::find("sd15-controlnet")?.config()?;
    let net = ControlNet::of(&config, Weights::procedural(0, DType::F16), &device)?;
    let plan = net.plan(shape(1, 64, DType::F32))?;
    sound(plan.report());
    near(plan.report().cost().flop + plan.clip_plan().report().cost().flop, 283e9);
    Ok(())
}

#[test]
fn larger_networks_plan_on_every_target() -> Result<()> {
    for target in TARGETS {
        for (preset, side) in [("sd21-unet", 96), ("sdxl-unet", 128)] {
            let [step, clip] = unet(preset, target, shape(2, side, DType::F16))?;
            sound(&step);
            sound(&clip);
        }
        sound(&vae_decoder(target, 64, DType::F32)?);
        sound(&vae_decoder(target, 96, DType::F16)?);
    }
    Ok(())
}

#[test]
fn a_guided_step_of_a_video_spares_a_sixth_of_the_published_work() -> Result<()> {
    for target in TARGETS {
        let device = Device::open(target)?;
        let config = Preset::find("animateanyone-unet3d")?.config()?;
        let unet = Unet::of(&config, Weights::procedural(0, DType::F16), &device)?;
        let (height, width, blocks) = (96, 64, FusionBlocks::Full);
        let reference = Some(ReferenceShape { items: 1, height, width, first_clip: 1, blocks });
        let shape = UnetShape {
            batch: 2,
            height,
            width,
            context: 1,
            dtype: DType::F16,
            frames: 24,
            shared: true,
            pose_features: true,
            reference,
            ..UnetShape::default()
        };
        let plan = unet.plan(shape)?;
        let work = plan.report().cost().flop;
        near(work, 88.6e12);
        near(work + unet.spared(&shape).total(), 107.4e12);
        // Weights, activations, features of the reference and of poses: both halves at once, then one after the other.
        let features = |p: &muybridge::StepPlan| p.clip_plan().outputs().map(|(_, d)| d.bytes()).sum::<u64>();
        let total = plan.report().weights + plan.report().arena + features(&plan);
        assert!(total < 6_000_000_000, "{target}: {total} bytes");
        let half = UnetShape { batch: 1, shared: false, ..shape };
        let cond =
            unet.plan(UnetShape { reference: reference.map(|r| ReferenceShape { first_clip: 0, ..r }), ..half })?;
        let total = cond.report().weights + cond.report().arena + features(&cond);
        assert!(total < 4_500_000_000, "{target}: {total} bytes");
        let uncond = unet.plan(UnetShape { reference: None, ..half })?;
        assert!(uncond.report().arena <= cond.report().arena);
    }
    Ok(())
}

#[test]
fn planning_owns_no_memory_and_runs_nothing() -> Result<()> {
    let device = Device::open("trace")?;
    let vae = Vae::of(&Preset::find("sd-vae")?.config()?, Weights::procedural(0, DType::F32), &device)?;
    let plan = vae.decoder(VaeShape { batch: 1, height: 8, width: 8, dtype: DType::F32 })?;
    let latents = HostTensor::from_fn([1, 8, 8, 4], |_| 0.0);
    let refused = plan.run_host(&[&latents]).unwrap_err().to_string();
    assert!(refused.contains("trace"), "{refused}");
    Ok(())
}

#[test]
fn a_run_into_existing_tensors_allocates_nothing() -> Result<()> {
    let device = Device::open("cpu")?;
    let config = muybridge::Config::parse(
        br#"{"_class_name": "AutoencoderKL", "in_channels": 3, "out_channels": 3, "latent_channels": 4,
            "block_out_channels": [8, 16], "layers_per_block": 1, "norm_num_groups": 4, "act_fn": "silu",
            "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"],
            "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"], "scaling_factor": 0.18215}"#,
        "a small VAE",
    )?;
    let vae = Vae::of(&config, Weights::procedural(7, DType::F32), &device)?;
    let plan = vae.decoder(VaeShape { batch: 1, height: 5, width: 6, dtype: DType::F32 })?;
    let latents = device.tensor(&HostTensor::from_fn([1, 5, 6, 4], |i| (i as f32).sin()))?;
    let outputs = plan.empty_outputs()?;
    plan.run_into(&[&latents], &outputs)?;
    let first = outputs[0].to_host()?;
    let before = device.memory();
    for _ in 0..3 {
        plan.run_into(&[&latents], &outputs)?;
    }
    assert_eq!(device.memory(), before, "a run allocated memory");
    assert_eq!(outputs[0].to_host()?, first, "the same run gave something else");
    Ok(())
}

#[test]
fn operands_that_do_not_fit_are_named() -> Result<()> {
    let device = Device::open("cpu")?;
    let vae =
        Vae::of(&Preset::find("sd-vae")?.config()?, Weights::procedural(0, DType::F32), &Device::open("trace:cpu")?)?;
    let plan = vae.decoder(VaeShape { batch: 1, height: 8, width: 8, dtype: DType::F32 })?;
    let zeros = |shape: [usize; 4]| device.tensor(&HostTensor::from_fn(shape, |_| 0.0));
    let message = |r: muybridge::runtime::Result<Vec<muybridge::Tensor>>| r.unwrap_err().to_string();
    assert!(message(plan.run(&[])).contains("latents"));
    assert!(message(plan.run(&[&zeros([1, 8, 9, 4])?])).contains("[1, 8, 9, 4]"));
    assert!(message(plan.run(&[&zeros([1, 8, 8, 4])?])).contains("cpu"), "a tensor of another device");
    Ok(())
}

/// What lies within another value gives the same numbers, and takes no memory of its own.
#[test]
fn extents_that_nothing_has_are_refused_where_they_are_used() {
    let mut g = Graph::new();
    let huge = g.input("huge", TensorDesc::new([1 << 40, 1 << 40], DType::F32));
    let error = g.node("some.norm", kernels::Elementwise::Scale(2.0), &[huge]).expect_err("an overflow").to_string();
    assert!(error.contains("some.norm") && error.contains("overflow"), "{error}");
    let x = g.input("x", TensorDesc::new([1, 8, 8, 3], DType::F32));
    let w = g.input("w", TensorDesc::new([64, 3, 0, 0], DType::F32));
    let conv = kernels::Conv2d { kernel: [0, 0], bias: false, ..kernels::Conv2d::same(1) };
    let error = g.node("conv_in", conv, &[x, w]).expect_err("no taps").to_string();
    assert!(error.contains("conv_in") && error.contains("64, 3, 0, 0"), "{error}");
}

#[test]
fn parts_lie_within_wholes() -> Result<()> {
    let scale = |by: f32| kernels::Elementwise::Scale(by);
    let build = |portions: &[usize]| -> Result<Graph> {
        let mut g = Graph::new();
        let x = g.input("x", TensorDesc::new([7, 2, 16], DType::F32));
        let x = g.node("first", scale(2.0), &[x])?;
        let (mut first, mut parts) = (0, Vec::new());
        for n in portions {
            let part = g.part(x, first, *n)?;
            let h = g.node("wide", kernels::Layout::Concat, &[part, part])?;
            let h = g.node("wider", kernels::Layout::Concat, &[h, h])?;
            let h = g.node("narrow", kernels::Layout::Slice { from: 8, to: 24 }, &[h])?;
            parts.push(g.node("last", scale(0.5), &[h])?);
            first += n;
        }
        let joined = g.join(&parts)?;
        g.output("y", joined);
        // A part of a whole that is read after all of it was written.
        let tail = g.part(joined, 5, 2)?;
        let tail = g.node("tail", scale(-1.0), &[tail])?;
        g.output("tail", tail);
        Ok(g.pruned())
    };
    let device = Device::open("cpu")?;
    let x = HostTensor::from_fn([7, 2, 16], |i| i as f32);
    let mut results = Vec::new();
    for portions in [&[7][..], &[3, 3, 1], &[2, 3, 2]] {
        let plan = Plan::new(&build(portions)?, &device)?;
        plan.poison()?;
        results.push((plan.run_host(&[&x])?, plan.report().arena));
    }
    for (values, arena) in &results[1..] {
        assert!(values.iter().zip(&results[0].0).all(|(a, b)| a.to_f32() == b.to_f32()));
        assert!(*arena < results[0].1, "{arena}");
    }
    let whole = &results[0].0;
    let tail: Vec<f32> = whole[0].to_f32()[5 * 32..].iter().map(|v| -v).collect();
    assert_eq!(whole[1].to_f32(), tail);
    let mut g = Graph::new();
    let x = g.input("x", TensorDesc::new([3, 5], DType::F32));
    let refused = |r: Result<_, muybridge::runtime::Error>| r.unwrap_err().to_string();
    assert!(refused(g.part(x, 2, 2)).contains("2 items"));
    assert!(refused(g.join(&[x, x])).contains("not the result of a node"));
    let a = g.node("a", scale(1.0), &[x])?;
    let b = g.part(a, 0, 1)?;
    assert!(refused(g.join(&[a, b])).contains("not the result of a node"));
    let c = g.node("c", scale(1.0), &[b])?;
    g.join(&[a, c])?;
    assert!(refused(g.join(&[c])).contains("already"));
    // Rows of 20 bytes cannot be bound one by one.
    let one = g.part(x, 1, 1)?;
    let one = g.node("one", scale(1.0), &[one])?;
    g.output("one", one);
    assert!(Plan::new(&g, &device).unwrap_err().to_string().contains("multiples of"));
    Ok(())
}

//! The wgpu backend on every adapter of the machine. Without one the tests are ignored, with the reason; where the
//! environment variable CI is set, that is a failure.

mod ops;

use std::sync::Arc;
use std::time::Instant;

use libtest_mimic::{Arguments, Failed, Trial};
use muybridge_runtime::backend::Backend;
use muybridge_runtime::backend::wgpu::{self as backend, WgpuBackend};
use muybridge_runtime::{
    DType, Device, DeviceOptions, Error, Graph, HostTensor, Plan, PlanOptions, Result, Tensor, TensorDesc, Weight,
};

use self::ops::{Negate, ScaleAdd};

type Outcome = std::result::Result<(), Failed>;
type Test = fn(usize) -> Outcome;

const TESTS: &[(&str, Test)] = &[
    ("runs_with_weights_and_values", runs_with_weights_and_values),
    ("chains_and_repeats", chains_and_repeats),
    ("plans_share_weights_and_pipelines", plans_share_weights_and_pipelines),
    ("states_stay", states_stay),
    ("default_limits", default_limits),
    ("splits_at_the_binding_limit", splits_at_the_binding_limit),
    ("times_nodes", times_nodes),
    ("times_more_nodes_than_one_query_set_holds", times_many_nodes),
    ("guards_stay_intact", guards_stay_intact),
    ("checked_kernels_agree", checked_kernels_agree),
    ("a_refused_kernel_is_named", a_refused_kernel_is_named),
    ("copies_any_range", copies_any_range),
    ("copies_more_than_one_chunk", copies_more_than_one_chunk),
    ("too_much_memory_is_a_typed_error", too_much_memory),
    ("a_lost_device_is_a_typed_error", a_lost_device),
    ("buffers_of_other_devices_are_refused", foreign_buffers),
    ("runs_from_many_threads", runs_from_many_threads),
    ("encoding_time", encoding_time),
];

fn main() {
    let args = Arguments::from_args();
    let mut trials = Vec::new();
    for (i, found) in backend::list().into_iter().enumerate() {
        assert_eq!(found.name, format!("wgpu:{i}"));
        let name = &found.name;
        let caps = match found.caps {
            Ok(caps) => caps,
            Err(reason) if std::env::var_os("CI").is_some() => {
                trials.push(Trial::test(format!("{name}/adapter"), || Err(Failed::from(reason))));
                continue;
            }
            Err(reason) => {
                trials.extend(TESTS.iter().map(|(test, _)| ignored(name, test, &reason)));
                continue;
            }
        };
        trials.extend(TESTS.iter().map(|&(test, run)| Trial::test(format!("{name}/{test}"), move || run(i))));
        trials.push(match caps.f16 {
            true => Trial::test(format!("{name}/f16"), move || f16_runs(i)),
            false => ignored(name, "f16", &format!("{} has no f16", caps.name)),
        });
    }
    libtest_mimic::run(&args, trials).exit();
}

fn ignored(device: &str, test: &str, reason: &str) -> Trial {
    Trial::test(format!("{device}/{test} ({reason})"), || Ok(())).with_ignored_flag(true)
}

fn open(index: usize, options: &DeviceOptions) -> Result<Device> {
    Device::open_with(&format!("wgpu:{index}"), options)
}

fn plain(index: usize) -> Result<Device> {
    open(index, &DeviceOptions::default())
}

fn ensure(holds: bool, what: impl Into<String>) -> Outcome {
    if holds { Ok(()) } else { Err(Failed::from(what.into())) }
}

/// Small integers: every product and sum of the tests is exact in every dtype.
fn ramp(n: usize, modulus: usize) -> HostTensor {
    HostTensor::from_fn([n], |i| (i % modulus) as f32)
}

/// `nodes` times `x = x + w`.
fn sums(n: usize, nodes: usize, dtype: DType) -> Result<(Graph, Weight)> {
    let mut g = Graph::new();
    let weight = Weight::owned("w", ramp(n, 5).convert(dtype));
    let mut x = g.input("x", TensorDesc::new([n], dtype));
    let w = g.weight(&weight);
    for i in 0..nodes {
        x = g.node(&format!("blocks.{i}"), ScaleAdd(1.0), &[x, w])?;
    }
    g.output("y", x);
    Ok((g, weight))
}

fn expect_sums(got: &HostTensor, x: &HostTensor, nodes: usize) -> Outcome {
    let (got, x) = (got.to_f32(), x.to_f32());
    let wrong = (0..x.len()).find(|&i| got[i] != x[i] + (nodes * (i % 5)) as f32);
    ensure(got.len() == x.len() && wrong.is_none(), format!("element {wrong:?}: {:?}", wrong.map(|i| got[i])))
}

fn runs_with_weights_and_values(index: usize) -> Outcome {
    let device = plain(index)?;
    let desc = TensorDesc::new([1000], DType::F32);
    let mut g = Graph::new();
    let (x, y) = (g.input("x", desc), g.input("y", desc));
    let w = g.weight(&Weight::owned("w", ramp(1000, 3)));
    let a = g.node("a", ScaleAdd(2.0), &[x, w])?;
    let b = g.node("b", ScaleAdd(-1.0), &[a, y])?;
    let c = g.node("c", Negate { broken: false }, &[b])?;
    // One value as both operands of one launch.
    let d = g.node("d", ScaleAdd(1.0), &[c, c])?;
    g.output("a", a);
    g.output("d", d);
    let plan = Plan::new(&g, &device)?;
    let out = plan.run_host(&[&ramp(1000, 11), &ramp(1000, 7)])?;
    for i in 0..1000 {
        let a = 2.0 * (i % 11) as f32 + (i % 3) as f32;
        ensure(out[0].to_f32()[i] == a, format!("a[{i}]"))?;
        ensure(out[1].to_f32()[i] == 2.0 * (a - (i % 7) as f32), format!("d[{i}]"))?;
    }
    Ok(())
}

fn chains_and_repeats(index: usize) -> Outcome {
    let device = plain(index)?;
    let (graph, _) = sums(5000, 40, DType::F32)?;
    let plan = Plan::new(&graph, &device)?;
    let x = ramp(5000, 13);
    let input = device.tensor(&x)?;
    let outputs = plan.empty_outputs()?;
    let before = device.memory();
    for _ in 0..20 {
        plan.run_into(&[&input], &outputs)?;
    }
    ensure(device.memory() == before, "a run allocates")?;
    expect_sums(&outputs[0].to_host()?, &x, 40)?;
    let again = plan.run(&[&outputs[0]])?;
    expect_sums(&again[0].to_host()?, &x, 80)
}

fn plans_share_weights_and_pipelines(index: usize) -> Outcome {
    let device = plain(index)?;
    let (graph, weight) = sums(1 << 20, 2, DType::F32)?;
    let first = Plan::new(&graph, &device)?;
    let one = device.memory().current;
    let started = Instant::now();
    let second = Plan::new(&graph, &device)?;
    let seconds = started.elapsed().as_secs_f64();
    let two = device.memory().current;
    let activations = second.report().arena;
    ensure(two - one < activations + 4096, format!("{} bytes for a second plan over {activations}", two - one))?;
    ensure(one >= activations + weight.desc().bytes(), "the weight is not counted")?;
    let x = ramp(1 << 20, 4);
    drop(first);
    expect_sums(&second.run_host(&[&x])?[0], &x, 2)?;
    drop(second);
    ensure(device.memory().current == 0, format!("{} bytes are left", device.memory().current))?;
    println!("a second plan of the same kernels took {:.2} ms", seconds * 1e3);
    Ok(())
}

fn states_stay(index: usize) -> Outcome {
    let device = plain(index)?;
    let desc = TensorDesc::new([77], DType::F32);
    let mut g = Graph::new();
    let (x, s) = (g.input("x", desc), g.state("s", desc));
    let y = g.node("y", ScaleAdd(1.0), &[x, s])?;
    g.output("y", y);
    let plan = Plan::new(&g, &device)?;
    let x = ramp(77, 9);
    for offset in [5.0f32, -3.0] {
        plan.set("s", &HostTensor::from_fn([77], |_| offset))?;
        for _ in 0..2 {
            let y = plan.run_host(&[&x])?[0].to_f32();
            ensure((0..77).all(|i| y[i] == (i % 9) as f32 + offset), "the state is not added")?;
        }
    }
    Ok(())
}

fn default_limits(index: usize) -> Outcome {
    let device = open(index, &DeviceOptions { default_limits: true, ..DeviceOptions::default() })?;
    let caps = device.caps();
    let want = (128 << 20, 256 << 20, 8, 256, 65_535, 256, 16_384);
    let got = (
        caps.max_binding,
        caps.max_buffer,
        caps.max_storage_bindings,
        caps.binding_align,
        caps.max_workgroups,
        caps.max_invocations,
        caps.max_shared,
    );
    ensure(got == want, format!("{got:?}, WebGPU's defaults are {want:?}"))?;
    // More workgroups than one dimension takes.
    let n = 65_535 * 64 + 1000;
    let (graph, _) = sums(n, 1, DType::F32)?;
    let x = ramp(n, 6);
    expect_sums(&Plan::new(&graph, &device)?.run_host(&[&x])?[0], &x, 1)
}

fn splits_at_the_binding_limit(index: usize) -> Outcome {
    let options =
        DeviceOptions { default_limits: true, max_binding: Some((1 << 20) + 100), ..DeviceOptions::default() };
    let device = open(index, &options)?;
    ensure(device.caps().max_binding == 1 << 20, "the limit is not cut to whole units")?;
    let n = (5 << 18) + 77;
    let (graph, _) = sums(n, 3, DType::F32)?;
    let plan = Plan::new(&graph, &device)?;
    ensure(plan.report().launches() == 18, format!("{} launches", plan.report().launches()))?;
    let x = ramp(n, 10);
    expect_sums(&plan.run_host(&[&x])?[0], &x, 3)
}

fn times_nodes(index: usize) -> Outcome {
    // Without default limits stamps lie inside one pass, where the adapter can; with them each node has a pass.
    for default_limits in [false, true] {
        let device = open(index, &DeviceOptions { default_limits, ..DeviceOptions::default() })?;
        if !device.caps().timestamps {
            return Err("the adapter has no timestamps".into());
        }
        let (graph, _) = sums(1 << 20, 8, DType::F32)?;
        let plan = Plan::new(&graph, &device)?;
        let x = ramp(1 << 20, 8);
        let (input, outputs) = (device.tensor(&x)?, plan.empty_outputs()?);
        plan.run_into(&[&input], &outputs)?;
        let profile = plan.profile(&[&input], &outputs)?;
        expect_sums(&outputs[0].to_host()?, &x, 8)?;
        let busy = profile.busy();
        let text = format!("busy {busy} s, wall {} s, nodes {:?}", profile.wall, profile.nodes);
        ensure(profile.nodes.iter().all(|n| n.seconds > 0.0) && busy < profile.wall * 1.05, text)?;
    }
    Ok(())
}

fn times_many_nodes(index: usize) -> Outcome {
    for default_limits in [false, true] {
        let device = open(index, &DeviceOptions { default_limits, ..DeviceOptions::default() })?;
        let (graph, _) = sums(64, 4500, DType::F32)?;
        let plan = Plan::new(&graph, &device)?;
        let x = ramp(64, 8);
        let (input, outputs) = (device.tensor(&x)?, plan.empty_outputs()?);
        let profile = plan.profile(&[&input], &outputs)?;
        expect_sums(&outputs[0].to_host()?, &x, 4500)?;
        let timed = profile.nodes.iter().filter(|n| n.seconds > 0.0 && n.seconds < profile.wall).count();
        ensure(timed > 4000, format!("{timed} of 4500 nodes have a plausible time"))?;
    }
    Ok(())
}

fn guards_stay_intact(index: usize) -> Outcome {
    let device = plain(index)?;
    let dtypes = if device.caps().f16 { &[DType::F32, DType::F16][..] } else { &[DType::F32] };
    for &dtype in dtypes {
        let (graph, _) = sums(1001, 3, dtype)?;
        let plan = Plan::with(&graph, &device, &PlanOptions { guard: 256, ..PlanOptions::default() })?;
        plan.poison()?;
        let x = ramp(1001, 6).convert(dtype);
        expect_sums(&plan.run_host(&[&x])?[0], &x, 3)?;
        ensure(plan.guards_intact()?, format!("a guard round {dtype} was written"))?;
    }
    Ok(())
}

fn checked_kernels_agree(index: usize) -> Outcome {
    let device = open(index, &DeviceOptions { checked: true, ..DeviceOptions::default() })?;
    let (graph, _) = sums(3000, 5, DType::F32)?;
    let x = ramp(3000, 12);
    expect_sums(&Plan::new(&graph, &device)?.run_host(&[&x])?[0], &x, 5)
}

fn f16_runs(index: usize) -> Outcome {
    let (graph, _) = sums(1001, 3, DType::F16)?;
    let x = ramp(1001, 6).convert(DType::F16);
    expect_sums(&Plan::new(&graph, &plain(index)?)?.run_host(&[&x])?[0], &x, 3)?;
    let without = open(index, &DeviceOptions { no_f16: true, no_subgroups: true, ..DeviceOptions::default() })?;
    ensure(!without.caps().f16 && without.caps().subgroups.is_none(), "features that were declined")?;
    match Plan::new(&graph, &without) {
        Err(Error::NoVariant { .. }) => Ok(()),
        other => Err(format!("{other:?} for f16 without f16").into()),
    }
}

fn a_refused_kernel_is_named(index: usize) -> Outcome {
    let device = plain(index)?;
    let mut g = Graph::new();
    let x = g.input("x", TensorDesc::new([64], DType::F32));
    let y = g.node("y", Negate { broken: true }, &[x])?;
    g.output("y", y);
    match Plan::new(&g, &device) {
        Err(Error::Compile { file, message }) => {
            ensure(file.ends_with("negate.wgsl") && message.contains("WGSL"), format!("{file}: {message}"))?;
        }
        other => return Err(format!("{other:?}").into()),
    }
    let (graph, _) = sums(64, 1, DType::F32)?;
    let x = ramp(64, 5);
    expect_sums(&Plan::new(&graph, &device)?.run_host(&[&x])?[0], &x, 1)
}

fn copies_any_range(index: usize) -> Outcome {
    let backend = WgpuBackend::new(index, &DeviceOptions::default())?;
    let buffer = backend.allocate(1003, "a test")?;
    let mut mirror = vec![0u8; 1003];
    backend.write(&*buffer, 0, &mirror)?;
    let mut state = 12345u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    for step in 0..60 {
        let start = random(1003);
        let len = if step % 3 == 0 { random(6).min(1003 - start) } else { random(1004 - start) };
        let bytes: Vec<u8> = (0..len).map(|_| random(256) as u8).collect();
        backend.write(&*buffer, start as u64, &bytes)?;
        mirror[start..start + len].copy_from_slice(&bytes);
        let (from, count) = (random(1003), random(400));
        let count = count.min(1003 - from);
        let mut found = vec![0u8; count];
        backend.read(&*buffer, from as u64, &mut found)?;
        ensure(found == mirror[from..from + count], format!("step {step}: {count} bytes from {from}"))?;
    }
    let mut all = vec![0u8; 1003];
    backend.read(&*buffer, 0, &mut all)?;
    ensure(all == mirror, "the whole buffer differs")?;
    ensure(backend.read(&*buffer, 1000, &mut [0; 100]).is_err(), "read beyond the end")?;
    ensure(backend.write(&*buffer, u64::MAX, &[0; 2]).is_err(), "wrote beyond the end")
}

fn copies_more_than_one_chunk(index: usize) -> Outcome {
    let backend = WgpuBackend::new(index, &DeviceOptions::default())?;
    let n = (70usize << 20) + 3;
    let buffer = backend.allocate(n as u64, "a test")?;
    let bytes: Vec<u8> = (0..n).map(|i| (i / 4093) as u8).collect();
    backend.write(&*buffer, 0, &bytes)?;
    let mut found = vec![0u8; n - 1];
    backend.read(&*buffer, 1, &mut found)?;
    ensure(found == bytes[1..], "what was read is not what was written")
}

fn too_much_memory(index: usize) -> Outcome {
    let backend = backend::open(index, &DeviceOptions::default())?;
    for bytes in [u64::MAX, 1 << 60] {
        match backend.allocate(bytes, "a test").map(|b| b.bytes()) {
            Err(Error::OutOfMemory { wanted, limit: Some(_), .. }) => ensure(wanted == bytes, "another size")?,
            other => return Err(format!("{other:?}").into()),
        }
    }
    let device = Device::from_backend("full", backend);
    let mut large = Graph::new();
    let x = large.input("x", TensorDesc::new([1 << 45], DType::F32));
    large.output("y", x);
    match Plan::new(&large, &device) {
        Err(Error::OutOfMemory { wanted, .. }) => ensure(wanted == 1 << 47, format!("{wanted} bytes"))?,
        other => return Err(format!("{other:?}").into()),
    }
    let (graph, _) = sums(64, 1, DType::F32)?;
    let x = ramp(64, 5);
    expect_sums(&Plan::new(&graph, &device)?.run_host(&[&x])?[0], &x, 1)
}

fn a_lost_device(index: usize) -> Outcome {
    let backend = Arc::new(WgpuBackend::new(index, &DeviceOptions::default())?);
    let device = Device::from_backend("lost", backend.clone());
    let (graph, _) = sums(64, 1, DType::F32)?;
    let plan = Plan::new(&graph, &device)?;
    let x = ramp(64, 5);
    let input = device.tensor(&x)?;
    let outputs = plan.run(&[&input])?;
    backend.destroy();
    let lost = |r: Result<()>| matches!(r, Err(Error::DeviceLost { .. }));
    ensure(lost(plan.run_into(&[&input], &outputs)), "run")?;
    ensure(lost(plan.profile(&[&input], &outputs).map(drop)), "profile")?;
    ensure(lost(outputs[0].to_host().map(drop)), "read")?;
    ensure(lost(device.tensor(&x).map(drop)), "allocate")?;
    ensure(lost(Plan::new(&graph, &device).map(drop)), "compile")?;
    let other = plain(index)?;
    expect_sums(&Plan::new(&graph, &other)?.run_host(&[&x])?[0], &x, 1)
}

fn foreign_buffers(index: usize) -> Outcome {
    let (a, b) = (backend::open(index, &DeviceOptions::default())?, backend::open(index, &DeviceOptions::default())?);
    let buffer = a.allocate(64, "a test")?;
    match b.write(&*buffer, 0, &[0; 64]) {
        Err(Error::Driver { reason, .. }) => ensure(reason.contains("another device"), reason),
        other => Err(format!("{other:?}").into()),
    }
}

fn runs_from_many_threads(index: usize) -> Outcome {
    let device = plain(index)?;
    let (graph, _) = sums(4096, 6, DType::F32)?;
    let plan = Plan::new(&graph, &device)?;
    let one = |offset: usize| -> Outcome {
        let x = HostTensor::from_fn([4096], |i| ((i + offset) % 17) as f32);
        let input = device.tensor(&x)?;
        let own = Plan::new(&graph, &device)?;
        for _ in 0..8 {
            expect_sums(&plan.run(&[&input])?[0].to_host()?, &x, 6)?;
            expect_sums(&own.run(&[&input])?[0].to_host()?, &x, 6)?;
        }
        Ok(())
    };
    std::thread::scope(|s| {
        let threads: Vec<_> = (0..4).map(|i| s.spawn(move || one(i))).collect();
        threads.into_iter().try_for_each(|t| t.join().map_err(|_| Failed::from("panicked"))?)
    })
}

fn encoding_time(index: usize) -> Outcome {
    let device = plain(index)?;
    let (graph, _) = sums(64, 1000, DType::F32)?;
    let plan = Plan::new(&graph, &device)?;
    let x = ramp(64, 5);
    let (input, outputs): (Tensor, Vec<Tensor>) = (device.tensor(&x)?, plan.empty_outputs()?);
    let mut best = f64::MAX;
    for _ in 0..20 {
        let started = Instant::now();
        plan.run_into(&[&input], &outputs)?;
        best = best.min(started.elapsed().as_secs_f64());
        outputs[0].to_host()?;
    }
    println!("{}: {:.2} µs a node to encode and submit", device.name(), best * 1e6 / 1000.0);
    Ok(())
}

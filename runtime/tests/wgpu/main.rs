//! The wgpu backend on every adapter of the machine. Without one the tests are ignored, with the reason; where the
//! environment variable CI is set, that is a failure.

mod faults;
mod ops;
mod times;

use std::time::Instant;

use libtest_mimic::{Arguments, Failed, Trial};
use muybridge_runtime::backend::wgpu as backend;
use muybridge_runtime::{
    DType, Device, DeviceOptions, Error, Graph, HostTensor, Plan, PlanOptions, Result, TensorDesc, Weight,
};

use self::ops::{Negate, PLAIN, SUBGROUP, ScaleAdd};

type Outcome = std::result::Result<(), Failed>;
type Test = fn(usize) -> Outcome;

const TESTS: &[(&str, Test)] = &[
    ("runs_with_weights_and_values", runs_with_weights_and_values),
    ("chains_and_repeats", chains_and_repeats),
    ("plans_share_weights_and_pipelines", plans_share_weights_and_pipelines),
    ("states_stay", states_stay),
    ("default_limits", default_limits),
    ("splits_at_the_binding_limit", splits_at_the_binding_limit),
    ("times_nodes", times::times_nodes),
    ("times_more_nodes_than_one_query_set_holds", times::times_many_nodes),
    ("guards_stay_intact", guards_stay_intact),
    ("checked_kernels_agree", checked_kernels_agree),
    ("a_refused_kernel_is_named", faults::a_refused_kernel_is_named),
    ("copies_any_range", faults::copies_any_range),
    ("copies_more_than_one_chunk", faults::copies_more_than_one_chunk),
    ("too_much_memory_is_a_typed_error", faults::too_much_memory),
    ("a_lost_device_is_a_typed_error", faults::a_lost_device),
    ("buffers_of_other_devices_are_refused", faults::foreign_buffers),
    ("runs_from_many_threads", runs_from_many_threads),
    ("encoding_time", times::encoding_time),
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
                let tests = TESTS.iter().map(|(test, _)| *test).chain(["f16", "subgroups"]);
                trials.extend(tests.map(|test| ignored(name, test, &reason)));
                continue;
            }
        };
        trials.extend(TESTS.iter().map(|&(test, run)| Trial::test(format!("{name}/{test}"), move || run(i))));
        trials.push(match caps.f16 {
            true => Trial::test(format!("{name}/f16"), move || f16_runs(i)),
            false => ignored(name, "f16", &format!("{} has no f16", caps.name)),
        });
        trials.push(match caps.subgroups {
            Some(_) => Trial::test(format!("{name}/subgroups"), move || subgroups_run(i)),
            None => ignored(name, "subgroups", &format!("{} has no subgroup operations", caps.name)),
        });
    }
    libtest_mimic::run(&args, trials).exit();
}

fn ignored(device: &str, test: &str, reason: &str) -> Trial {
    let reason = reason.split(". ").next().unwrap_or(reason);
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
    let c = g.node("c", Negate(PLAIN), &[b])?;
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

fn subgroups_run(index: usize) -> Outcome {
    let device = plain(index)?;
    let mut g = Graph::new();
    let x = g.input("x", TensorDesc::new([1000], DType::F32));
    let y = g.node("y", Negate(SUBGROUP), &[x])?;
    g.output("y", y);
    let y = Plan::new(&g, &device)?.run_host(&[&ramp(1000, 31)])?[0].to_f32();
    ensure((0..1000).all(|i| y[i] == -((i % 31) as f32)), "an element differs")
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

//! The CUDA backend over the emulator: finding a device or saying why there is none, errors that leave the process usable,
//! replay of captured graphs, node times, kernels kept on disk, and recorded cases of whole networks.

#[path = "../emulator/mod.rs"]
mod emulator;
mod faults;
mod golden;
mod older;
mod packs;
mod ranges;
#[path = "../emulator/sanitizer.rs"]
mod sanitizer;
mod sanitizers;
mod script;

use std::path::{Path, PathBuf};
use std::process::Command;

use libtest_mimic::{Arguments, Failed, Trial};
use muybridge::kernels::wrappers::WRAPPERS;
use muybridge::profiling::doctor;
use muybridge::runtime::source::Binding;
use muybridge::runtime::{
    Arg, Code, Cost, DType, Device, Error, Graph, HostTensor, KernelSource, Launch, Lowering, Mismatch, Op, Plan, Site,
    Target, TensorDesc, Variant,
};

/// Where the stand-ins are built.
const FOLDER: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/emulator");

/// Set in a child process that only reports what it finds.
const PROBE: &str = "MUYBRIDGE_PROBE";

/// `y = f(x)` by a text of its own.
#[derive(Debug)]
struct Text(&'static str);

const DOUBLE: Text = Text("KERNEL own(OPERANDS) { y[threadIdx.x] = 2.0f * x[threadIdx.x]; }");
const WILD: Text = Text("KERNEL own(OPERANDS) { y[(1ull << 40) + threadIdx.x] = x[threadIdx.x]; }");
const DIVERGENT: Text =
    Text("KERNEL own(OPERANDS) { if (threadIdx.x < 7) __syncthreads(); else __syncwarp(); y[0] = x[0]; }");
const BROKEN: Text = Text("KERNEL own(OPERANDS) {\n    y[0] = undeclared;\n}");
const NAMELESS: Text = Text("KERNEL another(OPERANDS) { y[0] = x[0]; }");

impl Op for Text {
    fn name(&self) -> &'static str {
        "own"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<TensorDesc, Mismatch> {
        Ok(inputs[0])
    }

    fn cost(&self, inputs: &[TensorDesc], output: &TensorDesc) -> Cost {
        Cost::with_traffic(0, inputs, output)
    }

    fn variants(&self) -> &'static [Variant] {
        &[Variant { name: "simple", target: Target::Cuda, launches: 1 }]
    }

    fn lower(&self, _: &Variant, site: &Site<'_>) -> Option<Lowering> {
        let buffer = |name| Binding::Buffer { name, dtype: DType::F32, lanes: 1, constant: false };
        let source = KernelSource {
            file: "own.cu",
            text: self.0,
            entry: "own",
            bindings: vec![buffer("x"), buffer("y")],
            ..KernelSource::default()
        };
        let launch = Launch {
            code: Code::Kernel(source),
            grid: [1; 3],
            block: [site.output.shape.count() as u32, 1, 1],
            shared: 0,
            args: vec![Arg::input(0), Arg::output()],
            maps: Vec::new(),
            params: Vec::new(),
        };
        Some(Lowering { launches: vec![launch], ..Lowering::default() })
    }
}

const COUNT: usize = 32;

fn plan(device: &Device, ops: impl IntoIterator<Item = Text>) -> Result<Plan, Error> {
    let mut g = Graph::new();
    let mut v = g.input("x", TensorDesc::new([COUNT], DType::F32));
    for op in ops {
        v = g.node("a.b", op, &[v])?;
    }
    g.output("y", v);
    Plan::new(&g, device)
}

fn numbers(first: f32) -> HostTensor {
    HostTensor::from_fn([COUNT], |i| first + i as f32)
}

fn main() {
    let args = Arguments::from_args();
    if faults::is_child() {
        return faults::child();
    }
    if ranges::is_child() {
        return ranges::child().unwrap_or_else(|e| {
            eprintln!("{e:?}");
            std::process::exit(1)
        });
    }
    if std::env::var_os(PROBE).is_some() {
        return probe();
    }
    if older::is_child() || sanitizers::is_child() {
        let work = if older::is_child() { older::child } else { sanitizers::child };
        return work().unwrap_or_else(|e| {
            eprintln!("{e}");
            std::process::exit(1)
        });
    }
    if let Err(reason) = emulator::enter(Path::new(FOLDER)) {
        let promised = std::env::var_os("CI").is_some();
        let text = reason.clone();
        let trial = Trial::test(format!("cuda [no emulator: {reason}]"), move || Err(Failed::from(text)));
        libtest_mimic::run(&args, vec![trial.with_ignored_flag(!promised)]).exit();
    }
    let mut trials = vec![
        Trial::test("a_plan_is_replayed_on_new_operands", replay),
        Trial::test("every_node_is_timed", times),
        Trial::test("a_crash_loses_the_device_and_nothing_else", crash),
        Trial::test("a_divergent_kernel_is_an_error", divergent),
        Trial::test("a_refused_kernel_names_its_file_and_line", refused),
        Trial::test("devices_that_cannot_be_had_say_why", missing),
        Trial::test("too_little_memory_is_an_error_and_passes", memory),
        Trial::test("memory_is_counted", counted),
        Trial::test("kept_kernels_run_without_a_compiler", kept),
        Trial::test("processes_share_a_cache", shared),
        Trial::test("wrappers_give_what_is_recorded", wrappers),
    ];
    trials.extend(faults::trials());
    trials.extend(packs::trials());
    trials.extend(golden::trials());
    trials.extend(older::trials());
    trials.extend(ranges::trials());
    trials.extend(sanitizers::trials(Path::new(FOLDER)));
    trials.push(script::trial());
    libtest_mimic::run(&args, trials).exit();
}

fn replay() -> Result<(), Failed> {
    let device = Device::open("cuda:0")?;
    let plan = plan(&device, [DOUBLE, DOUBLE])?;
    for first in [0.0, 7.0] {
        let want: Vec<f32> = (0..COUNT).map(|i| 4.0 * (first + i as f32)).collect();
        if plan.run_host(&[&numbers(first)])?[0].to_f32() != want {
            return Err("a replay gives something else".into());
        }
    }
    Ok(())
}

fn times() -> Result<(), Failed> {
    let device = Device::open("cuda:0")?;
    let plan = plan(&device, [DOUBLE, DOUBLE, DOUBLE])?;
    let outputs = plan.empty_outputs()?;
    let profile = plan.profile(&[&device.tensor(&numbers(1.0))?], &outputs)?;
    let all = profile.nodes.len() == 3 && profile.nodes.iter().all(|n| n.seconds > 0.0);
    let right = outputs[0].to_host()?.to_f32()[0] == 8.0;
    if all && right && profile.busy() <= profile.wall { Ok(()) } else { Err(format!("{profile:?}").into()) }
}

fn crash() -> Result<(), Failed> {
    let device = Device::open("cuda:1")?;
    let lost = |r: Result<(), Error>| match r {
        Err(Error::DeviceLost { .. }) => Ok(()),
        other => Err(Failed::from(format!("wanted a lost device, got {other:?}"))),
    };
    let crashing = plan(&device, [WILD])?;
    lost(crashing.run_host(&[&numbers(0.0)]).map(drop))?;
    lost(device.tensor(&numbers(0.0)).map(drop))?;
    lost(plan(&device, [DOUBLE]).map(drop))?;
    // Another device goes on, and so does this one once nothing refers to the old context.
    plan(&Device::open("cuda:2")?, [DOUBLE])?.run_host(&[&numbers(0.0)])?;
    drop((crashing, device));
    plan(&Device::open("cuda:1")?, [DOUBLE])?.run_host(&[&numbers(0.0)])?;
    Ok(())
}

fn divergent() -> Result<(), Failed> {
    let crashing = plan(&Device::open("cuda:3")?, [DIVERGENT])?;
    match crashing.run_host(&[&numbers(0.0)]) {
        Err(Error::DeviceLost { .. }) => Ok(()),
        other => Err(format!("{other:?}").into()),
    }
}

fn refused() -> Result<(), Failed> {
    let device = Device::open("cuda:0")?;
    let message = |op| match plan(&device, [op]) {
        Err(e @ Error::Compile { .. }) => Ok(e.to_string()),
        other => Err(Failed::from(format!("{other:?}"))),
    };
    let (broken, nameless) = (message(BROKEN)?, message(NAMELESS)?);
    let right =
        broken.contains("own.cu(2): error") && nameless.contains("own.cu") && nameless.contains("no kernel own");
    if right { Ok(()) } else { Err(format!("{broken}\n{nameless}").into()) }
}

/// What a child finds: the device, a plan's result, and its memory.
fn probe() {
    let device = match Device::open("cuda:0") {
        Ok(device) => device,
        Err(e) => return println!("open: {e}"),
    };
    match plan(&device, [DOUBLE]).and_then(|p| p.run_host(&[&numbers(1.0)])) {
        Ok(y) => println!("ran: {}", y[0].to_f32()[1]),
        Err(e) => println!("plan: {e}"),
    }
    let large = device.tensor(&HostTensor::zeros(TensorDesc::new([1 << 20], DType::F32)));
    println!("large: {}", large.map_or_else(|e| e.to_string(), |_| "fits".into()));
    println!("small: {}", device.tensor(&numbers(0.0)).map_or_else(|e| e.to_string(), |_| "fits".into()));
}

/// A child with another environment. A library path of its own leaves out what is not to be found.
fn child(changes: &[(&str, &str)]) -> Result<Command, Failed> {
    let mut command = Command::new(std::env::current_exe()?);
    command.env(PROBE, "1").envs(changes.iter().copied());
    Ok(command)
}

fn report(command: &mut Command) -> Result<String, Failed> {
    let out = command.output()?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    if out.status.success() && !String::from_utf8_lossy(&out.stderr).contains("panicked") {
        return Ok(text);
    }
    Err(format!("the child failed: {text}{}", String::from_utf8_lossy(&out.stderr)).into())
}

/// An empty folder of this test.
fn folder(name: &str) -> Result<PathBuf, Failed> {
    let path = Path::new(FOLDER).join(format!("{name}-{}", std::process::id()));
    drop(std::fs::remove_dir_all(&path));
    std::fs::create_dir_all(&path)?;
    Ok(path)
}

/// A library path that has the driver and no compiler.
fn without_compiler(name: &str) -> Result<PathBuf, Failed> {
    let path = folder(&format!("driver-for-{name}"))?;
    for name in ["libcuda.so", "libcuda.so.1"] {
        std::fs::copy(Path::new(FOLDER).join(name), path.join(name))?;
    }
    Ok(path)
}

fn missing() -> Result<(), Failed> {
    let cases = [
        (("LD_LIBRARY_PATH", "/nonexistent"), "no NVIDIA driver"),
        (("EMULATOR_DEVICES", "0"), "CUDA_ERROR_NO_DEVICE (no CUDA-capable device is detected)"),
        (("EMULATOR_DRIVER", "11080"), "the NVIDIA driver supports CUDA 11.8, and 12.0 at least is needed"),
        (("EMULATOR_CAPABILITY", "61"), "has compute capability 6.1, and 7.5 at least is needed"),
    ];
    for (change, want) in cases {
        let got = report(&mut child(&[change])?)?;
        if !got.starts_with("open: ") || !got.contains(want) {
            return Err(format!("{change:?}: {got:?} does not say {want:?}").into());
        }
    }
    match Device::open("cuda:8") {
        Err(Error::NoDevice { reason, .. }) if reason.contains("are 8 devices") => Ok(()),
        other => Err(format!("{other:?}").into()),
    }
}

fn memory() -> Result<(), Failed> {
    let got = report(&mut child(&[("EMULATOR_MEMORY", "1000000")])?)?;
    let want = ["ran: 4", "large: cuda:0: out of memory: 4194304 bytes wanted", "small: fits"];
    if want.iter().all(|w| got.contains(w)) { Ok(()) } else { Err(got.into()) }
}

fn counted() -> Result<(), Failed> {
    let device = Device::open("cuda:4")?;
    let tensors = (0..3).map(|_| device.tensor(&numbers(0.0))).collect::<Result<Vec<_>, _>>()?;
    let (held, bytes) = (device.memory(), 4 * COUNT as u64);
    drop(tensors);
    let left = device.memory();
    let right = held.current == 3 * bytes && left.current == 0 && left.peak == 3 * bytes && left.allocations == 3;
    if right { Ok(()) } else { Err(format!("{held:?} {left:?}").into()) }
}

fn kept() -> Result<(), Failed> {
    let (cache, driver) = (folder("kept")?, without_compiler("kept")?);
    let [cache, driver] = [&cache, &driver].map(|p| p.to_string_lossy().into_owned());
    let bare = [("MUYBRIDGE_CACHE", cache.as_str()), ("LD_LIBRARY_PATH", driver.as_str())];
    let before = report(&mut child(&bare)?)?;
    if !before.contains("NVRTC was not found") {
        return Err(format!("without compiler and cache: {before}").into());
    }
    report(&mut child(&bare[..1])?)?;
    let after = report(&mut child(&bare)?)?;
    if after.contains("ran: 4") { Ok(()) } else { Err(format!("with a cache: {after}").into()) }
}

fn shared() -> Result<(), Failed> {
    let cache = folder("shared")?;
    let name = cache.to_string_lossy().into_owned();
    let mut children = (0..3)
        .map(|_| Ok(child(&[("MUYBRIDGE_CACHE", &name)])?.stdout(std::process::Stdio::null()).spawn()?))
        .collect::<Result<Vec<_>, Failed>>()?;
    for one in &mut children {
        if !one.wait()?.success() {
            return Err("a process failed".into());
        }
    }
    let files: Vec<_> = std::fs::read_dir(cache.join("cuda"))?.flatten().collect();
    let damaged = files.first().ok_or("nothing is kept")?.path();
    if files.len() != 1 {
        return Err(format!("one kernel is {} files", files.len()).into());
    }
    // A damaged file is compiled over.
    std::fs::write(&damaged, "torn")?;
    let got = report(&mut child(&[("MUYBRIDGE_CACHE", &name)])?)?;
    let whole = std::fs::metadata(&damaged)?.len() > 1000;
    if got.contains("ran: 4") && whole { Ok(()) } else { Err(got.into()) }
}

/// On every schedule: the record is what a GPU is compared with.
fn wrappers() -> Result<(), Failed> {
    for i in 0..8 {
        let findings = doctor::wrappers(&Device::open(&format!("cuda:{i}"))?)?;
        if let Some(f) = findings.iter().find(|f| f.wrong.is_some()) {
            return Err(format!("schedule {i}: {f:?}").into());
        }
        if findings.len() != WRAPPERS.len() {
            return Err(format!("{} of {} wrappers were run", findings.len(), WRAPPERS.len()).into());
        }
    }
    Ok(())
}

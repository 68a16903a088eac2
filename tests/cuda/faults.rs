//! Failures that the stand-in driver is told to give: each is a typed error that names what was done, nothing panics, and the
//! process and its other devices go on. And what the backend does with them where it need not fail.

use std::process::Command;

use libtest_mimic::{Failed, Trial};
use muybridge::runtime::{Device, Error, HostTensor, TensorDesc};

use crate::{COUNT, DOUBLE, child as process, folder, numbers, plan, report};

/// Set in a child whose driver fails.
const CHILD: &str = "MUYBRIDGE_FAULT";

/// The failing call, its number and its result; and what the child must say of its device then and later.
struct Fault(&'static str, &'static str, &'static str);

const FAULTS: [Fault; 12] = [
    Fault("cuMemAllocFromPoolAsync:1:2", "Ran", "Ran"),
    Fault("cuMemAllocFromPoolAsync:2:700", "DeviceLost CUDA_ERROR_ILLEGAL_ADDRESS", "DeviceLost"),
    Fault("cuMemHostAlloc:1:2", "Ran", "Ran"),
    Fault("cuMemHostAlloc:2:2", "Ran", "Ran"),
    Fault("cuMemcpyHtoDAsync:1:1", "Driver an upload: CUDA_ERROR_INVALID_VALUE", "Ran"),
    Fault("cuMemcpyHtoDAsync:1:214", "DeviceLost CUDA_ERROR_ECC_UNCORRECTABLE", "DeviceLost"),
    Fault("cuModuleLoadData:1:2", "OutOfMemory", "Ran"),
    Fault("cuModuleLoadData:1:209", "Driver own.cu: CUDA_ERROR_NO_BINARY_FOR_GPU", "Ran"),
    Fault("cuGraphInstantiate:1:2", "OutOfMemory", "Ran"),
    Fault("cuGraphLaunch:1:701", "Driver a run: CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "Ran"),
    Fault("cuGraphLaunch:1:719", "DeviceLost a run: CUDA_ERROR_LAUNCH_FAILED", "DeviceLost"),
    Fault("cuStreamSynchronize:1:214", "DeviceLost waiting for the device: CUDA_ERROR_ECC_UNCORRECTABLE", "DeviceLost"),
];

/// Whether this process is such a child.
pub fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// One trial per fault, and those of uploads.
pub fn trials() -> Vec<Trial> {
    let faults =
        FAULTS.iter().map(|f| Trial::test(format!("fault {} is an error and no end", f.0), move || injected(f)));
    let others = [
        Trial::test("uploads_of_any_size_arrive", uploads),
        Trial::test("the_doctor_keeps_what_it_found_before_a_loss", doctor),
    ];
    faults.chain(others).collect()
}

fn injected(fault: &Fault) -> Result<(), Failed> {
    // Without a cache, so that every call is made.
    let got = report(&mut process(&[(CHILD, "1"), ("EMULATOR_FAULT", fault.0), ("MUYBRIDGE_CACHE", "")])?)?;
    let lines: Vec<&str> = got.lines().collect();
    let &[first, again, other, reopened] = lines.as_slice() else { return Err(format!("said {got}").into()) };
    let words = fault.1.split_once(' ').unwrap_or((fault.1, ""));
    let right = first.starts_with(words.0) && first.contains(words.1) && again.starts_with(fault.2);
    // The last line is the same device, opened again.
    if right && other == "Ran" && reopened == "Ran" { Ok(()) } else { Err(got.into()) }
}

/// Says how a run on a device went, four times: with the fault, again, on another device, and on the device opened again.
pub fn child() {
    let device = Device::open("cuda:0");
    println!("{}", outcome(&device));
    println!("{}", outcome(&device));
    println!("{}", outcome(&Device::open("cuda:1")));
    drop(device);
    println!("{}", outcome(&Device::open("cuda:0")));
}

fn outcome(device: &Result<Device, Error>) -> String {
    let run = || -> Result<bool, String> {
        let say = |e: &Error| {
            let kind = format!("{e:?}");
            format!("{} {e}", kind.split([' ', '(']).next().unwrap_or(""))
        };
        let device = device.as_ref().map_err(say)?;
        let y = plan(device, [DOUBLE]).and_then(|p| p.run_host(&[&numbers(1.0)])).map_err(|e| say(&e))?;
        Ok(y[0].to_f32() == (0..COUNT).map(|i| 2.0 * (1.0 + i as f32)).collect::<Vec<_>>())
    };
    match run() {
        Ok(true) => "Ran".into(),
        Ok(false) => "Wrong".into(),
        Err(e) => e.replace('\n', " "),
    }
}

/// Sizes round the parts that pinned memory takes; the buffers are used in turn, and the bytes are read back.
fn uploads() -> Result<(), Failed> {
    use muybridge::runtime::DType;
    let device = Device::open("cuda:5")?;
    let part = (8 << 20) / 4;
    for count in [1, 7, part - 1, part, part + 1, 3 * part + 5] {
        let sent = HostTensor::from_fn([count], |i| (i % 65_521) as f32);
        if device.tensor(&sent)?.to_host()? != sent {
            return Err(format!("{count} numbers do not come back").into());
        }
    }
    let empty = device.tensor(&HostTensor::zeros(TensorDesc::new([0], DType::F32)))?;
    if empty.to_host()?.to_f32().is_empty() { Ok(()) } else { Err("an empty tensor has elements".into()) }
}

/// The third run is lost: the trial is wrong, and those after it are named.
fn doctor() -> Result<(), Failed> {
    let file = folder("doctor")?.join("findings.json");
    let mut command = Command::new(env!("CARGO_BIN_EXE_muybridge"));
    command.args(["doctor", "--device", "cuda:0", "--untimed", "layout/", "--output"]).arg(&file);
    let out = command.env("EMULATOR_FAULT", "cuGraphLaunch:3:700").output()?;
    let found: serde_json::Value = serde_json::from_slice(&std::fs::read(&file)?)?;
    let list = |name: &str| found[name].as_array().cloned().unwrap_or_default();
    let (findings, not_run) = (list("findings"), list("not_run"));
    let lost = |f: &serde_json::Value| f["wrong"].as_str().is_some_and(|w| w.contains("device lost"));
    let one_lost = findings.len() == 2 && findings[0]["wrong"].is_null() && lost(&findings[1]);
    let told = one_lost && not_run.len() > 10 && out.status.code() == Some(1);
    if told { Ok(()) } else { Err(format!("{found:#}").into()) }
}

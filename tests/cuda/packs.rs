//! Kernels compiled ahead of time: found without NVRTC and without a cache, and by their text alone.

use libtest_mimic::{Failed, Trial};
use muybridge::runtime::backend::cuda::{compile, pack};
use muybridge::runtime::{Code, DType, Device, Op, Site, TensorDesc, source};

use crate::{COUNT, DOUBLE, Text, child, folder, report, without_compiler};

/// One trial each.
pub fn trials() -> [Trial; 2] {
    [Trial::test("packed_kernels_run_without_a_compiler", packed), Trial::test("a_damaged_pack_is_named", damaged)]
}

/// The text that a plan of this op hands to the device.
fn text_of(op: &Text) -> Result<(String, &'static str), Failed> {
    let (caps, x) = (Device::open("cuda:0")?.caps().clone(), TensorDesc::new([COUNT], DType::F32));
    let (inputs, is_weight) = (&[x], &[false]);
    let site = Site { inputs, is_weight, output: x, caps: &caps, tile: None, summarise: false, summaries: &[] };
    let launches = op.lower(&op.variants()[0], &site).ok_or("it does not fit")?.launches;
    let launch = launches.first().ok_or("no launch")?;
    let Code::Kernel(kernel) = &launch.code else { return Err("host code".into()) };
    Ok((source::cuda(kernel, &launch.args), kernel.file))
}

/// What a plan says in a process with this pack, no compiler and no cache, on a device of this capability.
fn run_with(pack: &str, name: &str, capability: &str) -> Result<String, Failed> {
    let driver = without_compiler(name)?.to_string_lossy().into_owned();
    let bare = [("MUYBRIDGE_KERNELS", pack), ("MUYBRIDGE_CACHE", ""), ("LD_LIBRARY_PATH", &driver)];
    let mut changes = bare.to_vec();
    changes.push(("EMULATOR_CAPABILITY", capability));
    report(&mut child(&changes)?)
}

/// A section's name, the device's capability, and what is said.
const PACKS: [(&str, &str, &str); 9] = [
    ("sm_90a", "90", "ran: 4"),
    ("compute_80", "90", "ran: 4"),
    ("sm_80", "90", "NVRTC was not found"),
    ("sm_90", "90", "NVRTC was not found"),
    // Relatives run code of lower minor versions.
    ("sm_100", "103", "ran: 4"),
    ("sm_120", "121", "ran: 4"),
    ("sm_86", "89", "ran: 4"),
    ("sm_89", "86", "NVRTC was not found"),
    ("sm_100", "120", "NVRTC was not found"),
];

fn packed() -> Result<(), Failed> {
    let (text, file) = text_of(&DOUBLE)?;
    let path = folder("packed")?.join("kernels.pack").to_string_lossy().into_owned();
    let write = |architecture: &str, text: &str, code: Vec<u8>| -> Result<(), Failed> {
        let contents = [(architecture.to_string(), [(text.to_string(), code)].into())].into();
        Ok(std::fs::write(&path, pack::encode(&contents, pack::fast)?)?)
    };
    for (architecture, capability, want) in PACKS {
        // The stand-in makes no portable code.
        let made_for = if architecture == "compute_80" { "sm_90a" } else { architecture };
        write(architecture, &text, compile(&text, file, made_for, &["--std=c++17"])?.0)?;
        let got = run_with(&path, "packed", capability)?;
        if !got.contains(want) {
            return Err(format!("{architecture} on {capability}: {got:?} does not say {want:?}").into());
        }
    }
    // Other sources, and code that the driver does not take.
    let (code, _) = compile(&text, file, "sm_90a", &["--std=c++17"])?;
    write("sm_90a", &format!("{text} "), code)?;
    let other = run_with(&path, "packed", "90")?;
    let (code, _) = compile(&text, file, "sm_80", &["--std=c++17"])?;
    write("sm_90a", &text, code)?;
    let refused = run_with(&path, "packed", "90")?;
    let right = other.contains("NVRTC was not found")
        && refused.contains("the code of the pack is refused")
        && refused.contains("CUDA_ERROR_NO_BINARY_FOR_GPU");
    if right { Ok(()) } else { Err(format!("{other:?} {refused:?}").into()) }
}

/// An error that names it where there is no compiler, and no more than a warning where there is one.
fn damaged() -> Result<(), Failed> {
    let path = folder("damaged")?.join("kernels.pack").to_string_lossy().into_owned();
    std::fs::write(&path, "torn")?;
    let got = run_with(&path, "damaged", "90")?;
    let compiled = report(&mut child(&[("MUYBRIDGE_KERNELS", &path), ("MUYBRIDGE_CACHE", "")])?)?;
    let named = got.contains("kernel pack") && got.contains(&path);
    if named && compiled.contains("ran: 4") { Ok(()) } else { Err(format!("{got} {compiled}").into()) }
}

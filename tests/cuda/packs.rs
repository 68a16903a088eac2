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

/// What a plan says in a process with this pack, no compiler and no cache.
fn run_with(pack: &str, name: &str) -> Result<String, Failed> {
    let driver = without_compiler(name)?.to_string_lossy().into_owned();
    report(&mut child(&[("MUYBRIDGE_KERNELS", pack), ("MUYBRIDGE_CACHE", ""), ("LD_LIBRARY_PATH", &driver)])?)
}

fn packed() -> Result<(), Failed> {
    let (text, file) = text_of(&DOUBLE)?;
    let (code, _) = compile(&text, file, "sm_90a", &["--std=c++17"])?;
    let path = folder("packed")?.join("kernels.pack").to_string_lossy().into_owned();
    let kernels = |text: &str| [(text.to_string(), code.clone())].into();
    for (architecture, text, want) in [
        ("sm_90a", text.clone(), "ran: 4"),
        ("compute_80", text.clone(), "ran: 4"),
        ("sm_80", text.clone(), "NVRTC was not found"),
        ("sm_90a", format!("{text} "), "NVRTC was not found"),
    ] {
        let contents = [(architecture.to_string(), kernels(&text))].into();
        std::fs::write(&path, pack::encode(&contents, pack::fast)?)?;
        let got = run_with(&path, "packed")?;
        if !got.contains(want) {
            return Err(format!("{architecture}: {got:?} does not say {want:?}").into());
        }
    }
    Ok(())
}

fn damaged() -> Result<(), Failed> {
    let path = folder("damaged")?.join("kernels.pack").to_string_lossy().into_owned();
    std::fs::write(&path, "torn")?;
    let got = run_with(&path, "damaged")?;
    if got.contains("kernel pack") && got.contains(&path) { Ok(()) } else { Err(got.into()) }
}

//! Recorded cases of whole networks on the emulated devices: the engine's plans, captured graphs and kernels together.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use libtest_mimic::{Failed, Trial};
use muybridge::case::{Case, Verdict};
use muybridge::runtime::{DType, Device};
use muybridge::{Unet, UnetShape};

/// Where every call is run.
const EVERY: [(&str, DType); 2] = [("cuda:0", DType::F32), ("cuda:0", DType::F16)];

/// Where the first call of a case is run too: the other half precision, and an order of threads that is random, with copies
/// as late as they may come.
const FIRST: [(&str, DType); 2] = [("cuda:0", DType::BF16), ("cuda:6", DType::F16)];

/// Kinds that must be among the cases, so that a lost folder is noticed.
const WANTED: [&str; 7] =
    ["vae", "unet2d", "controlnet", "controlnet_chain", "aa_denoise", "champ_denoise", "unet_motion"];

/// A kind that takes minutes on an emulator; its steps are those of `champ_denoise`.
const LONG: &str = "champ_pipeline";

/// One trial per case, call, device and dtype.
pub fn trials() -> Vec<Trial> {
    let mut trials = vec![Trial::test("golden/half_precision_uses_tensor_cores", tensor_cores)];
    let mut kinds = Vec::new();
    for folder in folders() {
        match Case::open(&folder) {
            Ok(case) if Case::KINDS.contains(&case.kind()) => {
                kinds.push(case.kind().to_string());
                add(&mut trials, Arc::new(case));
            }
            Ok(_) => {}
            Err(e) => {
                trials.push(Trial::test(folder.display().to_string(), move || Err(Failed::from(e.to_string()))));
            }
        }
    }
    trials.push(Trial::test("golden/every_kind_has_a_case", move || {
        match WANTED.iter().find(|w| !kinds.iter().any(|k| k == *w)) {
            Some(kind) => Err(format!("no case of kind {kind}").into()),
            None => Ok(()),
        }
    }));
    trials
}

fn own() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// The repository's cases, and those in the folder that `MUYBRIDGE_GOLDEN` names.
fn folders() -> Vec<PathBuf> {
    let roots = [Some(own()), std::env::var_os("MUYBRIDGE_GOLDEN").map(PathBuf::from)];
    let entries = roots.into_iter().flatten().filter_map(|root| std::fs::read_dir(root).ok()).flatten().flatten();
    let mut folders: Vec<_> = entries.map(|e| e.path()).filter(|p| p.join("case.json").exists()).collect();
    folders.sort();
    folders
}

fn add(trials: &mut Vec<Trial>, case: Arc<Case>) {
    for (i, call) in case.calls().enumerate() {
        let runs = EVERY.into_iter().chain(FIRST.into_iter().filter(|_| i == 0));
        for (device, dtype) in runs {
            let name = format!("golden/{}/{call}/{device}/{dtype}", case.name());
            let long = case.kind() == LONG;
            let name = if long { format!("{name} (takes minutes on an emulator)") } else { name };
            let (case, call) = (case.clone(), call.to_string());
            trials.push(Trial::test(name, move || check(&case, &call, device, dtype)).with_ignored_flag(long));
        }
    }
}

fn check(case: &Case, call: &str, device: &str, dtype: DType) -> Result<(), Failed> {
    let report = case.check(call, &Device::open(device)?, dtype)?;
    let failed = report.rows.iter().any(|r| matches!(r.verdict, Verdict::Fail(_)));
    if failed { Err(report.to_string().into()) } else { Ok(()) }
}

/// The cases above would pass on the plain kernels too, so that the choice is a trial of its own.
fn tensor_cores() -> Result<(), Failed> {
    let unet = Unet::open(own().join("unet_sd15"), &Device::open("cuda:0")?)?;
    let shape = UnetShape { batch: 1, height: 8, width: 8, context: 5, dtype: DType::F16, ..UnetShape::default() };
    let plan = unet.plan(shape)?;
    for op in ["matmul", "conv2d"] {
        // Products of few rows are bound by their weight, and have no use for tensor cores.
        let nodes = || plan.report().nodes.iter().filter(|n| n.op == op && n.variant != "few_rows");
        let on_cores = nodes().filter(|n| ["mma", "split_k"].iter().any(|v| n.variant.starts_with(v))).count();
        if 2 * on_cores < nodes().count() {
            return Err(format!("{on_cores} of {} {op} nodes are on tensor cores", nodes().count()).into());
        }
    }
    Ok(())
}

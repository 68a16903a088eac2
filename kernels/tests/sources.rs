//! Every WGSL source that any case, variant and dtype lowers to, through every shader language that naga writes.
//!
//! Drivers of other platforms are not needed for this: a source that naga parses, validates and translates, and whose SPIR-V
//! the Khronos validator accepts, is one that Vulkan, Metal, Direct3D 12 and OpenGL can be given.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use libtest_mimic::{Arguments, Failed, Trial};
use muybridge_kernels::{Case, OPS, Role};
use muybridge_runtime::{Caps, Code, DType, Device, KernelSource, Site, Target, TensorDesc, Variant, source};
use naga::back::{glsl, hlsl, msl, spv};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};

/// Starts of the first lines of a kernel file.
const FIELDS: [&str; 7] = ["what:", "in/out:", "launch:", "work:", "needs:", "error:", "idea:"];

/// A source and the name of a trial that reaches it.
struct Found {
    name: String,
    source: KernelSource,
    text: String,
}

fn main() {
    let args = Arguments::from_args();
    let sources = sources();
    let mut trials = Vec::new();
    let reached: Vec<String> = sources.iter().map(|f| f.text.clone()).collect();
    trials.push(Trial::test("every_file_is_reached", move || every_file_is_reached(&reached)));
    trials.push(Trial::test("every_file_says_what_it_is", every_file_says_what_it_is));
    let validator = Command::new("spirv-val").arg("--version").output().is_ok();
    if !validator {
        let promised = std::env::var_os("CI").is_some();
        let missing = Trial::test("spirv-val [not installed: package spirv-tools]", || Err("not installed".into()));
        trials.push(missing.with_ignored_flag(!promised));
    }
    let not_applicable = Trial::test("glsl of f16 sources [not applicable: GLSL has no f16]", || Ok(()));
    trials.push(not_applicable.with_ignored_flag(true));
    trials.extend(sources.into_iter().map(|found| {
        let name = found.name.clone();
        Trial::test(name, move || translate(&found, validator).map_err(Failed::from))
    }));
    libtest_mimic::run(&args, trials).exit();
}

/// Each text once, under the name of the first case that leads to it.
fn sources() -> Vec<Found> {
    let mut found: BTreeMap<String, Found> = BTreeMap::new();
    for (label, caps) in devices() {
        for entry in OPS {
            for case in (entry.cases)() {
                for variant in entry.variants.iter().filter(|v| v.target == Target::Wgsl) {
                    for (dtype, stored) in
                        [(DType::F32, DType::F32), (DType::F16, DType::F16), (DType::F32, DType::F16)]
                    {
                        for source in lowered(&case, variant, dtype, stored, &caps) {
                            let text = source::wgsl(&source, false);
                            let name = format!(
                                "{}/{}/{}/{label}/{dtype}-on-{stored}/{}",
                                entry.name, case.name, variant.name, source.entry
                            );
                            found.entry(text.clone()).or_insert(Found { name, source, text });
                        }
                    }
                }
            }
        }
    }
    let mut found: Vec<Found> = found.into_values().collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// Capabilities of the devices that sources are made for: a large one, and what WebGPU promises everywhere.
fn devices() -> Vec<(&'static str, Caps)> {
    let large = match Device::open("trace:wgpu") {
        Ok(device) => device.caps().clone(),
        Err(e) => panic!("the trace device needs nothing: {e}"),
    };
    let least = Caps {
        f16: false,
        subgroups: None,
        max_binding: 128 << 20,
        max_invocations: 256,
        max_shared: 16_384,
        ..large.clone()
    };
    let narrow = Caps { subgroups: Some((4, 64)), ..large.clone() };
    vec![("large", large), ("least", least), ("narrow", narrow)]
}

/// The sources of one case, or none where the variant does not fit it.
fn lowered(case: &Case, variant: &Variant, dtype: DType, stored: DType, caps: &Caps) -> Vec<KernelSource> {
    let is_weight: Vec<bool> = case.operands.iter().map(|o| o.role == Role::Weight).collect();
    let inputs: Vec<TensorDesc> =
        case.operands.iter().zip(&is_weight).map(|(o, w)| o.desc(if *w { stored } else { dtype })).collect();
    let Ok(output) = case.op.infer(&inputs) else { return Vec::new() };
    let site =
        Site { inputs: &inputs, is_weight: &is_weight, output, caps, tile: None, summarise: false, summaries: &[] };
    let launches = case.op.lower(variant, &site).map_or(Vec::new(), |l| l.launches);
    let kernel = |code| if let Code::Kernel(source) = code { Some(source) } else { None };
    launches.into_iter().filter_map(|l| kernel(l.code)).collect()
}

fn files() -> Vec<PathBuf> {
    let (mut folders, mut files) = (vec![PathBuf::from(env!("CARGO_MANIFEST_DIR"))], Vec::new());
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten().map(|e| e.path());
        for path in entries {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "wgsl") && !path.ends_with("kernels/prelude.wgsl") {
                files.push(path);
            }
        }
    }
    files
}

/// Every file, also one that several kernels share, is part of a text that some case lowers to.
fn every_file_is_reached(texts: &[String]) -> Result<(), Failed> {
    for file in files() {
        let own = std::fs::read_to_string(&file)?;
        if !texts.iter().any(|t| t.contains(&own)) {
            return Err(format!("no case lowers to {}", file.display()).into());
        }
    }
    Ok(())
}

/// Every file with an entry point begins with the seven fields; one that several kernels share, with the first.
fn every_file_says_what_it_is() -> Result<(), Failed> {
    for file in files() {
        let text = std::fs::read_to_string(&file)?;
        let wanted = if text.contains("@compute") { &FIELDS[..] } else { &FIELDS[..1] };
        let head = text.lines().take_while(|l| l.starts_with("//"));
        let fields = head.filter_map(|l| FIELDS.iter().find(|f| l[2..].trim_start().starts_with(**f)));
        if !fields.eq(wanted) {
            return Err(format!("{} does not begin with {wanted:?}", file.display()).into());
        }
    }
    Ok(())
}

fn translate(found: &Found, validator: bool) -> Result<(), String> {
    let text = found.text.as_str();
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(found.source.file);
    let file = std::fs::read_to_string(&own).map_err(|e| format!("{}: {e}", own.display()))?;
    if !text.ends_with(&file) {
        return Err(format!("the text is not that of {}", found.source.file));
    }
    let module = naga::front::wgsl::parse_str(text).map_err(|e| e.emit_to_string(text))?;
    let subgroups = text.contains("subgroupAdd") || text.contains("subgroup_size");
    let half = text.contains("enable f16;");
    let mut wanted = Capabilities::empty();
    wanted.set(Capabilities::SHADER_FLOAT16, half);
    wanted.set(Capabilities::SUBGROUP, subgroups);
    let mut checks = Validator::new(ValidationFlags::all(), wanted);
    checks.subgroup_stages(naga::valid::ShaderStages::COMPUTE);
    checks.subgroup_operations(naga::valid::SubgroupOperationSet::all());
    let info = checks.validate(&module).map_err(|e| e.emit_to_string(text))?;
    to_spirv(found, &module, &info, subgroups, validator)?;
    to_msl(&module, &info)?;
    to_hlsl(&module, &info, half || subgroups)?;
    if !half { to_glsl(found, &module, &info) } else { Ok(()) }
}

/// Vulkan. Subgroup operations are part of it from SPIR-V 1.3.
fn to_spirv(
    found: &Found,
    module: &naga::Module,
    info: &ModuleInfo,
    subgroups: bool,
    validator: bool,
) -> Result<(), String> {
    let versions = [((1, 0), "vulkan1.0"), ((1, 3), "vulkan1.1")];
    for (version, env) in versions.into_iter().skip(usize::from(subgroups)) {
        let options = spv::Options { lang_version: version, ..spv::Options::default() };
        let words = spv::write_vec(module, info, &options, None).map_err(|e| format!("SPIR-V {version:?}: {e}"))?;
        if !validator {
            continue;
        }
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        let name = format!("muybridge-{}-{}.spv", std::process::id(), found.name.replace('/', "-"));
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, bytes).map_err(|e| e.to_string())?;
        let out = Command::new("spirv-val").args(["--target-env", env]).arg(&path).output();
        std::fs::remove_file(&path).map_err(|e| e.to_string())?;
        let out = out.map_err(|e| format!("spirv-val: {e}"))?;
        if !out.status.success() {
            return Err(format!("spirv-val {env}: {}", String::from_utf8_lossy(&out.stderr)));
        }
    }
    Ok(())
}

fn to_msl(module: &naga::Module, info: &ModuleInfo) -> Result<(), String> {
    for version in [(2, 0), (2, 3)] {
        let options = msl::Options { lang_version: version, ..msl::Options::default() };
        let written = msl::write_string(module, info, &options, &msl::PipelineOptions::default());
        written.map_err(|e| format!("MSL {version:?}: {e}"))?;
    }
    Ok(())
}

/// Direct3D. f16 and wave operations are part of it from shader model 6.2 and 6.0.
fn to_hlsl(module: &naga::Module, info: &ModuleInfo, model_six: bool) -> Result<(), String> {
    let models = [hlsl::ShaderModel::V5_1, hlsl::ShaderModel::V6_2];
    for shader_model in models.into_iter().skip(usize::from(model_six)) {
        let immediates_target = Some(hlsl::BindTarget { space: 0, register: 9, ..hlsl::BindTarget::default() });
        let options = hlsl::Options { shader_model, immediates_target, ..hlsl::Options::default() };
        let (mut out, pipeline) = (String::new(), hlsl::PipelineOptions::default());
        let written = hlsl::Writer::new(&mut out, &options, &pipeline).write(module, info, None);
        written.map_err(|e| format!("HLSL {shader_model:?}: {e}"))?;
    }
    Ok(())
}

fn to_glsl(found: &Found, module: &naga::Module, info: &ModuleInfo) -> Result<(), String> {
    for version in [glsl::Version::new_gles(310), glsl::Version::Desktop(450)] {
        let options = glsl::Options { version, ..glsl::Options::default() };
        let pipeline = glsl::PipelineOptions {
            shader_stage: naga::ShaderStage::Compute,
            entry_point: found.source.entry.into(),
            multiview: None,
        };
        let policies = naga::proc::BoundsCheckPolicies::default();
        let mut out = String::new();
        let written =
            glsl::Writer::new(&mut out, module, info, &options, &pipeline, policies).and_then(|mut w| w.write());
        written.map_err(|e| format!("GLSL {version:?}: {e}"))?;
    }
    Ok(())
}

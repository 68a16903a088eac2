//! Finding adapters, and what is asked of one: features, limits, and the capabilities that follow from them.

use wgpu::{Adapter, AdapterInfo, Backends, DeviceType, Features, Limits};

use super::super::{Caps, Target};
use crate::device::DeviceOptions;

/// Storage bindings are counted in a 32-bit mask.
const MAX_BINDINGS: u32 = 32;

/// Binding sizes are rounded up to 16 and offsets to at most 256, so a limit is cut to whole units of that.
const BINDING_UNIT: u64 = 256;

/// How an adapter can time nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stamps {
    /// Between the launches of one pass.
    InsidePass,
    /// At the ends of a pass, so that each node needs a pass of its own.
    PerPass,
    /// Not at all.
    None,
}

/// What a device is asked for.
pub(super) struct Request {
    pub features: Features,
    pub limits: Limits,
    pub caps: Caps,
    pub stamps: Stamps,
}

/// Every adapter that can run kernels, in an order that depends on the machine alone: by kind, API, slot and name.
pub(super) fn enumerate(labels: bool) -> Result<Vec<Adapter>, String> {
    let backends = Backends::VULKAN | Backends::METAL | Backends::DX12;
    let mut desc = wgpu::InstanceDescriptor::new_without_display_handle();
    desc.backends = backends;
    // Names of nodes reach the driver, and tools beside it, only where they are asked for.
    desc.flags = if labels { wgpu::InstanceFlags::DEBUG } else { wgpu::InstanceFlags::empty() };
    let instance = wgpu::Instance::new(desc);
    let mut adapters = pollster::block_on(instance.enumerate_adapters(backends));
    adapters.retain(|a| a.get_downlevel_capabilities().flags.contains(wgpu::DownlevelFlags::COMPUTE_SHADERS));
    adapters.sort_by_cached_key(|a| {
        let i = a.get_info();
        (rank(i.device_type), i.backend as u8, i.device_pci_bus_id, i.name, i.device)
    });
    if adapters.is_empty() { Err(missing().into()) } else { Ok(adapters) }
}

/// Why no adapter was found, and what to install.
fn missing() -> &'static str {
    if cfg!(any(target_os = "macos", target_os = "ios")) {
        "no Metal device"
    } else if cfg!(windows) {
        "no Vulkan or Direct3D 12 device: install the graphics driver of the GPU's vendor"
    } else {
        "no Vulkan device: it takes the loader (libvulkan.so.1) and a driver. On Debian and Ubuntu install libvulkan1 \
         and, for AMD, Intel or a software device, mesa-vulkan-drivers; NVIDIA's driver brings its own, in containers \
         only with NVIDIA_DRIVER_CAPABILITIES=all"
    }
}

/// Order of preference.
fn rank(kind: DeviceType) -> u8 {
    match kind {
        DeviceType::DiscreteGpu => 0,
        DeviceType::IntegratedGpu => 1,
        DeviceType::VirtualGpu => 2,
        DeviceType::Other => 3,
        DeviceType::Cpu => 4,
    }
}

/// Whether an adapter is known to be a GPU and not a software driver.
pub(super) fn is_hardware(info: &AdapterInfo) -> bool {
    rank(info.device_type) <= 2
}

impl Request {
    /// What to ask of this adapter, or why it will not do.
    pub fn new(adapter: &Adapter, options: &DeviceOptions) -> Result<Request, String> {
        let limits = if options.default_limits { Limits::default() } else { adapter.limits() };
        let mut missing = None;
        limits.check_limits_with_fail_fn(&adapter.limits(), true, |name, want, got| {
            missing = Some(format!("{name}: WebGPU's default limit is {want}, the adapter's is {got}"));
        });
        if let Some(missing) = missing {
            return Err(missing);
        }
        let mut wanted = Features::TIMESTAMP_QUERY;
        wanted.set(Features::SHADER_F16, !options.no_f16);
        wanted.set(Features::SUBGROUP, !options.no_subgroups);
        // Timestamps inside a pass are no part of WebGPU, so they go with its default limits.
        wanted.set(Features::TIMESTAMP_QUERY_INSIDE_PASSES, !options.default_limits);
        let features = adapter.features() & wanted;
        let stamps = if features.contains(Features::TIMESTAMP_QUERY | Features::TIMESTAMP_QUERY_INSIDE_PASSES) {
            Stamps::InsidePass
        } else if features.contains(Features::TIMESTAMP_QUERY) {
            Stamps::PerPass
        } else {
            Stamps::None
        };
        let caps = caps(&adapter.get_info(), features, &limits, stamps, options);
        Ok(Request { features, limits, caps, stamps })
    }
}

fn caps(info: &AdapterInfo, features: Features, limits: &Limits, stamps: Stamps, options: &DeviceOptions) -> Caps {
    let binding = limits.max_storage_buffer_binding_size.min(options.max_binding.unwrap_or(u64::MAX));
    let words = [info.driver.trim(), info.driver_info.trim()];
    let driver: Vec<&str> = words.into_iter().filter(|w| !w.is_empty()).collect();
    Caps {
        target: Target::Wgsl,
        name: info.name.clone(),
        driver: format!("{} ({:?})", driver.join(" "), info.backend).trim().to_string(),
        threads: 1,
        f16: features.contains(Features::SHADER_F16),
        bf16: false,
        processors: None,
        subgroups: features.contains(Features::SUBGROUP).then_some((info.subgroup_min_size, info.subgroup_max_size)),
        compute_capability: None,
        max_binding: binding / BINDING_UNIT * BINDING_UNIT,
        max_buffer: limits.max_buffer_size / BINDING_UNIT * BINDING_UNIT,
        max_storage_bindings: limits.max_storage_buffers_per_shader_stage.min(MAX_BINDINGS),
        binding_align: u64::from(limits.min_storage_buffer_offset_alignment).max(16),
        max_workgroups: limits.max_compute_workgroups_per_dimension,
        max_invocations: limits.max_compute_invocations_per_workgroup,
        max_shared: limits.max_compute_workgroup_storage_size,
        timestamps: stamps != Stamps::None,
        memory: None,
    }
}

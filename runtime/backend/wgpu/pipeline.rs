//! Compute pipelines, one per device for equal kernels.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use wgpu::{BindGroupLayout, BindGroupLayoutEntry, BindingType, BufferBindingType, ComputePipeline};

use super::gpu::Gpu;
use crate::backend::BoundLaunch;
use crate::error::{Error, Result};
use crate::op::Code;
use crate::source;

/// Stack of a compiling thread: the shader compiler recurses deeply.
const STACK: usize = 16 << 20;

/// Kinds of bindings of a kernel: what makes two bind group layouts equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Signature {
    storage: u32,
    /// Bit `i`: storage binding `i` is read only.
    read_only: u32,
    params: bool,
}

impl Signature {
    fn of(launch: &BoundLaunch) -> Signature {
        let weights = launch.args.iter().enumerate().filter(|(_, a)| a.is_weight);
        Signature {
            storage: launch.args.len() as u32,
            read_only: weights.fold(0, |mask, (i, _)| mask | 1 << i),
            params: !launch.launch.params.is_empty(),
        }
    }

    fn entries(self) -> Vec<BindGroupLayoutEntry> {
        let entry = |binding, ty| BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
            count: None,
        };
        let storage = |i| BufferBindingType::Storage { read_only: self.read_only >> i & 1 == 1 };
        let mut entries: Vec<_> = (0..self.storage).map(|i| entry(i, storage(i))).collect();
        if self.params {
            entries.push(entry(self.storage, BufferBindingType::Uniform));
        }
        entries
    }
}

/// What makes two kernels equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    text: String,
    entry: &'static str,
    pub signature: Signature,
}

impl Key {
    /// The key of a launch and its source file, or `None` for host code.
    pub fn of(launch: &BoundLaunch) -> Option<(Key, &'static str)> {
        let Code::Kernel(kernel) = &launch.launch.code else { return None };
        let key = Key { text: source::wgsl(kernel, false), entry: kernel.entry, signature: Signature::of(launch) };
        Some((key, kernel.file))
    }
}

/// Everything compiled on a device so far.
#[derive(Default)]
pub(super) struct Pipelines {
    layouts: Mutex<HashMap<Signature, BindGroupLayout>>,
    compiled: Mutex<HashMap<Key, ComputePipeline>>,
}

impl Gpu {
    /// The bind group layout of a signature.
    pub fn layout(&self, signature: Signature) -> Result<BindGroupLayout> {
        let mut layouts = self.pipelines.layouts.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(found) = layouts.get(&signature) {
            return Ok(found.clone());
        }
        let entries = signature.entries();
        let desc = wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries };
        let made = self.guarded("a bind group layout", 0, || self.device.create_bind_group_layout(&desc))?;
        layouts.insert(signature, made.clone());
        Ok(made)
    }

    /// The pipelines of these kernels, in order. What was not compiled before is compiled on all cores.
    pub fn pipelines(&self, keys: &[(Key, &'static str)]) -> Result<Vec<ComputePipeline>> {
        let missing: Vec<_> = {
            let compiled = self.pipelines.compiled.lock().unwrap_or_else(|e| e.into_inner());
            let mut seen = HashSet::new();
            keys.iter().filter(|kernel| !compiled.contains_key(&kernel.0) && seen.insert(&kernel.0)).collect()
        };
        let made = self.compile_all(&missing)?;
        let mut compiled = self.pipelines.compiled.lock().unwrap_or_else(|e| e.into_inner());
        compiled.extend(made);
        Ok(keys.iter().filter_map(|(k, _)| compiled.get(k).cloned()).collect())
    }

    fn compile_all(&self, kernels: &[&(Key, &'static str)]) -> Result<Vec<(Key, ComputePipeline)>> {
        let next = AtomicUsize::new(0);
        let work = || {
            let mut done = Vec::new();
            while let Some(&&(ref key, file)) = kernels.get(next.fetch_add(1, Ordering::Relaxed)) {
                done.push((key.clone(), self.compile_one(key, file)?));
            }
            Ok(done)
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(kernels.len());
        let results: Vec<Result<Vec<_>>> = std::thread::scope(|scope| {
            let spawn = |_| std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, work);
            let started: Vec<_> = (0..threads).map(spawn).collect();
            started.into_iter().map(|thread| self.joined(thread)).collect()
        });
        Ok(results.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    }

    fn joined<T>(&self, thread: std::io::Result<std::thread::ScopedJoinHandle<'_, Result<T>>>) -> Result<T> {
        let fail = |reason: String| Error::Driver { device: self.name.clone(), reason };
        let thread = thread.map_err(|e| fail(format!("no thread to compile on: {e}")))?;
        thread.join().map_err(|_| fail("the shader compiler panicked".into()))?
    }

    fn compile_one(&self, key: &Key, file: &'static str) -> Result<ComputePipeline> {
        let layout = self.layout(key.signature)?;
        let made = self.guarded("compiling", 0, || {
            let module = self.module(key, file);
            let layout = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: None,
                bind_group_layouts: &[Some(&layout)],
                immediate_size: 0,
            });
            self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(file),
                layout: Some(&layout),
                module: &module,
                entry_point: Some(key.entry),
                compilation_options: wgpu::PipelineCompilationOptions {
                    constants: &[],
                    zero_initialize_workgroup_memory: self.checked,
                },
                cache: None,
            })
        });
        made.map_err(|e| match e {
            Error::Driver { reason, .. } => Error::Compile { file, message: reason },
            other => other,
        })
    }

    fn module(&self, key: &Key, file: &'static str) -> wgpu::ShaderModule {
        let source = wgpu::ShaderSource::Wgsl(key.text.as_str().into());
        let desc = wgpu::ShaderModuleDescriptor { label: Some(file), source };
        if self.checked {
            return self.device.create_shader_module(desc);
        }
        // SAFETY: kernels are part of the engine, not input of a user. Their indices stay within the bindings, whose sizes
        // follow from the shapes that `infer` accepted and that the plan checked against its buffers; their loops end.
        unsafe { self.device.create_shader_module_trusted(desc, wgpu::ShaderRuntimeChecks::unchecked()) }
    }
}

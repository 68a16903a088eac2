//! One open device: its queue, its faults, and calls into wgpu that return errors instead of panicking.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use wgpu::{BufferUsages, ErrorFilter, PollType, SubmissionIndex};

use super::adapter::{self, Request, Stamps};
use super::fault::Faults;
use super::pipeline::Pipelines;
use super::transfer::Uploads;
use crate::backend::{Caps, MemoryCounter};
use crate::device::DeviceOptions;
use crate::error::{Error, Result};

/// An open device, shared by its backend and its programs.
pub(super) struct Gpu {
    pub name: String,
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
    pub caps: Caps,
    pub stamps: Stamps,
    /// Whether kernels keep the compiler's bounds and loop checks.
    pub checked: bool,
    pub faults: Faults,
    pub memory: Arc<MemoryCounter>,
    pub uploads: Mutex<Uploads>,
    pub pipelines: Pipelines,
}

impl Gpu {
    pub fn open(index: usize, options: &DeviceOptions) -> Result<Gpu> {
        let name = format!("wgpu:{index}");
        let none = |reason: String| Error::NoDevice { name: name.clone(), reason };
        let adapters = adapter::enumerate(options.labels).map_err(none)?;
        let adapter = adapters.get(index).ok_or_else(|| none(format!("there are {} adapters", adapters.len())))?;
        let request = Request::new(adapter, options).map_err(none)?;
        let desc = wgpu::DeviceDescriptor {
            label: Some("muybridge"),
            required_features: request.features,
            required_limits: request.limits,
            experimental_features: wgpu::ExperimentalFeatures::disabled(),
            // Weights are thousands of buffers of a few MiB: small blocks waste less of the device.
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            trace: wgpu::Trace::Off,
        };
        let (device, queue) =
            pollster::block_on(adapter.request_device(&desc)).map_err(|e| none(format!("the driver refused: {e}")))?;
        let faults = Faults::new(&name);
        faults.watch(&device);
        Ok(Gpu {
            name,
            device,
            queue,
            caps: request.caps,
            stamps: request.stamps,
            checked: options.checked,
            faults,
            memory: Arc::default(),
            uploads: Mutex::default(),
            pipelines: Pipelines::default(),
        })
    }

    /// Calls into wgpu and returns what it reports meanwhile on this thread. `what` and `wanted` go into the error.
    pub fn guarded<T>(&self, what: &str, wanted: u64, call: impl FnOnce() -> T) -> Result<T> {
        self.faults.check()?;
        let memory = self.device.push_error_scope(ErrorFilter::OutOfMemory);
        let internal = self.device.push_error_scope(ErrorFilter::Internal);
        let validation = self.device.push_error_scope(ErrorFilter::Validation);
        let value = call();
        // Scopes end in the reverse order of their beginning. Native futures are ready at once.
        let caught = [validation, internal, memory].map(|scope| pollster::block_on(scope.pop()));
        // A lost device makes other errors follow from its loss.
        self.faults.check()?;
        match caught.into_iter().flatten().next() {
            None => Ok(value),
            Some(e) => Err(self.faults.typed(e, what, wanted)),
        }
    }

    pub fn create_buffer(&self, size: u64, usage: BufferUsages, what: &str) -> Result<wgpu::Buffer> {
        let desc = wgpu::BufferDescriptor { label: Some(what), size, usage, mapped_at_creation: false };
        self.guarded(what, size, || self.device.create_buffer(&desc))
    }

    /// Waits for a submission, or for all of them, and runs the callbacks that are due.
    pub fn wait(&self, submission: Option<SubmissionIndex>) -> Result<()> {
        self.poll(PollType::Wait { submission_index: submission, timeout: None })
    }

    fn poll(&self, kind: PollType) -> Result<()> {
        // wgpu panics where the driver loses the device during a poll, after it has released its locks.
        match catch_unwind(AssertUnwindSafe(|| self.device.poll(kind))) {
            Ok(Ok(_)) => {}
            Ok(Err(e)) => {
                self.faults.check()?;
                return Err(Error::Driver { device: self.name.clone(), reason: e.to_string() });
            }
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                self.faults.lose(text.unwrap_or_else(|| "the driver failed while waiting".into()));
            }
        }
        self.faults.check()
    }

    /// Gives the device up.
    pub fn destroy(&self) {
        self.device.destroy();
        self.faults.lose("destroyed by its owner".into());
        // Lets the pending work end; the loss is recorded already.
        drop(self.poll(PollType::wait_indefinitely()));
    }
}

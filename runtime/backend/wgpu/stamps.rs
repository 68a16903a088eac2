//! Timestamps of one run.

use wgpu::{BufferUsages, CommandEncoder, ComputePass, ComputePassTimestampWrites, QuerySet};

use super::gpu::Gpu;
use crate::error::Result;

/// Timestamps of one set. Even, so that the two ends of a pass lie in one set.
const PER_SET: usize = wgpu::QUERY_SET_MAX_QUERIES as usize;

/// Room for the timestamps of one run.
pub(super) struct Clock {
    sets: Vec<QuerySet>,
    count: usize,
    resolved: wgpu::Buffer,
    /// Seconds per tick.
    pub period: f64,
}

impl Clock {
    pub fn new(gpu: &Gpu, count: usize) -> Result<Clock> {
        let what = "timestamps of a run";
        let set = |first: usize| wgpu::QuerySetDescriptor {
            label: None,
            ty: wgpu::QueryType::Timestamp,
            count: (count - first).min(PER_SET) as u32,
        };
        let sets = gpu.guarded(what, 0, || {
            (0..count).step_by(PER_SET).map(|first| gpu.device.create_query_set(&set(first))).collect()
        })?;
        let usage = BufferUsages::QUERY_RESOLVE | BufferUsages::COPY_SRC;
        let resolved = gpu.create_buffer((count * 8) as u64, usage, what)?;
        Ok(Clock { sets, count, resolved, period: f64::from(gpu.queue.get_timestamp_period()) * 1e-9 })
    }

    pub fn stamp(&self, pass: &mut ComputePass<'_>, index: usize) {
        pass.write_timestamp(&self.sets[index / PER_SET], (index % PER_SET) as u32);
    }

    /// Stamps `index` and `index + 1` (`index` even) at the ends of a pass.
    pub fn ends(&self, index: usize) -> ComputePassTimestampWrites<'_> {
        let at = (index % PER_SET) as u32;
        ComputePassTimestampWrites {
            query_set: &self.sets[index / PER_SET],
            beginning_of_pass_write_index: Some(at),
            end_of_pass_write_index: Some(at + 1),
        }
    }

    pub fn resolve(&self, encoder: &mut CommandEncoder) {
        for (i, set) in self.sets.iter().enumerate() {
            let first = i * PER_SET;
            let count = (self.count - first).min(PER_SET) as u32;
            encoder.resolve_query_set(set, 0..count, &self.resolved, (first * 8) as u64);
        }
    }

    pub fn read(&self, gpu: &Gpu) -> Result<Vec<u64>> {
        let mut ticks = vec![0u64; self.count];
        gpu.read_raw(&self.resolved, bytemuck::cast_slice_mut(&mut ticks))?;
        Ok(ticks)
    }
}

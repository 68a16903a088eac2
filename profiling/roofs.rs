//! What a device reaches at best, measured by the engine's own kernels on it.

use muybridge_kernels::{Elementwise, Matmul};
use muybridge_runtime::{DType, Device, Graph, Plan, Tensor, TensorDesc, Weight};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::{Sample, step};

/// Best rates of a device in one dtype.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Roofs {
    /// Floating-point operations per second of the fastest of several square matrix products.
    pub flop_rate: f64,
    /// The product that reached it.
    pub product: String,
    /// Bytes per second, read and written, of a copy much larger than the caches.
    pub byte_rate: f64,
    /// The copy that reached it.
    pub copy: String,
}

/// Runs of each measurement, after one to warm up.
const RUNS: usize = 5;

/// Seconds of one run beyond which nothing larger is tried.
const ENOUGH: f64 = 0.06;

/// Sides of the products.
const SIDES: [usize; 6] = [256, 512, 1024, 2048, 4096, 8192];

/// Bytes of the copies' operands.
const COPIES: [u64; 3] = [64 << 20, 128 << 20, 256 << 20];

impl Roofs {
    /// Measures a device. Takes a second on a fast one, some seconds on a slow one.
    ///
    /// # Errors
    /// The device's errors, and the caller's wish to stop.
    pub fn measure(device: &Device, dtype: DType, progress: crate::Progress<'_>) -> Result<Roofs> {
        let mut roofs = Roofs::default();
        let of = (SIDES.len() + COPIES.len()) as u64;
        for (i, side) in SIDES.into_iter().enumerate() {
            step(progress, i as u64, of)?;
            let (seconds, kernel) = product(device, dtype, side)?;
            let rate = 2.0 * (side as f64).powi(3) / seconds;
            if rate > roofs.flop_rate {
                roofs.flop_rate = rate;
                roofs.product = format!("{kernel}, {side} x {side} x {side}, {dtype}");
            }
            if seconds > ENOUGH {
                break;
            }
        }
        for (i, bytes) in COPIES.into_iter().enumerate() {
            step(progress, (SIDES.len() + i) as u64, of)?;
            if bytes > device.caps().max_binding {
                break;
            }
            let (seconds, kernel) = copy(device, dtype, bytes)?;
            // The largest counts: a smaller one may live in a cache.
            roofs.byte_rate = 2.0 * bytes as f64 / seconds;
            roofs.copy = format!("{kernel}, {} MiB to as many, {dtype}", bytes >> 20);
            if seconds > ENOUGH {
                break;
            }
        }
        Ok(roofs)
    }

    /// Seconds that so much work takes at the roof: of computing or of memory, whichever is longer.
    pub fn seconds(&self, flop: u64, bytes: u64) -> f64 {
        let part = |work: u64, rate: f64| if rate > 0.0 { work as f64 / rate } else { 0.0 };
        part(flop, self.flop_rate).max(part(bytes, self.byte_rate))
    }

    /// Operations per byte at which the two roofs meet.
    pub fn ridge(&self) -> f64 {
        if self.byte_rate > 0.0 { self.flop_rate / self.byte_rate } else { 0.0 }
    }
}

/// Best seconds of a product of squares, and its kernel.
fn product(device: &Device, dtype: DType, side: usize) -> Result<(f64, String)> {
    let desc = TensorDesc::new([side, side], dtype);
    let amplitude = (3.0 / side as f32).sqrt();
    let mut g = Graph::new();
    let a = g.input("a", desc);
    let w = g.weight(&Weight::procedural("w", desc, 1, amplitude, 0.0));
    let y = g.node("roof", Matmul::default(), &[a, w])?;
    g.output("y", y);
    best(device, &g)
}

/// Best seconds of a copy, and its kernel.
fn copy(device: &Device, dtype: DType, bytes: u64) -> Result<(f64, String)> {
    let desc = TensorDesc::new([bytes as usize / dtype.size() / 1024, 1024], dtype);
    let mut g = Graph::new();
    let x = g.input("x", desc);
    let y = g.node("roof", Elementwise::Scale(1.0), &[x])?;
    g.output("y", y);
    best(device, &g)
}

fn best(device: &Device, graph: &Graph) -> Result<(f64, String)> {
    let plan = Plan::new(graph, device)?;
    let inputs = crate::measure::operands(&plan)?;
    let inputs: Vec<&Tensor> = inputs.iter().collect();
    let outputs = plan.empty_outputs()?;
    plan.run_into(&inputs, &outputs)?;
    let runs = (0..RUNS).map(|_| Ok(plan.profile(&inputs, &outputs)?.busy())).collect::<Result<Vec<_>>>()?;
    let node = &plan.report().nodes[0];
    Ok((Sample(runs).best().max(1e-9), format!("{}:{}", node.op, node.kernel())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longer_roof_counts() {
        let roofs = Roofs { flop_rate: 100.0, byte_rate: 10.0, ..Roofs::default() };
        assert_eq!(roofs.seconds(100, 5), 1.0);
        assert_eq!(roofs.seconds(100, 50), 5.0);
        assert_eq!(roofs.ridge(), 10.0);
        assert_eq!(Roofs::default().seconds(1, 1), 0.0);
    }
}

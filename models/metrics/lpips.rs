//! LPIPS 0.1: a distance between pictures in the features of a classifier.
//!
//! Zhang et al., "The unreasonable effectiveness of deep features as a perceptual metric" (2018). Both pictures go through
//! AlexNet, VGG-16 or SqueezeNet 1.1; at each tap the directions of their features are compared ([`ops::UnitDistance`]) and
//! the distances averaged over the pixels; the sum over the taps is the metric.

use std::path::Path;

use muybridge_kernels as ops;
use muybridge_kernels::{Activation, Pool, Pooling};
use muybridge_loaders::Weights;
use muybridge_runtime::{DType, Device, Graph, HostTensor, Plan, TensorDesc, Value, Weight};

use super::folded::{Affine, Folded, numbers, owned};
use crate::error::{Error, Result};

const MODEL: &str = "LPIPS";

/// Added to the norms of the features.
const EPS: f32 = 1e-10;

/// Mean and deviation of ImageNet's pixels, where −1 is black and 1 white.
const SHIFT: [f32; 3] = [-0.030, -0.088, -0.188];
const SCALE: [f32; 3] = [0.458, 0.448, 0.450];

/// The classifier whose features are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trunk {
    /// AlexNet: what papers call LPIPS when they say no more.
    Alex,
    /// VGG-16.
    Vgg,
    /// SqueezeNet 1.1.
    Squeeze,
}

impl std::str::FromStr for Trunk {
    type Err = String;

    fn from_str(name: &str) -> Result<Trunk, String> {
        match name {
            "alex" => Ok(Trunk::Alex),
            "vgg" => Ok(Trunk::Vgg),
            "squeeze" => Ok(Trunk::Squeeze),
            _ => Err(format!("unknown network {name:?}; known: alex, vgg, squeeze")),
        }
    }
}

/// One layer of a trunk, with its number in torchvision's `features`.
#[derive(Clone, Copy, Debug)]
enum Layer {
    /// A convolution with bias and ReLU: number, stride, padding.
    Conv(usize, usize, usize),
    /// A maximum over windows: side, stride.
    Pool(usize, usize),
    /// As `Pool`, with windows that reach over the edge.
    PoolCeil(usize, usize),
    /// SqueezeNet's pair of convolutions over a narrow one.
    Fire(usize),
    /// Features that are compared.
    Tap,
}

use Layer::{Conv, Fire, Pool as Max, PoolCeil, Tap};

const ALEX: &[Layer] = &[
    Conv(0, 4, 2),
    Tap,
    Max(3, 2),
    Conv(3, 1, 2),
    Tap,
    Max(3, 2),
    Conv(6, 1, 1),
    Tap,
    Conv(8, 1, 1),
    Tap,
    Conv(10, 1, 1),
    Tap,
];

const VGG: &[Layer] = &[
    Conv(0, 1, 1),
    Conv(2, 1, 1),
    Tap,
    Max(2, 2),
    Conv(5, 1, 1),
    Conv(7, 1, 1),
    Tap,
    Max(2, 2),
    Conv(10, 1, 1),
    Conv(12, 1, 1),
    Conv(14, 1, 1),
    Tap,
    Max(2, 2),
    Conv(17, 1, 1),
    Conv(19, 1, 1),
    Conv(21, 1, 1),
    Tap,
    Max(2, 2),
    Conv(24, 1, 1),
    Conv(26, 1, 1),
    Conv(28, 1, 1),
    Tap,
];

const SQUEEZE: &[Layer] = &[
    Conv(0, 2, 0),
    Tap,
    PoolCeil(3, 2),
    Fire(3),
    Fire(4),
    Tap,
    PoolCeil(3, 2),
    Fire(6),
    Fire(7),
    Tap,
    PoolCeil(3, 2),
    Fire(9),
    Tap,
    Fire(10),
    Tap,
    Fire(11),
    Tap,
    Fire(12),
    Tap,
];

/// A layer with its weights.
#[derive(Clone, Debug)]
enum Step {
    Conv(Folded, ops::Conv2d),
    Pool(Pool),
    Fire([Folded; 3]),
    Tap(Weight),
}

/// The metric.
#[derive(Clone, Debug)]
pub struct Lpips {
    trunk: Trunk,
    steps: Vec<Step>,
    device: Device,
}

impl Lpips {
    /// Opens a file or folder with the trunk's and the metric's own weights together, or the two that hold one each.
    ///
    /// # Errors
    /// Files that cannot be used, and those of [`Lpips::of`].
    pub fn open(trunk: Trunk, files: &[impl AsRef<Path>], device: &Device) -> Result<Lpips> {
        let weights = match files {
            [one] => Weights::open(one)?,
            many => Weights::open_files(many)?,
        };
        Lpips::of(trunk, weights.strip_wrappers()?, device)
    }

    /// The metric over these weights: convolutions by their numbers below `features` (torchvision) or `net.slice1`,
    /// `net.slice2`, … (as LPIPS saves itself), and `lin0.model.1.weight` and so on.
    ///
    /// # Errors
    /// Tensors that are missing, do not fit each other, or that nothing asks for.
    pub fn of(trunk: Trunk, weights: Weights, device: &Device) -> Result<Lpips> {
        let w = &weights;
        // The shift and scale of the input are constants, a classifier's head is not run, and the lins are saved twice.
        ["scaling_layer", "classifier", "lins"].into_iter().for_each(|part| w.ignore(part));
        let layers = match trunk {
            Trunk::Alex => ALEX,
            Trunk::Vgg => VGG,
            Trunk::Squeeze => SQUEEZE,
        };
        let taps = layers.iter().filter(|l| matches!(l, Tap)).count();
        let at = |number: usize| {
            let slice = (1..=taps).map(|s| w.at(format!("net.slice{s}.{number}")));
            let found = slice.into_iter().find(|w| w.has_prefix("squeeze") || w.has("weight"));
            found.unwrap_or_else(|| w.at(format!("features.{number}")))
        };
        let (mut steps, mut tap) = (Vec::new(), 0);
        for layer in layers {
            steps.push(match *layer {
                Conv(number, stride, padding) => {
                    let op = ops::Conv2d { stride, padding: [padding; 4], ..ops::Conv2d::same(1) };
                    Step::Conv(Folded::open(&at(number))?, ops::Conv2d { activation: Activation::Relu, ..op })
                }
                Max(side, stride) => Step::Pool(Pool::square(Pooling::Max, side, stride)),
                PoolCeil(side, stride) => Step::Pool(Pool { ceil: true, ..Pool::square(Pooling::Max, side, stride) }),
                Fire(number) => {
                    let part = |name: &str| Folded::open(&at(number).at(name));
                    Step::Fire([part("squeeze")?, part("expand1x1")?, part("expand3x3")?])
                }
                Tap => {
                    tap += 1;
                    let lin = w.get_any(format!("lin{}.model.1.weight", tap - 1))?;
                    let factors = numbers(&lin)?;
                    Step::Tap(owned(lin.name().into(), [factors.len()], factors)?)
                }
            });
        }
        weights.finish()?;
        Ok(Lpips { trunk, steps, device: device.clone() })
    }

    /// Which classifier.
    pub fn trunk(&self) -> Trunk {
        self.trunk
    }

    /// A plan for `pictures [2·batch, height, width, 3]`, one side of all pairs before the other, to a distance `[batch,1,1,1]`
    /// in f32 for each tap, `layer.0` first. Pictures are RGB in [−1, 1], or in [0, 1] where `unit` says so.
    ///
    /// # Errors
    /// Pictures that are too small for the network, a device that fails, too little memory.
    pub fn plan(&self, batch: usize, size: [usize; 2], unit: bool, dtype: DType) -> Result<Plan> {
        let mut g = Graph::new();
        let x = g.input("pictures", TensorDesc::new([2 * batch, size[0], size[1], 3], dtype));
        // Before zeros are padded on, so it can't be folded into the first convolution.
        let factor = if unit { 2.0 } else { 1.0 };
        let scale = SCALE.iter().map(|s| factor / s).collect();
        let offset = SHIFT.iter().zip(SCALE).map(|(m, s)| -(m + factor - 1.0) / s).collect();
        let mut x = Affine::of("scaling_layer", scale, offset)?.apply(&mut g, x)?;
        let mut tap = 0;
        for (i, step) in self.steps.iter().enumerate() {
            x = match step {
                Step::Conv(conv, op) => conv.conv2d(&mut g, x, *op, None)?,
                Step::Pool(pool) => g.node(&format!("net.pool{i}"), *pool, &[x])?,
                Step::Fire(layers) => fire(&mut g, x, layers)?,
                Step::Tap(lin) => {
                    distance(&mut g, x, lin, tap)?;
                    tap += 1;
                    x
                }
            };
        }
        Ok(Plan::new(&g, &self.device)?)
    }

    /// The distance of each pair, and its parts by tap, of pictures that fit the plan.
    ///
    /// # Errors
    /// Pictures that do not fit the plan, and the errors of the device.
    pub fn distances(&self, plan: &Plan, pictures: &HostTensor) -> Result<(Vec<f32>, Vec<Vec<f32>>)> {
        let layers: Vec<Vec<f32>> = plan.run_host(&[pictures])?.iter().map(HostTensor::to_f32).collect();
        let pairs = layers.first().map(Vec::len).ok_or_else(|| Error::call(MODEL, "a plan without results"))?;
        let total = |i: usize| layers.iter().map(|l| f64::from(l[i])).sum::<f64>() as f32;
        Ok(((0..pairs).map(total).collect(), layers))
    }
}

fn fire(g: &mut Graph, x: Value, [squeeze, one, three]: &[Folded; 3]) -> Result<Value> {
    let relu = |kernel: usize| ops::Conv2d { activation: Activation::Relu, ..ops::Conv2d::same(kernel) };
    let x = squeeze.conv2d(g, x, relu(1), None)?;
    let (one, three) = (one.conv2d(g, x, relu(1), None)?, three.conv2d(g, x, relu(3), None)?);
    Ok(g.node(&format!("{}.cat", squeeze.path()), ops::Layout::Concat, &[one, three])?)
}

/// The distance of a tap: per pixel, then its mean along rows, then over them.
fn distance(g: &mut Graph, x: Value, lin: &Weight, tap: usize) -> Result<()> {
    let path = format!("lin{tap}");
    let weight = g.weight(lin);
    let map = g.node(&path, ops::UnitDistance { eps: EPS }, &[x, weight])?;
    let height = g.desc(map).shape[1];
    let mean = |size| ops::Resample { mode: ops::Mode::Mean, size };
    let rows = g.node(&path, mean([height, 1]), &[map])?;
    let total = g.node(&path, mean([1, 1]), &[rows])?;
    g.output(format!("layer.{tap}"), total);
    Ok(())
}

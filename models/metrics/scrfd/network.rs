//! The layers of SCRFD.

use muybridge_kernels as ops;
use muybridge_kernels::{Activation, Pool, Pooling};
use muybridge_loaders::Weights;
use muybridge_runtime::{Graph, Value};

use super::MODEL;
use crate::error::{Error, Result};
use crate::metrics::folded::{BatchNorm, Folded, numbers};

/// Added to the variance in all norms.
const EPS: f64 = 1e-5;

/// Numbers of a box and of five points.
const BOUNDS: usize = 4;
const POINTS: usize = 10;

/// A convolution with the norm behind it; one that has a bias and no norm is whole as it is.
fn normed(w: &Weights, conv: &str, norm: &str) -> Result<Folded> {
    let layer = Folded::open(&w.at(conv))?;
    let norm = w.at(norm);
    if w.at(conv).has("bias") && !norm.has("running_mean") {
        return Ok(layer);
    }
    if norm.has("weight") && !norm.has("running_mean") {
        let reason = format!("{}: a group norm, whose number of groups the weights do not tell", norm.path());
        return Err(Error::call(MODEL, reason));
    }
    layer.behind(&BatchNorm::open(&norm, EPS)?)
}

/// A convolution that keeps the size of its map, or divides it by the stride.
fn same(layer: &Folded, stride: usize, activation: Activation) -> ops::Conv2d {
    let kernel = layer.shape().dims().get(2).copied().unwrap_or(1);
    ops::Conv2d { stride, activation, ..ops::Conv2d::same(kernel) }
}

fn apply(g: &mut Graph, x: Value, layer: &Folded, stride: usize, relu: bool) -> Result<Value> {
    let activation = if relu { Activation::Relu } else { Activation::None };
    layer.conv2d(g, x, same(layer, stride, activation), None)
}

/// Two convolutions or three, and what came in.
#[derive(Clone, Debug)]
struct Block {
    path: String,
    convs: Vec<Folded>,
    stride: usize,
    downsample: Option<Folded>,
}

impl Block {
    fn open(w: &Weights, stride: usize) -> Result<Block> {
        let count = if w.has("conv3.weight") { 3 } else { 2 };
        let conv = |i: usize| normed(w, &format!("conv{i}"), &format!("bn{i}"));
        // A pool without weights stands first where the block's code has one.
        let at = if w.has("downsample.1.weight") && w.shape("downsample.1.weight").is_some_and(|s| s.len() == 4) {
            ["downsample.1", "downsample.2"]
        } else {
            ["downsample.0", "downsample.1"]
        };
        Ok(Block {
            path: w.path().into(),
            convs: (1..=count).map(conv).collect::<Result<_>>()?,
            stride,
            downsample: w.has_prefix("downsample").then(|| normed(w, at[0], at[1])).transpose()?,
        })
    }

    /// The last convolution takes the shortcut as its residual; the ReLU comes after both.
    fn build(&self, g: &mut Graph, x: Value) -> Result<Value> {
        let skip = match &self.downsample {
            Some(conv) => {
                let pool = Pool { ceil: true, ..Pool::square(Pooling::MeanInside, self.stride, self.stride) };
                let small = if self.stride > 1 { g.node(&self.path, pool, &[x])? } else { x };
                apply(g, small, conv, 1, false)?
            }
            None => x,
        };
        let last = self.convs.len() - 1;
        let mut h = x;
        for (i, conv) in self.convs.iter().enumerate() {
            // The 3 x 3 convolution halves: the first of two, the second of three.
            let stride = if i == last - 1 { self.stride } else { 1 };
            h = match i == last {
                true => conv.conv2d(g, h, same(conv, stride, Activation::None), Some(skip))?,
                false => apply(g, h, conv, stride, true)?,
            };
        }
        Ok(g.node(&self.path, ops::Elementwise::Activate(Activation::Relu), &[h])?)
    }
}

/// What is predicted at one level.
#[derive(Clone, Debug)]
struct Head {
    /// Layers before the scores, and those before boxes and points where these have their own.
    towers: [Vec<Folded>; 2],
    score: Folded,
    bounds: Folded,
    points: Folded,
}

impl Head {
    fn open(w: &Weights, key: &str) -> Result<Head> {
        let tower = |name: &str| -> Result<Vec<Folded>> {
            let at = w.at(name).at(key);
            let layer = |i: usize| {
                let norm = if at.has_prefix(format!("{i}.gn")) { format!("{i}.gn") } else { format!("{i}.bn") };
                normed(&at, &format!("{i}.conv"), &norm)
            };
            (0..).take_while(|i| at.has_prefix(i)).map(layer).collect()
        };
        if !w.has_prefix("stride_kps") {
            let reason = format!("{}: no points (stride_kps): a variant with keypoints (bnkps) is wanted", w.path());
            return Err(Error::call(MODEL, reason));
        }
        let last = |name: &str| Folded::open(&w.at(name).at(key));
        let towers = [tower("cls_stride_convs")?, tower("reg_stride_convs")?];
        let head =
            Head { towers, score: last("stride_cls")?, bounds: last("stride_reg")?, points: last("stride_kps")? };
        let anchors = head.score.shape()[0];
        if [head.bounds.shape()[0], head.points.shape()[0]] != [BOUNDS * anchors, POINTS * anchors] {
            let (bounds, points) = (head.bounds.shape(), head.points.shape());
            let reason = format!("{key}: {anchors} scores a cell, boxes {bounds} and points {points}");
            return Err(Error::call(MODEL, reason));
        }
        Ok(head)
    }

    fn build(&self, g: &mut Graph, x: Value, stride: usize) -> Result<()> {
        let tower = |g: &mut Graph, layers: &[Folded]| layers.iter().try_fold(x, |h, conv| apply(g, h, conv, 1, true));
        let h = tower(g, &self.towers[0])?;
        let score = apply(g, h, &self.score, 1, false)?;
        let h = if self.towers[1].is_empty() { h } else { tower(g, &self.towers[1])? };
        let (bounds, points) = (apply(g, h, &self.bounds, 1, false)?, apply(g, h, &self.points, 1, false)?);
        g.output(format!("score.{stride}"), score);
        g.output(format!("bounds.{stride}"), bounds);
        g.output(format!("points.{stride}"), points);
        Ok(())
    }
}

/// Backbone, pyramid and heads.
#[derive(Clone, Debug)]
pub(super) struct Network {
    stem: Vec<Folded>,
    stages: Vec<Vec<Block>>,
    lateral: Vec<Folded>,
    fpn: Vec<Folded>,
    down: Vec<Folded>,
    pafpn: Vec<Folded>,
    heads: Vec<Head>,
    /// Factors of the boxes, where there are some.
    scales: Vec<f32>,
}

impl Network {
    pub fn open(w: &Weights) -> Result<Network> {
        let (backbone, neck, head) = (w.at("backbone"), w.at("neck"), w.at("bbox_head"));
        let stem = [(0, 1), (3, 4), (6, 7)].map(|(c, n)| normed(&backbone.at("stem"), &c.to_string(), &n.to_string()));
        let stage = |i: usize| -> Result<Vec<Block>> {
            let at = backbone.at(format!("layer{}", i + 1));
            let block = |b: usize| Block::open(&at.at(b), if i > 0 && b == 0 { 2 } else { 1 });
            (0..).take_while(|b| at.has_prefix(b)).map(block).collect()
        };
        let list = |name: &str| -> Result<Vec<Folded>> {
            let at = neck.at(name);
            (0..).take_while(|i| at.has_prefix(i)).map(|i| Folded::open(&at.at(i).at("conv"))).collect()
        };
        let [lateral, fpn, down, pafpn] = ["lateral_convs", "fpn_convs", "downsample_convs", "pafpn_convs"].map(list);
        let mut network = Network {
            stem: stem.into_iter().collect::<Result<_>>()?,
            stages: (0..4).map(stage).collect::<Result<_>>()?,
            lateral: lateral?,
            fpn: fpn?,
            down: down?,
            pafpn: pafpn?,
            heads: Vec::new(),
            scales: Vec::new(),
        };
        let levels = network.lateral.len();
        let counts = [network.fpn.len(), network.down.len() + 1, network.pafpn.len() + 1];
        if !(1..=4).contains(&levels) || counts != [levels; 3] || network.stages.iter().any(Vec::is_empty) {
            let stages: Vec<usize> = network.stages.iter().map(Vec::len).collect();
            let reason = format!("stages of {stages:?} blocks and a pyramid of {levels} levels with {counts:?} layers");
            return Err(Error::call(MODEL, reason));
        }
        let shared = head.has_prefix("cls_stride_convs.0");
        let key = |stride: usize| if shared { "0".into() } else { format!("({stride}, {stride})") };
        network.heads = network.strides().into_iter().map(|s| Head::open(&head, &key(s))).collect::<Result<_>>()?;
        if let Some(other) = network.heads.iter().find(|h| h.score.shape()[0] != network.anchors()) {
            return Err(Error::call(MODEL, format!("{}: another number of anchors", other.score.path())));
        }
        for i in (0..levels).take_while(|_| head.has_prefix("scales")) {
            let factor = numbers(&head.at("scales").get_any(format!("{i}.scale"))?)?;
            network.scales.extend(factor.first());
        }
        Ok(network)
    }

    /// Pixels between the cells of each level.
    pub fn strides(&self) -> Vec<usize> {
        (0..self.lateral.len()).rev().map(|i| 32 >> i).collect()
    }

    /// Anchors of a cell.
    pub fn anchors(&self) -> usize {
        self.heads.first().map_or(0, |h| h.score.shape()[0])
    }

    /// What the boxes of a level are multiplied by.
    pub fn scale(&self, level: usize) -> f32 {
        self.scales.get(level).copied().unwrap_or(1.0)
    }

    pub fn build(&self, g: &mut Graph, images: Value) -> Result<()> {
        let mut x = images;
        for (i, conv) in self.stem.iter().enumerate() {
            x = apply(g, x, conv, if i == 0 { 2 } else { 1 }, true)?;
        }
        x = g.node("backbone.maxpool", Pool::square(Pooling::Max, 2, 2), &[x])?;
        let mut maps = Vec::new();
        for stage in &self.stages {
            x = stage.iter().try_fold(x, |x, block| block.build(g, x))?;
            maps.push(x);
        }
        let maps = self.pyramid(g, &maps[4 - self.lateral.len()..])?;
        for ((head, map), stride) in self.heads.iter().zip(maps).zip(self.strides()) {
            head.build(g, map, stride)?;
        }
        Ok(())
    }

    /// Down from the coarsest map to the finest, and up again. Liu et al., "Path aggregation network" (2018).
    fn pyramid(&self, g: &mut Graph, maps: &[Value]) -> Result<Vec<Value>> {
        let mut lateral: Vec<Value> = Vec::new();
        for (map, conv) in maps.iter().zip(&self.lateral).rev() {
            let above = match lateral.last() {
                Some(coarse) => {
                    let shape = g.desc(*map).shape;
                    let nearest = ops::Resample { mode: ops::Mode::Nearest, size: [shape[1], shape[2]] };
                    Some(g.node(conv.path(), nearest, &[*coarse])?)
                }
                None => None,
            };
            lateral.push(conv.conv2d(g, *map, same(conv, 1, Activation::None), above)?);
        }
        lateral.reverse();
        let mut out: Vec<Value> = Vec::new();
        let mut below: Option<Value> = None;
        for (i, (map, conv)) in lateral.iter().zip(&self.fpn).enumerate() {
            let mut x = apply(g, *map, conv, 1, false)?;
            if let Some(finer) = below {
                let down = &self.down[i - 1];
                x = down.conv2d(g, finer, same(down, 2, Activation::None), Some(x))?;
            }
            below = Some(x);
            out.push(if i == 0 { x } else { apply(g, x, &self.pafpn[i - 1], 1, false)? });
        }
        Ok(out)
    }
}

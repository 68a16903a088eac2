//! The networks of the metrics at full size: they ask for exactly the tensors of the published checkpoints, and a plan of them
//! is as much work as the papers' tables say, on every target.

use std::collections::BTreeMap;
use std::path::Path;

use muybridge::metrics::i3d::Source;
use muybridge::metrics::lpips::Trunk;
use muybridge::metrics::{I3d, IResNet, Lpips, Scrfd};
use muybridge::runtime::{DType, Device, HostTensor, PlanReport, Shape, TensorDesc};
use muybridge::{Result, Weights};

const TARGETS: [&str; 3] = ["trace:cpu", "trace:wgpu", "trace:cuda"];

/// Tensors of the names and shapes of `tests/keys/<table>`, all ones: a variance is above 0.
fn ones(table: &str) -> Result<(Weights, usize)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/keys").join(table);
    let text = std::fs::read_to_string(path).expect("the table");
    let mut tensors = BTreeMap::new();
    for line in text.lines().filter(|l| !l.starts_with('#') && !l.is_empty()) {
        let (name, shape) = line.split_once('\t').expect("a name and a shape");
        let extents: Vec<usize> = if shape == "scalar" {
            Vec::new()
        } else {
            shape.split('x').map(|n| n.parse().expect("a number")).collect()
        };
        let shape = Shape::new(&extents)?;
        let mut tensor = HostTensor::zeros(TensorDesc { shape, dtype: DType::BF16 });
        // 1 in bf16 is 0x3f80.
        tensor.bytes_mut().chunks_mut(2).for_each(|b| b.copy_from_slice(&[0x80, 0x3f]));
        tensors.insert(name.to_string(), tensor);
    }
    let trained = |name: &str| !name.contains("running_") && !name.contains("num_batches_tracked");
    let count = tensors.iter().filter(|(name, _)| trained(name)).map(|(_, t)| t.shape().count()).sum();
    Ok((Weights::in_memory(tensors), count))
}

#[track_caller]
fn near(report: &PlanReport, want: f64) {
    let ratio = report.cost().flop as f64 / want;
    assert!((0.97..=1.03).contains(&ratio), "{} flop is {ratio:.4} of {want}", report.cost().flop);
    for n in &report.nodes {
        assert!(n.launches <= n.declared as usize, "{}: {} launches, {} declared", n.path, n.launches, n.declared);
    }
}

#[test]
fn iresnet_50_is_the_published_one() -> Result<()> {
    for target in TARGETS {
        let (weights, count) = ones("arcface_iresnet50.tsv")?;
        // insightface's own count.
        assert_eq!(count, 43_590_848);
        let net = IResNet::of(weights, &Device::open(target)?)?;
        assert_eq!(net.width(), 512);
        let plan = net.plan(1, DType::F32)?;
        near(plan.report(), 2.0 * 6.31e9);
    }
    Ok(())
}

#[test]
fn scrfd_is_the_published_one() -> Result<()> {
    for (table, count, multiply_adds) in
        [("scrfd_2.5g_bnkps.tsv", 819_809, 2.5e9), ("scrfd_10g_bnkps.tsv", 4_229_905, 10.0e9)]
    {
        for target in TARGETS {
            let (weights, found) = ones(table)?;
            assert_eq!(found, count);
            let net = Scrfd::of(weights, &Device::open(target)?)?;
            let plan = net.plan(1, [480, 640], DType::F32)?;
            near(plan.report(), 2.0 * multiply_adds);
            let shapes: Vec<Vec<usize>> = plan.outputs().map(|(_, d)| d.shape.dims().to_vec()).collect();
            assert_eq!((shapes.len(), &shapes[0], &shapes[8]), (9, &vec![1, 60, 80, 2], &vec![1, 15, 20, 20]));
            assert!(net.plan(1, [480, 650], DType::F32).is_err(), "650 is no multiple of 32");
        }
    }
    Ok(())
}

#[test]
fn i3d_is_the_published_one() -> Result<()> {
    for target in TARGETS {
        let (weights, count) = ones("i3d_kinetics400.tsv")?;
        assert_eq!(count, 12_697_264);
        let net = I3d::of(weights, Source::VideoGpt, &Device::open(target)?)?;
        assert_eq!(net.classes(), 400);
        let plan = net.plan(1, 64, [224, 224], DType::F32)?;
        // Carreira and Zisserman's table: 108 G multiply-adds for 64 frames (with its pools, a little more).
        near(plan.report(), 2.0 * 108.6e9);
        assert_eq!(plan.outputs().next().map(|(_, d)| d.shape.dims().to_vec()), Some(vec![1, 7, 1, 1, 400]));
        assert!(net.plan(1, 4, [224, 224], DType::F32).is_err(), "four frames leave nothing to average");
        assert!(net.plan(1, 16, [300, 300], DType::F32).is_err(), "300 pixels leave more than a cell");
        assert!(net.plan(1, usize::MAX / 2, [224, 224], DType::F32).is_err(), "more frames than any clip has");
    }
    Ok(())
}

#[test]
fn lpips_asks_for_the_published_tensors() -> Result<()> {
    for (table, trunk, count) in [("lpips_alex.tsv", Trunk::Alex, 2_470_848), ("lpips_vgg.tsv", Trunk::Vgg, 14_716_160)]
    {
        for target in TARGETS {
            let (weights, found) = ones(table)?;
            assert_eq!(found, count);
            let net = Lpips::of(trunk, weights, &Device::open(target)?)?;
            let plan = net.plan(1, [128, 96], false, DType::F32)?;
            assert_eq!(plan.outputs().count(), 5);
            assert!(net.plan(1, [8, 8], false, DType::F32).is_err(), "a picture of 8 pixels");
        }
    }
    Ok(())
}

#[test]
fn a_layer_without_extents_is_named() -> Result<()> {
    let name = "Conv3d_1a_7x7.conv3d.weight";
    let scalar = HostTensor::zeros(TensorDesc { shape: Shape::scalar(), dtype: DType::F32 });
    let weights = Weights::in_memory([(name.to_string(), scalar)].into());
    let device = Device::open("trace:cpu")?;
    let error = I3d::of(weights, Source::VideoGpt, &device).expect_err("no layer").to_string();
    assert!(error.contains(name), "{error}");
    Ok(())
}

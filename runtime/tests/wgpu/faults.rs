//! Copies of any range, and failures: each one a typed error, after which the process goes on.

use std::sync::Arc;

use muybridge_runtime::backend::Backend;
use muybridge_runtime::backend::wgpu::{self as backend, WgpuBackend};
use muybridge_runtime::{DType, Device, DeviceOptions, Error, Graph, Plan, Result, TensorDesc};

use super::ops::{BROKEN, Negate};
use super::{Outcome, ensure, expect_sums, plain, ramp, sums};

pub fn copies_any_range(index: usize) -> Outcome {
    let backend = WgpuBackend::new(index, &DeviceOptions::default())?;
    let buffer = backend.allocate(1003, "a test")?;
    let mut mirror = vec![0u8; 1003];
    backend.write(&*buffer, 0, &mirror)?;
    let mut state = 12345u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    for step in 0..60 {
        let start = random(1003);
        let len = if step % 3 == 0 { random(6).min(1003 - start) } else { random(1004 - start) };
        let bytes: Vec<u8> = (0..len).map(|_| random(256) as u8).collect();
        backend.write(&*buffer, start as u64, &bytes)?;
        mirror[start..start + len].copy_from_slice(&bytes);
        let (from, count) = (random(1003), random(400));
        let count = count.min(1003 - from);
        let mut found = vec![0u8; count];
        backend.read(&*buffer, from as u64, &mut found)?;
        ensure(found == mirror[from..from + count], format!("step {step}: {count} bytes from {from}"))?;
    }
    let mut all = vec![0u8; 1003];
    backend.read(&*buffer, 0, &mut all)?;
    ensure(all == mirror, "the whole buffer differs")?;
    ensure(backend.read(&*buffer, 1000, &mut [0; 100]).is_err(), "read beyond the end")?;
    ensure(backend.write(&*buffer, u64::MAX, &[0; 2]).is_err(), "wrote beyond the end")
}

pub fn copies_more_than_one_chunk(index: usize) -> Outcome {
    let backend = WgpuBackend::new(index, &DeviceOptions::default())?;
    let n = (70usize << 20) + 3;
    let buffer = backend.allocate(n as u64, "a test")?;
    let bytes: Vec<u8> = (0..n).map(|i| (i / 4093) as u8).collect();
    backend.write(&*buffer, 0, &bytes)?;
    let mut found = vec![0u8; n - 1];
    backend.read(&*buffer, 1, &mut found)?;
    ensure(found == bytes[1..], "what was read is not what was written")
}

pub fn a_refused_kernel_is_named(index: usize) -> Outcome {
    let device = plain(index)?;
    let mut g = Graph::new();
    let x = g.input("x", TensorDesc::new([64], DType::F32));
    let y = g.node("y", Negate(BROKEN), &[x])?;
    g.output("y", y);
    match Plan::new(&g, &device) {
        Err(Error::Compile { file, message }) => {
            ensure(file.ends_with("negate.wgsl") && message.contains("WGSL"), format!("{file}: {message}"))?;
        }
        other => return Err(format!("{other:?}").into()),
    }
    let (graph, _) = sums(64, 1, DType::F32)?;
    let x = ramp(64, 5);
    expect_sums(&Plan::new(&graph, &device)?.run_host(&[&x])?[0], &x, 1)
}

pub fn too_much_memory(index: usize) -> Outcome {
    let backend = backend::open(index, &DeviceOptions::default())?;
    for bytes in [u64::MAX, 1 << 60] {
        match backend.allocate(bytes, "a test").map(|b| b.bytes()) {
            Err(Error::OutOfMemory { wanted, limit: Some(_), .. }) => ensure(wanted == bytes, "another size")?,
            other => return Err(format!("{other:?}").into()),
        }
    }
    let device = Device::from_backend("full", backend);
    let mut large = Graph::new();
    let x = large.input("x", TensorDesc::new([1 << 45], DType::F32));
    large.output("y", x);
    match Plan::new(&large, &device) {
        Err(Error::OutOfMemory { wanted, .. }) => ensure(wanted == 1 << 47, format!("{wanted} bytes"))?,
        other => return Err(format!("{other:?}").into()),
    }
    let (graph, _) = sums(64, 1, DType::F32)?;
    let x = ramp(64, 5);
    expect_sums(&Plan::new(&graph, &device)?.run_host(&[&x])?[0], &x, 1)
}

pub fn a_lost_device(index: usize) -> Outcome {
    let backend = Arc::new(WgpuBackend::new(index, &DeviceOptions::default())?);
    let device = Device::from_backend("lost", backend.clone());
    let (graph, _) = sums(64, 1, DType::F32)?;
    let plan = Plan::new(&graph, &device)?;
    let x = ramp(64, 5);
    let input = device.tensor(&x)?;
    let outputs = plan.run(&[&input])?;
    backend.destroy();
    let lost = |r: Result<()>| matches!(r, Err(Error::DeviceLost { .. }));
    ensure(lost(plan.run_into(&[&input], &outputs)), "run")?;
    ensure(lost(plan.profile(&[&input], &outputs).map(drop)), "profile")?;
    ensure(lost(outputs[0].to_host().map(drop)), "read")?;
    ensure(lost(device.tensor(&x).map(drop)), "allocate")?;
    ensure(lost(Plan::new(&graph, &device).map(drop)), "compile")?;
    let other = plain(index)?;
    expect_sums(&Plan::new(&graph, &other)?.run_host(&[&x])?[0], &x, 1)
}

pub fn foreign_buffers(index: usize) -> Outcome {
    let (a, b) = (backend::open(index, &DeviceOptions::default())?, backend::open(index, &DeviceOptions::default())?);
    let buffer = a.allocate(64, "a test")?;
    match b.write(&*buffer, 0, &[0; 64]) {
        Err(Error::Driver { reason, .. }) => ensure(reason.contains("another device"), reason),
        other => Err(format!("{other:?}").into()),
    }
}

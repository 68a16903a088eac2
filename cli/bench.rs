//! `muybridge bench`

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use muybridge::runtime::{Profile, Shape, Tensor};
use muybridge::{Device, HostTensor, Plan, Tiling};
use serde_json::json;

use crate::component::{self, Component, ModelArgs};
use crate::table::{self, Table, say};
use crate::{DeviceArgs, Failure, interrupt};

/// Options of the verb.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Which part of a VAE: decode or encode
    #[arg(long, value_name = "NAME")]
    part: Option<String>,
    /// Decode a VAE's latents in overlapping tiles of N latents a side, one at a time
    #[arg(long, value_name = "N", conflicts_with_all = ["part", "nodes"])]
    tile: Option<usize>,
    /// Timed runs, after one to warm up
    #[arg(long, default_value_t = 5, value_name = "N")]
    repeats: usize,
    /// Also time each node on the device's clock, and list where time goes
    #[arg(long)]
    nodes: bool,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

/// Times one part of a model.
pub fn execute(args: &Args) -> Result<ExitCode, Failure> {
    let device = args.device.open()?;
    if let Some(tile) = args.tile {
        return tiled(args, &device, Tiling::of(tile));
    }
    let spinner = ProgressBar::new_spinner().with_message("planning: weights go to the device");
    spinner.enable_steady_tick(std::time::Duration::from_millis(100));
    let started = Instant::now();
    let (component, _, random) = args.model.open(&device)?;
    // The first part is the one that runs most: the step, or the decoder.
    let part = args.model.parts(&component, args.part.as_deref())?.into_iter().next();
    let part = part.ok_or_else(|| Failure("nothing to time".into()))?;
    let planned = started.elapsed().as_secs_f64();
    spinner.finish_and_clear();
    let (name, plan) = part.main();
    let inputs = component::operands(plan)?;
    let inputs: Vec<&Tensor> = inputs.iter().collect();
    let seconds = time(plan, &inputs, args.repeats.max(1))?;
    let (best, median) = (seconds[0], seconds[seconds.len() / 2]);
    let flop = plan.report().cost().flop;
    if args.json {
        let line = json!({
            "name": "muybridge", "version": env!("CARGO_PKG_VERSION"), "model": args.model.name(), "part": name,
            "device": device.name(), "dtype": args.model.dtype.name(), "seconds": seconds, "median": median, "best": best,
            "plan_seconds": planned, "flop": flop, "peak_bytes": peak_bytes(), "device_bytes": device.memory().peak,
            "arena_bytes": plan.report().arena, "weight_bytes": plan.report().weights,
        });
        say!("{line}");
        return Ok(ExitCode::SUCCESS);
    }
    let weights =
        if random { format!("random {} weights", args.model.weights) } else { "the checkpoint's weights".into() };
    say!(
        "{} {} {name} on {} ({}) in {}, {weights}",
        component.class(),
        args.model.name(),
        device.name(),
        device.caps().name,
        args.model.dtype
    );
    say!("{}", plan.report());
    say!("planned in {planned:.2} s; {} timed runs: median {median:.4} s, best {best:.4} s", seconds.len());
    say!("{:.1} GFLOP/s; {} on the device at most", flop as f64 / median / 1e9, table::bytes(device.memory().peak));
    if let Some(peak) = peak_bytes() {
        say!("{} of the process's memory at most", table::bytes(peak));
    }
    if args.nodes {
        let profile = plan.profile(&inputs, &plan.empty_outputs()?)?;
        say!("\nnodes take {:.4} s of {:.4} s", profile.busy(), profile.wall);
        where_time_goes(plan, &profile).print();
    }
    Ok(ExitCode::SUCCESS)
}

/// Times a decoder in tiles, from latents to a picture in host memory.
fn tiled(args: &Args, device: &Device, tiling: Tiling) -> Result<ExitCode, Failure> {
    let (Component::Vae(vae), ..) = args.model.open(device)? else {
        return Err(Failure(format!("{}: only a VAE is decoded in tiles", args.model.model)));
    };
    let latents = args.model.latents(vae.config().latent_channels)?;
    let mut seconds = Vec::new();
    for _ in 0..args.repeats.max(1) {
        interrupt::check()?;
        let started = Instant::now();
        vae.decode_tiled(&latents, tiling, args.model.dtype)?;
        seconds.push(started.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    let (best, median, peak) = (seconds[0], seconds[seconds.len() / 2], device.memory().peak);
    if args.json {
        let line = json!({
            "name": "muybridge", "version": env!("CARGO_PKG_VERSION"), "model": args.model.model, "part": "decode",
            "tile": tiling.tile, "device": device.name(), "dtype": args.model.dtype.name(), "seconds": seconds,
            "median": median, "best": best, "peak_bytes": peak_bytes(), "device_bytes": peak,
        });
        say!("{line}");
        return Ok(ExitCode::SUCCESS);
    }
    say!(
        "{} decode in tiles of {} latents, one every {}, on {}",
        args.model.model,
        tiling.tile,
        tiling.stride,
        device.name()
    );
    say!(
        "{} timed runs: median {median:.4} s, best {best:.4} s; {} on the device at most",
        seconds.len(),
        table::bytes(peak)
    );
    if let Some(peak) = peak_bytes() {
        say!("{} of the process's memory at most", table::bytes(peak));
    }
    Ok(ExitCode::SUCCESS)
}

/// Seconds of each run, sorted. A run ends when the device has done everything; its results stay there.
fn time(plan: &Plan, inputs: &[&Tensor], repeats: usize) -> Result<Vec<f64>, Failure> {
    let outputs = plan.empty_outputs()?;
    // Devices work in order: what is asked after a run comes after its end.
    let last = plan.device().tensor(&HostTensor::from_fn(Shape::new(&[1])?, |_| 0.0))?;
    let style = ProgressStyle::with_template("timing {bar:30} {pos}/{len} {eta} left");
    let bar = ProgressBar::new(repeats as u64 + 1).with_style(style.unwrap_or(ProgressStyle::default_bar()));
    let mut seconds = Vec::new();
    for i in 0..=repeats {
        interrupt::check()?;
        let started = Instant::now();
        plan.run_into(inputs, &outputs)?;
        last.to_host()?;
        // The first run warms up: pages, caches, clocks.
        if i > 0 {
            seconds.push(started.elapsed().as_secs_f64());
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    seconds.sort_by(f64::total_cmp);
    Ok(seconds)
}

/// Time by op, variant and shape, the longest first.
fn where_time_goes(plan: &Plan, profile: &Profile) -> Table {
    let mut groups: BTreeMap<String, (usize, f64, u64)> = BTreeMap::new();
    for (node, time) in plan.report().nodes.iter().zip(&profile.nodes) {
        let first = node.inputs.first().map(ToString::to_string).unwrap_or_default();
        let key = format!("{}:{} {first} → {}", node.op, node.variant, node.output);
        let entry = groups.entry(key).or_default();
        *entry = (entry.0 + 1, entry.1 + time.seconds, entry.2 + node.cost.flop);
    }
    let mut rows: Vec<_> = groups.into_iter().collect();
    rows.sort_by(|a, b| b.1.1.total_cmp(&a.1.1));
    let mut out = Table::new(&[">nodes", ">ms", ">share", ">GFLOP/s", "op:variant, first operand → result"]);
    for (key, (nodes, seconds, flop)) in rows {
        let share = 100.0 * seconds / profile.busy().max(1e-12);
        let rate = flop as f64 / seconds.max(1e-12) / 1e9;
        out.row([
            nodes.to_string(),
            format!("{:.2}", seconds * 1e3),
            format!("{share:.1} %"),
            format!("{rate:.1}"),
            key,
        ]);
    }
    out
}

/// The most memory that this process ever had, where the system tells.
fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}

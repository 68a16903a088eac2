//! `muybridge profile`

mod pipeline;

use std::path::PathBuf;
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};
use muybridge::Plan;
use muybridge::profiling::groups::{By, Group, groups};
use muybridge::profiling::{self, Options, Report, Roofs};

use crate::component::{ModelArgs, Part};
use crate::table::{self, Table, say};
use crate::{DeviceArgs, Failure, interrupt, output};

/// Options of the verb.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Which part: step or clip (what is computed once) of a UNet; decode or encode of a VAE
    #[arg(long, value_name = "NAME")]
    part: Option<String>,
    /// Profiled runs, and as many that are not, in turn
    #[arg(long, default_value_t = 5, value_name = "N")]
    repeats: usize,
    /// Runs that time each kernel on its own: as many with warm, and as many with flushed caches
    #[arg(long, default_value_t = 3, value_name = "N")]
    alone: usize,
    /// Denoising steps, where the model is a pipeline's folder: its whole run is profiled, once
    #[arg(long, default_value_t = 4, value_name = "N")]
    steps: usize,
    /// Rows of each table
    #[arg(long, default_value_t = 10, value_name = "N")]
    rows: usize,
    /// Write everything that was measured, for muybridge compare
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write one run as a trace for Perfetto and chrome://tracing
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Write a page with roofline, tree of blocks, arena over time and a sortable table
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// Profiles one part of a model, or a run of a pipeline.
pub fn execute(args: &Args) -> Result<ExitCode, Failure> {
    [&args.json, &args.trace, &args.html].into_iter().flatten().try_for_each(|file| output::file(file))?;
    let device = args.device.open_labelled()?;
    watched(&device);
    if let Some(pipeline) = pipeline::Pipeline::find(args)? {
        let report = pipeline.profile(args, &device)?;
        pipeline::print(&report, args.rows);
        write(args, &report)?;
        return Ok(ExitCode::SUCCESS);
    }
    let spinner = ProgressBar::new_spinner().with_message("planning: weights go to the device");
    spinner.enable_steady_tick(std::time::Duration::from_millis(100));
    let (component, _, _) = args.model.open(&device)?;
    let part = plan(&args.model, &component, args.part.as_deref())?;
    spinner.finish_and_clear();
    let (name, plan) = main_plan(&part, args.part.as_deref());
    let roofs = Roofs::measure(&device, args.model.dtype, &mut bar("roofs"))?;
    let options = Options { repeats: args.repeats, warm: args.alone, flushed: args.alone };
    let report = profiling::measure(&args.model.subject(name), plan, roofs, &options, &mut bar("profiling"))?;
    print(&report, args.rows);
    write(args, &report)?;
    Ok(ExitCode::SUCCESS)
}

/// Writes what was asked for.
fn write(args: &Args, report: &Report) -> Result<(), Failure> {
    if let Some(file) = &args.json {
        report.save(file)?;
        say!("written: {}", file.display());
    }
    for (file, text) in
        [(&args.trace, profiling::trace::trace as fn(&Report) -> String), (&args.html, profiling::html::html)]
    {
        if let Some(file) = file {
            profiling::error::write(file, text(report).as_bytes())?;
            say!("written: {}", file.display());
        }
    }
    Ok(())
}

/// Says on a CUDA device whether a tool is told the paths of nodes.
#[cfg(feature = "cuda")]
fn watched(device: &muybridge::Device) {
    if device.caps().target == muybridge::runtime::Target::Cuda {
        match muybridge::runtime::backend::cuda::watched() {
            Ok(()) => say!("paths of nodes go to the tool that watches, as NVTX ranges"),
            Err(reason) => say!("no NVTX ranges: {reason}"),
        }
    }
}

#[cfg(not(feature = "cuda"))]
fn watched(_: &muybridge::Device) {}

/// The part that was asked for, or the one that runs most.
pub fn plan(model: &ModelArgs, component: &crate::component::Component, part: Option<&str>) -> Result<Part, Failure> {
    let asked = if part == Some("clip") { Some("step") } else { part };
    let found = model.parts(component, asked)?.into_iter().next();
    found.ok_or_else(|| Failure("nothing to measure".into()))
}

/// The plan of a part, and its name.
pub fn main_plan<'p>(part: &'p Part, asked: Option<&str>) -> (&'static str, &'p Plan) {
    match part {
        Part::Step(step) if asked == Some("clip") => ("clip", step.clip_plan()),
        other => other.main(),
    }
}

/// A progress bar that stops what it watches after Ctrl-C.
pub fn bar(what: &'static str) -> impl FnMut(u64, u64) -> bool {
    let style = ProgressStyle::with_template("{msg} {bar:30} {pos}/{len} {eta} left");
    let bar = ProgressBar::new(0).with_message(what).with_style(style.unwrap_or(ProgressStyle::default_bar()));
    move |done, of| {
        bar.set_length(of);
        bar.set_position(done);
        if done >= of {
            bar.finish_and_clear();
        }
        interrupt::check().is_ok()
    }
}

fn print(r: &Report, rows: usize) {
    let ms = |seconds: f64| format!("{:.2} ms", seconds * 1e3);
    let percent = |part: f64| format!("{:.1} %", 100.0 * part);
    say!("{} on {} ({})", r.subject, r.device.name, r.device.model);
    let rate = r.plan.flop as f64 / r.wall.median().max(1e-12);
    say!(
        "a run {} ± {}, {} GFLOP/s; at the roofs {}",
        ms(r.wall.median()),
        percent(r.wall.relative_spread()),
        whole(rate / 1e9),
        ms(r.nodes.iter().map(|n| r.roofs.seconds(n.flop, n.bytes())).sum()),
    );
    say!(
        "kernels {} of a profiled run, gaps {}; profiling costs {}",
        percent(r.accounted.median()),
        ms(r.gaps.median()),
        percent(r.overhead()),
    );
    say!(
        "{} in {} launches; arena {} (lowest {}), weights {}",
        table::flop(r.plan.flop),
        r.plan.launches,
        table::bytes(r.plan.arena),
        table::bytes(r.plan.arena_lower_bound),
        table::bytes(r.plan.weights),
    );
    if r.plan.tuned > 0 {
        say!("{} of {} nodes take a kernel that was tuned", r.plan.tuned, r.nodes.len());
    }
    say!("roofs: {} GFLOP/s ({})", whole(r.roofs.flop_rate / 1e9), r.roofs.product);
    say!("       {:.1} GB/s ({})", r.roofs.byte_rate / 1e9, r.roofs.copy);
    tables(r, rows);
}

fn tables(r: &Report, rows: usize) {
    for (title, by) in [("op:kernel", By::Op), ("block", By::Block), ("shape", By::Shape), ("node", By::Node)] {
        say!("");
        of_groups(title, &groups(r, by), r.busy().median(), rows).print();
    }
}

/// Columns of a terminal.
const WIDTH: usize = 100;

/// Groups with the time that would be won at the roof, most of it first.
fn of_groups(title: &str, groups: &[Group], busy: f64, rows: usize) -> Table {
    let headings = [">ms", ">±%", ">share", ">warm", ">flush", ">GFLOP/s", ">GB/s", ">roof", ">to win", title];
    let mut out = Table::new(&headings).within(WIDTH);
    let shown = if rows == 0 { groups.len() } else { rows };
    for g in groups.iter().take(shown) {
        let seconds = g.seconds.median();
        let ms = |seconds: f64| if seconds > 0.0 { brief(seconds * 1e3) } else { "-".into() };
        let times = if g.nodes > 1 { format!("{}x ", g.nodes) } else { String::new() };
        out.row([
            ms(seconds),
            // One run has no spread.
            if g.seconds.0.len() > 1 { format!("{:.0}", 100.0 * g.seconds.relative_spread()) } else { "-".into() },
            format!("{:.1}%", 100.0 * seconds / busy.max(1e-12)),
            ms(g.warm.median()),
            ms(g.flushed.median()),
            whole(g.flop as f64 / seconds.max(1e-12) / 1e9),
            brief(g.bytes as f64 / seconds.max(1e-12) / 1e9),
            format!("{:.0}%", 100.0 * g.of_roof()),
            ms(g.won()),
            format!("{times}{}", g.key),
        ]);
    }
    if groups.len() > shown {
        out.row(
            std::iter::repeat_n(String::new(), headings.len() - 1).chain([format!("… {} more", groups.len() - shown)]),
        );
    }
    out
}

/// Three digits or so.
fn brief(v: f64) -> String {
    match v {
        100.0.. => format!("{v:.0}"),
        10.0.. => format!("{v:.1}"),
        0.095.. => format!("{v:.2}"),
        _ => format!("{v:.3}"),
    }
}

fn whole(v: f64) -> String {
    if v >= 10.0 { format!("{v:.0}") } else { brief(v) }
}

//! `muybridge tune`

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use muybridge::profiling::tune::{self, Row};
use muybridge::runtime::files;
use muybridge::runtime::tuned::{Table as Tuned, Tuned as Place};

use crate::component::ModelArgs;
use crate::profile::{bar, main_plan, plan};
use crate::table::{Table, say};
use crate::{DeviceArgs, Failure, output};

/// Options of the verb.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Which part: step or clip of a UNet; decode or encode of a VAE
    #[arg(long, value_name = "NAME")]
    part: Option<String>,
    /// Write the table here instead of the user's cache, to be shipped with a product (--tuned, MUYBRIDGE_TUNED)
    #[arg(long, short, value_name = "FILE.json")]
    output: Option<PathBuf>,
    /// Whole runs of the plan, tuned and not, that decide whether the table is kept
    #[arg(long, default_value_t = 7, value_name = "N")]
    verify: usize,
    /// Measure, and keep nothing
    #[arg(long)]
    dry_run: bool,
}

/// Tunes one part of a model. Exits with 0 whether or not anything faster was found.
pub fn execute(args: &Args) -> Result<ExitCode, Failure> {
    let file = args.file()?;
    let device = args.device.open()?;
    device.set_tuned(None);
    let (component, _, _) = args.model.open(&device)?;
    let part = args.part.as_deref();
    let usual = plan(&args.model, &component, part)?;
    let (name, usual) = main_plan(&usual, part);
    let found = tune::tune(usual.report(), &device, &mut bar("tuning"))?;
    say!("{} on {} ({})", args.model.subject(name), device.name(), device.caps().name);
    print(&found.rows);
    if found.table.is_empty() {
        say!("\nthe usual kernels are the fastest; nothing to keep");
        return Ok(ExitCode::SUCCESS);
    }
    device.set_tuned(Some(Arc::new(found.table.clone())));
    let tuned = plan(&args.model, &component, part)?;
    let (_, tuned) = main_plan(&tuned, part);
    let ratio = tune::verify(usual, tuned, args.verify, &mut bar("the whole plan, tuned and not"))?;
    let Some(r) = ratio else { return Err(Failure("the plan takes no time that could be measured".into())) };
    say!("\nthe whole plan takes {:.3} ± {:.3} of its time before", r.ratio, r.uncertainty);
    if r.ratio - 2.0 * r.uncertainty > 1.0 {
        say!("that is slower, so that nothing is kept");
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(file) = file {
        found.table.merge_into(&file)?;
        say!("{} kernels kept in {}", found.table.len(), file.display());
    }
    Ok(ExitCode::SUCCESS)
}

impl Args {
    /// The file that entries are added to, if they are kept: there is a table, or one can be made.
    fn file(&self) -> Result<Option<PathBuf>, Failure> {
        if self.dry_run {
            return Ok(None);
        }
        let own = self.output.clone().or_else(|| self.device.tuned.clone());
        let file = own.or_else(|| Place::Usual.file().map(|(file, _)| file));
        let none = || Failure("there is no folder of caches: name a file with --output".into());
        let file = file.ok_or_else(none)?;
        output::folder(files::folder(&file))?;
        Tuned::begun(&file)?;
        Ok(Some(file))
    }
}

fn print(rows: &[Row]) {
    let mut out = Table::new(&[">usual", ">winner", ">gain", "kernel", "op and shape"]).within(100);
    for row in rows {
        let ms = |seconds: f64| format!("{:.3} ms", seconds * 1e3);
        let (time, kernel) = match &row.winner {
            Some((name, sample)) => (ms(sample.median()), format!("{} → {name}", row.usual.0)),
            None => ("-".into(), row.usual.0.clone()),
        };
        let gain = if row.winner.is_some() { ms(row.gain()) } else { "-".into() };
        out.row([ms(row.usual.1.median()), time, gain, kernel, format!("{}x {}", row.nodes, row.shape)]);
    }
    out.print();
    let (tried, hopeless) = rows.iter().flat_map(|r| &r.tried).fold((0, 0), |(n, h), t| (n + 1, h + usize::from(t.2)));
    let gain: f64 = rows.iter().map(Row::gain).sum();
    say!("{tried} other kernels tried, {hopeless} given up early; {:.3} ms of a run to be won", gain * 1e3);
}

//! Every CUDA kernel compiled by NVRTC for the architectures that it must run on, with no GPU: what its machine code needs
//! and consists of is within the budgets. Without the compilers (`tests/compilers` fetches them) the trials are ignored, with
//! the reason; with CI set they fail.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use libtest_mimic::{Arguments, Failed, Trial};
use xtask::budgets::{BUDGETS, Scope, WHOLE, selection};
use xtask::compile::Kept;
use xtask::machine;
use xtask::table::{Row, most_registers, rows};

/// Compiled kernels stay here from run to run.
const KEPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/kernels");

/// How far the registers of the committed table may be from those that are measured before it must be written again.
const STALE: u32 = 24;

fn main() {
    let args = Arguments::from_args();
    let names = ["budgets_are_kept", "every_budget_has_a_kernel", "the_committed_table_is_of_these_kernels"];
    if args.list || !names.iter().any(|n| args.filter.as_ref().is_none_or(|f| n.contains(f.as_str()))) {
        let listed = names.map(|n| Trial::test(n, || Ok(())));
        libtest_mimic::run(&args, listed.into()).exit();
    }
    if let Err(reason) = machine::enter() {
        let promised = std::env::var_os("CI").is_some();
        let text = reason.clone();
        let trial = Trial::test(format!("budgets [{reason}]"), move || Err(Failed::from(text)));
        libtest_mimic::run(&args, vec![trial.with_ignored_flag(!promised)]).exit();
    }
    let measured = selection(Scope::Usual).and_then(|s| rows(&s, &Kept::at(KEPT), false)).map_err(|e| e.to_string());
    let measured = Arc::new(measured);
    let with = |check: fn(&[Row]) -> Result<(), Failed>| {
        let measured = measured.clone();
        move || match &*measured {
            Ok(rows) => check(rows),
            Err(e) => Err(Failed::from(e.clone())),
        }
    };
    let [kept, all, fresh] = names;
    let trials = vec![
        Trial::test(kept, with(budgets_are_kept)),
        Trial::test(all, with(every_budget)),
        Trial::test(fresh, with(committed)),
    ];
    libtest_mimic::run(&args, trials).exit();
}

fn budgets_are_kept(rows: &[Row]) -> Result<(), Failed> {
    let mut broken = String::new();
    for row in rows {
        for what in row.broken() {
            let (u, chip) = (&row.usage, row.chip.name());
            broken += &format!("{chip} {} {}: {what} ({}; {})\n", row.kernel(), u.dtype, u.constants, u.site);
        }
    }
    println!("{} kernels compiled", rows.len());
    if broken.is_empty() { Ok(()) } else { Err(broken.into()) }
}

/// No budget is of a kernel that is no longer there, and every hot kernel is seen on the chips that have what it needs.
fn every_budget(rows: &[Row]) -> Result<(), Failed> {
    for chip in WHOLE {
        let seen: BTreeSet<String> = rows.iter().filter(|r| r.chip.name() == chip).map(Row::kernel).collect();
        let wanted =
            BUDGETS.iter().filter(|b| chip == "sm_90a" || !["wgmma", "tma"].iter().any(|own| b.kernel.ends_with(own)));
        if let Some(missing) = wanted.map(|b| b.kernel).find(|k| !seen.contains(*k)) {
            return Err(format!("no kernel {missing} was compiled for {chip}").into());
        }
    }
    Ok(())
}

/// `benches/results/static-budgets.tsv` has lines for most variants, chips and dtypes, with about these registers.
fn committed(rows: &[Row]) -> Result<(), Failed> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../benches/results/static-budgets.tsv");
    let text = std::fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
    let mut written: BTreeMap<[String; 3], u32> = BTreeMap::new();
    for line in text.lines().skip(1) {
        let columns: Vec<&str> = line.split('\t').collect();
        let [chip, kernel, _, dtype, registers, ..] = columns[..] else { return Err("a short line".into()) };
        let most = written.entry([chip, kernel, dtype].map(String::from)).or_default();
        *most = registers.parse::<u32>()?.max(*most);
    }
    let (mut missing, now) = (0, most_registers(rows));
    for ((chip, kernel, dtype), now) in &now {
        let chip = chip.name();
        let Some(then) = written.get(&[chip.clone(), kernel.clone(), dtype.to_string()]) else {
            missing += 1;
            continue;
        };
        if then.abs_diff(*now) > STALE {
            let found = format!("{chip} {kernel} {dtype}: {now} registers, and the table has {then}");
            return Err(format!("{found}: run `cargo xtask budgets`").into());
        }
    }
    // A new variant need not write the table again; many do.
    if 4 * missing > now.len() {
        return Err(format!("the table lacks {missing} of {} variants: run `cargo xtask budgets`", now.len()).into());
    }
    Ok(())
}

//! `muybridge devices`

use std::process::ExitCode;

use muybridge::runtime::{Caps, Device, Found, Target};
use serde_json::{Value, json};

use crate::table::say;
use crate::{Failure, table};

/// Options of the verb.
#[derive(clap::Args)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Lists the devices.
pub fn execute(args: &Args) -> Result<ExitCode, Failure> {
    let found = Device::list();
    if args.json {
        say!("{:#}", Value::Array(found.iter().map(as_json).collect()));
    } else {
        found.iter().for_each(describe);
    }
    Ok(ExitCode::SUCCESS)
}

fn describe(found: &Found) {
    match &found.caps {
        Err(reason) => say!("{:<8} missing: {reason}\n", found.name),
        Ok(caps) => {
            say!("{:<8} {}", found.name, caps.name);
            say!("{:<8} {}", "", caps.driver);
            say!("{:<8} {}\n", "", features(caps).join(", "));
        }
    }
}

fn features(caps: &Caps) -> Vec<String> {
    let yes = |present: bool, name: &str| if present { name.to_string() } else { format!("no {name}") };
    if caps.target == Target::Cpu {
        return vec![format!("{} threads", caps.threads), "f32, f16, bf16".into()];
    }
    let mut list = vec![yes(caps.f16, "f16"), yes(caps.bf16, "bf16"), yes(caps.timestamps, "timestamps")];
    list.push(match caps.subgroups {
        Some((a, b)) if a == b => format!("subgroups of {a}"),
        Some((a, b)) => format!("subgroups of {a} to {b}"),
        None => "no subgroups".into(),
    });
    list.push(format!("binding ≤ {}", table::bytes(caps.max_binding)));
    list.push(format!("buffer ≤ {}", table::bytes(caps.max_buffer)));
    list.push(format!("{} storage bindings", caps.max_storage_bindings));
    list.push(format!(
        "{} invocations and {} of workgroup memory",
        caps.max_invocations,
        table::bytes(caps.max_shared.into())
    ));
    list.extend(caps.memory.map(|m| format!("{} of memory", table::bytes(m))));
    list
}

fn as_json(found: &Found) -> Value {
    match &found.caps {
        Err(reason) => json!({ "name": found.name, "missing": reason }),
        Ok(c) => json!({
            "name": found.name,
            "device": c.name,
            "driver": c.driver,
            "target": c.target.name(),
            "threads": c.threads,
            "f16": c.f16,
            "bf16": c.bf16,
            "subgroups": c.subgroups.map(|(a, b)| [a, b]),
            "compute_capability": c.compute_capability.map(|(a, b)| [a, b]),
            "max_binding": c.max_binding,
            "max_buffer": c.max_buffer,
            "max_storage_bindings": c.max_storage_bindings,
            "binding_align": c.binding_align,
            "max_workgroups": c.max_workgroups,
            "max_invocations": c.max_invocations,
            "max_shared": c.max_shared,
            "timestamps": c.timestamps,
            "memory": c.memory,
        }),
    }
}

//! Kernels examined in processes of their own: a driver that hangs or crashes in one of them costs no other finding.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use muybridge::Device;
use muybridge::profiling::doctor::{Finding, Findings, Options, divided};

use crate::profile::bar;
use crate::{DeviceArgs, Failure, interrupt};

/// What a line begins with that says which trial comes.
pub const BEGINS: &str = "trial: ";

/// How long a process may go unnoticed after it has ended.
const LOOK: Duration = Duration::from_millis(10);

/// Time between what is kept.
const KEEP: Duration = Duration::from_secs(5);

/// What processes may take.
pub struct Limits {
    /// So many at once.
    pub jobs: usize,
    /// Each so long.
    pub time: Duration,
}

/// A process, and the files that it writes.
struct Running {
    child: Child,
    started: Instant,
    filter: String,
    findings: PathBuf,
    log: PathBuf,
}

impl Running {
    fn start(
        filter: String,
        device: &DeviceArgs,
        options: &Options,
        files: &Path,
        number: usize,
    ) -> Result<Running, Failure> {
        let findings = files.join(format!("{number}.json"));
        let log = files.join(format!("{number}.log"));
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg("doctor")
            .args(device.again())
            .args(&options.filters)
            .arg(&filter)
            .arg("--names")
            .arg("--output")
            .arg(&findings);
        if !options.timed {
            command.arg("--untimed");
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log)?).spawn()?;
        Ok(Running { child, started: Instant::now(), filter, findings, log })
    }

    /// Whether it has ended; then what it found is added to `all`. One that takes longer than `limit` is ended.
    fn ended(&mut self, limit: Duration, all: &mut Findings) -> Result<bool, Failure> {
        let late = self.started.elapsed() > limit;
        let status = match self.child.try_wait()? {
            Some(status) => status,
            None if late => {
                self.child.kill()?;
                self.child.wait()?
            }
            None => return Ok(false),
        };
        // It writes all findings at once, at its end.
        let found =
            std::fs::read(&self.findings).ok().and_then(|bytes| serde_json::from_slice::<Findings>(&bytes).ok());
        if let Some(found) = found {
            all.findings.extend(found.findings);
            all.not_run.extend(found.not_run);
            return Ok(true);
        }
        let log = String::from_utf8_lossy(&std::fs::read(&self.log)?).into_owned();
        let trial = log.lines().rev().find_map(|l| l.strip_prefix(BEGINS)).unwrap_or(&self.filter);
        let last = log.lines().rev().find(|l| !l.starts_with(BEGINS)).unwrap_or("it said nothing");
        let reason = match late {
            true => format!("no end within {} s; nothing else is known of this kernel", limit.as_secs()),
            false => format!("its process ended ({status}): {last}; nothing else is known of this kernel"),
        };
        all.findings.push(Finding::wrong(trial, reason));
        Ok(true)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended needs no ending.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Examines every kernel in a process of its own. What is known is handed to `keep` now and then, should all of it be ended.
///
/// # Errors
/// Processes cannot be started, or Ctrl-C was pressed; those that run are ended then.
pub fn examine(
    device: &Device,
    args: &DeviceArgs,
    options: &Options,
    limits: &Limits,
    keep: &mut dyn FnMut(&Findings) -> Result<(), Failure>,
) -> Result<Findings, Failure> {
    let files = tempfile::tempdir()?;
    let mut waiting = divided(device, &options.filters).into_iter().enumerate();
    let of = waiting.len() as u64;
    let (mut all, mut running, mut done) = (Findings::of(device), Vec::<Running>::new(), 0);
    let mut kept = Instant::now();
    let mut bar = bar("examining");
    loop {
        while running.len() < limits.jobs
            && let Some((number, filter)) = waiting.next()
        {
            running.push(Running::start(filter, args, options, files.path(), number)?);
        }
        interrupt::check()?;
        bar(done, of);
        if running.is_empty() {
            break;
        }
        let mut i = 0;
        while let Some(one) = running.get_mut(i) {
            if one.ended(limits.time, &mut all)? {
                running.swap_remove(i);
                done += 1;
            } else {
                i += 1;
            }
        }
        if kept.elapsed() > KEEP {
            keep(&all)?;
            kept = Instant::now();
        }
        sleep(LOOK);
    }
    all.findings.sort_by(|a, b| a.trial.cmp(&b.trial));
    Ok(all)
}

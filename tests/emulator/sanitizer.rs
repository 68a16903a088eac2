//! Kernels under ThreadSanitizer (races of a CUDA thread with another, whether or not they change the numbers) and
//! AddressSanitizer (accesses outside an operand, shared memory or a local array).
//!
//! The stand-in compiler instruments kernels; the sanitizer's runtime must be the first library of the process, so the work is
//! done by a child of this program. Instrumented kernels are kept apart from the others.

use std::path::Path;
use std::process::{Command, Output};

/// One of g++'s sanitizers.
#[derive(Clone, Copy, Debug)]
pub enum Sanitizer {
    /// AddressSanitizer, which ends the process at the first report.
    Address,
    /// ThreadSanitizer.
    Thread,
}

impl Sanitizer {
    /// What g++ calls it.
    pub fn name(self) -> &'static str {
        match self {
            Sanitizer::Address => "address",
            Sanitizer::Thread => "thread",
        }
    }

    /// How many reports a child's messages hold.
    pub fn reports(self, messages: &str) -> usize {
        messages.matches(self.heading()).count()
    }

    /// Where the first report begins.
    #[allow(dead_code)] // The other test program that has this module only counts.
    pub fn first(self, messages: &str) -> Option<usize> {
        messages.find(self.heading())
    }

    fn heading(self) -> &'static str {
        match self {
            Sanitizer::Address => "ERROR: AddressSanitizer",
            Sanitizer::Thread => "WARNING: ThreadSanitizer",
        }
    }

    /// Where its runtime is, or why there is none.
    pub fn preloaded(self) -> Result<String, String> {
        let library = format!("lib{}.so", if matches!(self, Sanitizer::Address) { "asan" } else { "tsan" });
        let found = Command::new("g++").arg(format!("-print-file-name={library}")).output();
        let path = String::from_utf8_lossy(&found.map_err(|e| format!("g++: {e}"))?.stdout).trim().to_string();
        if Path::new(&path).is_absolute() { Ok(path) } else { Err(format!("g++ has no {library}")) }
    }

    /// A trial that runs children under the sanitizer: ignored with the reason where there is none, except where CI promises it.
    pub fn trial(
        self,
        name: &str,
        run: impl FnOnce() -> Result<(), libtest_mimic::Failed> + Send + 'static,
    ) -> libtest_mimic::Trial {
        let missing = self.preloaded().err().filter(|_| std::env::var_os("CI").is_none());
        let name = missing.as_ref().map_or(name.to_string(), |reason| format!("{name} [{reason}]"));
        libtest_mimic::Trial::test(name, run).with_ignored_flag(missing.is_some())
    }

    /// Runs this program as a child under the sanitizer; or says why that cannot be. `folder` is the emulator's.
    pub fn run(self, folder: &Path, args: &[&str], variable: (&str, &str)) -> Result<Output, String> {
        let path = self.preloaded()?;
        let own = std::env::current_exe().map_err(|e| format!("the test program has no path: {e}"))?;
        // ThreadSanitizer of g++ 12 cannot live with many random bits of addresses, where the system has them.
        let fixed = Command::new("setarch").args(["x86_64", "-R", "true"]).status().is_ok_and(|s| s.success());
        // The stand-in's own bookkeeping of late products and of memory barriers is ordered by its scheduler, which
        // ThreadSanitizer does not see; what kernels read and write themselves is not in these functions.
        let own_functions = ["happen", "run_product", "barrier_wait", "box_issue", "box_due"]
            .map(|f| format!("race:emulator::{f}\n"))
            .concat();
        let suppressions = folder.join("suppressions");
        std::fs::write(&suppressions, own_functions).map_err(|e| format!("{}: {e}", suppressions.display()))?;
        let known =
            format!("report_signal_unsafe=0:history_size=4:exitcode=66:suppressions={}", suppressions.display());
        let mut command = if fixed { Command::new("setarch") } else { Command::new(&own) };
        if fixed {
            command.args(["x86_64", "-R"]).arg(&own);
        }
        command
            .args(args)
            .env(variable.0, variable.1)
            .env("EMULATOR_SANITIZE", self.name())
            .env("MUYBRIDGE_CACHE", folder.join(format!("cache-{}", self.name())))
            .env("LD_PRELOAD", path)
            .env("ASAN_OPTIONS", "detect_leaks=0:detect_stack_use_after_return=0:handle_segv=1")
            .env("TSAN_OPTIONS", known);
        command.output().map_err(|e| format!("the child does not start: {e}"))
    }
}

//! How far a run is, shown on a terminal: a bar for its stage, and a small picture of what is coming.

use std::io::IsTerminal;
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use muybridge::pipelines::stable::preview;
use muybridge::pipelines::{Event, Flow, Progress, Stage};

use crate::table::tell;
use crate::{Failure, interrupt};

/// A run, as it is watched.
pub struct Shown<'a> {
    bar: Option<(Stage, ProgressBar)>,
    preview: Option<&'a Path>,
    xl: bool,
    failure: Option<Failure>,
}

impl<'a> Shown<'a> {
    /// Nothing yet. Previews go to this file; those of XL checkpoints mean other colours.
    pub fn new(preview: Option<&'a Path>, xl: bool) -> Shown<'a> {
        Shown { bar: None, preview, xl, failure: None }
    }

    /// Shows what happened. Stops the run after Ctrl-C, or where a preview could not be written.
    pub fn hear(&mut self, event: &Event<'_>) -> Flow {
        let heard = match event {
            Event::Loaded(loaded) => {
                self.say(&loaded.to_string());
                Ok(())
            }
            Event::Progress(progress) => {
                self.show(*progress);
                Ok(())
            }
            Event::Step { latents, estimate, .. } => self.picture(estimate.unwrap_or(latents)),
            _ => Ok(()),
        };
        self.judge(heard)
    }

    /// Goes on, or stops the run: after a failure, which [`Shown::end`] tells, and after Ctrl-C, which the run tells.
    pub fn judge(&mut self, heard: Result<(), Failure>) -> Flow {
        match heard {
            Ok(()) if interrupt::check().is_ok() => Flow::Continue,
            Ok(()) => Flow::Stop,
            Err(failure) => {
                self.failure = self.failure.take().or(Some(failure));
                Flow::Stop
            }
        }
    }

    /// A line beside the bar.
    pub fn say(&self, text: &str) {
        match &self.bar {
            Some((_, bar)) => bar.suspend(|| tell!("{text}")),
            None => tell!("{text}"),
        }
    }

    fn show(&mut self, p: Progress) {
        if self.bar.as_ref().is_none_or(|(shown, _)| *shown != p.stage) {
            self.clear();
            let style = ProgressStyle::with_template("{prefix:24} {bar:30} {pos}/{len} {msg}");
            let bar = if std::io::stderr().is_terminal() { ProgressBar::new(0) } else { ProgressBar::hidden() };
            let bar = bar.with_style(style.unwrap_or(ProgressStyle::default_bar()));
            self.bar = Some((p.stage, bar.with_prefix(p.stage.to_string())));
        }
        if let Some((_, bar)) = &self.bar {
            bar.set_length(p.of as u64);
            bar.set_position(p.done as u64);
            let left = p.left.filter(|_| p.done < p.of).map(|left| format!("{} left", time(left)));
            bar.set_message(left.unwrap_or_default());
        }
    }

    fn picture(&self, latents: &muybridge::HostTensor) -> Result<(), Failure> {
        match (self.preview, preview(latents, self.xl)) {
            (Some(file), Some(picture)) => Ok(picture.write_png(file)?),
            _ => Ok(()),
        }
    }

    fn clear(&mut self) {
        if let Some((_, bar)) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    /// Takes the bar away, and tells what went wrong beside the run.
    pub fn end(&mut self) -> Result<(), Failure> {
        self.clear();
        self.failure.take().map_or(Ok(()), Err)
    }
}

fn time(left: Duration) -> String {
    let seconds = left.as_secs();
    match seconds {
        0..=99 => format!("{seconds} s"),
        100..=5999 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

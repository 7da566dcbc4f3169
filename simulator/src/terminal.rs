//! The only module that writes to the terminal.

use std::io::Write;
use std::time::{Duration, Instant};

use indicatif::{HumanCount, ProgressBar, ProgressStyle};

/// Prints one line. If the reader closed its end, the simulator continues.
pub fn print_line(line: impl AsRef<str>) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{}", line.as_ref()).and_then(|()| out.flush());
}

/// Prints one line about an error to standard error.
pub fn print_error(line: impl AsRef<str>) {
    let _ = writeln!(std::io::stderr().lock(), "{}", line.as_ref());
}

/// The time between two progress lines if the output is no terminal.
const PRINT_INTERVAL: Duration = Duration::from_secs(2);

/// The progress of a play: a spinner on a terminal, a periodic line elsewhere.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    started_at: Instant,
    printed_at: Instant,
}

impl Progress {
    /// Starts the progress display.
    pub fn start() -> Self {
        let bar = ProgressBar::new_spinner();
        let style = ProgressStyle::with_template("{spinner} {msg}")
            .expect("the template names only keys that exist");
        bar.set_style(style);
        let now = Instant::now();
        Self { bar, started_at: now, printed_at: now }
    }

    /// Shows the number of published events and the time of the library's clock.
    pub fn show(&mut self, published: u64, library_time: &str) {
        if !self.bar.is_hidden() {
            self.bar.set_message(self.line(published, library_time));
            self.bar.tick();
        } else if self.printed_at.elapsed() >= PRINT_INTERVAL {
            self.printed_at = Instant::now();
            print_line(self.line(published, library_time));
        }
    }

    /// Ends the display and prints a last line.
    pub fn finish(self, line: &str) {
        self.bar.finish_and_clear();
        print_line(line);
    }

    /// Returns the time since the start.
    pub fn elapsed(&self) -> Duration {
        self.started_at.elapsed()
    }

    fn line(&self, published: u64, library_time: &str) -> String {
        let rate = HumanCount(per_second(published, self.elapsed()));
        let published = HumanCount(published);
        format!("{library_time} in the library, {published} events published, {rate}/s")
    }
}

/// Returns the rate per second.
pub fn per_second(count: u64, time: Duration) -> u64 {
    (count as f64 / time.as_secs_f64().max(0.001)) as u64
}

//! A Pod's life as text that fits 100 columns: pure.

use std::fmt::Write;

use hitless_base::Timestamp;

use super::life::{Life, Step};

/// Columns of a line.
const WIDTH: usize = 100;

/// The life as text.
pub fn text(life: &Life, colour: bool) -> String {
    let mut out = String::new();
    let state = if life.exists { "" } else { " (gone)" };
    let _ = writeln!(out, "pod/{} in namespace {}{state}", life.name, life.namespace);
    part(&mut out, "Creation", &life.creation, colour);
    part(&mut out, "End", &life.end, colour);
    out
}

fn part(out: &mut String, title: &str, steps: &[Step], colour: bool) {
    let Some(first) = steps.first() else { return };
    let _ = writeln!(out, "\n{title}, from {}", first.at.strftime("%Y-%m-%d %H:%M:%S%.6f UTC"));
    let step_width = steps.iter().map(|s| s.step.len()).max().unwrap_or(0).clamp(12, 24);
    let by_width = steps.iter().map(|s| s.by.len()).max().unwrap_or(0).clamp(8, 24);
    let mut before = 0.0;
    for step in steps {
        let head = format!(
            "{:>11} {:>10}  {:<step_width$}  {:<by_width$}  ",
            offset(step.after_ms),
            format!("+{}", short(step.after_ms - before)),
            step.step,
            step.by
        );
        let room = WIDTH.saturating_sub(head.chars().count()).max(10);
        let message = shortened(&step.message, room);
        let line = format!("{head}{message}");
        let _ = writeln!(
            out,
            "{}",
            if step.warning { painted(&line, "33", colour) } else { line.trim_end().to_owned() }
        );
        for mark in &step.watermarks {
            let since_first = |at: Timestamp| offset(at.duration_since(first.at).as_secs_f64() * 1e3);
            let when = format!("{:>11}", mark.at.map(since_first).unwrap_or_default());
            let line = format!(
                "{when} {:>10}    {:<30} at revision {} of {} ({})",
                "", mark.consumer, mark.revision, mark.target, mark.class
            );
            let _ = writeln!(out, "{}", painted(&line, "36", colour));
            if let (Some(at), Some(settled_at)) = (mark.at, mark.settled_at) {
                let time = short(settled_at.duration_since(at).as_secs_f64() * 1e3);
                let unit = if time.ends_with('s') { "" } else { " ms" };
                let line = format!(
                    "{:>11} {:>10}    {:<30} settled, {time}{unit} after its word",
                    since_first(settled_at),
                    "",
                    mark.consumer
                );
                let _ = writeln!(out, "{}", painted(&line, "36", colour));
            }
        }
        before = step.after_ms;
    }
}

/// A time since the first step: in milliseconds, from ten seconds on in seconds.
fn offset(ms: f64) -> String {
    if ms < 10_000.0 { format!("{ms:.1} ms") } else { format!("{:.1} s", ms / 1e3) }
}

/// A step's own time, without a unit while it is in milliseconds.
fn short(ms: f64) -> String {
    if ms < 10_000.0 { format!("{ms:.1}") } else { format!("{:.1} s", ms / 1e3) }
}

fn shortened(text: &str, room: usize) -> String {
    let text = text.replace('\n', " ");
    if text.chars().count() <= room {
        return text;
    }
    let mut short: String = text.chars().take(room.saturating_sub(3)).collect();
    short.push_str("...");
    short
}

fn painted(line: &str, code: &str, colour: bool) -> String {
    if colour { format!("\x1b[{code}m{line}\x1b[0m") } else { line.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fits_the_terminal_and_shows_each_consumers_watermark() {
        let shown = text(&super::super::life::tests::sample(), false);
        assert!(shown.lines().all(|line| line.chars().count() <= WIDTH), "{shown}");
        let expected = "\
pod/web in namespace ns (gone)

Creation, from 2026-01-01 00:00:00.002000 UTC
     0.0 ms       +0.0  Scheduled     default-scheduler  Successfully assigned ns/web to node-1
   118.0 ms     +118.0  Started       kubelet            Started container web

End, from 2026-01-01 00:00:00.900000 UTC
     0.0 ms       +0.0  Deleted       apiserver              deletion accepted by the API server
     4.0 ms       +4.0  Withdrawn     withdrawal-controller  1 of 1 consumers have let go
     3.2 ms               service-proxy-node-1           at revision 41 of 40 (Proven)
     2.0 ms               dns-node-1                     at revision 40 of 40 (Proven)
  5002.0 ms               dns-node-1                     settled, 5000.0 ms after its word
     5.0 ms       +1.0  Killing       kubelet                Stopping container web
";
        assert_eq!(shown, expected);
    }
}

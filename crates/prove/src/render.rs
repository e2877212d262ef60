//! A report as text for people: a pure function, at most 100 columns wide, with colour only where it is asked for.

use std::fmt::Write as _;

use crate::{
    Report, Scenario, ScenarioReport,
    report::{Compare, LostRequest, PathReport},
};

/// More lost requests than this are only counted.
const LOST_SHOWN_MAX: usize = 20;
/// More Pods than this are only counted.
const STOPS_SHOWN_MAX: usize = 40;
const WIDTH: usize = 100;

/// ANSI colours, or nothing.
#[derive(Clone, Copy)]
struct Style {
    colour: bool,
}

impl Style {
    fn paint(self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    fn verdict(self, passed: bool, text: &str) -> String {
        self.paint(if passed { "1;32" } else { "1;31" }, text)
    }
}

/// The whole report, ending with a line end.
#[must_use]
pub fn render(report: &Report, colour: bool) -> String {
    let style = Style { colour };
    let mut out = String::new();
    for scenario in &report.scenarios {
        section(&mut out, scenario, style);
    }
    let passed = report.scenarios.iter().filter(|scenario| scenario.passed).count();
    let verdict = format!("{passed} of {} scenarios passed", report.scenarios.len());
    line(&mut out, &style.verdict(report.passed(), &verdict));
    out
}

/// Writing to a string cannot fail.
fn line(out: &mut String, text: &str) {
    let _infallible = writeln!(out, "{}", text.trim_end());
}

fn section(out: &mut String, report: &ScenarioReport, style: Style) {
    let title = report.scenario.parse().map_or("", Scenario::title);
    line(out, &format!("{}  {title}", style.bold(&report.scenario)));
    line(out, "");
    line(
        out,
        &style.bold(&format!(
            "  {:<28}{:>12}{:>10}{:>12}{:>12}",
            "PATH", "REQUESTS", "FAILED", "P50 MS", "P99 MS"
        )),
    );
    for path in &report.paths {
        line(out, &path_row(path));
    }
    line(out, "");
    stops(out, report, style);
    lost(out, &report.lost, report.failed, style);
    for problem in &report.problems {
        line(out, &format!("  {} {}", style.verdict(false, "!"), wrapped(problem, "    ")));
    }
    let verdict = if report.passed { "PASSED" } else { "FAILED" };
    let text = format!(
        "{} of {} requests lost, {:.1} s",
        thousands(report.failed),
        thousands(report.requests),
        report.duration_s
    );
    line(out, &format!("  {}  {text}", style.verdict(report.passed, verdict)));
    if let Some(compare) = &report.compare {
        line(out, "");
        comparison(out, report, compare, style);
    }
    line(out, "");
}

fn path_row(path: &PathReport) -> String {
    let (p50, p99) = (ms(path.p50_ms), ms(path.p99_ms));
    format!(
        "  {:<28}{:>12}{:>10}{p50:>12}{p99:>12}",
        path.path,
        thousands(path.requests),
        thousands(path.failed)
    )
}

fn stops(out: &mut String, report: &ScenarioReport, style: Style) {
    if report.stops.is_empty() {
        return;
    }
    line(out, &style.bold(&format!("  {:<44}{:<20}{:>24}", "POD", "NODE", "DELETE TO STOP, MS")));
    for stop in report.stops.iter().take(STOPS_SHOWN_MAX) {
        let took = stop.ms().map_or("not reported".to_owned(), |value| format!("{value:.1}"));
        line(out, &format!("  {:<44}{:<20}{took:>24}", cut(&stop.pod, 43), cut(&stop.node, 19)));
    }
    if report.stops.len() > STOPS_SHOWN_MAX {
        line(out, &format!("  and {} more Pods", report.stops.len() - STOPS_SHOWN_MAX));
    }
    let times = report.withdrawal_ms;
    line(out, &format!("  p50 {}, p99 {}, max {}", ms(times.p50), ms(times.p99), ms(times.max)));
    line(out, "");
}

fn lost(out: &mut String, lost: &[LostRequest], failed: u64, style: Style) {
    if failed == 0 {
        return;
    }
    let heads = format!("  {:<17}{:<25}{:<30}{}", "LOST AT (UTC)", "PATH", "POD (? = LIKELY)", "CAUSE");
    line(out, &style.bold(&heads));
    for request in lost.iter().take(LOST_SHOWN_MAX) {
        let at = request.at.strftime("%H:%M:%S.%6f").to_string();
        let pod = cut(request.pod.as_deref().unwrap_or("-"), 29);
        line(out, &format!("  {at:<17}{:<25}{pod:<30}{}", request.path.to_string(), cut(&request.cause, 25)));
        if let Some(connected) = request.connected_ms_ago {
            let asked = request
                .asked_ms_ago
                .map_or("not asked yet".to_owned(), |ms| format!("asked {ms:.1} ms before"));
            line(out, &format!("  {:17}connected {connected:.1} ms before, {asked}", ""));
        }
    }
    let more = failed.saturating_sub(lost.len().min(LOST_SHOWN_MAX) as u64);
    if more > 0 {
        line(out, &format!("  and {} more", thousands(more)));
    }
    line(out, "");
}

fn comparison(out: &mut String, own: &ScenarioReport, compare: &Compare, style: Style) {
    line(out, &style.bold(&format!("  {:<28}{:>12}{:>10}{:>12}", "COMPARED", "REQUESTS", "LOST", "SECONDS")));
    let rows = [
        ("loop on", Some(own)),
        ("loop off", compare.loop_off.as_deref()),
        ("loop off, preStop: sleep 15", compare.sleep.as_deref()),
    ];
    for (name, report) in rows {
        let Some(report) = report else { continue };
        let lost = format!("{:>10}", thousands(report.failed));
        let lost = style.verdict(report.failed == 0, &lost);
        line(
            out,
            &format!("  {name:<28}{:>12}{lost}{:>12.1}", thousands(report.requests), report.duration_s),
        );
        for problem in &report.problems {
            line(out, &format!("    {} {}", style.verdict(false, "!"), wrapped(problem, "      ")));
        }
    }
}

fn ms(value: Option<f64>) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.1}"))
}

/// `12,345`.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// At most so many characters; what is cut off shows as a dot.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// Broken at spaces so that it fits behind an indent.
fn wrapped(text: &str, indent: &str) -> String {
    let width = WIDTH - indent.len();
    let (mut out, mut used) = (String::new(), 0);
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if used > 0 && used + 1 + length > width {
            out.push('\n');
            out.push_str(indent);
            used = 0;
        } else if used > 0 {
            out.push(' ');
            used += 1;
        }
        out.push_str(word);
        used += length;
    }
    out
}

#[cfg(test)]
mod tests;

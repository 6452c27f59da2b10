//! What was run, where, and how it ended: a word, a sign and a colour, and the reasons.

use super::markup::Markup;
use super::quantity::{bytes, seconds};
use crate::result::{RunResult, Verdict};

pub fn verdict_word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "pass",
        Verdict::Fail => "fail",
        Verdict::Void => "void",
    }
}

pub fn write(markup: &mut Markup, result: &RunResult) {
    markup.element("header", &[], |header| {
        header.leaf("p", &[("class", &"kind")], "Tidegate load test");
        header.leaf("h1", &[], &result.scenario);
        let class = format!("verdict {}", verdict_word(result.verdict));
        header.element("div", &[("class", &class), ("role", &"status")], |verdict| {
            let (sign, meaning) = match result.verdict {
                Verdict::Pass => ("✓", "Kept its thresholds and lost nothing."),
                Verdict::Fail => ("✕", "Something was not as it must be:"),
                Verdict::Void => {
                    ("∅", "The generator was the bottleneck: the figures below say nothing about the server.")
                }
            };
            verdict.element("p", &[("class", &"word")], |word| {
                word.leaf("span", &[("class", &"sign"), ("aria-hidden", &"true")], sign);
                word.leaf("strong", &[], verdict_word(result.verdict));
            });
            verdict.element("div", &[], |why| {
                why.leaf("p", &[], meaning);
                if !result.reasons.is_empty() {
                    why.element("ul", &[], |list| {
                        for reason in &result.reasons {
                            list.leaf("li", &[], reason);
                        }
                    });
                }
            });
        });
        header.element("dl", &[("class", &"origin")], |list| {
            for (name, value) in origin(result) {
                list.element("div", &[], |row| {
                    row.leaf("dt", &[], name).leaf("dd", &[], value);
                });
            }
        });
    });
}

fn origin(result: &RunResult) -> Vec<(&'static str, String)> {
    let mut rows = vec![("Started", result.started.clone()), ("Lasted", seconds(result.seconds))];
    if !result.settings.target.is_empty() {
        rows.push(("Target", result.settings.target.clone()));
    }
    let machine = &result.machine;
    let parts = [
        machine.cpu.clone(),
        if machine.cores > 0 { format!("{} cores", machine.cores) } else { String::new() },
        if machine.memory_bytes > 0 { bytes(machine.memory_bytes as f64) } else { String::new() },
        machine.kernel.clone(),
    ];
    let known: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    if !known.is_empty() {
        rows.push(("Machine", known.join(" · ")));
    }
    rows.extend(result.commit.clone().map(|commit| ("Commit", commit)));
    rows.push(("Seed", result.settings.seed.to_string()));
    rows
}

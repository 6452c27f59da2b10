//! The page from top to bottom.

use super::markup::Markup;
use super::{charts, figures, head, tables};
use crate::result::RunResult;

const STYLE: &str = include_str!("style.css");
/// Only reads out what stands in the page at the place pointed at; without it nothing is missing.
const SCRIPT: &str = include_str!("readout.js");

pub fn html(result: &RunResult) -> String {
    let mut markup = Markup::default();
    markup.verbatim("<!DOCTYPE html>\n");
    markup.element("html", &[("lang", &"en")], |html| {
        html.element("head", &[], |head| {
            head.empty("meta", &[("charset", &"utf-8")]);
            head.empty("meta", &[("name", &"viewport"), ("content", &"width=device-width, initial-scale=1")]);
            head.empty("meta", &[("name", &"color-scheme"), ("content", &"light dark")]);
            let verdict = head::verdict_word(result.verdict);
            head.leaf("title", &[], format_args!("{}: {verdict} – Tidegate load test", result.scenario));
            head.element("style", &[], |style| {
                style.verbatim(STYLE);
            });
        });
        html.element("body", &[], |body| write_body(body, result));
    });
    markup.finish() + "\n"
}

fn write_body(body: &mut Markup, result: &RunResult) {
    head::write(body, result);
    body.element("main", &[], |main| {
        section(main, "Key figures", |section| figures::write(section, result));
        if !result.thresholds.is_empty() {
            section(main, "Thresholds", |section| tables::thresholds(section, result));
        }
        if !result.findings.is_empty() {
            section(main, "Findings", |section| tables::findings(section, result));
        }
        let charts = charts::all(result);
        if !charts.is_empty() {
            section(main, "Plots", |section| {
                section.element("div", &[("class", &"plots")], |plots| {
                    for (number, figure) in charts.iter().enumerate() {
                        figure.write(plots, number);
                    }
                });
            });
        }
        if !result.loads.is_empty() {
            section(main, "Loads", |section| tables::loads(section, result));
        }
        if result.loads.iter().any(|load| !load.phases.is_empty()) {
            section(main, "Phases", |section| tables::phases(section, result));
        }
        if result.server.as_ref().is_some_and(|server| !server.processes.is_empty()) {
            section(main, "Processes", |section| tables::processes(section, result));
        }
        if !result.settings.scenario_toml.is_empty() {
            section(main, "Scenario", |section| {
                section.leaf("pre", &[], &result.settings.scenario_toml);
            });
        }
    });
    body.element("script", &[], |script| {
        script.verbatim(SCRIPT);
    });
}

fn section(markup: &mut Markup, title: &str, inside: impl FnOnce(&mut Markup)) {
    markup.element("section", &[], |section| {
        section.leaf("h2", &[], title);
        inside(section);
    });
}

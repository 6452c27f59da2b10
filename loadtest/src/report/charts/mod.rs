//! The figures of a result: which plots there are, and what each says in words.

mod floor;
mod latency;
mod percentiles;
mod rates;
mod resources;
mod timeline;

use super::markup::Markup;
use super::plot::{Axis, Layer, Plot, Scale};
use crate::result::RunResult;
pub use resources::CLASSES as PROCESS_CLASSES;
use timeline::Timeline;

/// One or two drawings (logarithmic and linear) of the same data, and the sentence below them.
pub struct Figure {
    pub title: &'static str,
    /// The gist in words: what is read without pointing at anything, on paper too.
    pub summary: String,
    /// The first is shown until another is chosen.
    pub drawings: Vec<Drawing>,
    /// What is read at each place, in ascending places.
    pub reads: Vec<(f64, String)>,
}

pub struct Drawing {
    pub choice: &'static str,
    pub plot: Plot,
}

/// Those for which the result has data.
pub fn all(result: &RunResult) -> Vec<Figure> {
    let timeline = Timeline::new(result);
    let figures = [
        latency::by_second(&timeline),
        percentiles::curve(result),
        rates::published(&timeline),
        rates::deliveries(&timeline, result),
        rates::connections(result),
        resources::cpu(&timeline, result),
        resources::memory(&timeline, result),
        resources::generator(&timeline),
        floor::costs(result),
        floor::ratios(result),
    ];
    figures.into_iter().flatten().collect()
}

impl Figure {
    fn of(title: &'static str, summary: String, plot: Plot, reads: Vec<(f64, String)>) -> Figure {
        Figure { title, summary, drawings: vec![Drawing { choice: "", plot }], reads }
    }

    pub fn write(&self, markup: &mut Markup, number: usize) {
        markup.element("figure", &[], |figure| {
            figure.element("figcaption", &[], |caption| {
                caption.leaf("h3", &[], self.title);
                if self.drawings.len() > 1 {
                    self.write_choices(caption, number);
                }
            });
            for (place, drawing) in self.drawings.iter().enumerate() {
                drawing.plot.draw(figure, if place == 0 { "first" } else { "second" });
            }
            figure.leaf("p", &[("class", &"read")], &self.summary);
            if !self.reads.is_empty() {
                let x_of = |x: f64| (self.drawings[0].plot.x_of(x) * 10.0).round() / 10.0;
                let reads: Vec<(f64, &str)> = self.reads.iter().map(|(x, text)| (x_of(*x), text.as_str())).collect();
                figure.data(&reads);
            }
        });
    }

    fn write_choices(&self, markup: &mut Markup, number: usize) {
        markup.element("span", &[("class", &"choices")], |choices| {
            for (place, drawing) in self.drawings.iter().enumerate() {
                let name = format!("scale-{number}");
                choices.element("label", &[], |label| {
                    let class = if place == 0 { "choose-first" } else { "choose-second" };
                    if place == 0 {
                        label.empty(
                            "input",
                            &[("type", &"radio"), ("name", &name), ("class", &class), ("checked", &"")],
                        );
                    } else {
                        label.empty("input", &[("type", &"radio"), ("name", &name), ("class", &class)]);
                    }
                    label.text(drawing.choice);
                });
            }
        });
    }
}

/// Beyond this ratio of the highest to the lowest, a linear scale shows only the highest.
const LOG_RATIO: f64 = 30.0;

/// Both scales of finite positive values, the better one first.
fn log_and_linear(lowest: f64, highest: f64, plot: impl Fn(Scale) -> Plot) -> Vec<Drawing> {
    let log = Drawing { choice: "log", plot: plot(Scale::log(lowest, highest)) };
    let linear = Drawing { choice: "linear", plot: plot(Scale::from_zero(highest, 1.0)) };
    if highest > lowest * LOG_RATIO { vec![log, linear] } else { vec![linear, log] }
}

/// A plot over the run's time.
fn over_time(timeline: &Timeline<'_>, title: &str, unit: &str, scale: Scale, layers: Vec<Layer>) -> Plot {
    let y = Axis { unit: unit.to_owned(), scale, ticks: 6 };
    Plot { label: format!("{title} ({unit}) over the run"), x: timeline.axis(), y, bands: timeline.bands(), layers }
}

/// Lowest and highest of the values, if there are any.
fn extent(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |extent, value| match extent {
        Some((low, high)) => Some((value.min(low), value.max(high))),
        None => Some((value, value)),
    })
}

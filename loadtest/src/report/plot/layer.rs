//! What is drawn of the data.

use std::fmt::{Display, Write as _};

use super::{Frame, LETTER, Plot, Px};
use crate::report::markup::Markup;

/// `None` is a gap.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    pub x: f64,
    pub y: Option<f64>,
}

#[derive(Clone, Debug)]
pub struct Line {
    pub name: String,
    /// Colour and stroke of the style sheet.
    pub class: &'static str,
    pub points: Vec<Point>,
}

#[derive(Clone, Debug)]
pub enum Layer {
    Line(Line),
    /// Points that no line joins.
    Dots(Line),
    /// A value with its text.
    Mark {
        x: f64,
        y: f64,
        text: String,
    },
    /// Joins the values that belong together at one place.
    Link {
        x: f64,
        low: f64,
        high: f64,
    },
    /// A value that is the same everywhere.
    Level {
        name: String,
        class: &'static str,
        y: f64,
    },
    /// From one value to another, everywhere.
    Span {
        low: f64,
        high: f64,
    },
    /// Where values stood beyond every scale.
    Beyond {
        xs: Vec<f64>,
    },
    /// From here to the axis's end there is no finite value.
    BeyondFrom {
        name: &'static str,
        x: f64,
    },
}

/// A layer's name, beside the last of its values.
pub struct Named<'a> {
    pub name: &'a str,
    pub class: &'static str,
    pub value: f64,
    pub dots: bool,
}

/// The radius of a dot.
pub const DOT: f64 = 4.0;

impl Layer {
    pub(super) fn draw(&self, svg: &mut Markup, plot: &Plot, frame: &Frame) {
        let x_of = |x: f64| frame.x(plot.x.scale, x);
        let y_of = |y: f64| frame.y(plot.y.scale, y);
        match self {
            Layer::Line(line) => draw_line(svg, line, x_of, y_of),
            Layer::Dots(line) => {
                for (x, y) in line.points.iter().filter_map(|point| Some((point.x, point.y?))) {
                    dot(svg, &format!("dot {}", line.class), x_of(x), y_of(y), DOT);
                }
            }
            Layer::Mark { x, y, text } => {
                let (x, y) = (x_of(*x), y_of(*y));
                dot(svg, &"dot mark", x, y, 3.5);
                // The curve rises to the right: there is room above it to the left, and below it to the right.
                let (class, x, y) = match x - text.chars().count() as f64 * LETTER < frame.left {
                    true => ("value", x + 7.0, (y + 13.0).min(frame.bottom - 4.0)),
                    false => ("value end", x - 5.0, (y - 7.0).max(frame.top + 12.0)),
                };
                let (x, y) = (Px(x), Px(y));
                svg.leaf("text", &[("class", &class), ("x", &x), ("y", &y)], text);
            }
            Layer::Link { x, low, high } => {
                let (x, low, high) = (Px(x_of(*x)), Px(y_of(*low)), Px(y_of(*high)));
                svg.empty("line", &[("class", &"link"), ("x1", &x), ("x2", &x), ("y1", &low), ("y2", &high)]);
            }
            Layer::Level { class, y, .. } => {
                let (left, right, y) = (Px(frame.left), Px(frame.right), Px(y_of(*y)));
                let class = format!("level {class}");
                svg.empty("line", &[("class", &class), ("x1", &left), ("x2", &right), ("y1", &y), ("y2", &y)]);
            }
            Layer::Span { low, high } => {
                let (top, width) = (y_of(*high), Px(frame.right - frame.left));
                let (left, y, height) = (Px(frame.left), Px(top), Px((y_of(*low) - top).max(1.0)));
                let size: [(_, &dyn Display); 2] = [("width", &width), ("height", &height)];
                svg.empty("rect", &[("class", &"span"), ("x", &left), ("y", &y), size[0], size[1]]);
            }
            Layer::Beyond { xs } => {
                for x in xs.iter().map(|x| x_of(*x)) {
                    let top = frame.top + 1.0;
                    let path = format!("M{} {}l5 9h-10z", Px(x), Px(top));
                    svg.empty("path", &[("class", &"beyond"), ("d", &path)]);
                }
            }
            Layer::BeyondFrom { name, x } => {
                let (from, top) = (x_of(*x), frame.top);
                let (left, y, width) = (Px(from), Px(top), Px((frame.right - from).max(2.0)));
                let size: [(_, &dyn Display); 2] = [("width", &width), ("height", &Px(frame.bottom - top))];
                svg.empty("rect", &[("class", &"beyond-from"), ("x", &left), ("y", &y), size[0], size[1]]);
                let (x, y) = (Px(frame.right - 4.0), Px(frame.bottom - 8.0));
                svg.leaf("text", &[("class", &"value end beyond"), ("x", &x), ("y", &y)], name);
            }
        }
    }

    /// What stands beside the data.
    pub fn named(&self) -> Option<Named<'_>> {
        let last = |line: &Line| line.points.iter().rev().find_map(|point| point.y);
        let (name, class, value) = match self {
            Layer::Line(line) | Layer::Dots(line) => (line.name.as_str(), line.class, last(line)?),
            Layer::Level { name, class, y } => (name.as_str(), *class, *y),
            _ => return None,
        };
        (!name.is_empty()).then_some(Named { name, class, value, dots: matches!(self, Layer::Dots(_)) })
    }
}

fn draw_line(svg: &mut Markup, line: &Line, x_of: impl Fn(f64) -> f64, y_of: impl Fn(f64) -> f64) {
    let mut path = String::new();
    for piece in line.points.split(|point| point.y.is_none()) {
        let placed = piece.iter().filter_map(|point| Some((x_of(point.x), y_of(point.y?))));
        if let [lone] = piece {
            dot(svg, &format!("dot {}", line.class), x_of(lone.x), y_of(lone.y.unwrap_or_default()), 2.5);
            continue;
        }
        for (number, (x, y)) in placed.enumerate() {
            let command = if number == 0 { 'M' } else { 'L' };
            write!(path, "{command}{} {}", Px(x), Px(y)).expect("a String takes every write");
        }
    }
    if !path.is_empty() {
        svg.empty("path", &[("class", &format!("line {}", line.class)), ("d", &path)]);
    }
}

fn dot(svg: &mut Markup, class: &dyn Display, x: f64, y: f64, radius: f64) {
    svg.empty("circle", &[("class", class), ("cx", &Px(x)), ("cy", &Px(y)), ("r", &Px(radius))]);
}

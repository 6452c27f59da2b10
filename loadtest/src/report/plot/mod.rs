//! A plot as inline SVG: axes, shaded phases, layers of data, names beside the lines.
//!
//! It is drawn in units of its own and scaled by the page, which sets larger letters where it scales down; so lengths of
//! texts are reckoned with the larger letters. Colours and strokes are the style sheet's, by class.

mod axis;
mod band;
mod layer;
mod names;
mod scale;

use std::fmt;

use super::markup::Markup;

pub use axis::Axis;
pub use band::Band;
pub use layer::{Layer, Line, Point};
pub use scale::Scale;

const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 270.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 14.0;
/// Above the frame, for the name of the vertical unit.
const TOP: f64 = 24.0;
/// Below the frame: ticks, and the name of the horizontal unit.
const BOTTOM: f64 = 42.0;
/// The widest a letter gets.
const LETTER: f64 = 7.8;
/// Most layers with a colour of their own.
pub const COLOURS: usize = 6;

pub struct Plot {
    /// Said instead of the drawing where it cannot be seen.
    pub label: String,
    pub x: Axis,
    pub y: Axis,
    pub bands: Vec<Band>,
    pub layers: Vec<Layer>,
}

/// The rectangle of the data.
#[derive(Clone, Copy, Debug)]
struct Frame {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
}

impl Plot {
    pub fn draw(&self, markup: &mut Markup, class: &'static str) {
        let (view, class) = (format!("0 0 {WIDTH} {HEIGHT}"), format!("plot {class}"));
        let attributes: [(_, &dyn fmt::Display); 4] =
            [("viewBox", &view), ("class", &class), ("role", &"img"), ("aria-label", &self.label)];
        markup.element("svg", &attributes, |svg| {
            let frame = self.frame();
            band::draw(svg, &self.bands, &frame, self);
            axis::draw(svg, self, &frame);
            for layer in &self.layers {
                layer.draw(svg, self, &frame);
            }
            names::draw(svg, self, &frame);
            let (top, bottom) = (Px(frame.top), Px(frame.bottom));
            svg.empty("line", &[("class", &"cursor"), ("x1", &-9), ("x2", &-9), ("y1", &top), ("y2", &bottom)]);
        });
    }

    /// Where the horizontal value stands in the drawing, for read-outs.
    pub fn x_of(&self, value: f64) -> f64 {
        self.frame().x(self.x.scale, value)
    }

    fn frame(&self) -> Frame {
        let names = names::width(&self.layers);
        Frame {
            left: LEFT,
            right: WIDTH - RIGHT.max(names),
            top: TOP + band::height(&self.bands),
            bottom: HEIGHT - BOTTOM,
        }
    }
}

impl Frame {
    fn x(&self, scale: Scale, value: f64) -> f64 {
        self.left + scale.place(value) * (self.right - self.left)
    }

    fn y(&self, scale: Scale, value: f64) -> f64 {
        self.bottom - scale.place(value) * (self.bottom - self.top)
    }
}

/// A length in the drawing, to a tenth.
struct Px(f64);

impl fmt::Display for Px {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenths = (self.0 * 10.0).round() / 10.0;
        write!(f, "{}", if tenths == 0.0 { 0.0 } else { tenths })
    }
}

/// As much of the text as fits; nothing if that would not be a word's beginning.
fn fitted(text: &str, width: f64) -> Option<String> {
    let room = (width / LETTER).floor() as usize;
    match text.chars().count() {
        length if length <= room => Some(text.to_owned()),
        _ if room >= 4 => Some(text.chars().take(room - 1).chain(['…']).collect()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(layers: Vec<Layer>, bands: Vec<Band>) -> String {
        let scale = Scale::Linear { low: 0.0, high: 10.0, unit: 1.0 };
        let axis = |unit: &str| Axis { unit: unit.into(), scale, ticks: 5 };
        let mut markup = Markup::default();
        Plot { label: "p".into(), x: axis("s"), y: axis("ms"), bands, layers }.draw(&mut markup, "");
        markup.finish()
    }

    fn line(points: Vec<Point>) -> Layer {
        Layer::Line(Line { name: "p99".into(), class: "s1", points })
    }

    fn point(x: f64, y: Option<f64>) -> Point {
        Point { x, y }
    }

    #[test]
    fn a_gap_in_the_data_is_a_gap_in_the_line() {
        let all = plot(vec![line((0..6).map(|n| point(f64::from(n), Some(1.0))).collect())], vec![]);
        let broken = (0..6).map(|n| point(f64::from(n), (n != 2).then_some(1.0))).collect();
        let broken = plot(vec![line(broken)], vec![]);
        let pieces = |svg: &str| {
            let path = svg.split(" d=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or_default().to_owned();
            path.matches('M').count()
        };
        assert_eq!((pieces(&all), pieces(&broken)), (1, 2));
    }

    #[test]
    fn a_lone_point_is_seen_and_no_point_draws_nothing() {
        let lone = plot(vec![line(vec![point(1.0, None), point(2.0, Some(3.0)), point(3.0, None)])], vec![]);
        assert_eq!(lone.matches("<circle").count(), 1);
        let none = plot(vec![line(vec![])], vec![]);
        assert!(!none.contains("<circle") && !none.contains("<path") && !none.contains("p99"), "{none}");
    }

    #[test]
    fn names_beside_the_lines_do_not_cover_each_other() {
        let layers = ["a", "b", "c"].into_iter().enumerate().map(|(n, name)| {
            let points = vec![point(0.0, Some(1.0)), point(9.0, Some(5.0 + n as f64 / 100.0))];
            Layer::Line(Line { name: name.into(), class: "s1", points })
        });
        let svg = plot(layers.collect(), vec![]);
        let heights: Vec<f64> = svg
            .split("class=\"name\"")
            .skip(1)
            .map(|text| text.split("y=\"").nth(1).and_then(|y| y.split('"').next()).unwrap().parse().unwrap())
            .collect();
        assert_eq!(heights.len(), 3);
        let apart = |a: &f64, b: &f64| (a - b).abs() >= 13.0;
        assert!(apart(&heights[0], &heights[1]) && apart(&heights[1], &heights[2]), "{heights:?}");
    }

    #[test]
    fn phases_at_the_same_time_stand_in_lanes_and_names_never_leave_their_band() {
        let band = |name: &str, from, to| Band { name: name.into(), short: name.into(), from, to };
        let bands =
            vec![band("steady", 0.0, 10.0), band("a name that is far too long", 0.0, 2.0), band("x", 9.9, 10.0)];
        let svg = plot(vec![], bands);
        assert!(svg.contains(">steady</text>"));
        assert!(svg.contains("<title>a name that is far too long</title>"), "{svg}");
        assert!(!svg.contains(">a name that is far too long</text>") && !svg.contains(">x</text>"));
    }
}

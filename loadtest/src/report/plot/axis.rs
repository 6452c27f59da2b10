//! Axes: quiet lines at round values, their numbers, and the unit in words.

use super::{Frame, Plot, Px, Scale};
use crate::report::markup::Markup;

pub struct Axis {
    /// In words: `milliseconds`, `seconds since the run began`.
    pub unit: String,
    pub scale: Scale,
    /// Most ticks.
    pub ticks: usize,
}

pub fn draw(svg: &mut Markup, plot: &Plot, frame: &Frame) {
    let (left, right, top, bottom) = (Px(frame.left), Px(frame.right), Px(frame.top), Px(frame.bottom));
    for tick in plot.y.scale.ticks(plot.y.ticks) {
        let y = frame.y(plot.y.scale, tick);
        let at = Px(y);
        svg.empty("line", &[("class", &"grid"), ("x1", &left), ("x2", &right), ("y1", &at), ("y2", &at)]);
        let (x, y) = (Px(frame.left - 7.0), Px(y + 4.0));
        svg.leaf("text", &[("class", &"tick end"), ("x", &x), ("y", &y)], plot.y.scale.tick_text(tick));
    }
    for tick in plot.x.scale.ticks(plot.x.ticks) {
        let x = Px(frame.x(plot.x.scale, tick));
        let (low, text) = (Px(frame.bottom + 5.0), Px(frame.bottom + 19.0));
        svg.empty("line", &[("class", &"axis"), ("x1", &x), ("x2", &x), ("y1", &bottom), ("y2", &low)]);
        svg.leaf("text", &[("class", &"tick middle"), ("x", &x), ("y", &text)], plot.x.scale.tick_text(tick));
    }
    if matches!(plot.x.scale, Scale::Tail { .. }) {
        for tick in plot.x.scale.ticks(plot.x.ticks) {
            let x = Px(frame.x(plot.x.scale, tick));
            svg.empty("line", &[("class", &"grid"), ("x1", &x), ("x2", &x), ("y1", &top), ("y2", &bottom)]);
        }
    }
    svg.empty("line", &[("class", &"axis"), ("x1", &left), ("x2", &right), ("y1", &bottom), ("y2", &bottom)]);
    svg.leaf("text", &[("class", &"unit"), ("x", &Px(2.0)), ("y", &Px(14.0))], &plot.y.unit);
    let (x, y) = (Px(frame.right), Px(frame.bottom + 37.0));
    svg.leaf("text", &[("class", &"unit end"), ("x", &x), ("y", &y)], &plot.x.unit);
}

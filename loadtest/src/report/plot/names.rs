//! Names beside the ends of lines, moved apart where the lines end close together.

use super::layer::{DOT, Named};
use super::{Frame, LETTER, Layer, Plot, Px, fitted};
use crate::report::markup::Markup;

const HEIGHT: f64 = 16.0;
/// A piece of the line before its name, and the spaces around it.
const SWATCH: f64 = 22.0;
const WIDTH_MAX: f64 = 130.0;

/// The room that names take right of the frame. One line alone is named by the figure's title.
pub fn width(layers: &[Layer]) -> f64 {
    let named: Vec<_> = layers.iter().filter_map(Layer::named).collect();
    if named.len() < 2 {
        return 0.0;
    }
    let longest = named.iter().map(|named| named.name.chars().count()).max().unwrap_or_default();
    (SWATCH + longest as f64 * LETTER + 12.0).min(WIDTH_MAX)
}

pub fn draw(svg: &mut Markup, plot: &Plot, frame: &Frame) {
    let room = width(&plot.layers);
    if room == 0.0 {
        return;
    }
    let mut names: Vec<Named<'_>> = plot.layers.iter().filter_map(Layer::named).collect();
    let y_of = |named: &Named<'_>| frame.y(plot.y.scale, named.value);
    names.sort_by(|a, b| y_of(a).total_cmp(&y_of(b)));
    let places = apart(names.iter().map(y_of).collect(), frame.top, frame.bottom);
    for (named, y) in names.into_iter().zip(places) {
        let middle = Px(y);
        if named.dots {
            let (class, x) = (format!("dot {}", named.class), Px(frame.right + 11.0));
            svg.empty("circle", &[("class", &class), ("cx", &x), ("cy", &middle), ("r", &Px(DOT))]);
        } else {
            let (class, from, to) = (format!("swatch {}", named.class), Px(frame.right + 4.0), Px(frame.right + 17.0));
            svg.empty("line", &[("class", &class), ("x1", &from), ("x2", &to), ("y1", &middle), ("y2", &middle)]);
        }
        let (x, y) = (Px(frame.right + 20.0), Px(y + 4.0));
        let name = fitted(named.name, room - SWATCH).unwrap_or_default();
        svg.leaf("text", &[("class", &"name"), ("x", &x), ("y", &y)], name);
    }
}

/// Ascending places, each at least a name's height from the next; downwards first, then back up from the bottom.
fn apart(mut places: Vec<f64>, top: f64, bottom: f64) -> Vec<f64> {
    let mut least = top;
    for place in &mut places {
        *place = place.max(least);
        least = *place + HEIGHT;
    }
    let mut most = bottom;
    for place in places.iter_mut().rev() {
        *place = place.min(most);
        most = *place - HEIGHT;
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_move_apart_and_stay_within() {
        assert_eq!(apart(vec![10.0, 11.0, 100.0], 0.0, 120.0), [10.0, 26.0, 100.0]);
        assert_eq!(apart(vec![118.0, 119.0, 120.0], 0.0, 120.0), [88.0, 104.0, 120.0]);
    }
}

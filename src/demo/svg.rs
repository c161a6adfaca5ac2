//! [`Svg`]: the few shapes that a chart needs, as text.

use std::fmt::Write;

/// A drawing that grows.
pub struct Svg {
    width: f64,
    height: f64,
    body: String,
}

/// A rectangle in drawing units: left, top, width, height.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rect {
    /// Left edge.
    pub x: f64,
    /// Upper edge.
    pub y: f64,
    /// Width.
    pub w: f64,
    /// Height.
    pub h: f64,
}

impl Rect {
    /// Right edge.
    pub fn right(self) -> f64 {
        self.x + self.w
    }

    /// Lower edge.
    pub fn bottom(self) -> f64 {
        self.y + self.h
    }
}

impl Svg {
    /// An empty drawing on `background`. `style` is CSS.
    pub fn new(width: f64, height: f64, background: &str, style: &str) -> Self {
        let mut svg = Self { width, height, body: format!("<style>{style}</style>\n") };
        svg.rect(Rect { x: 0.0, y: 0.0, w: width, h: height }, &format!("fill=\"{background}\""));
        svg
    }

    /// A rectangle; `attributes` as in SVG.
    pub fn rect(&mut self, Rect { x, y, w, h }: Rect, attributes: &str) {
        self.add(format_args!(r#"<rect x="{x:.1}" y="{y:.1}" width="{w:.2}" height="{h:.1}" {attributes}/>"#));
    }

    /// A line from one point to another.
    pub fn line(&mut self, from: (f64, f64), to: (f64, f64), attributes: &str) {
        let ((x1, y1), (x2, y2)) = (from, to);
        self.add(format_args!(r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" {attributes}/>"#));
    }

    /// A line through points.
    pub fn polyline(&mut self, points: &[(f64, f64)], attributes: &str) {
        self.points("polyline", points, attributes);
    }

    /// An area between points.
    pub fn polygon(&mut self, points: &[(f64, f64)], attributes: &str) {
        self.points("polygon", points, attributes);
    }

    fn points(&mut self, shape: &str, points: &[(f64, f64)], attributes: &str) {
        let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        self.add(format_args!(r#"<{shape} points="{}" {attributes}/>"#, points.join(" ")));
    }

    /// Text at a point.
    pub fn text(&mut self, (x, y): (f64, f64), attributes: &str, text: &str) {
        let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        self.add(format_args!(r#"<text x="{x:.1}" y="{y:.1}" {attributes}>{text}</text>"#));
    }

    fn add(&mut self, shape: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.body, "{shape}");
    }

    /// The whole file.
    pub fn finish(self) -> String {
        let Self { width, height, body } = self;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\">\n\
             {body}</svg>\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_break_out() {
        let mut svg = Svg::new(10.0, 20.0, "white", "");
        svg.text((1.0, 2.0), "class=\"a\"", "a < b & c");
        let file = svg.finish();
        assert!(file.contains(r#"<text x="1.0" y="2.0" class="a">a &lt; b &amp; c</text>"#), "{file}");
        assert!(file.starts_with("<svg ") && file.ends_with("</svg>\n"));
    }
}

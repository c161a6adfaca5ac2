//! The tables of docs/architecture.md that the rules are taken from.

use std::collections::BTreeMap;

use super::tree::Files;

/// The page with the tables.
pub const PAGE: &str = "docs/architecture.md";

/// A heading of the page, and the crate whose layers stand under it.
const LAYERS: [(&str, &str); 2] =
    [("Layers of the monitor", "whimbrel"), ("Layers of the engine", "whimbrel_postcopy")];
const PLACES: &str = "Only in these places";

/// The layers of a crate, the highest first.
#[derive(Default)]
pub struct Layers {
    layers: Vec<Vec<String>>,
    engine: Vec<String>,
}

/// Where something stands that stands nowhere else.
pub struct Place {
    pub what: String,
    /// A file, or a folder with a slash at its end.
    pub file: String,
}

/// All tables.
#[derive(Default)]
pub struct Tables {
    pub layers: BTreeMap<String, Layers>,
    pub places: Vec<Place>,
}

impl Layers {
    pub fn layer(&self, module: &str) -> Option<usize> {
        self.layers.iter().position(|layer| layer.iter().any(|it| it == module))
    }

    pub fn modules(&self) -> impl Iterator<Item = &str> {
        self.layers.iter().flatten().map(String::as_str)
    }

    pub fn uses_engine(&self, module: &str) -> bool {
        self.engine.iter().any(|it| it == module)
    }
}

impl Tables {
    /// What the page says. A table that is missing allows nothing.
    pub fn read(files: &Files) -> Self {
        let page = files.get(PAGE).map_or("", String::as_str);
        let mut tables = Self::default();
        for (heading, name) in LAYERS {
            let mut layers = Layers::default();
            for row in rows(page, heading) {
                layers.layers.push(code(row[0]));
                layers.engine.extend(row.get(1).map_or(Vec::new(), |cell| code(cell)));
            }
            tables.layers.insert(name.to_owned(), layers);
        }
        for row in rows(page, PLACES) {
            let files = row.get(1).map_or(Vec::new(), |cell| code(cell));
            tables.places.extend(files.into_iter().map(|file| Place { what: row[0].to_owned(), file }));
        }
        tables
    }

    /// The layers of a crate; the program's own file stands above all.
    pub fn of(&self, name: &str) -> &Layers {
        self.layers.get(name).unwrap_or(&self.layers["whimbrel"])
    }

    /// The row that allows something in a file.
    pub fn place(&self, what: &str, file: &str) -> Option<usize> {
        let here = |place: &Place| place.file == file || place.file.ends_with('/') && file.starts_with(&place.file);
        self.places.iter().position(|place| place.what == what && here(place))
    }
}

/// The rows of the table under a heading, without its head, cell by cell.
fn rows<'a>(page: &'a str, heading: &str) -> Vec<Vec<&'a str>> {
    let mut lines = page.lines().skip_while(|line| line.trim_start_matches('#').trim() != heading).skip(1);
    let table = lines.by_ref().skip_while(|line| !line.starts_with('|') && !line.starts_with('#'));
    let rows = table.take_while(|line| line.starts_with('|')).skip(2);
    rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

/// What stands in backticks.
fn code(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

//! Aligned columns whose cells may mix colours.
//!
//! Ours instead of a crate's because widths must ignore colour codes inside a cell, and the last
//! column must neither be padded nor cut.

use super::paint::{Paint, Tone, printable};

/// One cell: pieces of text, each with its meaning.
#[derive(Clone, Debug, Default)]
pub(super) struct Cell {
    pieces: Vec<(Tone, String)>,
}

impl Cell {
    pub(super) fn new(tone: Tone, text: impl AsRef<str>) -> Self {
        let mut cell = Self::default();
        cell.push(tone, text);
        cell
    }

    pub(super) fn push(&mut self, tone: Tone, text: impl AsRef<str>) {
        self.pieces.push((tone, printable(text.as_ref())));
    }

    /// Pushes after a comma unless it is the first piece.
    pub(super) fn push_listed(&mut self, tone: Tone, text: impl AsRef<str>) {
        if !self.pieces.is_empty() {
            self.push(Tone::Plain, ", ");
        }
        self.push(tone, text);
    }

    fn width(&self) -> usize {
        self.pieces.iter().map(|(_, text)| text.chars().count()).sum()
    }

    pub(super) fn painted(&self, paint: Paint) -> String {
        self.pieces.iter().map(|(tone, text)| paint.text(*tone, text)).collect()
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::new(Tone::Plain, text)
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::new(Tone::Plain, text)
    }
}

/// Rows under a header.
#[derive(Debug)]
pub(super) struct Table {
    /// Name, and whether the column is aligned to the right.
    columns: Vec<(String, bool)>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A column whose name begins with `>` is aligned to the right.
    pub(super) fn new(columns: &[&str]) -> Self {
        let column = |name: &&str| {
            let right = name.strip_prefix('>');
            (right.unwrap_or(name).to_owned(), right.is_some())
        };
        Self { columns: columns.iter().map(column).collect(), rows: Vec::new() }
    }

    /// Adds a row; missing cells stay empty.
    pub(super) fn row(&mut self, cells: Vec<Cell>) {
        debug_assert!(cells.len() <= self.columns.len());
        self.rows.push(cells);
    }

    /// The table with `indent` blanks before every line.
    pub(super) fn render(&self, paint: Paint, indent: usize) -> String {
        let header: Vec<Cell> =
            self.columns.iter().map(|(name, _)| Cell::new(Tone::Title, name)).collect();
        let mut widths = vec![0; self.columns.len()];
        for row in std::iter::once(&header).chain(&self.rows) {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.width().max(*width);
            }
        }
        let mut text = String::new();
        for row in std::iter::once(&header).chain(&self.rows) {
            text.push_str(&" ".repeat(indent));
            text.push_str(&self.line(row, &widths, paint));
            text.push('\n');
        }
        text
    }

    fn line(&self, row: &[Cell], widths: &[usize], paint: Paint) -> String {
        // A blank cell at the end would leave blanks behind the last word.
        let used = row.iter().rposition(|cell| cell.width() > 0).map_or(0, |last| last + 1);
        let mut line = String::new();
        for (index, cell) in row.iter().take(used).enumerate() {
            if index > 0 {
                line.push_str("  ");
            }
            let pad = " ".repeat(widths[index].saturating_sub(cell.width()));
            let right = self.columns[index].1;
            if right {
                line.push_str(&pad);
            }
            line.push_str(&cell.painted(paint));
            if !right && index + 1 < used {
                line.push_str(&pad);
            }
        }
        line
    }
}

//! Pure. Aligned columns.

use process::telemetry::escape::line;

/// A table of text. Columns are as wide as their widest cell; nothing is cut.
#[derive(Debug)]
pub(crate) struct Table {
    header: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns.
    pub(crate) fn new(header: &[&'static str]) -> Self {
        Self { header: header.to_vec(), rows: Vec::new() }
    }

    /// Adds a row. What is empty shows as `-`.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        // Names come from users' objects: none may end its row, or move a terminal's cursor.
        let cells =
            cells.into_iter().map(|cell| if cell.is_empty() { "-".to_owned() } else { line(&cell).into_owned() });
        self.rows.push(cells.collect());
    }

    /// The table as text, or `No <what> found.` when it has no rows.
    pub(crate) fn render(&self, what: &str) -> String {
        if self.rows.is_empty() {
            return format!("No {what} found.\n");
        }
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
            cells.chain([self.header[column].len()]).max().unwrap_or_default()
        };
        let widths: Vec<usize> = (0..self.header.len()).map(width).collect();
        let mut out = String::new();
        let mut line = |cells: &mut dyn Iterator<Item = &str>| {
            let start = out.len();
            for (cell, width) in cells.zip(&widths) {
                let gap = if out.len() == start { "" } else { "  " };
                out.push_str(&format!("{gap}{cell:<width$}"));
            }
            out.truncate(out.trim_end().len());
            out.push('\n');
        };
        line(&mut self.header.iter().copied());
        for row in &self.rows {
            line(&mut row.iter().map(String::as_str));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["NAMESPACE", "NAME", "NODE"]);
        table.row(["default".into(), "shop-7656cf8794".into(), String::new()]);
        table.row(["prod".into(), "é".into(), "worker".into()]);
        let expected = "NAMESPACE  NAME             NODE\n\
                        default    shop-7656cf8794  -\n\
                        prod       é                worker\n";
        assert_eq!(table.render("workloads"), expected);
    }

    #[test]
    fn a_cell_cannot_forge_a_row_or_steer_a_terminal() {
        let mut table = Table::new(&["NAME", "NODE"]);
        table.row(["a\nroot  worker".into(), "\u{1b}[2J\u{9b}1A\u{202e}x".into()]);
        let shown = table.render("workloads");
        assert_eq!(shown.lines().count(), 2, "{shown}");
        assert!(shown.ends_with("a\\nroot  worker  \\u001b[2J\\u009b1A\\u202ex\n"), "{shown}");
    }

    #[test]
    fn an_empty_table_says_so() {
        assert_eq!(Table::new(&["A"]).render("workloads"), "No workloads found.\n");
    }
}

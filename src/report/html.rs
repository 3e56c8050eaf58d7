//! Pieces of a page: texts as texts, tables that scroll by themselves, sections.

use std::fmt::Write as _;

/// `text` as it reads, wherever in a page it stands.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}

/// `template` with each `{{name}}` replaced; what is put in is not looked at again.
pub(crate) fn fill(template: &str, values: &[(&str, String)]) -> String {
    let mut pieces = template.split("{{");
    let mut page = pieces.next().unwrap_or_default().to_string();
    for piece in pieces {
        let (name, rest) = piece.split_once("}}").unwrap_or(("", piece));
        page += values.iter().find(|(n, _)| *n == name).map_or("", |(_, value)| value);
        page += rest;
    }
    page
}

/// A plain sentence; what stands between backticks is code.
pub(super) fn sentence(text: &str) -> String {
    let parts = text.split('`').enumerate().map(|(i, part)| match i % 2 {
        0 => escape(part),
        _ => format!("<code>{}</code>", escape(part)),
    });
    parts.collect()
}

/// What is not here, and how it would be.
pub(super) fn missing(text: &str) -> String {
    format!("<p class=\"missing\">{}</p>", sentence(text))
}

/// A remark below a table or a plot.
pub(super) fn remark(text: &str) -> String {
    format!("<p class=\"quiet\">{}</p>", sentence(text))
}

/// A table, its cells given as markup.
#[derive(Debug)]
pub(super) struct Table(String);

impl Table {
    /// One with these headings; those that begin with `|` head a column of words.
    pub(super) fn new(headings: &[&str]) -> Self {
        let cells = headings.iter().map(|heading| match heading.strip_prefix('|') {
            Some(word) => format!("<th class=\"word\" scope=\"col\">{}</th>", escape(word)),
            None => format!("<th scope=\"col\">{}</th>", escape(heading)),
        });
        let cells: String = cells.collect();
        Self(format!(
            "<div class=\"scroll\" tabindex=\"0\"><table><thead><tr>{cells}</tr></thead><tbody>"
        ))
    }

    /// Adds a row whose first `words` cells are words.
    pub(super) fn row(&mut self, words: usize, cells: &[String]) {
        self.row_of("", words, cells);
    }

    /// [`Table::row`] of a class.
    pub(super) fn row_of(&mut self, class: &str, words: usize, cells: &[String]) {
        let _ = write!(self.0, "<tr class=\"{class}\">");
        for (i, cell) in cells.iter().enumerate() {
            let _ = match i {
                0 => write!(self.0, "<th class=\"word\" scope=\"row\">{cell}</th>"),
                _ if i < words => write!(self.0, "<td class=\"word\">{cell}</td>"),
                _ => write!(self.0, "<td>{cell}</td>"),
            };
        }
        self.0 += "</tr>";
    }

    /// The markup.
    pub(super) fn html(self) -> String {
        self.0 + "</tbody></table></div>"
    }
}

/// A plot below its caption, which is markup.
pub(super) fn figure(caption: &str, plot: &str) -> String {
    format!("<figure><figcaption>{caption}</figcaption>{plot}</figure>")
}

/// Plots side by side where there is room.
pub(super) fn figures(figures: &str) -> String {
    format!("<div class=\"charts\">{figures}</div>")
}

/// The name of a line or bar in its colour.
pub(super) fn key(series: usize, name: &str) -> String {
    format!("<span class=\"key s{}\">{}</span>", series % super::plot::SERIES.len(), escape(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_in_is_text_and_no_template() {
        assert_eq!(escape("<b a='\"'>&"), "&lt;b a=&#39;&quot;&#39;&gt;&amp;");
        let page = fill("a {{x}} b {{y}}", &[("x", "{{y}}".into()), ("y", "2".into())]);
        assert_eq!(page, "a {{y}} b 2");
        assert_eq!(sentence("run `llmbs <x>`: >"), "run <code>llmbs &lt;x&gt;</code>: &gt;");
    }
}

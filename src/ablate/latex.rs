//! An ablation's table as LaTeX.

use std::fmt::Write as _;

use super::table::{RULES, Table};
use crate::eval::SIGNIFICANCE;

impl Table {
    /// A `table` that needs `\usepackage{booktabs}`: a block a rule, a line a row, the best of each column bold, and a
    /// star where a row differs from the reference.
    pub fn latex(&self) -> String {
        let columns = self.shown.len();
        let mut text = String::from("\\begin{table}\n\\centering\n");
        let _ = writeln!(text, "\\caption{{{}}}", self.caption());
        let _ = writeln!(text, "\\begin{{tabular}}{{l{}}}\n\\toprule", "r".repeat(columns));
        let heads: Vec<String> = self.shown.iter().map(|name| escaped(&spelt(name))).collect();
        let _ = writeln!(text, " & {} \\\\", heads.join(" & "));
        for (i, rule) in RULES.iter().enumerate() {
            let title = format!("\\multicolumn{{{}}}{{l}}{{\\textit{{{rule}}}}}", columns + 1);
            let _ = writeln!(text, "\\midrule\n{title} \\\\");
            let best: Vec<Option<String>> = self.shown.iter().map(|m| self.best(i, m)).collect();
            for row in &self.rows {
                text += &escaped(&row.name);
                for (metric, best) in self.shown.iter().zip(&best) {
                    let cell = row.rules[i].cell(metric);
                    let mut mean = printed(cell.mean);
                    if best.as_ref() == Some(&mean) {
                        mean = format!("\\mathbf{{{mean}}}");
                    }
                    let star = cell.test.is_some_and(|test| test.is_established());
                    let star = if star { "^{*}" } else { "" };
                    // One seed has no spread.
                    let spread = if self.seeds.len() > 1 {
                        format!(" \\pm {}", printed(cell.deviation))
                    } else {
                        String::new()
                    };
                    let _ = write!(text, " & ${mean}{star}{spread}$");
                }
                text += " \\\\\n";
            }
        }
        text += "\\bottomrule\n\\end{tabular}\n";
        let _ = writeln!(text, "\\par\\smallskip\n{{\\footnotesize {}\\par}}", self.note());
        text += "\\end{table}\n";
        let engine = if text.chars().any(is_beyond_latin) {
            " and, for its letters, XeLaTeX or LuaLaTeX"
        } else {
            ""
        };
        format!("% needs \\usepackage{{booktabs}}{engine}\n{text}")
    }

    fn caption(&self) -> String {
        let seeds: Vec<String> = self.seeds.iter().map(u64::to_string).collect();
        let split = escaped(&self.split);
        match &seeds[..] {
            [seed] => format!("Figures of the {split} split, seed {seed}."),
            _ => format!(
                "Figures of the {split} split: mean $\\pm$ standard deviation over seeds {}.",
                seeds.join(", ")
            ),
        }
    }

    fn note(&self) -> String {
        let bold = "Bold: the best of its column under each rule.";
        if self.rows.len() < 2 {
            return bold.into();
        }
        format!(
            "{bold} $^{{*}}$: differs from {} with $p < {SIGNIFICANCE}$ in a two-sided paired randomisation test over \
             targets, not corrected for the number of rows.",
            escaped(&self.reference)
        )
    }

    /// The highest mean of a metric, as it is printed: rows that read alike are bold together.
    fn best(&self, rule: usize, metric: &str) -> Option<String> {
        let means = self.rows.iter().map(|row| row.rules[rule].cell(metric).mean);
        means.max_by(f64::total_cmp).map(printed)
    }
}

/// Whether pdfLaTeX, whose fonts have Latin letters, does not set it.
fn is_beyond_latin(c: char) -> bool {
    c > '\u{24f}'
}

/// The lower-case Greek letters from α on, as LaTeX calls them in mathematics.
const GREEK: [&str; 25] = [
    "alpha",
    "beta",
    "gamma",
    "delta",
    "epsilon",
    "zeta",
    "eta",
    "theta",
    "iota",
    "kappa",
    "lambda",
    "mu",
    "nu",
    "xi",
    "mathit{o}",
    "pi",
    "rho",
    "varsigma",
    "sigma",
    "tau",
    "upsilon",
    "phi",
    "chi",
    "psi",
    "omega",
];

fn printed(value: f64) -> String {
    format!("{value:.4}")
}

/// A metric as papers spell it.
fn spelt(metric: &str) -> String {
    let (name, k) = metric.split_once('@').unwrap_or((metric, ""));
    let name = if name == "recall" { "Recall".into() } else { name.to_uppercase() };
    format!("{name}@{k}")
}

/// `text` so that LaTeX prints these very letters, on one line.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '\\' => escaped += "\\textbackslash{}",
            '{' | '}' | '$' | '&' | '#' | '_' | '%' => escaped.extend(['\\', c]),
            '^' => escaped += "\\textasciicircum{}",
            '~' => escaped += "\\textasciitilde{}",
            '<' => escaped += "\\textless{}",
            '>' => escaped += "\\textgreater{}",
            '|' => escaped += "\\textbar{}",
            '`' => escaped += "\\textasciigrave{}",
            // A shorthand of some languages.
            '"' => escaped += "\\symbol{34}",
            // At the start of a row these would be arguments of the `\\` before it.
            '*' | '[' | ']' => escaped.extend(['{', c, '}']),
            // Two of them would be a dash.
            '-' if escaped.ends_with('-') => escaped += "{}-",
            // The symbols of papers: no text font of pdfLaTeX has them.
            'α'..='ω' => {
                let _ = write!(escaped, "$\\{}$", GREEK[c as usize - 'α' as usize]);
            }
            // An empty line would end a paragraph.
            c if c.is_whitespace() || c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::super::table::tests::{outcome, table_of};
    use super::*;

    fn latex(rows: &[(&str, &[usize])], metrics: &[&str]) -> String {
        let outcomes: Vec<_> = rows
            .iter()
            .map(|(name, hits)| {
                (name.to_string(), hits.iter().map(|&hits| outcome(hits)).collect())
            })
            .collect();
        table_of(&outcomes, metrics).latex()
    }

    #[test]
    fn the_best_is_bold_and_what_differs_has_a_star() {
        let rows: [(&str, &[usize]); 4] = [
            ("base", &[10, 14]),
            ("like it", &[10, 14]),
            ("more", &[30, 30]),
            ("as good", &[29, 31]),
        ];
        let text = latex(&rows, &["recall@10", "ndcg@10", "mrr@20"]);
        let block = r"
\begin{tabular}{lrrr}
\toprule
 & Recall@10 & NDCG@10 & MRR@20 \\
\midrule
\multicolumn{4}{l}{\textit{history ranked}} \\
base & $0.3000 \pm 0.0707$ & $0.3000 \pm 0.0707$ & $0.3000 \pm 0.0707$ \\
like it & $0.3000 \pm 0.0707$ & $0.3000 \pm 0.0707$ & $0.3000 \pm 0.0707$ \\
more & $\mathbf{0.7500}^{*} \pm 0.0000$ & $\mathbf{0.7500}^{*} \pm 0.0000$ & $\mathbf{0.7500}^{*} \pm 0.0000$ \\
as good & $\mathbf{0.7500}^{*} \pm 0.0354$ & $\mathbf{0.7500}^{*} \pm 0.0354$ & $\mathbf{0.7500}^{*} \pm 0.0354$ \\
\midrule
\multicolumn{4}{l}{\textit{history left out}} \\
";
        assert!(text.contains(block), "{text}");
        assert!(text.contains("\\bottomrule\n\\end{tabular}\n"), "{text}");
        assert!(text.contains(r"\caption{Figures of the valid split: mean $\pm$"), "{text}");
        assert!(text.contains(r"$^{*}$: differs from base with $p < 0.05$"), "{text}");
        for (open, close) in [('{', '}'), ('[', ']')] {
            assert_eq!(text.matches(open).count(), text.matches(close).count(), "{text}");
        }
    }

    #[test]
    fn one_seed_has_no_spread_and_one_row_no_test() {
        let text = latex(&[("base", &[10])], &["recall@10"]);
        assert!(text.contains(r"base & $\mathbf{0.2500}$ \\"), "{text}");
        assert!(
            text.contains("seed 1.") && !text.contains("\\pm") && !text.contains('*'),
            "{text}"
        );
    }

    #[test]
    fn names_are_printed_as_they_are() {
        for (name, latex) in [
            (r#"train.tuning="full""#, r"train.tuning=\symbol{34}full\symbol{34}"),
            ("100 % & $5_#1", r"100 \% \& \$5\_\#1"),
            (r"{a\b}^~", r"\{a\textbackslash{}b\}\textasciicircum{}\textasciitilde{}"),
            ("[x] *y*", "{[}x{]} {*}y{*}"),
            ("a---b - c", "a-{}-{}-b - c"),
            (
                "<a|b>`c`",
                r"\textless{}a\textbar{}b\textgreater{}\textasciigrave{}c\textasciigrave{}",
            ),
            ("one\n\ntwo\u{1b}\té", "one  two  é"),
            ("λ=0.1, τ, ω", r"$\lambda$=0.1, $\tau$, $\omega$"),
        ] {
            assert_eq!(escaped(name), latex);
        }
        let rows: [(&str, &[usize]); 2] = [("50 %", &[10, 14]), ("[b] & c", &[30, 30])];
        let text = latex(&rows, &["recall@10"]);
        assert!(text.contains("\n{[}b{]} \\& c & $"), "{text}");
        assert!(text.contains(r"differs from 50 \% with"), "{text}");
        assert!(text.starts_with("% needs \\usepackage{booktabs}\n"), "{text}");
        let text = latex(&[("без учителя", &[10])], &["recall@10"]);
        assert!(text.contains("без учителя & "), "{text}");
        assert!(text.lines().next().unwrap().ends_with("XeLaTeX or LuaLaTeX"), "{text}");
    }
}

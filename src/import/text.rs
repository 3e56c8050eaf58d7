//! Texts made plain: entities, tags and line breaks of web pages out of titles and descriptions.

/// Texts decoded more often than this were not meant to be.
const MOST_LAYERS: usize = 8;

/// `text` as it reads on a page: HTML entities decoded (also those encoded twice), tags made spaces, line
/// breaks of every kind (U+2028 and U+2029 too) and control characters made spaces, runs of spaces made
/// one, none at the ends.
pub(super) fn clean(text: &str) -> String {
    let mut text = once(text);
    for _ in 1..MOST_LAYERS {
        let next = once(&text);
        if next == text {
            break;
        }
        text = next;
    }
    text
}

fn once(text: &str) -> String {
    let decoded = html_escape::decode_html_entities(text);
    let mut clean = String::with_capacity(decoded.len());
    let mut rest: &str = &decoded;
    // A comment that begins after this does not end: or each `<!--` would look through all the rest.
    let last_end = decoded.rfind("-->").unwrap_or(0);
    while let Some(at) = rest.find('<') {
        let (before, tag) = rest.split_at(at);
        push_words(&mut clean, before);
        let may_end = decoded.len() - tag.len() < last_end;
        if let Some(length) = tag_length(tag, may_end) {
            push_space(&mut clean);
            rest = &tag[length..];
        } else {
            clean.push('<');
            rest = &tag[1..];
        }
    }
    push_words(&mut clean, rest);
    clean.truncate(clean.trim_end().len());
    clean
}

/// How long the tag is that `text` begins with: `<`, a letter, `/` or `!`, and all to the next `>`; or a comment, if it
/// may end.
fn tag_length(text: &str, may_end: bool) -> Option<usize> {
    let second = text.as_bytes().get(1)?;
    if !second.is_ascii_alphabetic() && !b"/!".contains(second) {
        return None;
    }
    if let Some(comment) = text.strip_prefix("<!--") {
        return may_end.then(|| comment.find("-->")).flatten().map(|at| 4 + at + 3);
    }
    let end = text[1..].find(['<', '>'])? + 1;
    text[end..].starts_with('>').then_some(end + 1)
}

fn push_words(clean: &mut String, text: &str) {
    for c in text.chars() {
        if c.is_whitespace() || c.is_control() {
            push_space(clean);
        } else {
            clean.push(c);
        }
    }
}

fn push_space(clean: &mut String) {
    if !clean.is_empty() && !clean.ends_with(' ') {
        clean.push(' ');
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pages_become_texts() {
        let cases = [
            ("plain", "plain"),
            ("  two   spaces\t and a tab ", "two spaces and a tab"),
            ("Salt &amp; Pepper", "Salt & Pepper"),
            ("caf&eacute; &#233; &#xe9;", "café é é"),
            ("no&nbsp;break", "no break"),
            ("5 &lt; 6 &gt; 4", "5 < 6 > 4"),
            ("<b>bold</b> and<br/>broken<BR>lines", "bold and broken lines"),
            ("&lt;p&gt;encoded tags&lt;/p&gt;", "encoded tags"),
            ("&amp;lt;b&amp;gt;twice&amp;amp;", "twice&"),
            ("<a href=\"x\" title='y'>link</a>", "link"),
            ("<!-- a <b> comment -->text", "text"),
            ("I <3 this, 1<2", "I <3 this, 1<2"),
            ("open <b end", "open <b end"),
            ("<", "<"),
            ("line\u{2028}and\u{2029}paragraph\r\nand\u{85}next", "line and paragraph and next"),
            ("bell\u{7} and \u{1b}[31mescape\0", "bell and [31mescape"),
            ("&unknown; &", "&unknown; &"),
            ("日本語 🧴 ünï", "日本語 🧴 ünï"),
            ("", ""),
            (" <br> ", ""),
        ];
        for (text, expected) in cases {
            assert_eq!(clean(text), expected, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_clean_stays_as_it_is(text in "[a-c<>/!&;#\\-0-9 lgtamp\u{2028}é]{0,40}") {
            let once = clean(&text);
            prop_assert_eq!(clean(&once), once);
        }

        #[test]
        fn no_text_has_a_line_break_or_two_spaces(text in any::<String>()) {
            let clean = clean(&text);
            let breaks = |c: char| c.is_control() || ['\u{2028}', '\u{2029}'].contains(&c);
            prop_assert!(!clean.contains(breaks));
            prop_assert!(!clean.contains("  ") && clean.trim() == clean);
        }
    }
}

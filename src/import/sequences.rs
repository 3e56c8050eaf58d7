//! Files with a whole sequence on each line: `user_sequence.txt` and S3-Rec's; and the texts that go with
//! the former, `item_plain_text.txt`.

use super::faults::{Faults, Place};
use super::ids::check;
use super::names::Names;
use super::record::{Record, Role, Take, Wrong};
use super::source::{Input, Lines};
use crate::data::PLAIN_TEXT_FIELDS;

/// Reads lines of a user and their items, oldest first, with spaces between. Names beside the file stand for
/// the numbers in it.
pub(super) fn read(
    input: Input,
    names: &Names,
    take: &mut Take<'_>,
    faults: &mut Faults,
) -> crate::Result<()> {
    each_line(input, faults, &mut |line| {
        let mut words = line.split(is_space).filter(|word| !word.is_empty());
        let Some(user) = words.next() else { return Ok(()) };
        let user = names.user(user).map_err(|what| Wrong::field(Role::User, what))?;
        // All are looked at before one is taken: a line is skipped as a whole.
        let items = words.map(|item| names.item(item).and_then(|item| check(item).map(|()| item)));
        let items: Result<Vec<&str>, String> = items.collect();
        for item in items.map_err(|what| Wrong::field(Role::Item, what))? {
            take(&Record::pair(user, item))?;
        }
        Ok(())
    })
}

/// Reads lines of an item and its texts: `ID title: …; brand: …; categories: …; description: …`, or, where
/// no field is named, `ID TITLE`.
pub(super) fn read_plain_text(
    input: Input,
    take: &mut Take<'_>,
    faults: &mut Faults,
) -> crate::Result<()> {
    each_line(input, faults, &mut |line| {
        let (item, text) = line.split_once(is_space).unwrap_or((line, ""));
        let mut record = plain_text(text);
        record.set(Role::Item, Some(item));
        take(&record)
    })
}

/// The fields of a text.
fn plain_text(text: &str) -> Record<'_> {
    let mut record = Record::default();
    let mut rest = text.trim();
    let Some((mut role, start)) = field_at(rest) else {
        record.set(Role::Title, Some(rest));
        return record;
    };
    rest = &rest[start..];
    loop {
        let next = rest.match_indices(';').find_map(|(at, _)| {
            let after = rest[at + 1..].trim_start();
            let (role, start) = field_at(after)?;
            Some((at, role, rest.len() - after.len() + start))
        });
        let end = next.map_or(rest.len(), |(at, _, _)| at);
        if let Some(role) = role
            && record.get(role).is_none()
        {
            record.set(role, Some(rest[..end].trim()));
        }
        let Some((_, following, start)) = next else { return record };
        role = following;
        rest = &rest[start..];
    }
}

/// The field whose name `text` begins with, none if it is not kept, and where its text begins.
fn field_at(text: &str) -> Option<(Option<Role>, usize)> {
    PLAIN_TEXT_FIELDS.iter().find_map(|name| {
        let rest = text.strip_prefix(name)?.strip_prefix(':')?;
        let role = Role::TEXTS.into_iter().find(|role| role.name() == *name);
        Some((role, text.len() - rest.len()))
    })
}

fn is_space(c: char) -> bool {
    c == ' ' || c == '\t'
}

fn each_line(
    input: Input,
    faults: &mut Faults,
    take: &mut dyn FnMut(&str) -> Result<(), Wrong>,
) -> crate::Result<()> {
    let mut lines = Lines::new(input)?;
    let path = lines.path();
    while let Some((number, line)) = lines.next()? {
        let outcome = match line.text() {
            Ok(text) if text.trim().is_empty() => Ok(()),
            Ok(text) => take(text.trim_matches(is_space)),
            Err((column, what)) => {
                faults.add(&Place { column, ..Place::line(&path, number) }, &what)?;
                continue;
            }
        };
        if let Err(wrong) = outcome {
            let field = wrong.role.map(|role| (0, role.name()));
            faults.add(&Place { field, ..Place::line(&path, number) }, &wrong.what)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_text_has_fields_in_any_order_and_others_are_left_out() {
        let get = |text| Role::TEXTS.map(|role| plain_text(text).get(role).unwrap_or("-"));
        assert_eq!(
            get(
                "title: Soap; a bar; brand: B; categories: Bath, Soap; description: It cleans: well; price: 3.5; salesrank: {'a': 1}"
            ),
            ["Soap; a bar", "It cleans: well", "B", "Bath, Soap"]
        );
        assert_eq!(get("brand: B; title: T"), ["T", "-", "B", "-"]);
        assert_eq!(get("title: ; brand: "), ["", "-", "", "-"]);
        assert_eq!(get("just a name; really"), ["just a name; really", "-", "-", "-"]);
        assert_eq!(get(""), ["", "-", "-", "-"]);
    }
}

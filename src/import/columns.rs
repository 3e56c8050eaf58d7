//! Which column plays which role: as named on the command line, else by the names that are usual.

use std::path::Path;

use super::faults::shown;
use super::record::Role;
use crate::data::RAW_IDS;
use crate::invalid;

/// The names given to columns, by role.
#[derive(Debug, Clone, Default)]
pub struct Columns {
    names: [Option<String>; 8],
    /// The column of the item's id in a file of items, where it has another name there.
    pub item_key: Option<String>,
}

impl Columns {
    /// Names the column of a role; `None` leaves it to the usual names.
    pub fn set(&mut self, role: Role, name: Option<String>) {
        self.names[role as usize] = name;
    }

    /// The name given to the column of a role.
    pub fn get(&self, role: Role) -> Option<&str> {
        self.names[role as usize].as_deref()
    }
}

/// Usual names, most telling first, without case and punctuation.
fn usual(role: Role) -> &'static [&'static str] {
    match role {
        Role::User => {
            &["userid", "user", "reviewerid", "uid", "customerid", "customer", "visitorid"]
        }
        Role::Item => &[
            "itemid",
            "item",
            "parentasin",
            "asin",
            "productid",
            "product",
            "sku",
            "articleid",
            "movieid",
            "iid",
        ],
        Role::Time => &[
            "timestamp",
            "time",
            "unixreviewtime",
            "datetime",
            "date",
            "eventtime",
            "createdat",
            "ts",
        ],
        Role::Rating => &["rating", "overall", "stars", "score"],
        Role::Title => &["title", "name", "itemname", "productname", "movietitle"],
        Role::Description => &["description", "desc"],
        Role::Brand => &["brand", "store", "manufacturer"],
        Role::Categories => &["categories", "category", "genres", "genre"],
    }
}

/// Columns that only Amazon's reviews have: the title beside them is the review's.
const OF_REVIEWS: [&str; 2] = ["reviewerid", "parentasin"];

/// So many columns are named to choose from.
const MOST_NAMED: usize = 30;

/// Which texts are looked for in rows of interactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Texts {
    /// None: a file of items has them.
    Elsewhere,
    /// Those whose columns were named.
    Named,
    /// Those, and those whose columns have usual names.
    Usual,
}

/// What a reader is to look for.
#[derive(Debug)]
pub(super) struct Wanted {
    roles: Vec<(Role, Option<String>, bool)>,
    interactions: bool,
    /// Whether an item's id stands where LC-Rec's datasets have it, and nowhere else.
    lcrec: bool,
    /// How the interactions call the item, which its own file may do too.
    item: Option<String>,
}

impl Wanted {
    /// Interactions, with a rating if it is needed, and item texts in the same rows.
    pub(super) fn interactions(columns: &Columns, rating: bool, texts: Texts) -> Self {
        let want = |role: Role, required: bool| {
            let name = columns.get(role).map(str::to_string);
            let required = required || name.is_some();
            (role, name, required)
        };
        let mut roles =
            vec![want(Role::User, true), want(Role::Item, true), want(Role::Time, false)];
        if rating {
            roles.push(want(Role::Rating, true));
        }
        let is_wanted = |role: &Role| match texts {
            Texts::Elsewhere => false,
            Texts::Named => columns.get(*role).is_some(),
            Texts::Usual => true,
        };
        roles.extend(Role::TEXTS.into_iter().filter(is_wanted).map(|role| want(role, false)));
        Self { roles, interactions: true, lcrec: false, item: None }
    }

    /// Items with their texts.
    pub(super) fn items(columns: &Columns) -> Self {
        let mut roles = vec![(Role::Item, columns.item_key.clone(), true)];
        let text = |role: Role| {
            let name = columns.get(role).map(str::to_string);
            let required = name.is_some();
            (role, name, required)
        };
        roles.extend(Role::TEXTS.into_iter().map(text));
        let item = columns.get(Role::Item).map(str::to_string);
        Self { roles, interactions: false, lcrec: false, item }
    }

    /// Items with their texts in LC-Rec's `X.item.json`: their raw ids are those that the dataset itself has.
    pub(super) fn lcrec_items() -> Self {
        Self { lcrec: true, ..Self::items(&Columns::default()) }
    }

    /// Refuses a column that is named for two roles, of which it would play one.
    pub(super) fn check(&self) -> crate::Result<()> {
        let named =
            || self.roles.iter().filter_map(|(role, name, _)| Some((*role, name.as_ref()?)));
        for (at, (role, name)) in named().enumerate() {
            if let Some((other, _)) = named().skip(at + 1).find(|(_, other)| *other == name) {
                let (role, other) = (self.option(role), self.option(other));
                invalid!(
                    "{role} and {other} name the same column, {name:?}: a column has one part; copy it under another \
                     name"
                );
            }
        }
        Ok(())
    }

    /// The roles that a row may not lack. A text it may, though its column was named.
    pub(super) fn musts(&self) -> impl Iterator<Item = Role> {
        let must = self.roles.iter().filter(|(role, _, must)| *must && !Role::TEXTS.contains(role));
        must.map(|&(role, _, _)| role)
    }

    /// How well a column of this name serves which role; 0 is best.
    pub(super) fn rank(&self, name: &str) -> Option<(Role, usize)> {
        let plain = simplified(name);
        let explicit = self.roles.iter().find(|(_, named, _)| named.as_deref() == Some(name));
        if let Some(&(role, _, _)) = explicit {
            return Some((role, 0));
        }
        let free =
            |role: Role| self.roles.iter().any(|(r, named, _)| *r == role && named.is_none());
        if self.item.as_deref() == Some(name) && free(Role::Item) {
            return Some((Role::Item, 0));
        }
        self.roles.iter().filter(|(_, named, _)| named.is_none()).find_map(|&(role, _, _)| {
            if self.lcrec && role == Role::Item {
                return Some((role, RAW_IDS.iter().position(|known| *known == name)?));
            }
            // An item's own file calls it plainly "id".
            let id = role == Role::Item && !self.interactions && plain == "id";
            // Beside an interaction it may as well be the user's.
            if role == Role::Title && self.interactions && plain == "name" {
                return None;
            }
            let at = usual(role).iter().position(|usual| *usual == plain);
            Some((role, if id { usize::MAX } else { at? }))
        })
    }

    /// Whether a column of this name says that texts beside it are those of a review.
    pub(super) fn tells_of_reviews(&self, name: &str) -> bool {
        self.interactions && OF_REVIEWS.contains(&simplified(name).as_str())
    }

    /// Whether the column of a text was named, and so holds the item's and not a review's.
    pub(super) fn is_named(&self, role: Role) -> bool {
        self.roles.iter().any(|(other, name, _)| *other == role && name.is_some())
    }

    /// The column of each role in the table `path` with this header; tells of them.
    ///
    /// # Errors
    /// Says which role has none, and what the columns are.
    pub(super) fn choose(
        &self,
        path: &Path,
        header: &[String],
    ) -> Result<Vec<(Role, usize)>, String> {
        let chosen = self.chosen(header)?;
        let is_read = |at: usize| chosen.iter().any(|(_, other)| *other == at);
        let unread = header.iter().enumerate().filter(|(at, _)| !is_read(*at));
        let unread: Vec<&String> = unread.map(|(_, name)| name).collect();
        let file = path.display();
        let roles = chosen.iter().map(|&(role, at)| format!("{} {}", role.name(), header[at]));
        let roles: Vec<String> = roles.collect();
        let (roles, rest) = (listed(&roles), listed(&unread));
        let rest = if rest.is_empty() { rest } else { format!("; not read: {rest}") };
        tracing::info!("{file}: {roles}{rest}");
        let has_time = chosen.iter().any(|(role, _)| *role == Role::Time);
        if let Some(name) = unread.iter().find(|name| tells_a_time(name))
            && self.interactions
            && !has_time
        {
            let name = shown(name);
            tracing::warn!(
                "{file}: no time column was recognised, so interactions stay in file order; if it is {name}, give \
                 --time {name}"
            );
        }
        Ok(chosen)
    }

    fn chosen(&self, header: &[String]) -> Result<Vec<(Role, usize)>, String> {
        let reviews = header.iter().any(|name| self.tells_of_reviews(name));
        let mut best: [Option<(usize, usize)>; 8] = [None; 8];
        for (at, name) in header.iter().enumerate() {
            let Some((role, rank)) = self.rank(name) else { continue };
            let of_review = reviews && Role::TEXTS.contains(&role) && !self.is_named(role);
            let slot = &mut best[role as usize];
            if !of_review && slot.is_none_or(|(other, _)| rank < other) {
                *slot = Some((rank, at));
            }
        }
        let mut chosen = Vec::new();
        for (role, named, required) in &self.roles {
            match best[*role as usize] {
                Some((_, at)) if header[at + 1..].contains(&header[at]) => {
                    let (name, role) = (shown(&header[at]), role.name());
                    return Err(format!(
                        "two columns are called {name}, which would be the {role}; call them differently"
                    ));
                }
                Some((_, at)) => chosen.push((*role, at)),
                None if *required => return Err(self.missing(*role, named.as_deref(), header)),
                None => {}
            }
        }
        Ok(chosen)
    }

    fn missing(&self, role: Role, named: Option<&str>, header: &[String]) -> String {
        let columns = listed(header);
        if let Some(name) = named {
            return format!("there is no column {name:?}; the columns are {columns}");
        }
        let (role, option) = (role.name(), self.option(role));
        let is_data = header.iter().any(|name| name.trim().parse::<f64>().is_ok());
        let no_header =
            if is_data { "; where this is data and no header, add --no-header" } else { "" };
        format!("no column looks like the {role}; name it with {option}: {columns}{no_header}")
    }

    /// What is said of a row that lacks a role.
    pub(super) fn absent(&self, role: Role) -> String {
        let named = self.roles.iter().find(|(other, _, _)| *other == role);
        match named.and_then(|(_, name, _)| name.as_ref()) {
            Some(name) => format!("there is no field {name:?}"),
            None => format!(
                "no field looks like the {}; name it with {}",
                role.name(),
                self.option(role)
            ),
        }
    }

    fn option(&self, role: Role) -> String {
        let key = role == Role::Item && !self.interactions;
        if key { "--item-key".into() } else { format!("--{}", role.name()) }
    }
}

/// Some names in a line, the first of many.
fn listed(names: &[impl AsRef<str>]) -> String {
    let mut first: Vec<String> =
        names.iter().take(MOST_NAMED).map(|name| shown(name.as_ref())).collect();
    if names.len() > MOST_NAMED {
        first.push(format!("and {} more", names.len() - MOST_NAMED));
    }
    first.join(", ")
}

/// Whether a column of this name may well hold times.
fn tells_a_time(name: &str) -> bool {
    let plain = simplified(name);
    let ends = |endings: &[&str], of: &str| endings.iter().any(|ending| of.ends_with(ending));
    ends(&["date", "time", "timestamp"], &plain) || ends(&["_at", "At"], name)
}

/// A name without case and punctuation: `user_id`, `userId` and `User-ID` are one.
fn simplified(name: &str) -> String {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(wanted: &Wanted, header: &str) -> Result<String, String> {
        let header: Vec<String> = header.split(',').map(String::from).collect();
        let chosen = wanted.chosen(&header)?;
        let chosen = chosen.iter().map(|(role, at)| format!("{}={}", role.name(), header[*at]));
        Ok(chosen.collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn usual_names_are_found_whatever_their_spelling() {
        let wanted = Wanted::interactions(&Columns::default(), false, Texts::Usual);
        let found = |header| choose(&wanted, header).unwrap();
        assert_eq!(
            found("userId,movieId,rating,timestamp"),
            "user=userId item=movieId time=timestamp"
        );
        assert_eq!(found("USER-ID,sku,Title"), "user=USER-ID item=sku title=Title");
        // It may as well be the user's.
        assert_eq!(
            found("customer,name,item,item_name"),
            "user=customer item=item title=item_name"
        );
        // The more telling name wins, wherever it stands.
        assert_eq!(found("user,asin,parent_asin"), "user=user item=parent_asin");
    }

    #[test]
    fn a_column_has_one_part_in_a_file_and_may_have_another_in_the_next() {
        let mut columns = Columns::default();
        columns.set(Role::Item, Some("2".into()));
        columns.set(Role::Title, Some("2".into()));
        Wanted::interactions(&columns, false, Texts::Elsewhere).check().unwrap();
        Wanted::items(&columns).check().unwrap();
        let both = Wanted::interactions(&columns, false, Texts::Named).check().unwrap_err();
        assert!(both.to_string().starts_with("--item and --title name the same column"), "{both}");
        columns.item_key = Some("2".into());
        let both = Wanted::items(&columns).check().unwrap_err().to_string();
        assert!(both.starts_with("--item-key and --title name"), "{both}");
    }

    #[test]
    fn two_columns_of_one_name_are_refused_where_one_is_read() {
        let wanted = Wanted::interactions(&Columns::default(), false, Texts::Usual);
        let error = choose(&wanted, "user_id,item_id,user_id").unwrap_err();
        assert!(
            error.contains("two columns are called user_id") && error.contains("the user"),
            "{error}"
        );
        choose(&wanted, "user_id,note,item_id,note").unwrap();
    }

    #[test]
    fn what_may_be_a_time_is_told_by_its_name() {
        let found = ["order_date", "soldAt", "created_at", "Event Time"].map(tells_a_time);
        assert_eq!(found, [true; 4]);
        assert_eq!(["format", "seat", "user", "dated"].map(tells_a_time), [false; 4]);
    }

    #[test]
    fn the_title_of_a_review_is_no_title_of_an_item_unless_it_is_named() {
        let header = "rating,title,asin,parent_asin,user_id,timestamp";
        let wanted = Wanted::interactions(&Columns::default(), true, Texts::Usual);
        let found = "user=user_id item=parent_asin time=timestamp rating=rating";
        assert_eq!(choose(&wanted, header).unwrap(), found);
        let mut columns = Columns::default();
        columns.set(Role::Title, Some("title".into()));
        let wanted = Wanted::interactions(&columns, false, Texts::Named);
        assert!(choose(&wanted, header).unwrap().ends_with("title=title"));
        // In a file of items the same names mean the item.
        let wanted = Wanted::items(&Columns::default());
        assert_eq!(
            choose(&wanted, "title,parent_asin,store").unwrap(),
            "item=parent_asin title=title brand=store"
        );
        assert_eq!(choose(&wanted, "id,name").unwrap(), "item=id title=name");
    }

    #[test]
    fn a_column_that_is_not_there_is_named_with_those_that_are() {
        let mut columns = Columns::default();
        let wanted = Wanted::interactions(&columns, false, Texts::Elsewhere);
        let error = choose(&wanted, "who,what").unwrap_err();
        assert_eq!(error, "no column looks like the user; name it with --user: who, what");
        columns.set(Role::User, Some("whom".into()));
        let wanted = Wanted::interactions(&columns, false, Texts::Elsewhere);
        let error = choose(&wanted, "who,item").unwrap_err();
        assert_eq!(error, "there is no column \"whom\"; the columns are who, item");
        let error = choose(&Wanted::items(&columns), "who,what").unwrap_err();
        assert!(error.contains("--item-key"), "{error}");
    }
}

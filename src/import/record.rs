//! What every reader yields: the fields of a row, by the part they play.

/// The part that a field plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Who took the item.
    User,
    /// What was taken.
    Item,
    /// When.
    Time,
    /// How much it was liked.
    Rating,
    /// What the item is called.
    Title,
    /// A sentence or more about it.
    Description,
    /// Who makes it.
    Brand,
    /// Where the shop files it.
    Categories,
}

impl Role {
    /// All there are, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::User,
        Self::Item,
        Self::Time,
        Self::Rating,
        Self::Title,
        Self::Description,
        Self::Brand,
        Self::Categories,
    ];

    /// Those that say what an item is.
    pub const TEXTS: [Self; 4] = [Self::Title, Self::Description, Self::Brand, Self::Categories];

    /// The name of the option that names the column.
    pub fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Item => "item",
            Self::Time => "time",
            Self::Rating => "rating",
            Self::Title => "title",
            Self::Description => "description",
            Self::Brand => "brand",
            Self::Categories => "categories",
        }
    }
}

/// A row: its fields by role, those absent being `None`.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Record<'a>([Option<&'a str>; 8]);

impl<'a> Record<'a> {
    /// The field that plays `role`.
    pub(super) fn get(&self, role: Role) -> Option<&'a str> {
        self.0[role as usize]
    }

    /// Puts a field in its place.
    pub(super) fn set(&mut self, role: Role, text: Option<&'a str>) {
        self.0[role as usize] = text;
    }

    /// A row of no more than a user and an item.
    pub(super) fn pair(user: &'a str, item: &'a str) -> Self {
        let mut record = Self::default();
        record.set(Role::User, Some(user));
        record.set(Role::Item, Some(item));
        record
    }
}

/// What is wrong with a row, told by whoever was to take it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    /// The field at fault, if it is one.
    pub(super) role: Option<Role>,
    /// What was found, and what it should be.
    pub(super) what: String,
}

impl Wrong {
    /// A fault of the field that plays `role`.
    pub(super) fn field(role: Role, what: impl Into<String>) -> Self {
        Self { role: Some(role), what: what.into() }
    }

    /// A fault of the row as a whole.
    pub(super) fn row(what: impl Into<String>) -> Self {
        Self { role: None, what: what.into() }
    }
}

/// Takes rows.
pub(super) type Take<'t> = dyn FnMut(&Record<'_>) -> Result<(), Wrong> + 't;

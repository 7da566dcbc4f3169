//! Patrons and their groups.

use rand::Rng;
use rand::seq::IndexedRandom;
use serde::{Deserialize, Serialize};
use uuid::{Uuid, uuid};

use super::random::{SeededRng, new_id, weighted_index};

/// Patrons with common loan policies and limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PatronGroup {
    /// The id; it is the same in every play, so limits fit all later plays.
    pub id: Uuid,
    /// The name for staff.
    pub name: &'static str,
}

/// The patron groups of the library.
pub const GROUPS: [PatronGroup; 5] = [
    PatronGroup { id: uuid!("e7b0b064-43ea-4eee-ad2e-9c5f3ad58703"), name: "Undergraduate" },
    PatronGroup { id: uuid!("503732a7-0dc8-455c-9be9-3ff90c51f6a7"), name: "Graduate" },
    PatronGroup { id: uuid!("f1f7cea5-1731-4d0e-91af-a31efc74c283"), name: "Faculty" },
    PatronGroup { id: uuid!("28d51bb5-1ec1-432b-a09d-93d05c44b36d"), name: "Staff" },
    PatronGroup { id: uuid!("bae319d7-25e7-430d-9ba5-438df3407c3e"), name: "Visitor" },
];

/// Returns the name of a patron group, or a phrase for a patron without one.
pub fn group_name(id: Option<Uuid>) -> &'static str {
    GROUPS.iter().find(|group| Some(group.id) == id).map_or("no patron group", |group| group.name)
}

/// The percentage of patrons in each group.
const GROUP_WEIGHTS: [u32; 5] = [58, 20, 8, 6, 8];

/// The loans of an eager member of each group, about as many as the limit allows.
const LOANS_MAX_BY_GROUP: [usize; 5] = [10, 15, 25, 12, 4];

/// A patron with the members of the user record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Patron {
    /// The user id.
    pub id: Uuid,
    /// A random first name.
    pub first_name: String,
    /// A random last name.
    pub last_name: String,
    /// The username, unique in the library.
    pub username: String,
    /// The barcode of the library card.
    pub barcode: String,
    /// Whether the user is active; evaluation treats inactive users alike.
    pub active: bool,
    /// The patron group; a few users have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patron_group: Option<Uuid>,
    /// Whether the user record exists; a few users were deleted while they had open loans.
    pub known: bool,
}

impl Patron {
    /// Returns the first name and the last name.
    pub fn name(&self) -> String {
        format!("{} {}", self.first_name, self.last_name)
    }
}

/// The parameters of a patron's behavior.
#[derive(Debug, Clone, Copy)]
pub(super) struct Habits {
    /// The index in [`GROUPS`] of the group that determines loan policies.
    pub(super) group: usize,
    /// The number of items that the patron wants on loan.
    pub(super) loan_target: usize,
    /// The probability of a return or a renewal before the due date.
    pub(super) punctuality: f64,
    /// The probability of an early payment.
    pub(super) payment_rate: f64,
}

/// Returns a new patron, the `number`th of the library.
pub(super) fn patron(number: u32, rng: &mut SeededRng, id_rng: &mut SeededRng) -> (Patron, Habits) {
    let group = weighted_index(rng, &GROUP_WEIGHTS);
    let first_name = *FIRST_NAMES.choose(rng).expect("the list is not empty");
    let last_name = *LAST_NAMES.choose(rng).expect("the list is not empty");
    // Rare cases that the service must handle: no group, an inactive user, a deleted user.
    let patron_group = (!rng.random_bool(0.004)).then_some(GROUPS[group].id);
    let patron = Patron {
        id: new_id(id_rng),
        first_name: first_name.to_owned(),
        last_name: last_name.to_owned(),
        username: format!("{}{number}", last_name.to_lowercase()),
        barcode: format!("{:08}", 20_000_000 + number),
        active: !rng.random_bool(0.01),
        patron_group,
        known: !rng.random_bool(0.003),
    };
    (patron, habits(group, rng))
}

fn habits(group: usize, rng: &mut SeededRng) -> Habits {
    let loan_target = match rng.random_range(0..100) {
        0..24 => 0,
        24..62 => rng.random_range(1..=2),
        62..86 => rng.random_range(2..=4),
        86..95 => {
            rng.random_range(LOANS_MAX_BY_GROUP[group] / 3..=LOANS_MAX_BY_GROUP[group] / 2 + 1)
        }
        _ => rng.random_range(LOANS_MAX_BY_GROUP[group] - 1..=LOANS_MAX_BY_GROUP[group]),
    };
    let careless = rng.random_bool(0.06);
    Habits {
        group,
        loan_target: if careless { loan_target.max(3) } else { loan_target },
        punctuality: if careless { 0.5 } else { 0.95 },
        payment_rate: if careless { 0.35 } else { 0.85 },
    }
}

const FIRST_NAMES: [&str; 48] = [
    "Ada", "Aiko", "Alma", "Amadou", "Anton", "Beatriz", "Bela", "Carlo", "Chiara", "Dalia",
    "Dmitri", "Edda", "Elif", "Emeka", "Enzo", "Farah", "Fynn", "Greta", "Hamid", "Hana", "Ines",
    "Ivo", "Jonas", "Juno", "Kaito", "Katya", "Lale", "Leif", "Lin", "Mara", "Milan", "Nadia",
    "Nils", "Núria", "Odile", "Oskar", "Paula", "Quinn", "Ravi", "Rosa", "Salma", "Sören", "Tala",
    "Tomás", "Uma", "Viggo", "Yara", "Zeno",
];

const LAST_NAMES: [&str; 48] = [
    "Abend", "Alder", "Amsel", "Bauer", "Birch", "Bloom", "Brook", "Castell", "Chen", "Dahl",
    "Dorn", "Eker", "Falk", "Ferro", "Finch", "Garde", "Glass", "Hale", "Haruki", "Heath",
    "Ibarra", "Jansen", "Jarvi", "Kaya", "Kestrel", "Lark", "Lindt", "Marsh", "Mbeki", "Moreau",
    "Nakata", "Noor", "Okoro", "Olsen", "Petrov", "Quill", "Reyes", "Rook", "Sato", "Silva",
    "Stern", "Thorn", "Ueda", "Vance", "Wren", "Yilmaz", "Zeller", "Zimmer",
];

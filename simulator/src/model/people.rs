//! Patrons and their groups.

use rand::Rng;
use rand::seq::IndexedRandom;
use serde::{Deserialize, Serialize};
use uuid::{Uuid, uuid};

use super::library::SeededRng;

/// Patrons of one kind, who share loan policies and limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PatronGroup {
    /// The same in every play, so that limits set once fit all later plays.
    pub id: Uuid,
    /// As staff know it.
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

/// The name of a patron group, or words for a patron who is in none.
pub fn group_name(id: Option<Uuid>) -> &'static str {
    GROUPS.iter().find(|group| Some(group.id) == id).map_or("no patron group", |group| group.name)
}

/// How many of a hundred patrons are in each group.
const GROUP_WEIGHTS: [u32; 5] = [58, 20, 8, 6, 8];

/// Items that an eager member of each group keeps at home, about as many as its limit allows.
const LOANS_MAX_BY_GROUP: [usize; 5] = [10, 15, 25, 12, 4];

/// Someone with a library card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Patron {
    /// The user id.
    pub id: Uuid,
    /// Made up.
    pub first_name: String,
    /// Made up.
    pub last_name: String,
    /// Unique in its library.
    pub username: String,
    /// What the card reader reads.
    pub barcode: String,
    /// Inactive users are treated like others.
    pub active: bool,
    /// A few users are in no group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patron_group: Option<Uuid>,
    /// False for the few whose user record was deleted while they still had items at home.
    pub known: bool,
}

impl Patron {
    /// First and last name.
    pub fn name(&self) -> String {
        format!("{} {}", self.first_name, self.last_name)
    }
}

/// How a patron uses the library.
#[derive(Debug, Clone, Copy)]
pub(super) struct Habits {
    /// Place in [`GROUPS`] of the group whose policies apply.
    pub(super) group: usize,
    /// Items this patron likes to have at home.
    pub(super) loan_target: usize,
    /// Chance to bring back or renew in time.
    pub(super) punctuality: f64,
    /// Chance to settle a fee soon.
    pub(super) payment_rate: f64,
}

/// Someone new, the `number`th of the library.
pub(super) fn patron(number: u32, rng: &mut SeededRng, id_rng: &mut SeededRng) -> (Patron, Habits) {
    let group = weighted_index(rng, &GROUP_WEIGHTS);
    let first_name = *FIRST_NAMES.choose(rng).expect("the list is not empty");
    let last_name = *LAST_NAMES.choose(rng).expect("the list is not empty");
    // Rare cases that a service must get right: no group, an inactive or a deleted user.
    let patron_group = (!rng.random_bool(0.004)).then_some(GROUPS[group].id);
    let patron = Patron {
        id: super::library::new_id(id_rng),
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

/// A place in `shares`, as likely as its share of the sum.
pub(super) fn weighted_index(rng: &mut SeededRng, weights: &[u32]) -> usize {
    let mut remaining = rng.random_range(0..weights.iter().sum());
    for (index, weight) in weights.iter().enumerate() {
        if remaining < *weight {
            return index;
        }
        remaining -= weight;
    }
    unreachable!("what is left is always less than the sum of the shares")
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

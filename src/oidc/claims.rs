//! What a checked ID token contains about a person.

use chrono::{DateTime, Utc};
use openidconnect::AdditionalClaims;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Longest id or name of a person, in bytes. The log of acts stores it.
const NAME_BYTES_MAX: usize = 255;

/// The claims that OpenID Connect does not define, such as roles.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct ExtraClaims {
    #[serde(flatten)]
    members: Map<String, Value>,
}

impl AdditionalClaims for ExtraClaims {}

impl ExtraClaims {
    /// Returns the instant before which the token is not valid.
    pub(super) fn not_before(&self) -> Option<DateTime<Utc>> {
        let seconds = self.members.get("nbf")?.as_f64()?;
        DateTime::from_timestamp(seconds as i64, 0)
    }
}

/// A person, as the provider reports.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The id of the person at the provider, which never changes.
    pub subject: String,
    /// The name with which the person signs in, otherwise the id.
    pub name: String,
    claims: Map<String, Value>,
}

impl Identity {
    /// Returns a person; `None` if the subject is no text that a log can contain.
    pub(super) fn new(subject: &str, name: Option<&str>, claims: ExtraClaims) -> Option<Self> {
        let subject = Some(subject).filter(|subject| is_printable(subject))?;
        let name = name.map(str::trim).filter(|name| is_printable(name)).unwrap_or(subject);
        Some(Self { subject: subject.to_owned(), name: name.to_owned(), claims: claims.members })
    }

    /// Returns a person with these claims.
    #[cfg(test)]
    pub(crate) fn with_claims(subject: &str, name: &str, members: Map<String, Value>) -> Self {
        Self::new(subject, Some(name), ExtraClaims { members }).expect("printable texts")
    }

    /// Returns the texts of a claim, which is one text or a list of texts. Other values count as absent.
    pub fn texts(&self, path: &str) -> Vec<&str> {
        match find(&self.claims, path) {
            Some(Value::String(text)) => vec![text],
            Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        }
    }
}

/// Returns whether a page and a log can show a text as it is. Line breaks, and marks that change the direction of the text
/// around it, are not printable.
fn is_printable(text: &str) -> bool {
    let is_hidden = |c: char| matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    !text.is_empty()
        && text.len() <= NAME_BYTES_MAX
        && !text.contains(|c: char| c.is_control() || is_hidden(c))
}

/// Finds a claim by its path. A name may itself contain dots, such as the id of a client.
fn find<'a>(members: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    if let Some(value) = members.get(path) {
        return Some(value);
    }
    path.match_indices('.').find_map(|(at, _)| match members.get(&path[..at]) {
        Some(Value::Object(inner)) => find(inner, &path[at + 1..]),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn identity(claims: Value) -> Identity {
        Identity::with_claims("s-1", "kim", claims.as_object().cloned().unwrap_or_default())
    }

    #[test]
    fn claims_are_found_by_their_path() {
        let claims = json!({
            "groups": ["a", 7, "b"],
            "one": "a",
            "none": null,
            "number": 1,
            "realm_access": { "roles": ["r"] },
            "resource_access": { "a.b": { "roles": ["dotted"] }, "a": { "b": { "roles": ["nested"] } } },
            "https://a.example/roles": ["url"],
        });
        let person = identity(claims);
        let cases: [(&str, &[&str]); 11] = [
            ("groups", &["a", "b"]),
            ("one", &["a"]),
            ("none", &[]),
            ("number", &[]),
            ("missing", &[]),
            ("", &[]),
            ("realm_access.roles", &["r"]),
            ("realm_access", &[]),
            ("realm_access.roles.0", &[]),
            ("resource_access.a.b.roles", &["nested"]),
            ("https://a.example/roles", &["url"]),
        ];
        for (path, expected) in cases {
            assert_eq!(person.texts(path), expected, "{path}");
        }
        let dotted = identity(json!({ "resource_access": { "a.b": { "roles": ["dotted"] } } }));
        assert_eq!(dotted.texts("resource_access.a.b.roles"), ["dotted"]);
    }

    #[test]
    fn unusable_names_are_replaced_by_the_subject() {
        let name = |name| {
            Identity::new("s-1", name, ExtraClaims::default()).map(|person| person.name).unwrap()
        };
        assert_eq!(name(Some(" kim ")), "kim");
        assert_eq!(name(Some("K\u{ed}m <b>")), "K\u{ed}m <b>", "pages escape it");
        let long = "a".repeat(256);
        for bad in ["", " ", "a\nb", "a\0", "a\u{202e}b", "\u{feff}a", &*long] {
            assert_eq!(name(Some(bad)), "s-1", "{bad:?}");
        }
        assert_eq!(name(None), "s-1");
        for bad in ["", "a\nb", &*long] {
            assert!(Identity::new(bad, Some("kim"), ExtraClaims::default()).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn instant_of_first_validity_is_read() {
        let claims = |nbf: Value| {
            let members = json!({ "nbf": nbf }).as_object().cloned().unwrap_or_default();
            ExtraClaims { members }.not_before().map(|at| at.timestamp())
        };
        assert_eq!(claims(json!(7)), Some(7));
        assert_eq!(claims(json!(7.5)), Some(7));
        assert_eq!(claims(json!("x")), None);
    }
}

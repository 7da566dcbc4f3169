//! Finds placeholders of messages that the service does not fill in.

use super::{SettingsFinding, SettingsFindingKind, effect};
use crate::blocks::{Condition, PLACEHOLDERS};

/// Maximum number of findings about one message.
const FINDINGS_MAX: usize = 10;

/// Maximum length in characters of a text in braces that counts as a placeholder.
const NAME_CHARS_MAX: usize = 30;

/// Maximum number of changed letters at which a placeholder resembles a known one.
const CHANGED_LETTERS_MAX: usize = 2;

/// Returns a finding per unknown placeholder of the message.
pub(super) fn unknown_placeholders(condition: &Condition) -> Vec<SettingsFinding> {
    let mut unknown: Vec<&str> = Vec::new();
    let mut rest = condition.message.as_str();
    // As in `message.rs`, another brace may begin a placeholder within the text of this one.
    while let Some(start) = rest.find('{') {
        let from_brace = &rest[start..];
        let placeholder = from_brace.find('}').map(|end| &from_brace[..=end]);
        match placeholder {
            Some(known) if PLACEHOLDERS.contains(&known) => rest = &from_brace[known.len()..],
            Some(other) => {
                if is_placeholder(other) && !unknown.contains(&other) {
                    unknown.push(other);
                }
                rest = &from_brace[1..];
            }
            None => break,
        }
        if unknown.len() == FINDINGS_MAX {
            break;
        }
    }
    let finding = |placeholder: &str| {
        let effect = effect::unknown_placeholder(placeholder, similar(placeholder), &PLACEHOLDERS);
        SettingsFinding::about_condition(SettingsFindingKind::UnknownPlaceholder, condition, effect)
    };
    unknown.into_iter().map(finding).collect()
}

/// Returns the text between the braces, without blanks.
fn name(placeholder: &str) -> &str {
    placeholder.trim_matches(['{', '}']).trim()
}

/// Returns whether the text in braces looks like a placeholder and not like a remark.
fn is_placeholder(text: &str) -> bool {
    let (name, is_nested) = (name(text), text[1..].contains('{'));
    let is_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
    let is_short = (1..=NAME_CHARS_MAX).contains(&name.chars().count());
    !is_nested && is_short && name.chars().all(is_word)
}

/// Returns the known placeholder with the fewest changed letters, if few letters differ.
fn similar(placeholder: &str) -> Option<&'static str> {
    let letters = |text: &str| -> String {
        let letters = name(text).chars().filter(|c| c.is_alphanumeric());
        letters.flat_map(char::to_lowercase).collect()
    };
    let written = letters(placeholder);
    let known = PLACEHOLDERS.map(|known| (strsim::levenshtein(&written, &letters(known)), known));
    let closest = known.into_iter().min_by_key(|(changed, _)| *changed);
    closest.filter(|(changed, _)| *changed <= CHANGED_LETTERS_MAX).map(|(_, known)| known)
}

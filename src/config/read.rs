//! Reads the settings of a command line, and reports every invalid setting.

use std::{collections::BTreeMap, error::Error, ffi::OsString};

use clap::{
    Arg, ArgMatches, Args, Command, FromArgMatches,
    builder::{Resettable, ValueParser},
};

use super::Config;

/// An invalid setting: its variable, the violated rule and the value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{variable} {rule}, but it is {value:?}")]
pub struct InvalidSetting {
    variable: String,
    rule: String,
    value: String,
}

/// The invalid settings of a command line, with the text of each setting by variable.
#[derive(Default)]
pub(super) struct InvalidSettings {
    texts: BTreeMap<String, String>,
    found: Vec<InvalidSetting>,
}

impl InvalidSettings {
    fn report(&mut self, variable: &str, rule: impl Into<String>) {
        let value = self.texts.get(variable).cloned().unwrap_or_default();
        self.found.push(InvalidSetting { variable: variable.to_owned(), rule: rule.into(), value });
    }

    /// Returns a value, or records the violated rule and returns a default.
    pub(super) fn accept<T: Default>(&mut self, variable: &str, value: Result<T, &str>) -> T {
        value.unwrap_or_else(|rule| {
            self.report(variable, rule);
            T::default()
        })
    }

    /// Records a setting that violates its relation to another setting. If one of the settings is invalid,
    /// the relation compares a default, so the relation counts only between valid settings.
    pub(super) fn require(&mut self, variable: &str, rule: &str, other: &str, is_met: bool) {
        let is_valid = |name| self.found.iter().all(|problem| problem.variable != name);
        if !is_met && is_valid(variable) && is_valid(other) {
            self.report(variable, rule);
        }
    }
}

/// Returns whether an argument of the command line is a setting: only settings have a heading.
pub fn is_setting(arg: &Arg) -> bool {
    arg.get_help_heading().is_some()
}

impl Config {
    /// Parses a command line with settings. Returns the matches, which have each setting as text, and the
    /// settings or every invalid setting. Ends the process after `--help`, or if an argument is unknown.
    pub fn read<T: Into<OsString> + Clone>(
        command: Command,
        line: impl IntoIterator<Item = T>,
    ) -> (ArgMatches, Result<Self, Vec<InvalidSetting>>) {
        // clap stops at the first value that its parser rejects, so the parsers follow.
        let command = command.mut_args(|arg| match is_setting(&arg) {
            true => arg.value_parser(ValueParser::string()),
            false => arg,
        });
        let matches = command.get_matches_from(line);
        let config = Self::from_texts(&matches);
        (matches, config)
    }

    fn from_texts(texts: &ArgMatches) -> Result<Self, Vec<InvalidSetting>> {
        let settings = Self::augment_args(Command::new("settings").no_binary_name(true));
        let (mut problems, mut valid) = (InvalidSettings::default(), Vec::new());
        for arg in settings.get_arguments() {
            let Some(text) = texts.get_one::<String>(arg.get_id().as_str()) else { continue };
            let variable = arg.get_env().and_then(|name| name.to_str()).unwrap_or_default();
            // A message must not show a secret.
            let is_shown = text.is_empty() || !arg.is_hide_env_values_set();
            let shown = if is_shown { text.clone() } else { "(hidden)".to_owned() };
            problems.texts.insert(variable.to_owned(), shown);
            let flag = format!("--{}={text}", arg.get_long().unwrap_or_default());
            let alone = Command::new("setting").no_binary_name(true).arg(arg);
            match alone.try_get_matches_from([&flag]) {
                Ok(_) => valid.push(flag),
                Err(error) => {
                    let rule =
                        error.source().map_or_else(|| error.to_string(), ToString::to_string);
                    problems.report(variable, rule);
                }
            }
        }
        // An invalid setting has its default here, so that relations between the others are validated too.
        let matches = settings.mut_args(|arg| arg.env(Resettable::Reset)).get_matches_from(valid);
        let mut config =
            Self::from_arg_matches(&matches).expect("the parsers have accepted all values");
        config.validate(&mut problems);
        if problems.found.is_empty() { Ok(config) } else { Err(problems.found) }
    }
}

//! `docs/settings.md`: its tables are generated from the command line's definition.

use std::{collections::BTreeMap, fs, path::Path};

use patron_blocks::cli::CommandLine;

/// Returns the table of each heading, with a row per setting in the order of `--help`.
fn tables() -> BTreeMap<String, String> {
    let definition = CommandLine::definition();
    let mut tables = BTreeMap::new();
    for argument in definition.get_arguments() {
        let Some(heading) = argument.get_help_heading() else { continue };
        let variable = argument.get_env().unwrap().to_str().unwrap();
        let default = argument.get_default_values().first().map(|value| value.to_str().unwrap());
        let default = match default {
            None => "not set".to_owned(),
            Some("") => "empty".to_owned(),
            Some(value) => format!("`{value}`"),
        };
        let meaning = argument.get_help().unwrap().to_string();
        let table = tables
            .entry(heading.to_owned())
            .or_insert_with(|| "| variable | default | meaning |\n|---|---|---|\n".to_owned());
        *table += &format!("| `{variable}` | {default} | {meaning} |\n");
    }
    tables
}

#[test]
fn settings_page_has_the_generated_tables() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/settings.md")).unwrap();
    let tables = tables();
    assert!(tables.len() > 5, "{tables:?}");
    let section_with_table = |section: &str| {
        let heading = section.lines().next().unwrap_or_default();
        let Some(table) = tables.get(heading) else { return section.to_owned() };
        let after = section.split_once("\n|").map_or("", |(_, rest)| rest);
        let rest = after.split_inclusive('\n').skip_while(|line| line.contains('|'));
        format!("{heading}\n\n{table}{}", rest.collect::<String>())
    };
    let sections: Vec<String> = page.split("\n## ").map(section_with_table).collect();
    let expected = sections.join("\n## ");
    for heading in tables.keys() {
        assert!(page.contains(&format!("\n## {heading}\n")), "the page has no section {heading}");
    }
    if page != expected {
        fs::create_dir_all(root.join("target")).unwrap();
        fs::write(root.join("target/settings.md"), expected).unwrap();
        panic!("docs/settings.md is out of date: cp target/settings.md docs/settings.md");
    }
}

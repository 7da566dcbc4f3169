//! Rules for the files of the repository: layers, names, links, and generated pages.

mod boundaries;
mod citations;
mod contract;
mod dashboard;
mod mutants_list;
pub(crate) mod schemas;
mod settings_page;
mod translations;
mod vocabulary;

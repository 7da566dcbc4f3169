//! Rules for the files of the repository: layers, names, links, and generated pages.

mod boundaries;
mod citations;
mod contract;
pub(crate) mod schemas;
mod mutants_list;
mod settings_page;
mod vocabulary;

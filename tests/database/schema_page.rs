//! `docs/schema.sql`: the tables of a migrated database, generated from its catalogs. Each table, view,
//! column and function has a comment.

use std::{collections::BTreeMap, fmt::Write, fs, path::Path};

use patron_blocks::store::Db;

use crate::database::sql::with_tenant;

const HEADER: &str = "\
-- The tables of the service, for readers. Generated from a migrated database; a test compares. The statements that
-- create the tables are in migrations/, with the bodies of views and functions.
";

/// The table in which sqlx records the applied migrations.
const MIGRATIONS_TABLE: &str = "_sqlx_migrations";

#[derive(sqlx::FromRow)]
struct Relation {
    oid: sqlx::postgres::types::Oid,
    name: String,
    is_view: bool,
    comment: Option<String>,
}

#[derive(sqlx::FromRow)]
struct Column {
    name: String,
    definition: String,
    comment: Option<String>,
}

async fn columns(db: &Db, relation: &Relation) -> Vec<Column> {
    sqlx::query_as(
        "select a.attname::text as name, col_description(a.attrelid, a.attnum) as comment,
                concat(format_type(a.atttypid, a.atttypmod),
                       case when a.attnotnull then ' not null' end,
                       case when a.attidentity <> '' then ' generated always as identity' end,
                       case when a.attgenerated = 's' then ' generated always as (' || pg_get_expr(d.adbin, d.adrelid) || ') stored'
                            when d.adbin is not null then ' default ' || pg_get_expr(d.adbin, d.adrelid) end) as definition
           from pg_attribute a
           left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
          where a.attrelid = $1 and a.attnum > 0 and not a.attisdropped
          order by a.attnum",
    )
    .bind(relation.oid)
    .fetch_all(db)
    .await
    .unwrap()
}

/// Returns the constraints of a table, and the statements that create its other indexes and its triggers.
async fn details(db: &Db, relation: &Relation) -> (Vec<String>, Vec<String>) {
    let constraints = sqlx::query_scalar(
        "select case when contype in ('p', 'u') then pg_get_constraintdef(oid)
                     else concat('constraint ', conname, ' ', pg_get_constraintdef(oid)) end
           from pg_constraint where conrelid = $1 and contype in ('p', 'u', 'c', 'f')
          order by contype desc, conname",
    );
    let statements = sqlx::query_scalar(
        "select pg_get_indexdef(indexrelid) as definition from pg_index
          where indrelid = $1 and not exists (select from pg_constraint where conindid = indexrelid)
         union all
         select pg_get_triggerdef(oid) from pg_trigger where tgrelid = $1 and not tgisinternal
          order by 1",
    );
    (
        constraints.bind(relation.oid).fetch_all(db).await.unwrap(),
        statements.bind(relation.oid).fetch_all(db).await.unwrap(),
    )
}

/// Appends a relation to the page. Returns what has no comment.
async fn describe_relation(db: &Db, relation: &Relation, page: &mut String) -> Vec<String> {
    let mut uncommented = Vec::new();
    let mut comment_of = |name: &str, comment: &Option<String>| {
        if comment.is_none() {
            uncommented.push(name.to_owned());
        }
        comment.clone().unwrap_or_default()
    };
    let name = &relation.name;
    writeln!(page, "\n-- {}", comment_of(name, &relation.comment)).unwrap();
    let kind = if relation.is_view { "view" } else { "table" };
    writeln!(page, "create {kind} {name} (").unwrap();
    let (constraints, statements) = details(db, relation).await;
    for column in columns(db, relation).await {
        let Column { name: column_name, definition, comment } = column;
        let comment = comment_of(&format!("{name}.{column_name}"), &comment);
        writeln!(page, "    {column_name} {definition}, -- {comment}").unwrap();
    }
    for constraint in constraints {
        writeln!(page, "    {constraint},").unwrap();
    }
    writeln!(page, ");").unwrap();
    for statement in statements {
        writeln!(page, "{statement};").unwrap();
    }
    uncommented
}

/// Appends the functions of a schema. Returns what has no comment.
async fn describe_functions(db: &Db, schema: &str, page: &mut String) -> Vec<String> {
    let functions: Vec<(String, String, Option<String>)> = sqlx::query_as(
        "select proname::text,
                concat(proname, '(', pg_get_function_identity_arguments(oid), ') returns ', pg_get_function_result(oid)),
                obj_description(oid)
           from pg_proc where pronamespace = $1::regnamespace order by 1",
    )
    .bind(schema)
    .fetch_all(db)
    .await
    .unwrap();
    let mut uncommented = Vec::new();
    for (name, signature, comment) in functions {
        if comment.is_none() {
            uncommented.push(name);
        }
        writeln!(page, "\n-- {}\ncreate function {signature};", comment.unwrap_or_default())
            .unwrap();
    }
    uncommented
}

/// Appends all relations and functions of a schema. Returns what has no comment.
async fn describe_schema(db: &Db, schema: &str, title: &str, page: &mut String) -> Vec<String> {
    let relations: Vec<Relation> = sqlx::query_as(
        "select oid, relname::text as name, relkind = 'v' as is_view, obj_description(oid) as comment
           from pg_class
          where relnamespace = $1::regnamespace and relkind in ('r', 'v') and relname <> $2
          order by relkind, relname",
    )
    .bind(schema)
    .bind(MIGRATIONS_TABLE)
    .fetch_all(db)
    .await
    .unwrap();
    writeln!(page, "\n-- {} {title} {}", "=".repeat(10), "=".repeat(10)).unwrap();
    let mut uncommented = Vec::new();
    for relation in &relations {
        uncommented.extend(describe_relation(db, relation, page).await);
    }
    uncommented.extend(describe_functions(db, schema, page).await);
    uncommented
}

#[tokio::test]
async fn schema_page_describes_the_migrated_tables() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (page, uncommented) = with_tenant(async |db, schema| {
        let mut page = HEADER.to_owned();
        let mut uncommented = BTreeMap::new();
        for (name, title) in [
            ("mod_patron_blocks", "schema mod_patron_blocks: all tenants"),
            (schema.name(), "schema <tenant>_mod_patron_blocks: one tenant"),
        ] {
            uncommented.insert(title, describe_schema(db, name, title, &mut page).await);
        }
        (page.replace(&format!("{}.", schema.name()), ""), uncommented)
    })
    .await;
    assert!(uncommented.values().all(Vec::is_empty), "without a comment: {uncommented:?}");
    if fs::read_to_string(root.join("docs/schema.sql")).unwrap_or_default() != page {
        fs::create_dir_all(root.join("target")).unwrap();
        fs::write(root.join("target/schema.sql"), page).unwrap();
        panic!("docs/schema.sql is out of date: cp target/schema.sql docs/schema.sql");
    }
}

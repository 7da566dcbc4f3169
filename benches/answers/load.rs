//! Load on an HTTP server by `wrk`, and on the database by `pgbench`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use patron_blocks::{config::Login, store};

use crate::{
    fixture::{TENANT, schema},
    library::{USER, many_loans_patron},
};

/// The duration of each measurement in seconds.
const MEASUREMENT_SECONDS: u32 = 4;

/// The patrons of the requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PatronChoice {
    /// The ordinary patrons in turn; the number is their count.
    Ordinary(u64),
    /// The patron with many loans.
    ManyLoans,
}

/// Requests per second, and latencies in milliseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) rate: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
}

/// A folder for scripts, removed on drop.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn make() -> Self {
        let path = std::env::temp_dir().join(format!("patron-blocks-bench-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).expect("a file");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Writes a wrk script that requests the blocks and prints more percentiles than wrk does by default.
pub(crate) fn script(folder: &Folder, choice: PatronChoice) -> PathBuf {
    let (name, user) = match choice {
        PatronChoice::Ordinary(patrons) => (
            "ordinary.lua",
            format!(
                "string.format('00000000-0000-4000-8000-%012x', math.random(0, {}))",
                patrons - 1
            ),
        ),
        PatronChoice::ManyLoans => ("reader.lua", format!("'{}'", many_loans_patron())),
    };
    let lua = format!(
        "math.randomseed(7)\n\
         local headers = {{ ['X-Okapi-Tenant'] = '{TENANT}' }}\n\
         request = function()\n\
           return wrk.format('GET', '/automated-patron-blocks/' .. {user}, headers)\n\
         end\n\
         done = function(summary, latency, requests)\n\
           print(string.format('load: %f %f %f %f', summary.requests / summary.duration * 1e6,\n\
             latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency:percentile(99.9) / 1e3))\n\
         end\n"
    );
    folder.file(name, &lua)
}

/// Runs wrk over this many connections. Every response must have status 200.
pub(crate) fn wrk(port: u16, script: &Path, connections: u32) -> Load {
    let output = Command::new("wrk")
        .args(["-t1", &format!("-c{connections}"), &format!("-d{MEASUREMENT_SECONDS}s"), "-s"])
        .arg(script)
        .arg(format!("http://127.0.0.1:{port}"))
        .output()
        .expect("wrk is installed");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(!text.contains("Non-2xx") && !text.contains("Socket errors"), "{text}");
    let report_line = text.lines().find_map(|line| line.strip_prefix("load: "));
    let report_line =
        report_line.unwrap_or_else(|| panic!("{text} {}", String::from_utf8_lossy(&output.stderr)));
    let numbers: Vec<f64> = report_line.split(' ').map(|n| n.parse().expect("a number")).collect();
    let [rate, p50, p99, p999] = numbers[..] else { panic!("{report_line}") };
    Load { rate, p50, p99, p999 }
}

/// Runs the service's own statement by pgbench over this many connections: the maximum rate of this
/// database.
pub(crate) fn pgbench(
    login: &Login,
    folder: &Folder,
    choice: PatronChoice,
    connections: u32,
) -> f64 {
    let schema = schema();
    let texts = store::statements::STATEMENTS
        .iter()
        .copied()
        .flatten()
        .map(|statement| schema.sql(statement).0);
    // Other statements have the column too, but only this one ends with the patron.
    let is_state = |sql: &str| sql.contains("first_recall_due") && sql.ends_with("c.user_id = $1");
    let state = texts.into_iter().find(|sql| is_state(sql)).expect("the statement");
    let (set, user) = match choice {
        PatronChoice::Ordinary(patrons) => {
            (format!("\\set n random(0, {})\n", patrons - 1), USER.replace("(n ", "(:n "))
        }
        PatronChoice::ManyLoans => (String::new(), format!("'{}'", many_loans_patron())),
    };
    let sql = state.replace("$1", &user).replace("$2", "now()").replace("$3", "false");
    let sql = sql.replace('\n', " ");
    let file = folder.file("state.sql", &format!("{set}{sql};\n"));
    let output = Command::new("pgbench")
        .args(["-n", "-M", "prepared", "-j", "1", "-c", &connections.to_string()])
        .args(["-T", &MEASUREMENT_SECONDS.to_string(), "-f"])
        .arg(&file)
        .args(["-h", &login.host, "-p", &login.port.to_string()])
        .args(["-U", &login.username, &login.database])
        .env("PGPASSWORD", &login.password)
        .output()
        .expect("pgbench is installed");
    let text = String::from_utf8(output.stdout).expect("text");
    let tps = text.lines().find_map(|line| line.strip_prefix("tps = "));
    let tps = tps.unwrap_or_else(|| panic!("{text} {}", String::from_utf8_lossy(&output.stderr)));
    tps.split_whitespace().next().expect("a number").parse().expect("a rate")
}

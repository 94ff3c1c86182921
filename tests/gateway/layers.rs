//! Who may import whom (ARCHITECTURE.md): `web → session → sandbox → link`, and leaves that import
//! none of them.

use std::fs;
use std::path::{Path, PathBuf};

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// The source without comments and strings, as far as paths in it matter.
fn code(source: &str) -> String {
    let lines = source.lines().map(|line| {
        let comment = line.find("//").unwrap_or(line.len());
        &line[..comment]
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The top-level names that a file takes from `root`: `a` of `root::a::b`, and `a`, `b` of
/// `root::{a, b::c}`.
fn taken_from(root: &str, code: &str) -> Vec<String> {
    let word = |text: &str| -> String {
        let end = text.find(|c: char| !c.is_alphanumeric() && c != '_');
        text[..end.unwrap_or(text.len())].to_owned()
    };
    let mut names = Vec::new();
    for (at, _) in code.match_indices(&format!("{root}::")) {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
            continue;
        }
        let rest = &code[at + root.len() + 2..];
        let Some(group) = rest.strip_prefix('{') else {
            names.push(word(rest));
            continue;
        };
        let mut depth = 1;
        let mut start = true;
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => start = true,
                c if start && depth == 1 && !c.is_whitespace() => {
                    names.push(word(&group[at..]));
                    start = false;
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    names
}

/// Every file below `src/` with its code and the layer it belongs to: the first part of its path.
fn sources() -> Vec<(String, String, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let source = |path: PathBuf| {
        let inner = path.strip_prefix(&src).expect("below src");
        let layer = inner.components().next().expect("a name");
        let layer = layer.as_os_str().to_string_lossy();
        let layer = layer.trim_end_matches(".rs").to_owned();
        let text = fs::read_to_string(&path).expect("text");
        (inner.display().to_string(), layer, code(&text))
    };
    files(&src).into_iter().map(source).collect()
}

#[test]
fn each_layer_imports_only_what_lies_below_it() {
    let allowed = |layer: &str| -> Option<&[&str]> {
        Some(match layer {
            "web" => &[
                "web",
                "session",
                "fleet",
                "sandbox",
                "limit",
                "config",
                "telemetry",
                "secret",
                "keys",
            ],
            "fleet" => &[
                "fleet",
                "sandbox",
                "limit",
                "config",
                "telemetry",
                "secret",
                "keys",
                "store",
            ],
            "session" => &[
                "session",
                "sandbox",
                "limit",
                "config",
                "telemetry",
                "secret",
                "store",
            ],
            "sandbox" => &["sandbox", "config", "telemetry", "secret"],
            "limit" => &["limit", "config", "secret"],
            "config" => &["config"],
            "telemetry" => &["telemetry", "config"],
            "secret" => &["secret"],
            "store" => &["store"],
            "keys" => &["keys", "secret"],
            // What wires everything together.
            "gateway" | "cli" | "main" | "lib" => return None,
            other => panic!("{other} has no place in the layers: give it one here"),
        })
    };
    let mut seen = 0;
    for (path, layer, code) in sources() {
        let Some(allowed) = allowed(&layer) else {
            continue;
        };
        for name in taken_from("crate", &code) {
            seen += 1;
            assert!(
                allowed.contains(&name.as_str()),
                "{path} belongs to {layer} and must not use crate::{name}"
            );
        }
    }
    assert!(seen > 30, "the scan has found only {seen} imports");
}

#[test]
fn only_the_edges_know_the_frameworks() {
    let only = |root: &str, may: &dyn Fn(&str, &str) -> bool| {
        let mut seen = false;
        for (path, layer, code) in sources() {
            if taken_from(root, &code).is_empty() {
                continue;
            }
            seen = true;
            assert!(may(&path, &layer), "{path} must not know {root}");
        }
        assert!(seen, "nobody uses {root}: the scan is broken");
    };
    only("axum", &|_, layer| matches!(layer, "web" | "gateway"));
    only("opentelemetry", &|path, _| path == "telemetry/trace.rs");
    only("bollard", &|path, _| path.starts_with("sandbox/docker"));
    for root in ["kube", "k8s_openapi"] {
        only(root, &|path, _| path.starts_with("sandbox/kubernetes"));
    }
}

#[test]
fn the_link_and_the_agent_know_no_gateway() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for path in files(&root.join("link/src"))
        .into_iter()
        .chain(files(&root.join("agent/src")))
    {
        let text = fs::read_to_string(&path).expect("text");
        for stranger in ["belljar", "axum", "hyper", "bollard"] {
            let used = taken_from(stranger, &code(&text));
            assert!(used.is_empty(), "{} uses {stranger}", path.display());
        }
    }
}

#[test]
fn the_scan_sees_what_it_should() {
    let code = code(
        "use crate::web::{self, App}; // crate::comment::x\nuse crate::{\n    limit::{a, b},\n    \
         session,\n};\nfn f() { crate::secret::g(); mycrate::no(); super::crate::no() }",
    );
    assert_eq!(
        taken_from("crate", &code),
        ["web", "limit", "session", "secret"]
    );
    // The scan of groups begins behind the brace.
    assert_eq!(
        taken_from("axum", "use axum::{Json, http};"),
        ["Json", "http"]
    );
}

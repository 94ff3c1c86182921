use bytesize::ByteSize;

use super::*;

fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    let own = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
    pairs.iter().map(own).collect()
}

fn file(name: &str, text: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("belljar-config-{}-{name}", std::process::id()));
    std::fs::write(&path, text).unwrap();
    path
}

fn keys(error: &ConfigError) -> Vec<&str> {
    error.problems.iter().map(|p| p.key.as_str()).collect()
}

#[test]
fn defaults_are_those_of_the_documentation() {
    let config = Config::load(None, env(&[]), &[]).unwrap();
    assert_eq!(config.listen.to_string(), "127.0.0.1:3001");
    assert_eq!(config.limits.idle_timeout, Duration::from_secs(300));
    assert_eq!(config.limits.sessions_per_hour, 10);
    let ahead = Template {
        pool: 1,
        ..Template::default()
    };
    assert_eq!(config.templates["base"], ahead);
}

#[test]
fn later_layers_win() {
    let path = file(
        "layers",
        "listen = '127.0.0.1:1'\n[limits]\nidle_timeout = '1m'\nmax_duration = '20m'\n\
         [templates.base]\nmemory = '256MiB'\n",
    );
    let config = Config::load(
        Some(&path),
        env(&[
            ("BELLJAR_LIMITS__IDLE_TIMEOUT", "2m"),
            ("BELLJAR_LISTEN", "127.0.0.1:2"),
            (
                "BELLJAR_ALLOWED_ORIGINS",
                "https://a.example, https://b.example",
            ),
            ("BELLJAR_TEMPLATES__BASE__PIDS", "32"),
            ("BELLJAR_TEMPLATES__BASE__ENV__LESS", "1"),
            ("PORT", "9"),
            ("UNRELATED", "x"),
        ]),
        &[("listen", "127.0.0.1:3".into())],
    )
    .unwrap();
    assert_eq!(config.listen.port(), 3);
    assert_eq!(config.limits.idle_timeout, Duration::from_secs(120));
    assert_eq!(config.limits.max_duration, Duration::from_secs(1200));
    assert_eq!(
        config.allowed_origins,
        ["https://a.example", "https://b.example"]
    );
    assert_eq!(config.templates["base"].memory, ByteSize::mib(256));
    assert_eq!(config.templates["base"].pids, 32);
    assert_eq!(config.templates["base"].env["LESS"], "1");
}

#[test]
fn variables_of_older_deployments_are_honoured() {
    let config = Config::load(
        None,
        env(&[
            ("PORT", "4000"),
            ("HOST", "0.0.0.0"),
            ("FRONTEND_ORIGIN", "https://toolkata.dev/"),
            ("DOCKER_HOST", "unix:///run/user/1000/podman.sock"),
        ]),
        &[],
    )
    .unwrap();
    assert_eq!(config.listen.to_string(), "0.0.0.0:4000");
    assert_eq!(config.allowed_origins, ["https://toolkata.dev"]);
    assert_eq!(
        config.docker.socket,
        Path::new("/run/user/1000/podman.sock")
    );
}

#[test]
fn every_error_comes_at_once_with_its_place() {
    let path = file(
        "errors",
        "lisen = 'x'\n[limits]\nidle_timeout = 'soon'\nsessions_per_hour = -1\ncolour = 1\n\
         [templates.base]\nmemory = '1MiB'\nuser = 'root'\n",
    );
    let error = Config::load(
        Some(&path),
        env(&[
            ("BELLJAR_LIMITS__MAX_DURATION", "9y"),
            ("BELLJAR_NOISE", "1"),
        ]),
        &[],
    )
    .unwrap_err();
    let mut found = keys(&error);
    found.sort_unstable();
    assert_eq!(
        found,
        [
            "limits.colour",
            "limits.idle_timeout",
            "limits.max_duration",
            "limits.sessions_per_hour",
            "lisen",
            "noise",
            "templates.base.memory",
            "templates.base.user",
        ]
    );
    let text = error.to_string();
    assert!(
        text.contains(
            "limits.max_duration ($BELLJAR_LIMITS__MAX_DURATION): must be from 1s to 7days"
        ),
        "{text}"
    );
    assert!(
        text.contains(&format!("limits.idle_timeout ({})", path.display())),
        "{text}"
    );
    assert!(
        text.contains("noise ($BELLJAR_NOISE): there is no such setting"),
        "{text}"
    );
}

#[test]
fn no_isolation_is_refused_where_others_can_reach_it() {
    let load = |pairs: &[(&str, &str)]| Config::load(None, env(pairs), &[]);
    let process = ("BELLJAR_LAUNCHER", "process");
    assert!(load(&[process]).is_ok());
    let error = load(&[process, ("BELLJAR_LISTEN", "0.0.0.0:1")]).unwrap_err();
    assert_eq!(keys(&error), ["launcher"]);
    let unproved = ("BELLJAR_DOCKER__REQUIRE_GVISOR", "false");
    let error = load(&[unproved, ("BELLJAR_LISTEN", "[::]:1")]).unwrap_err();
    assert_eq!(keys(&error), ["docker.require_gvisor"]);
}

#[test]
fn recordings_have_room_for_one_and_a_place() {
    let load = |pairs: &[(&str, &str)]| Config::load(None, env(pairs), &[]);
    let config = load(&[
        ("BELLJAR_RECORDINGS__DIR", "/srv/casts"),
        ("BELLJAR_RECORDINGS__ON_REQUEST", "true"),
        ("BELLJAR_TEMPLATES__BASE__RECORDING", "true"),
    ])
    .unwrap();
    assert_eq!(config.recordings.dir, Path::new("/srv/casts"));
    assert!(config.recordings.on_request && config.templates["base"].recording);
    let error = load(&[
        ("BELLJAR_RECORDINGS__DIR", "casts"),
        ("BELLJAR_RECORDINGS__MAX_TOTAL", "1MiB"),
        ("BELLJAR_RECORDINGS__RETENTION", "1s"),
    ])
    .unwrap_err();
    assert_eq!(
        keys(&error),
        [
            "recordings.dir",
            "recordings.max_total",
            "recordings.retention"
        ]
    );
}

#[test]
fn a_missing_or_broken_file_says_so() {
    let error = Config::load(Some(Path::new("/nowhere/belljar.toml")), env(&[]), &[]).unwrap_err();
    assert!(error.to_string().contains("/nowhere/belljar.toml"));
    let path = file("broken", "limits = [");
    let error = Config::load(Some(&path), env(&[]), &[]).unwrap_err();
    assert!(error.to_string().contains("not TOML"));
}

proptest::proptest! {
    /// Whatever a file or a variable holds, the answer is a configuration or a list of problems.
    #[test]
    fn never_panics(text in "\\PC{0,200}", key in "[A-Z_]{0,30}", value in "\\PC{0,40}") {
        let path = file("fuzz", &text);
        let _ = Config::load(Some(&path), env(&[(&format!("BELLJAR_{key}"), &value)]), &[]);
    }
}

#[test]
fn limits_of_the_line_and_the_host_have_ranges() {
    let limits = |pairs: &[(&str, &str)]| Config::load(None, env(pairs), &[]);
    let config = limits(&[
        ("BELLJAR_LIMITS__QUEUE_LENGTH", "0"),
        ("BELLJAR_LIMITS__MIN_AVAILABLE_MEMORY", "0"),
        ("BELLJAR_LIMITS__MAX_CPU_PRESSURE", "95"),
        ("BELLJAR_LIMITS__MAX_MEMORY_PRESSURE", "12.5"),
    ])
    .unwrap();
    assert_eq!(config.limits.min_available_memory, ByteSize(0));
    let error = limits(&[
        ("BELLJAR_LIMITS__QUEUE_LENGTH", "10001"),
        ("BELLJAR_LIMITS__QUEUE_TIMEOUT", "0s"),
        ("BELLJAR_LIMITS__MAX_CPU_PRESSURE", "101"),
        ("BELLJAR_LIMITS__MAX_MEMORY_PRESSURE", "nan"),
        ("BELLJAR_LIMITS__CONNECTIONS_PER_CLIENT", "0"),
    ])
    .unwrap_err();
    let mut keys = keys(&error);
    keys.sort_unstable();
    assert_eq!(
        keys,
        [
            "limits.connections_per_client",
            "limits.max_cpu_pressure",
            "limits.max_memory_pressure",
            "limits.queue_length",
            "limits.queue_timeout",
        ]
    );
}

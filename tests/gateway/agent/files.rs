//! Files of the sandbox: there, whole and as they were, or a clear no.

use std::collections::BTreeSet;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use belljar_link::client::files::FileReader;
use belljar_link::message::files::{FileKind, WatchEvent, WriteOptions};

use super::*;

/// An agent whose home is a directory of its own.
fn agent_at_home() -> (Agent, PathBuf) {
    let home = std::env::temp_dir().join(
        format!("belljar-home-{}-{:?}", std::process::id(), Instant::now())
            .replace([' ', '{', '}', ':', ','], "-"),
    );
    std::fs::create_dir_all(&home).expect("it can be made");
    let agent = Agent::with("600", "600", |command| {
        command.env("HOME", &home);
    });
    (agent, home)
}

async fn code<T: std::fmt::Debug>(call: impl Future<Output = Result<T, LinkError>>) -> String {
    match timeout(PATIENCE, call).await.expect("in time") {
        Err(LinkError::Refused(refusal)) => refusal.code,
        other => panic!("{other:?}"),
    }
}

async fn all(reader: &mut FileReader) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(bytes) = timeout(PATIENCE, reader.next()).await.expect("in time") {
        whole.extend(bytes.expect("it goes on"));
    }
    whole
}

async fn read(link: &Link, path: &str, offset: u64, length: Option<u64>) -> Vec<u8> {
    let (_, mut reader) = link
        .read_file(path, offset, length)
        .await
        .expect("it is there");
    all(&mut reader).await
}

async fn write(
    link: &Link,
    path: &str,
    content: &[u8],
    options: WriteOptions,
) -> Result<(), LinkError> {
    let mut writer = link.write_file(path, options).await?;
    writer.write(Bytes::copy_from_slice(content)).await?;
    let info = writer.finish().await?;
    assert_eq!(info.kind, FileKind::File);
    Ok(())
}

fn names(directory: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(directory).expect("a directory");
    entries
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect()
}

fn options() -> WriteOptions {
    WriteOptions::default()
}

#[tokio::test]
async fn a_large_file_goes_up_and_down_exactly() {
    const LENGTH: usize = 20 << 20;
    let (agent, home) = agent_at_home();
    let link = agent.link().await;
    let content: Vec<u8> = (0..LENGTH)
        .map(|i| u8::try_from(i * 7 % 251).expect("small"))
        .collect();
    let mut writer = link.write_file("big", options()).await.expect("it may");
    for piece in content.chunks(1_000_000) {
        writer
            .write(Bytes::copy_from_slice(piece))
            .await
            .expect("it is taken");
        assert!(!home.join("big").exists(), "before it is whole");
    }
    assert_eq!(
        writer.finish().await.expect("it is whole").size,
        LENGTH as u64
    );
    assert!(std::fs::read(home.join("big")).expect("it is there") == content);
    assert!(read(&link, "big", 0, None).await == content);
    assert!(read(&link, "~/big", 1000, Some(70_000)).await == content[1000..71_000]);
    assert!(read(&link, "big", LENGTH as u64 - 5, Some(1000)).await == content[LENGTH - 5..]);
    assert!(read(&link, "big", 1 << 40, None).await.is_empty());
    assert_eq!(names(&home), ["big".to_owned()].into());
}

#[tokio::test]
async fn how_a_file_is_written() {
    let (agent, home) = agent_at_home();
    let link = agent.link().await;
    let text = |name: &str| std::fs::read_to_string(home.join(name)).expect("text");
    let mode = |name: &str| {
        std::fs::metadata(home.join(name))
            .expect("it is there")
            .permissions()
            .mode()
            & 0o7777
    };
    assert_eq!(
        code(write(&link, "a/b/c", b"x", options())).await,
        "not_found"
    );
    let deep = WriteOptions {
        make_dirs: true,
        mode: Some(0o750),
        ..options()
    };
    write(&link, "a/b/c", b"one", deep).await.expect("it may");
    assert_eq!((text("a/b/c").as_str(), mode("a/b/c")), ("one", 0o750));
    // A file that is replaced keeps its mode.
    write(&link, "a/b/c", b"two", options())
        .await
        .expect("it may");
    assert_eq!((text("a/b/c").as_str(), mode("a/b/c")), ("two", 0o750));
    let append = WriteOptions {
        append: true,
        ..options()
    };
    write(&link, "a/b/c", b" three", append.clone())
        .await
        .expect("it may");
    assert_eq!(text("a/b/c"), "two three");
    write(&link, "new", b"appended to nothing", append)
        .await
        .expect("it may");
    assert_eq!(text("new"), "appended to nothing");
    let exclusive = WriteOptions {
        exclusive: true,
        ..options()
    };
    assert_eq!(
        code(write(&link, "new", b"x", exclusive.clone())).await,
        "already_exists"
    );
    // Two at once: one of them is first.
    let first = link
        .write_file("once", exclusive.clone())
        .await
        .expect("it may");
    let second = link.write_file("once", exclusive).await.expect("it may");
    first.finish().await.expect("the first");
    assert_eq!(code(second.finish()).await, "already_exists");
    // Through a link; the link stays.
    symlink("a/b/c", home.join("link")).expect("a link");
    write(&link, "link", b"linked", options())
        .await
        .expect("it may");
    assert_eq!(text("a/b/c"), "linked");
    assert!(home.join("link").is_symlink());
    // What is not finished is not there, whether dropped or with its link.
    let mut writer = link.write_file("a/never", options()).await.expect("it may");
    writer
        .write(Bytes::from_static(b"half"))
        .await
        .expect("it is taken");
    drop(writer);
    eventually("cleaned up", || {
        names(&home.join("a")) == ["b".to_owned()].into()
    })
    .await;
    let mut writer = link.write_file("a/b/c", options()).await.expect("it may");
    writer
        .write(Bytes::from_static(b"half"))
        .await
        .expect("it is taken");
    drop(link);
    eventually("cleaned up", || {
        names(&home.join("a/b")) == ["c".to_owned()].into()
    })
    .await;
    assert_eq!(text("a/b/c"), "linked");
}

#[tokio::test]
async fn what_is_no_file_is_refused_and_nothing_hangs() {
    let (agent, home) = agent_at_home();
    let link = agent.link().await;
    let pipe = home.join("pipe");
    assert!(
        std::process::Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .expect("mkfifo")
            .success()
    );
    let _socket = std::os::unix::net::UnixListener::bind(home.join("socket")).expect("a socket");
    std::fs::create_dir(home.join("directory")).expect("it can be made");
    symlink("nowhere", home.join("dangling")).expect("a link");
    symlink("loop", home.join("loop")).expect("a link");
    let long = "x".repeat(256);
    let deep = "x/".repeat(2500);
    for (path, expected) in [
        ("pipe", "not_a_file"),
        ("socket", "not_a_file"),
        ("/dev/zero", "not_a_file"),
        ("directory", "is_a_directory"),
        ("nothing", "not_found"),
        ("dangling", "not_found"),
        ("loop", "bad_path"),
        ("pipe/below", "not_a_directory"),
        ("", "bad_path"),
        ("a\0b", "bad_path"),
        (long.as_str(), "bad_path"),
        (deep.as_str(), "bad_path"),
    ] {
        assert_eq!(
            code(link.read_file(path, 0, None)).await,
            expected,
            "{path:?}"
        );
    }
    for (path, expected) in [
        ("pipe", "not_a_file"),
        ("directory", "is_a_directory"),
        ("new/", "is_a_directory"),
        ("pipe/below", "not_a_directory"),
        ("", "bad_path"),
        ("a\0b", "bad_path"),
        (long.as_str(), "bad_path"),
        ("/proc/nothing", "not_found"),
    ] {
        assert_eq!(
            code(link.write_file(path, options())).await,
            expected,
            "{path:?}"
        );
    }
    let before = names(&home);
    let version = String::from_utf8(read(&link, "/proc/version", 0, None).await).expect("text");
    assert!(version.starts_with("Linux version"), "{version}");
    assert_eq!(names(&home), before, "nothing is left behind");
}

#[tokio::test]
async fn directories_are_made_listed_searched_moved_and_removed() {
    let (agent, home) = agent_at_home();
    let link = agent.link().await;
    assert_eq!(code(link.make_dir("a/b", false, None)).await, "not_found");
    link.make_dir("a/b", true, Some(0o700))
        .await
        .expect("it may");
    link.make_dir("a/b", true, None)
        .await
        .expect("it may exist");
    assert_eq!(
        code(link.make_dir("a/b", false, None)).await,
        "already_exists"
    );
    for name in ["a/one.py", "a/two.txt", "a/b/three.py", "a/.hidden.py"] {
        write(&link, name, name.as_bytes(), options())
            .await
            .expect("it may");
    }
    symlink("..", home.join("a/b/up")).expect("a link");
    let relative = |entries: &[belljar_link::message::files::FileInfo]| -> Vec<String> {
        let strip = |path: &str| {
            Path::new(path)
                .strip_prefix(&home)
                .expect("below")
                .display()
                .to_string()
        };
        entries.iter().map(|entry| strip(&entry.path)).collect()
    };
    let listing = link.list("a", 1, 100).await.expect("it is there");
    assert_eq!(
        relative(&listing.entries),
        ["a/.hidden.py", "a/b", "a/one.py", "a/two.txt"]
    );
    assert!(!listing.truncated);
    let listing = link.list(".", 9, 100).await.expect("it is there");
    assert_eq!(
        relative(&listing.entries),
        [
            "a",
            "a/.hidden.py",
            "a/b",
            "a/b/three.py",
            "a/b/up",
            "a/one.py",
            "a/two.txt"
        ]
    );
    let up = &listing.entries[4];
    assert_eq!(
        (up.kind, up.target.as_deref(), up.name.as_str()),
        (FileKind::Symlink, Some(".."), "up")
    );
    let listing = link.list(".", 9, 3).await.expect("it is there");
    assert_eq!((listing.entries.len(), listing.truncated), (3, true));
    for (pattern, expected) in [
        ("a/*.py", vec!["a/one.py"]),
        ("**/*.py", vec!["a/b/three.py", "a/one.py"]),
        ("a/?wo.[t]xt", vec!["a/two.txt"]),
        ("*.py", vec![]),
    ] {
        let found = link.glob(".", pattern, 100).await.expect("a pattern");
        assert_eq!(relative(&found.entries), expected, "{pattern}");
    }
    for bad in ["", "[", "a**b", "\0", &"*".repeat(50), &"x".repeat(2000)] {
        assert_eq!(
            code(link.glob(".", bad, 100)).await,
            "bad_pattern",
            "{bad:?}"
        );
    }
    assert_eq!(code(link.list("nothing", 1, 10)).await, "not_found");
    assert_eq!(code(link.list("a/one.py", 1, 10)).await, "not_a_directory");
    let file = link.stat("a/one.py", true).await.expect("it is there");
    assert_eq!(
        (file.kind, file.size, file.name.as_str()),
        (FileKind::File, 8, "one.py")
    );
    assert_eq!(
        link.stat("a/b/up", true).await.expect("it is there").kind,
        FileKind::Directory
    );
    assert_eq!(code(link.stat("nothing", false)).await, "not_found");

    assert_eq!(code(link.remove("a", false)).await, "not_empty");
    link.rename("a/b", "c").await.expect("it may");
    assert_eq!(code(link.rename("nothing", "d")).await, "not_found");
    link.remove("c/up", true).await.expect("it may");
    assert!(
        home.join("a/one.py").exists(),
        "the link was removed, not where it leads"
    );
    link.remove("a", true).await.expect("it may");
    assert_eq!(code(link.remove("a", true)).await, "not_found");
    assert_eq!(names(&home), ["c".to_owned()].into());
}

#[tokio::test]
async fn thousands_of_files_come_in_parts() {
    let (agent, home) = agent_at_home();
    let link = agent.link().await;
    // Names that JSON makes six times as long.
    for number in 0..3000 {
        std::fs::write(
            home.join(format!("{number:04}-{}", "\u{1}".repeat(100))),
            "",
        )
        .expect("it may");
    }
    let listing = link.list(".", 1, 10_000).await.expect("it is there");
    assert_eq!((listing.entries.len(), listing.truncated), (3000, false));
    assert!(listing.entries[2999].name.starts_with("2999-\u{1}"));
}

async fn tar_up(link: &Link, directory: &str, archive: &[u8]) -> Result<u64, LinkError> {
    let mut writer = link.tar_up(directory).await?;
    for piece in archive.chunks(10_000) {
        writer.write(Bytes::copy_from_slice(piece)).await?;
    }
    writer.finish().await
}

/// One entry of an archive: type, name, link, content.
fn entry(kind: u8, name: &str, link: &str, content: &[u8]) -> Vec<u8> {
    let mut header = vec![0_u8; 512];
    let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
    put(0, name.as_bytes());
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{:011o}\0", content.len()).as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, &[kind]);
    put(157, link.as_bytes());
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header.extend(content);
    header.resize(header.len().next_multiple_of(512), 0);
    header
}

fn archive(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut archive = entries.concat();
    archive.resize(archive.len() + 1024, 0);
    archive
}

#[tokio::test]
async fn a_directory_goes_down_and_up_as_an_archive() {
    let (agent, home) = agent_at_home();
    let link = agent.link().await;
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(120));
    for (name, content) in [
        ("from/a.txt", "a"),
        ("from/b/c.txt", "c"),
        (&format!("from/{long}"), "long"),
    ] {
        let deep = WriteOptions {
            make_dirs: true,
            mode: Some(0o640),
            ..options()
        };
        write(&link, name, content.as_bytes(), deep)
            .await
            .expect("it may");
    }
    symlink("../a.txt", home.join("from/b/link")).expect("a link");
    let mut reader = link.tar_down("from").await.expect("it is there");
    let whole = all(&mut reader).await;
    // What is there and not in the archive stays.
    std::fs::create_dir_all(home.join("to/b")).expect("it may");
    std::fs::write(home.join("to/b/old"), "old").expect("it may");
    std::fs::write(home.join("to/a.txt"), "replaced").expect("it may");
    assert_eq!(tar_up(&link, "to", &whole).await.expect("it is one"), 6);
    let text = |name: &str| std::fs::read_to_string(home.join("to").join(name)).expect("text");
    assert_eq!(
        (text("a.txt"), text("b/link"), text("b/old"), text(&long)),
        ("a".into(), "a".into(), "old".into(), "long".into())
    );
    let mode = std::fs::metadata(home.join("to/a.txt"))
        .expect("it is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o640);
    assert_eq!(names(&home.join("to")).len(), 3);
    // One file by itself.
    let mut reader = link.tar_down("from/a.txt").await.expect("it is there");
    let one = all(&mut reader).await;
    assert_eq!(tar_up(&link, "one", &one).await.expect("it is one"), 1);
    assert_eq!(names(&home.join("one")), ["a.txt".to_owned()].into());
    assert_eq!(code(link.tar_down("nothing")).await, "not_found");
    assert_eq!(code(link.tar_up("from/a.txt")).await, "already_exists");
}

#[tokio::test]
async fn no_archive_leads_out_of_its_directory() {
    let (agent, home) = agent_at_home();
    let link = agent.link().await;
    std::fs::create_dir(home.join("outside")).expect("it may");
    std::fs::create_dir(home.join("in")).expect("it may");
    symlink("../outside", home.join("in/old")).expect("a link");
    let good = || entry(b'0', "good", "", b"good");
    let pax = |record: &str| {
        let length = record.len() + 4;
        entry(b'x', "pax", "", format!("{length} {record}\n").as_bytes())
    };
    let out = home.join("outside/x").display().to_string();
    for (what, entries, expected) in [
        (
            "..",
            vec![entry(b'0', "../outside/x", "", b"x")],
            "bad_path",
        ),
        (
            ".. within",
            vec![entry(b'0', "a/../../outside/x", "", b"x")],
            "bad_path",
        ),
        ("absolute", vec![entry(b'0', &out, "", b"x")], "bad_path"),
        (
            "long name",
            vec![
                entry(b'L', "l", "", b"../outside/x\0"),
                entry(b'0', "y", "", b"x"),
            ],
            "bad_path",
        ),
        (
            "pax",
            vec![pax("path=../outside/x"), entry(b'0', "y", "", b"x")],
            "bad_path",
        ),
        (
            "link out",
            vec![entry(b'2', "l", "../outside", b"")],
            "bad_path",
        ),
        ("link to /", vec![entry(b'2', "l", "/etc", b"")], "bad_path"),
        (
            "through a link",
            vec![
                entry(b'5', "d", "", b""),
                entry(b'2', "l", "d", b""),
                entry(b'0', "l/x", "", b"x"),
            ],
            "bad_path",
        ),
        (
            "hard link",
            vec![entry(b'1', "h", "../outside/x", b"")],
            "bad_path",
        ),
        (
            "hard link to nothing",
            vec![entry(b'1', "h", "nothing", b"")],
            "not_found",
        ),
        (
            "through an old link",
            vec![entry(b'0', "old/x", "", b"x")],
            "not_a_directory",
        ),
        ("device", vec![entry(b'3', "null", "", b"")], "bad_archive"),
        ("pipe", vec![entry(b'6', "pipe", "", b"")], "bad_archive"),
        (
            "long header",
            vec![entry(b'L', "l", "", &[b'a'; 100_000]), good()],
            "bad_archive",
        ),
        ("wrong sum", vec![vec![b'x'; 512]], "bad_archive"),
        (
            "too deep",
            vec![
                entry(b'L', "l", "", "a/".repeat(200).as_bytes()),
                entry(b'5', "y", "", b""),
            ],
            "bad_path",
        ),
    ] {
        let entries: Vec<_> = std::iter::once(good())
            .chain(entries)
            .chain([good()])
            .collect();
        let refused = code(tar_up(&link, "in", &archive(&entries))).await;
        assert_eq!(refused, expected, "{what}");
        assert_eq!(names(&home.join("in")), ["old".to_owned()].into(), "{what}");
        assert!(names(&home.join("outside")).is_empty(), "{what}");
    }
}

#[tokio::test]
async fn an_archive_that_is_not_whole_unpacks_nothing() {
    let (agent, home) = agent_at_home();
    let link = agent.link().await;
    std::fs::create_dir(home.join("in")).expect("it may");
    std::fs::write(home.join("in/old"), "old").expect("it may");
    let entries = [
        entry(b'0', "good", "", b"good"),
        entry(b'0', "big", "", &[1; 5000]),
    ];
    let whole = archive(&entries);
    assert_eq!(
        code(tar_up(&link, "in", &whole[..3000])).await,
        "bad_archive"
    );
    assert_eq!(code(tar_up(&link, "in", b"")).await, "bad_archive");
    let mut writer = link.tar_up("in").await.expect("it may");
    writer
        .write(Bytes::from(whole.clone()))
        .await
        .expect("it is taken");
    drop(writer);
    eventually("cleaned up", || {
        names(&home.join("in")) == ["old".to_owned()].into()
    })
    .await;
    assert_eq!(tar_up(&link, "in", &whole).await.expect("it is one"), 2);
    // Many at once: some wait elsewhere, none hangs, and there is room again.
    let mut writers = Vec::new();
    for _ in 0..4 {
        writers.push(link.tar_up("in").await.expect("there is room"));
    }
    assert_eq!(code(link.tar_up("in")).await, "busy");
    drop(writers);
    let begun = Instant::now();
    while link.tar_up("in").await.is_err() {
        assert!(begun.elapsed() < PATIENCE);
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn changes_are_told() {
    let (agent, home) = agent_at_home();
    let link = agent.link().await;
    std::fs::create_dir(home.join("w")).expect("it may");
    let mut watch = link.watch("w", true).await.expect("it may");
    let path = |name: &str| home.join("w").join(name).display().to_string();
    let mut next = async || {
        let next = timeout(PATIENCE, watch.next()).await.expect("in time");
        next.expect("a link").expect("an event")
    };
    std::fs::write(home.join("w/a"), "x").expect("it may");
    assert_eq!(
        next().await,
        WatchEvent::Created {
            path: path("a"),
            directory: false
        }
    );
    assert_eq!(
        next().await,
        WatchEvent::Modified {
            path: path("a"),
            directory: false
        }
    );
    std::fs::rename(home.join("w/a"), home.join("w/b")).expect("it may");
    assert_eq!(
        next().await,
        WatchEvent::Renamed {
            from: path("a"),
            path: path("b"),
            directory: false
        }
    );
    std::fs::remove_file(home.join("w/b")).expect("it may");
    assert_eq!(
        next().await,
        WatchEvent::Removed {
            path: path("b"),
            directory: false
        }
    );
    // An upload is one event, when it is whole.
    write(&link, "w/up", b"x", options()).await.expect("it may");
    assert_eq!(
        next().await,
        WatchEvent::Created {
            path: path("up"),
            directory: false
        }
    );
    // Below a directory that is new.
    std::fs::create_dir(home.join("w/d")).expect("it may");
    assert_eq!(
        next().await,
        WatchEvent::Created {
            path: path("d"),
            directory: true
        }
    );
    let mut number = 0;
    loop {
        // It is watched soon, not at once.
        std::fs::write(home.join(format!("w/d/{number}")), "x").expect("it may");
        number += 1;
        if let WatchEvent::Created {
            path,
            directory: false,
        } = next().await
        {
            assert!(path.contains("/w/d/"), "{path}");
            break;
        }
        assert!(number < 100);
    }
    assert_eq!(code(link.watch("nothing", false)).await, "not_found");
    for number in 0..1100 {
        std::fs::create_dir_all(home.join(format!("many/{number}"))).expect("it may");
    }
    assert_eq!(code(link.watch("many", true)).await, "too_large");
    link.watch("many", false)
        .await
        .expect("one is not too many");
}

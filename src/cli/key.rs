//! `belljar key`: makes API keys, lists them, revokes them.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use clap::{Args, Subcommand};

use super::{Settings, complain};
use crate::config::Config;
use crate::keys::{self, Key, KeyId, KeysError, MAX_KEYS, NewKey, Scope};

/// Longest name, characters: it is for people.
const MAX_NAME: usize = 100;

/// What to do with the keys.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a key and print it. Nobody can print it again.
    New(New),
    /// List the keys, without their secrets.
    List(Settings),
    /// Let a key open nothing any more, once the gateway has read the file (`belljar reload`).
    Revoke(Revoke),
}

/// What a new key is to be.
#[derive(Debug, Args)]
pub(super) struct New {
    /// What people call it.
    #[arg(long)]
    name: String,
    /// What it may be used for: sandboxes (its own), admin (everybody's, and templates), or embed (with
    /// --public-key). May be given more than once.
    #[arg(long = "scope", value_name = "SCOPE", default_value = "sandboxes")]
    scopes: Vec<Scope>,
    /// File of the public key by which a site signs its visitors' tokens, as `openssl pkey -pubout` of
    /// an Ed25519 key writes it.
    #[arg(long, value_name = "FILE")]
    public_key: Option<std::path::PathBuf>,
    /// How long it is valid, as 30days; for ever if absent.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    expires: Option<Duration>,
    /// Sandboxes at once, in place of `api.sandboxes`.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    sandboxes: Option<u32>,
    /// Starts in any hour, in place of `api.sandboxes_per_hour`.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    sandboxes_per_hour: Option<u32>,
    #[command(flatten)]
    settings: Settings,
}

/// Which key.
#[derive(Debug, Args)]
pub(super) struct Revoke {
    /// Its id: what stands between `blj_` and the secret.
    id: String,
    #[command(flatten)]
    settings: Settings,
}

/// Do it; the exit code says whether it was done.
pub(super) fn run(command: Command) -> ExitCode {
    let (Command::New(New { settings, .. })
    | Command::List(settings)
    | Command::Revoke(Revoke { settings, .. })) = &command;
    let config = match settings.load() {
        Ok(config) => config,
        Err(error) => return complain(&error.to_string()),
    };
    let done = match command {
        Command::New(new) => make(new, &config),
        Command::List(_) => list(&config),
        Command::Revoke(Revoke { id, .. }) => revoke(id, &config),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("belljar: {error}");
            ExitCode::FAILURE
        }
    }
}

fn make(new: New, config: &Config) -> Result<(), String> {
    let length = new.name.trim().chars().count();
    if !(1..=MAX_NAME).contains(&length) || new.name.chars().any(char::is_control) {
        return Err(format!("--name: must be 1 to {MAX_NAME} characters"));
    }
    let expires = match new.expires {
        None => None,
        Some(after) => {
            let expires = SystemTime::now().checked_add(after);
            Some(expires.ok_or("--expires: is too far away")?)
        }
    };
    let public_key = new.public_key.as_deref().map(public_key).transpose()?;
    if public_key.is_some() != new.scopes.contains(&Scope::Embed) {
        return Err("--public-key: goes with --scope embed, and that with it".into());
    }
    let (key, text) = Key::new(NewKey {
        name: new.name.trim().to_owned(),
        scopes: new.scopes.into_iter().collect(),
        expires,
        public_key,
        sandboxes: new.sandboxes,
        sandboxes_per_hour: new.sandboxes_per_hour,
    });
    let added = edit(config, |keys| {
        if keys.len() >= MAX_KEYS {
            return Err(format!("there are {MAX_KEYS} keys already: revoke some"));
        }
        keys.push(key);
        Ok(())
    })?;
    added?;
    // Alone on standard output, so that `KEY=$(belljar key new …)` works.
    print(&format!("{text}\n"));
    eprintln!("Keep it: it is not shown again. A running gateway knows it after `belljar reload`.");
    Ok(())
}

/// The 32 bytes of an Ed25519 public key, of a PEM file (RFC 8410), as base64url.
fn public_key(path: &std::path::Path) -> Result<String, String> {
    /// `SubjectPublicKeyInfo` of Ed25519, up to the key.
    const BEFORE: [u8; 12] = [0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|error| format!("--public-key: {}: {error}", path.display()))?;
    let lines = text.lines().filter(|line| !line.starts_with('-'));
    let der = BASE64_STANDARD.decode(lines.collect::<String>().trim());
    let key = der.ok().and_then(|der| {
        let key = der.strip_prefix(&BEFORE)?;
        (key.len() == 32).then(|| BASE64_URL_SAFE_NO_PAD.encode(key))
    });
    key.ok_or_else(|| "--public-key: must be a PEM file of an Ed25519 public key".into())
}

fn list(config: &Config) -> Result<(), String> {
    let keys = keys::read(&config.api.keys_file).map_err(|error| told(&error))?;
    let now = SystemTime::now();
    let lines = keys.iter().map(|key| {
        let scopes: BTreeSet<&str> = key.scopes.iter().map(|scope| scope.name()).collect();
        let scopes: Vec<&str> = scopes.into_iter().collect();
        let day = |time| {
            let text = humantime::format_rfc3339_seconds(time).to_string();
            text[..10].to_owned()
        };
        let end = match key.expires {
            None => "does not expire".to_owned(),
            Some(expires) if expires <= now => format!("expired {}", day(expires)),
            Some(expires) => format!("expires {}", day(expires)),
        };
        let (id, scopes, made) = (&key.id, scopes.join(","), day(key.created));
        format!("{id}  {scopes:<9}  made {made}  {end:<18}  {}\n", key.name)
    });
    print(&lines.collect::<String>());
    Ok(())
}

fn revoke(id: String, config: &Config) -> Result<(), String> {
    let id = KeyId::try_from(id).map_err(str::to_owned)?;
    let found = edit(config, |keys| {
        let before = keys.len();
        keys.retain(|key| key.id != id);
        keys.len() < before
    })?;
    if !found {
        return Err(format!("there is no key {id}"));
    }
    eprintln!("Revoked. A running gateway knows it after `belljar reload`.");
    Ok(())
}

fn edit<T>(config: &Config, change: impl FnOnce(&mut Vec<Key>) -> T) -> Result<T, String> {
    keys::edit(&config.api.keys_file, change).map_err(|error| told(&error))
}

fn told(error: &KeysError) -> String {
    format!("{error}; `api.keys_file` says where the keys are")
}

/// A reader that has gone away (`| head`) is no reason to panic.
fn print(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}

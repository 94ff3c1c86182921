//! Templates that are built from Dockerfiles while the gateway runs, beside those of the configuration.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::{LaunchError, Launcher};

/// Longest Dockerfile, bytes.
pub const MAX_DOCKERFILE: usize = 32 * 1024;

/// Longest name, characters.
const MAX_NAME: usize = 64;

/// Images that may have been built; each takes some hundred MB of disk.
const MAX_BUILT: usize = 50;

/// How long a build may take. Installing a few packages takes one or two minutes.
const DEADLINE: Duration = Duration::from_secs(300);

/// An image that was built here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// The name it was built under.
    pub name: String,
    /// The engine's name for it.
    pub image: String,
    /// When.
    pub created_at: SystemTime,
}

/// The text of a Dockerfile, as far as it may be built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dockerfile(String);

/// Why something is not built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Nothing is, here.
    #[error("templates are not built here: `api.builds` is off")]
    Off,
    /// The name cannot be one.
    #[error(
        "name: must be 1 to {MAX_NAME} lower-case letters, digits, '.', '_' or '-', beginning and \
         ending with a letter or a digit"
    )]
    BadName,
    /// A template of the configuration is called so.
    #[error("name: {0:?} is a template of the configuration")]
    Taken(String),
    /// The Dockerfile is not one that is built.
    #[error("dockerfile: {0}")]
    BadDockerfile(&'static str),
    /// There are too many.
    #[error("{MAX_BUILT} templates have been built already: delete one first")]
    TooMany,
    /// Another is being built.
    #[error("another template is being built")]
    Busy,
    /// It took too long.
    #[error("it took longer than {} s", DEADLINE.as_secs())]
    Deadline,
    /// The engine did not do it.
    #[error(transparent)]
    Launch(#[from] LaunchError),
}

impl Dockerfile {
    /// Take the text as it is, if it is one to build.
    ///
    /// `ADD` is refused, because it fetches from addresses that the engine's host can reach, and so is
    /// a directive that changes how lines are joined, because it could hide one.
    pub fn new(text: String) -> Result<Self, BuildError> {
        let refuse = |why| Err(BuildError::BadDockerfile(why));
        if text.trim().is_empty() || text.len() > MAX_DOCKERFILE {
            return refuse("must be from 1 to 32768 bytes");
        }
        if text.contains(['\0', '\r']) {
            return refuse("must not contain NUL or carriage returns");
        }
        let directive = |line: &str| {
            let name = line.trim_start().strip_prefix('#')?.split_once('=')?.0;
            Some(name.trim().to_ascii_lowercase())
        };
        let directives = text.lines().map_while(directive);
        if directives.into_iter().any(|name| name == "escape") {
            return refuse("must not have an escape directive");
        }
        let mut joined = String::new();
        for line in text.lines() {
            // Comments between continued lines are left out, as the builder does.
            if line.trim_start().starts_with('#') {
                continue;
            }
            if let Some(part) = line.trim_end().strip_suffix('\\') {
                joined.push_str(part);
            } else {
                joined.push_str(line);
                joined.push('\n');
            }
        }
        let fetches = |line: &str| {
            let mut words = line.split_whitespace();
            let onbuild = |word: &&str| word.eq_ignore_ascii_case("onbuild");
            let first = words.find(|word| !onbuild(word));
            first.is_some_and(|word| word.eq_ignore_ascii_case("add"))
        };
        if joined.lines().any(fetches) {
            return refuse("must not ADD: nothing is fetched, and there are no files beside it");
        }
        Ok(Self(text))
    }

    /// The text.
    pub fn text(&self) -> &str {
        &self.0
    }
}

/// Builds templates, one at a time.
pub struct Builds {
    launcher: Arc<dyn Launcher>,
    turn: Semaphore,
}

impl fmt::Debug for Builds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builds").finish_non_exhaustive()
    }
}

impl Builds {
    pub(super) fn new(launcher: Arc<dyn Launcher>) -> Self {
        Self {
            launcher,
            turn: Semaphore::new(1),
        }
    }

    /// Build a template, in the place of one that was built under the same name.
    pub async fn build(&self, name: &str, dockerfile: &Dockerfile) -> Result<Built, BuildError> {
        check_name(name)?;
        let _turn = self.turn.try_acquire().map_err(|_| BuildError::Busy)?;
        let built = self.list().await?;
        if built.len() >= MAX_BUILT && !built.iter().any(|built| built.name == name) {
            return Err(BuildError::TooMany);
        }
        let building = self.launcher.build(name, dockerfile);
        let built = timeout(DEADLINE, building).await;
        Ok(built.map_err(|_| BuildError::Deadline)??)
    }

    /// Every template that was built, by name.
    pub async fn list(&self) -> Result<Vec<Built>, LaunchError> {
        let mut built = self.launcher.built().await?;
        built.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(built)
    }

    /// The one of this name.
    pub async fn find(&self, name: &str) -> Result<Option<Built>, LaunchError> {
        if check_name(name).is_err() {
            return Ok(None);
        }
        let built = self.list().await?;
        Ok(built.into_iter().find(|built| built.name == name))
    }

    /// Delete one; false if there is none of this name. What was started from it goes on.
    pub async fn remove(&self, name: &str) -> Result<bool, LaunchError> {
        if check_name(name).is_err() {
            return Ok(false);
        }
        self.launcher.unbuild(name).await
    }
}

/// A name that can be part of an image's.
fn check_name(name: &str) -> Result<(), BuildError> {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = name.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    let ok = bytes.len() <= MAX_NAME
        && ends.iter().all(|end| end.is_some_and(|b| alphanumeric(*b)))
        && bytes
            .iter()
            .all(|b| alphanumeric(*b) || matches!(b, b'.' | b'_' | b'-'))
        // An engine's rule: separators stand alone.
        && !["..", "._", "_.", ".-", "-.", "___", "_-", "-_"]
            .iter()
            .any(|pair| name.contains(pair));
    ok.then_some(()).ok_or(BuildError::BadName)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fetches_is_refused_however_it_is_written() {
        for text in [
            "FROM a\nADD http://10.0.0.1/ /x",
            "FROM a\n  add x y",
            "FROM a\nONBUILD ADD x y",
            "FROM a\nA\\\nDD x y",
            "FROM a\nAD\\\n# a comment\nD x y",
            "# escape=`\nFROM a\nA`\nDD x y",
            "FROM a\rADD x y",
            "",
            "  \n",
        ] {
            let made = Dockerfile::new(text.to_owned());
            assert!(
                matches!(made, Err(BuildError::BadDockerfile(_))),
                "{text:?}"
            );
        }
        assert!(Dockerfile::new("FROM a".repeat(MAX_DOCKERFILE)).is_err());
    }

    #[test]
    fn what_only_looks_like_it_is_not() {
        let text = "# syntax=docker/dockerfile:1\nFROM a\nRUN echo ADD x \\\n && true\nENV ADD=1\n# ADD x\n";
        assert_eq!(Dockerfile::new(text.into()).unwrap().text(), text);
    }

    #[test]
    fn names_are_such_that_they_can_be_part_of_an_images() {
        for name in ["a", "my-tools", "py3.11", "a__b"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        let long = "a".repeat(65);
        for name in ["", "A", "-a", "a-", "a/b", "a:b", "a..b", "ä", "a b", &long] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}

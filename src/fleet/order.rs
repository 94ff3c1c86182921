//! What a program asks for, and what of it is granted.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use bytesize::ByteSize;
use wildmatch::WildMatch;

use super::path::{absolute, may_be_home, within};
use super::{Caller, HeldId, Identity, Recipe};
use crate::config::{Api, Config, LauncherKind, Template};

/// Where a sandbox made from an image works, unless something else is asked for.
pub const WORKSPACE: &str = "/workspace";

/// Bounds of an environment, so that what reaches the agent stays small.
const MAX_ENV: usize = 64;
const MAX_VALUE: usize = 4096;

/// Bounds of the metadata, which the gateway keeps: at most 80 KiB for each sandbox.
const MAX_METADATA: usize = 64;
const MAX_METADATA_KEY: usize = 128;
const MAX_METADATA_VALUE: usize = 1024;

/// The least memory that a sandbox starts with.
const MIN_MEMORY: ByteSize = ByteSize::mib(32);

/// The least share of a CPU.
const MIN_CPUS: f64 = 0.05;

/// Longest name of an image, bytes.
const MAX_IMAGE: usize = 255;

/// What a program asks for.
#[derive(Debug, Clone)]
pub struct Order {
    /// Who asks.
    pub caller: Caller,
    /// A template's name, or that of an image; the default template if neither this nor an image is
    /// named.
    pub template: Option<String>,
    /// An image, with the limits of the default template.
    pub image: Option<String>,
    /// CPUs.
    pub cpus: Option<f64>,
    /// Memory, bytes.
    pub memory: Option<u64>,
    /// How long it may be there.
    pub ttl: Option<Duration>,
    /// Added to the template's environment.
    pub env: BTreeMap<String, String>,
    /// What the owner wants to find it by.
    pub metadata: BTreeMap<String, String>,
    /// Working directory of its commands.
    pub cwd: Option<String>,
}

impl Order {
    /// The default template, as it is.
    pub fn new(caller: Caller) -> Self {
        Self {
            caller,
            template: None,
            image: None,
            cpus: None,
            memory: None,
            ttl: None,
            env: BTreeMap::new(),
            metadata: BTreeMap::new(),
            cwd: None,
        }
    }
}

/// What is wrong with an order.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct BadOrder {
    /// Which part of it, as the API calls it.
    pub field: &'static str,
    /// What is wrong, and what is allowed.
    pub message: String,
}

impl BadOrder {
    fn new(field: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { field, message }
    }

    pub(super) fn no_template(name: &str) -> Self {
        Self::new("template", format!("there is no template {name:?}"))
    }
}

/// An order that is in order.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) caller: Caller,
    pub(super) recipe: Recipe,
    ttl: Duration,
    metadata: BTreeMap<String, String>,
    cwd: String,
}

impl Plan {
    /// Check what is asked for, before anything is taken for it.
    /// `built` is the image of the template that it names, if that was built here.
    pub(super) fn of(
        order: Order,
        built: Option<String>,
        config: &Config,
    ) -> Result<Self, BadOrder> {
        let api = &config.api;
        check_env(&order.env)?;
        check_metadata(&order.metadata)?;
        let ttl = check_ttl(order.ttl, api)?;
        let (name, image, image_as) = base(&order, built, config)?;
        let template = config
            .template(&name)
            .ok_or_else(|| BadOrder::no_template(&name))?;
        let (cwd, home) = directories(order.cwd.as_deref(), image.is_some(), template)?;
        let recipe = Recipe {
            memory: check_memory(order.memory, template, api)?,
            cpus: check_cpus(order.cpus, template, api)?,
            template: name,
            image,
            image_as,
            home,
            env: order.env,
        };
        Ok(Self {
            caller: order.caller,
            recipe,
            ttl,
            metadata: order.metadata,
            cwd,
        })
    }

    /// A new sandbox's identity, made of this template; and how long it may be there.
    pub(super) fn identity(self, template: &Template) -> (Identity, Duration) {
        let identity = Identity {
            id: HeldId::random(),
            owner: self.caller.owner,
            recipe: self.recipe,
            image: template.image.clone(),
            memory: template.memory.as_u64(),
            cpus: template.cpus,
            metadata: self.metadata,
            cwd: self.cwd,
            created_at: SystemTime::now(),
        };
        (identity, self.ttl)
    }
}

/// The template's name, and the image if it is another; and the name of a template by which that was
/// asked for.
fn base(
    order: &Order,
    built: Option<String>,
    config: &Config,
) -> Result<(String, Option<String>, Option<String>), BadOrder> {
    let default = || config.default_template.clone();
    let named = order.template.as_deref().filter(|name| !name.is_empty());
    let (image, field) = match (order.image.as_deref(), named) {
        (Some(image), Some(name)) if config.template(name).is_some() => {
            check_image("image", image, &config.api)?;
            return Ok((name.to_owned(), Some(image.to_owned()), None));
        }
        (Some(image), _) => (image, "image"),
        (None, Some(name)) if config.template(name).is_some() => {
            return Ok((name.to_owned(), None, None));
        }
        (None, Some(name)) if built.is_some() => {
            return Ok((default(), built, Some(name.to_owned())));
        }
        // Processes have no images: what is no template is a mistake.
        (None, Some(name)) if config.launcher == LauncherKind::Process => {
            return Err(BadOrder::no_template(name));
        }
        (None, Some(name)) => (name, "template"),
        (None, None) => return Ok((default(), None, None)),
    };
    check_image(field, image, &config.api)?;
    let image_as = (field == "template").then(|| image.to_owned());
    Ok((default(), Some(image.to_owned()), image_as))
}

fn check_image(field: &'static str, image: &str, api: &Api) -> Result<(), BadOrder> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"._-/:@".contains(&b);
    let named = (1..=MAX_IMAGE).contains(&image.len())
        && image.starts_with(|c: char| c.is_ascii_alphanumeric())
        && image.bytes().all(legal);
    if !named {
        return Err(BadOrder::new(
            field,
            format!(
                "an image's name has 1 to {MAX_IMAGE} letters, digits and any of ._-/:@, and begins \
                 with a letter or a digit"
            ),
        ));
    }
    let allowed = api.images.iter().any(|p| WildMatch::new(p).matches(image));
    match (allowed, field) {
        (true, _) => Ok(()),
        (false, "template") => Err(BadOrder::no_template(image)),
        (false, _) => Err(BadOrder::new(
            field,
            format!("the image {image:?} may not be used here"),
        )),
    }
}

/// The working directory; and the home, if it is another than the template's. Whoever asks for a
/// directory can write there: it is the home, unless it lies below the template's own or in `/tmp`.
fn directories(
    cwd: Option<&str>,
    from_image: bool,
    template: &Template,
) -> Result<(String, Option<String>), BadOrder> {
    let own = if from_image {
        WORKSPACE
    } else {
        &template.home
    };
    let bad = |message| BadOrder::new("cwd", message);
    let cwd = absolute(cwd.unwrap_or_default(), own).map_err(bad)?;
    let home = if within(&cwd, own) || within(&cwd, "/tmp") {
        own.to_owned()
    } else {
        may_be_home(&cwd).map_err(bad)?;
        cwd.clone()
    };
    let other = (home != template.home).then_some(home);
    Ok((cwd, other))
}

pub(super) fn check_ttl(ttl: Option<Duration>, api: &Api) -> Result<Duration, BadOrder> {
    let ttl = ttl.unwrap_or(api.default_ttl);
    if (Duration::from_secs(1)..=api.max_ttl).contains(&ttl) {
        return Ok(ttl);
    }
    let max = api.max_ttl.as_secs();
    Err(BadOrder::new(
        "timeout",
        format!("must be from 1 to {max} s"),
    ))
}

/// What differs from the template's.
fn check_memory(
    memory: Option<u64>,
    template: &Template,
    api: &Api,
) -> Result<Option<u64>, BadOrder> {
    let own = template.memory.as_u64();
    let Some(memory) = memory.filter(|memory| *memory != own) else {
        return Ok(None);
    };
    let max = api.max_memory.max(template.memory);
    if (MIN_MEMORY..=max).contains(&ByteSize(memory)) {
        return Ok(Some(memory));
    }
    let mib = |size: ByteSize| size.as_u64() >> 20;
    let message = format!("must be from {} to {} MiB", mib(MIN_MEMORY), mib(max));
    Err(BadOrder::new("memory", message))
}

fn check_cpus(cpus: Option<f64>, template: &Template, api: &Api) -> Result<Option<f64>, BadOrder> {
    // What was written is what is compared.
    #[expect(clippy::float_cmp)]
    let Some(cpus) = cpus.filter(|cpus| *cpus != template.cpus) else {
        return Ok(None);
    };
    let max = api.max_cpus.max(template.cpus);
    if (MIN_CPUS..=max).contains(&cpus) {
        return Ok(Some(cpus));
    }
    let message = format!("must be from {MIN_CPUS} to {max}");
    Err(BadOrder::new("cpus", message))
}

fn check_env(env: &BTreeMap<String, String>) -> Result<(), BadOrder> {
    let name = |name: &str| {
        !name.is_empty()
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    let value = |value: &str| value.len() <= MAX_VALUE && !value.contains('\0');
    if env.len() <= MAX_ENV && env.iter().all(|(k, v)| name(k) && value(v)) {
        return Ok(());
    }
    let message = format!(
        "at most {MAX_ENV} names of letters, digits and '_', with values of at most {MAX_VALUE} \
         bytes without NUL"
    );
    Err(BadOrder::new("env", message))
}

fn check_metadata(metadata: &BTreeMap<String, String>) -> Result<(), BadOrder> {
    let fits = |(key, value): (&String, &String)| {
        (1..=MAX_METADATA_KEY).contains(&key.len()) && value.len() <= MAX_METADATA_VALUE
    };
    if metadata.len() <= MAX_METADATA && metadata.iter().all(fits) {
        return Ok(());
    }
    let message = format!(
        "at most {MAX_METADATA} keys of 1 to {MAX_METADATA_KEY} bytes, with values of at most \
         {MAX_METADATA_VALUE} bytes"
    );
    Err(BadOrder::new("metadata", message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn docker() -> Config {
        Config::defaults()
    }

    fn order() -> Order {
        Order::new(Caller::local())
    }

    fn bad(order: Order, config: &Config) -> String {
        Plan::of(order, None, config).unwrap_err().to_string()
    }

    #[test]
    fn nothing_in_particular_is_the_default_template() {
        let config = docker();
        let plan = Plan::of(order(), None, &config).unwrap();
        assert!(plan.recipe.is_template_only());
        assert_eq!(plan.recipe.template, "base");
        assert_eq!(
            (plan.cwd.as_str(), plan.ttl),
            ("/home/sandbox", config.api.default_ttl)
        );
        // What is the template's own anyway makes no difference.
        let mut same = order();
        same.template = Some("base".into());
        same.memory = Some(128 << 20);
        same.cpus = Some(0.5);
        same.cwd = Some("/home/sandbox/project".into());
        let plan = Plan::of(same, None, &config).unwrap();
        assert!(plan.recipe.is_template_only());
        assert_eq!(plan.cwd, "/home/sandbox/project");
    }

    #[test]
    fn a_name_that_is_no_templates_is_an_image() {
        let mut config = docker();
        let mut k2 = order();
        k2.template = Some("k2data/sandbox-base:latest".into());
        k2.cwd = Some("/home/user".into());
        let plan = Plan::of(k2.clone(), None, &config).unwrap();
        let template = plan.recipe.template(&config).unwrap();
        assert_eq!(template.image, "k2data/sandbox-base:latest");
        assert_eq!(
            (template.home.as_str(), plan.recipe.image_field()),
            ("/home/user", "template")
        );
        config.api.images = vec!["python:*".into()];
        assert_eq!(
            bad(k2.clone(), &config),
            "template: there is no template \"k2data/sandbox-base:latest\""
        );
        let mut image = order();
        image.image = Some("python:3.11-slim".into());
        let plan = Plan::of(image.clone(), None, &config).unwrap();
        assert_eq!(
            (plan.cwd.as_str(), plan.recipe.image_field()),
            ("/workspace", "image")
        );
        image.image = Some("node:22".into());
        assert_eq!(
            bad(image.clone(), &config),
            "image: the image \"node:22\" may not be used here"
        );
        for image in ["", "-x", "a b", "a\0", "../x", &"x".repeat(256)] {
            let mut order = order();
            order.image = Some(image.into());
            assert!(
                bad(order, &config).starts_with("image: an image's name"),
                "{image}"
            );
        }
        config.launcher = LauncherKind::Process;
        assert!(bad(k2, &config).starts_with("template: there is no template"));
    }

    #[test]
    fn bounds_are_told() {
        let config = docker();
        let mut cases = Vec::new();
        let mut case = |change: &dyn Fn(&mut Order), said: &'static str| {
            let mut order = order();
            change(&mut order);
            cases.push((order, said));
        };
        case(
            &|o| o.memory = Some(1),
            "memory: must be from 32 to 2048 MiB",
        );
        case(
            &|o| o.memory = Some(3 << 30),
            "memory: must be from 32 to 2048 MiB",
        );
        case(&|o| o.cpus = Some(2.5), "cpus: must be from 0.05 to 2");
        case(&|o| o.cpus = Some(f64::NAN), "cpus: must be from 0.05 to 2");
        case(
            &|o| o.ttl = Some(Duration::ZERO),
            "timeout: must be from 1 to 86400 s",
        );
        case(
            &|o| o.ttl = Some(Duration::MAX),
            "timeout: must be from 1 to 86400 s",
        );
        case(&|o| o.cwd = Some("/etc".into()), "cwd: must not be /etc");
        case(&|o| o.cwd = Some("../..".into()), "cwd: must not hold '..'");
        case(&|o| drop(o.env.insert("1A".into(), String::new())), "env: ");
        case(&|o| drop(o.env.insert("A".into(), "\0".into())), "env: ");
        case(
            &|o| drop(o.metadata.insert(String::new(), "x".into())),
            "metadata: ",
        );
        for (order, said) in cases {
            let told = bad(order, &config);
            assert!(told.starts_with(said), "{told}");
        }
    }

    #[test]
    fn a_template_may_be_larger_than_what_may_be_asked_for() {
        let mut config = docker();
        config.templates.get_mut("base").unwrap().memory = ByteSize::gib(4);
        let mut order = order();
        order.memory = Some(3 << 30);
        Plan::of(order, None, &config).unwrap();
    }
}

//! What a held sandbox is made from: a template, and what was asked for in its place.

use std::collections::BTreeMap;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use super::BadOrder;
use crate::config::{Config, Template};

/// A template's name and what differs from it. Kept with the sandbox, so that it can be started
/// anew; the template's own values are then those in force.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// The template's name; the default one's for a sandbox made from an image.
    pub template: String,
    pub(super) image: Option<String>,
    /// The name of a template by which the image was asked for.
    #[serde(default)]
    pub(super) image_as: Option<String>,
    pub(super) memory: Option<u64>,
    pub(super) cpus: Option<f64>,
    pub(super) home: Option<String>,
    pub(super) env: BTreeMap<String, String>,
}

impl Recipe {
    /// What to start.
    pub(super) fn template(&self, config: &Config) -> Result<Template, BadOrder> {
        let template = config.template(&self.template);
        let mut template = template
            .cloned()
            .ok_or_else(|| BadOrder::no_template(&self.template))?;
        if let Some(image) = &self.image {
            template.image.clone_from(image);
            // What the template's own image needs.
            template.env.clear();
        }
        if let Some(memory) = self.memory {
            template.memory = ByteSize(memory);
        }
        if let Some(cpus) = self.cpus {
            template.cpus = cpus;
        }
        if let Some(home) = &self.home {
            template.home.clone_from(home);
        }
        Ok(template)
    }

    /// Whether nothing differs from the template, so that one that was started ahead will do.
    pub(super) fn is_template_only(&self) -> bool {
        self.image.is_none()
            && self.memory.is_none()
            && self.cpus.is_none()
            && self.home.is_none()
            && self.env.is_empty()
    }

    /// What has asked for the image, as the API calls it.
    pub(super) fn image_field(&self) -> &'static str {
        if self.image.is_some() && self.image_as.is_none() {
            "image"
        } else {
            "template"
        }
    }
}

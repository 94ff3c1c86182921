//! Images from Dockerfiles, by the engine's own builder. An image carries the name that it was built
//! under as its label, so that the engine is the one who knows what was built.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use bollard::body_full;
use bollard::errors::Error as EngineError;
use bollard::models::ImageSummary;
use bollard::query_parameters::{
    BuildImageOptionsBuilder, BuilderVersion, ListImagesOptionsBuilder, RemoveImageOptions,
};
use futures::TryStreamExt;

use super::super::builds::{Built, Dockerfile};
use super::{DockerLauncher, LABEL_NAMESPACE};
use crate::sandbox::LaunchError;

/// The name that an image was built under.
const LABEL_BUILT: &str = "belljar.built";

/// What the commands of a Dockerfile may take: bytes of memory, and microseconds of CPU in each
/// [`CPU_PERIOD`]. One core and a gigabyte build most things, and leave the rest to visitors.
const MEMORY: i32 = 1 << 30;
const CPU_PERIOD: i32 = 100_000;
const CPU_QUOTA: i32 = CPU_PERIOD;

/// The end of a build's output that is kept to say why it failed, bytes.
const MAX_LOG: usize = 4 * 1024;

impl DockerLauncher {
    fn built_image(&self, name: &str) -> String {
        format!("{}-built/{name}:latest", self.engine.namespace)
    }

    /// Build an image. The commands of the Dockerfile run without a network, in the engine's default
    /// runtime: an engine's builder knows no other.
    pub(super) async fn build_image(
        &self,
        name: &str,
        dockerfile: &Dockerfile,
    ) -> Result<Built, LaunchError> {
        let context = context(dockerfile).map_err(|cause| LaunchError::Host {
            doing: "packing a Dockerfile".into(),
            cause,
        })?;
        let image = self.built_image(name);
        let options = BuildImageOptionsBuilder::default()
            .version(BuilderVersion::BuilderV1)
            .t(&image)
            .rm(true)
            .forcerm(true)
            .networkmode("none")
            .memory(MEMORY)
            .memswap(MEMORY)
            .cpuperiod(CPU_PERIOD)
            .cpuquota(CPU_QUOTA)
            .labels(&HashMap::from([
                (LABEL_NAMESPACE, self.engine.namespace.as_str()),
                (LABEL_BUILT, name),
            ]))
            .build();
        let engine = self.client().await?;
        let mut output = engine.build_image(options, None, Some(body_full(context.into())));
        let mut log = String::new();
        loop {
            let failed = match output.try_next().await {
                Ok(None) => break,
                Ok(Some(info)) => {
                    push_bounded(&mut log, &info.stream.unwrap_or_default());
                    info.error_detail.map(|e| e.message.unwrap_or_default())
                }
                Err(EngineError::DockerStreamError { error }) => Some(error),
                Err(error) => return Err(self.error("build an image", error)),
            };
            if let Some(cause) = failed {
                push_bounded(&mut log, &cause);
                return Err(LaunchError::Build(log));
            }
        }
        drop(output);
        let built = self.built_images().await?;
        let built = built.into_iter().find(|built| built.name == name);
        built.ok_or(LaunchError::Build(log))
    }

    /// The images that were built here.
    pub(super) async fn built_images(&self) -> Result<Vec<Built>, LaunchError> {
        let labels = vec![
            format!("{LABEL_NAMESPACE}={}", self.engine.namespace),
            LABEL_BUILT.to_owned(),
        ];
        let filters = HashMap::from([("label".to_owned(), labels)]);
        let options = ListImagesOptionsBuilder::default()
            .filters(&filters)
            .build();
        let images = self.client().await?.list_images(Some(options)).await;
        let images = images.map_err(|e| self.error("list images", e))?;
        Ok(images.iter().filter_map(|i| self.built(i)).collect())
    }

    /// An image is what its label says only if it has that name too: a Dockerfile can set labels, and
    /// whatever is built on a built image inherits its own.
    fn built(&self, image: &ImageSummary) -> Option<Built> {
        let name = image.labels.get(LABEL_BUILT)?;
        let tag = self.built_image(name);
        let created = Duration::from_secs(image.created.try_into().unwrap_or(0));
        image.repo_tags.contains(&tag).then(|| Built {
            name: name.clone(),
            image: tag,
            created_at: SystemTime::UNIX_EPOCH + created,
        })
    }

    /// Remove a built image; false if there is none of that name.
    pub(super) async fn remove_image(&self, name: &str) -> Result<bool, LaunchError> {
        let engine = self.client().await?;
        let options = None::<RemoveImageOptions>;
        match engine
            .remove_image(&self.built_image(name), options, None)
            .await
        {
            Ok(_) => Ok(true),
            Err(EngineError::DockerResponseServerError {
                status_code: 404, ..
            }) => Ok(false),
            Err(EngineError::DockerResponseServerError {
                status_code: 409, ..
            }) => Err(LaunchError::ImageInUse(name.to_owned())),
            Err(error) => Err(self.error("remove an image", error)),
        }
    }
}

/// What the builder is given: the Dockerfile and nothing else.
fn context(dockerfile: &Dockerfile) -> std::io::Result<Vec<u8>> {
    let text = dockerfile.text().as_bytes();
    let mut header = tar::Header::new_ustar();
    header.set_size(text.len() as u64);
    header.set_mode(0o644);
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_data(&mut header, "Dockerfile", text)?;
    archive.into_inner()
}

/// Keep the end.
fn push_bounded(log: &mut String, more: &str) {
    log.push_str(more);
    if log.len() > MAX_LOG {
        let cut = log.len() - MAX_LOG;
        let cut = (cut..log.len()).find(|at| log.is_char_boundary(*at));
        log.drain(..cut.unwrap_or(0));
    }
}

//! Templates: what there is to choose from.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::super::{App, Patience};
use super::auth::Asking;
use super::body::Body;
use super::openapi::{NotBuilt, Refusals};
use super::problem::Problem;
use crate::config::{Config, Template};
use crate::fleet::WORKSPACE;
use crate::sandbox::LaunchError;
use crate::sandbox::builds::{BuildError, Built, Dockerfile};

/// A template, by its own names and those of older systems.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Template)]
pub(in crate::web) struct TemplateBody<'a> {
    name: &'a str,
    id: &'a str,
    #[serde(rename = "templateID")]
    template_id: &'a str,
    description: &'a str,
    image: &'a str,
    /// The newest is the only one.
    tag: &'static str,
    status: &'static str,
    cwd: &'a str,
    cpus: f64,
    #[serde(rename = "memoryMB")]
    memory_mb: u64,
}

impl<'a> TemplateBody<'a> {
    fn of(name: &'a str, template: &'a Template) -> Self {
        Self {
            name,
            id: name,
            template_id: name,
            description: &template.description,
            image: &template.image,
            tag: "latest",
            status: "ready",
            cwd: &template.home,
            cpus: template.cpus,
            memory_mb: template.memory.as_u64() >> 20,
        }
    }
}

/// What a template is built from.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
#[schema(as = Build)]
pub(super) struct BuildBody {
    /// Its name: lower-case letters, digits, '.', '_' and '-'.
    #[schema(required)]
    name: Option<String>,
    /// The text of a Dockerfile.
    #[schema(required)]
    dockerfile: Option<String>,
}

/// A template that was built is the default one with another image.
fn on_image(config: &Config, built: &Built) -> Template {
    let template = config.template(&config.default_template);
    Template {
        description: String::new(),
        image: built.image.clone(),
        home: WORKSPACE.into(),
        ..template.cloned().unwrap_or_default()
    }
}

/// What was built; nothing where nothing may be.
async fn built(app: &App, config: &Config) -> Result<Vec<Built>, Problem> {
    if !config.api.builds {
        return Ok(Vec::new());
    }
    let built = app.sandboxes.builds.list().await;
    built.map_err(|error| refused(&error.into()))
}

/// Build a template
#[utoipa::path(
    post, path = "/templates", tag = "templates", operation_id = "buildTemplate",
    description = "Builds an image from a Dockerfile, in the place of one built under the same name.",
    request_body = BuildBody,
    responses((status = 201, description = "The template", body = TemplateBody), Refusals, NotBuilt)
)]
pub(super) async fn build(
    State(app): State<App>,
    patience: Patience,
    asking: Asking,
    Body(body): Body<BuildBody>,
) -> Result<Response, Problem> {
    asking.as_admin()?;
    let config = app.config.get();
    if !config.api.builds {
        return Err(refused(&BuildError::Off));
    }
    let missing = |field| Problem::bad_field(field, "must be given");
    let name = body.name.ok_or_else(|| missing("name"))?;
    let dockerfile = body.dockerfile.ok_or_else(|| missing("dockerfile"))?;
    if config.template(&name).is_some() {
        return Err(refused(&BuildError::Taken(name)));
    }
    let _holding = patience.hold();
    let dockerfile = Dockerfile::new(dockerfile).map_err(|error| refused(&error))?;
    let built = app.sandboxes.builds.build(&name, &dockerfile).await;
    let built = built.map_err(|error| refused(&error))?;
    let template = on_image(&config, &built);
    let body = Json(TemplateBody::of(&built.name, &template));
    Ok((StatusCode::CREATED, body).into_response())
}

/// Delete a template
#[utoipa::path(
    delete, path = "/templates/{name}", tag = "templates", operation_id = "deleteTemplate",
    description = "Deletes a template that was built. Those of the configuration cannot be deleted.",
    params(("name" = String, Path, description = "Its name")),
    responses((status = 204, description = "It is gone"), Refusals, NotBuilt)
)]
pub(super) async fn delete(
    State(app): State<App>,
    asking: Asking,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    asking.as_admin()?;
    let config = app.config.get();
    if config.template(&name).is_some() {
        return Err(refused(&BuildError::Taken(name)));
    }
    let removed = if config.api.builds {
        app.sandboxes.builds.remove(&name).await
    } else {
        Ok(false)
    };
    match removed {
        Ok(true) => Ok(StatusCode::NO_CONTENT),
        Ok(false) => Err(unknown(&name)),
        Err(error) => Err(refused(&error.into())),
    }
}

fn unknown(name: &str) -> Problem {
    let message = format!("There is no template {name:?}.");
    Problem::new(StatusCode::NOT_FOUND, "template_not_found", message)
}

/// What is told of something that was not built.
fn refused(error: &BuildError) -> Problem {
    let (status, code) = match error {
        BuildError::Off => (StatusCode::FORBIDDEN, "builds_off"),
        BuildError::BadName => return Problem::bad_field("name", &after_field(error)),
        BuildError::BadDockerfile(_) => {
            return Problem::bad_field("dockerfile", &after_field(error));
        }
        BuildError::Taken(_) => (StatusCode::CONFLICT, "template_configured"),
        BuildError::TooMany => (StatusCode::CONFLICT, "too_many_templates"),
        BuildError::Busy => {
            return Problem::new(StatusCode::TOO_MANY_REQUESTS, "busy", format!("{error}."))
                .retry_after(Duration::from_secs(10));
        }
        BuildError::Deadline | BuildError::Launch(LaunchError::Build(_)) => {
            (StatusCode::UNPROCESSABLE_ENTITY, "build_failed")
        }
        // The engine could not read it.
        BuildError::Launch(LaunchError::Refused { .. }) => {
            (StatusCode::UNPROCESSABLE_ENTITY, "build_refused")
        }
        BuildError::Launch(LaunchError::ImageInUse(_)) => (StatusCode::CONFLICT, "template_in_use"),
        BuildError::Launch(cause) => {
            tracing::warn!(error = %cause, remedy = cause.remedy(), "a template was not built");
            let message = "Templates cannot be built right now. Please try again in a moment.";
            return Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "engine_unavailable",
                message,
            )
            .retry_after(Duration::from_secs(10));
        }
    };
    Problem::new(status, code, error.to_string())
}

/// A message whose field is named by the answer.
fn after_field(error: &BuildError) -> String {
    let text = error.to_string();
    match text.split_once(": ") {
        Some((_, rest)) => rest.to_owned(),
        None => text,
    }
}

/// List templates
#[utoipa::path(
    get, path = "/templates", tag = "templates", operation_id = "listTemplates",
    responses((status = 200, description = "Templates, by name", body = [TemplateBody]), Refusals)
)]
pub(super) async fn list(State(app): State<App>, _: Asking) -> Result<Response, Problem> {
    let config = app.config.get();
    let built = built(&app, &config).await?;
    let built = built
        .iter()
        .map(|built| (&built.name, on_image(&config, built)));
    let built: Vec<_> = built.collect();
    let built = built.iter().map(|(name, template)| (*name, template));
    let all = config.templates.iter().chain(built);
    let mut bodies: Vec<_> = all
        .map(|(name, template)| TemplateBody::of(name, template))
        .collect();
    bodies.sort_by_key(|body| body.name);
    Ok(Json(bodies).into_response())
}

/// Show a template
#[utoipa::path(
    get, path = "/templates/{name}", tag = "templates", operation_id = "showTemplate",
    params(("name" = String, Path, description = "Its name")),
    responses((status = 200, description = "The template", body = TemplateBody), Refusals)
)]
pub(super) async fn show(
    State(app): State<App>,
    _: Asking,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    let config = app.config.get();
    if let Some(template) = config.template(&name) {
        return Ok(Json(TemplateBody::of(&name, template)).into_response());
    }
    let built = built(&app, &config).await?;
    let built = built.iter().find(|built| built.name == name);
    let template = on_image(&config, built.ok_or_else(|| unknown(&name))?);
    Ok(Json(TemplateBody::of(&name, &template)).into_response())
}

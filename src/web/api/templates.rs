//! Templates: what there is to choose from.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::super::App;
use super::auth::Asking;
use super::openapi::Refusals;
use super::problem::Problem;
use crate::config::Template;

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
            status: "ready",
            cwd: &template.home,
            cpus: template.cpus,
            memory_mb: template.memory.as_u64() >> 20,
        }
    }
}

/// List templates
#[utoipa::path(
    get, path = "/templates", tag = "templates", operation_id = "listTemplates",
    responses((status = 200, description = "Templates, by name", body = [TemplateBody]), Refusals)
)]
pub(super) async fn list(State(app): State<App>, _: Asking) -> Response {
    let config = app.config.get();
    let templates = config.templates.iter();
    let bodies: Vec<_> = templates
        .map(|(name, template)| TemplateBody::of(name, template))
        .collect();
    Json(bodies).into_response()
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
    let template = config.template(&name).ok_or_else(|| {
        let message = format!("There is no template {name:?}.");
        Problem::new(StatusCode::NOT_FOUND, "template_not_found", message)
    })?;
    Ok(Json(TemplateBody::of(&name, template)).into_response())
}

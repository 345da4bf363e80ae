//! Which request is meant, and whether it may.

use serde_json::{Value, json};

use super::rules::{Project, Rules, Trigger, json_of_project};
use crate::http::{Answer, Request};

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `GET /api/v1/builds/pending`
    Claim,
    /// `POST /api/v1/builds/{id}/result`
    Result,
    /// Everything else.
    Other,
}

const BASE: &str = "/api/v1";

/// Where builds of a list begin, and how many there are, where nothing is said.
const LIMIT: usize = 20;

fn path(request: &Request) -> &str {
    request.target.split('?').next().unwrap_or_default()
}

pub(super) fn endpoint(request: &Request) -> Endpoint {
    let below = path(request).strip_prefix(BASE).unwrap_or_default();
    match (&*request.method, below) {
        ("GET", "/builds/pending") => Endpoint::Claim,
        ("POST", path) if path.starts_with("/builds/") && path.ends_with("/result") => {
            Endpoint::Result
        }
        _ => Endpoint::Other,
    }
}

fn refuse(status: u16, text: &str) -> Answer {
    Answer::json(status, &json!({"error": text}))
}

fn found(value: Option<Value>, what: &str) -> Answer {
    value.map_or_else(|| refuse(404, what), |value| Answer::json(200, &value))
}

pub(super) fn answer(rules: &mut Rules, request: &Request) -> Answer {
    let path = path(request);
    if path == "/health" || path == "/api/v1/health" {
        return Answer::json(200, &json!({"status": "ok"}));
    }
    let Some(below) = path.strip_prefix(BASE) else {
        return refuse(404, "not found");
    };
    if !rules.may(request.header("authorization")) {
        return refuse(401, "unauthorized");
    }
    let parts: Vec<&str> = below.split('/').skip(1).collect();
    match (&*request.method, &*parts) {
        ("GET", ["builds", "pending"]) => rules
            .claim()
            .map_or_else(|| Answer::empty(204), |claim| Answer::text(200, claim)),
        ("POST", ["builds", id, "result"]) => match rules.report(id, &request.body) {
            Ok(build) => Answer::json(200, &build),
            Err((status, text)) => refuse(status, text),
        },
        ("GET", ["projects"]) => Answer::json(200, &rules.projects()),
        ("POST", ["projects"]) => create(rules, &request.body),
        ("DELETE", ["projects", slug]) => {
            if rules.delete(slug) {
                Answer::empty(204)
            } else {
                refuse(404, "project not found")
            }
        }
        ("POST", ["projects", slug, "builds"]) => trigger(rules, slug, &request.body),
        ("GET", ["projects", slug, "builds"]) => {
            let limit = number(request, "limit").unwrap_or(LIMIT);
            let offset = number(request, "offset").unwrap_or(0);
            found(rules.list(slug, limit, offset), "project not found")
        }
        ("GET", ["projects", slug, "builds", id]) => {
            found(rules.build_of(slug, id), "build not found")
        }
        ("GET", ["projects", slug, "versions"]) => {
            let versions = rules.find(slug).map(|_| rules.versions(slug));
            found(versions, "project not found")
        }
        _ => refuse(404, "not found"),
    }
}

fn create(rules: &mut Rules, body: &[u8]) -> Answer {
    let Ok(value) = serde_json::from_slice::<Value>(body) else {
        return refuse(400, "invalid request body");
    };
    let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
    if ["slug", "name", "source_url"]
        .iter()
        .any(|name| text(name).is_empty())
    {
        return refuse(400, "slug, name and source_url are required");
    }
    let project = Project {
        slug: text("slug"),
        source_url: text("source_url"),
        docker_image: text("docker_image"),
    };
    let made = json_of_project(&project);
    if rules.project(project) {
        Answer::json(201, &made)
    } else {
        refuse(409, "project already exists")
    }
}

fn trigger(rules: &mut Rules, slug: &str, body: &[u8]) -> Answer {
    let value: Value = match body {
        [] => Value::Null,
        body => match serde_json::from_slice(body) {
            Ok(value) => value,
            Err(_) => return refuse(400, "invalid request body"),
        },
    };
    let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
    let trigger = Trigger {
        reference: text("ref"),
        tag: text("tag"),
    };
    let made = rules.trigger(slug, trigger);
    match made.and_then(|id| rules.build_of(slug, &id.to_string())) {
        Some(build) => Answer::json(201, &build),
        None => refuse(404, "project not found"),
    }
}

fn number(request: &Request, name: &str) -> Option<usize> {
    let query = request.target.split_once('?')?.1;
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(n, _)| *n == name)?.1.parse().ok()
}

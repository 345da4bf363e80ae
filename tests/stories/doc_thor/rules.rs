//! What the server knows, and what each request does to it.
//!
//! Written from what the real server was seen to do. Its two mistakes are here too: a version that exists already makes a
//! report fail after it took effect, and nothing ever ends a build whose agent is gone.

use std::collections::VecDeque;

use serde_json::{Value, json};

/// A project, as it was registered: nothing about it is validated.
#[derive(Clone, Debug)]
pub struct Project {
    /// First part of the keys in the bucket.
    pub slug: String,
    /// Where its source is.
    pub source_url: String,
    /// What builds it.
    pub docker_image: String,
}

/// What is wanted of a build.
#[derive(Clone, Debug, Default)]
pub(super) struct Trigger {
    pub(super) reference: String,
    pub(super) tag: String,
}

/// The states of a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Nobody has it.
    Pending,
    /// Handed out.
    Running,
    /// Reported as such.
    Success,
    /// Reported as such.
    Failed,
}

impl Status {
    const fn word(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Success => "success",
            Self::Failed => "failed",
        }
    }

    /// Whether it can still change.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Success | Self::Failed)
    }
}

/// One build, and what agents did with it.
#[derive(Clone, Debug)]
pub struct Build {
    /// Its number.
    pub id: u64,
    /// The project's slug.
    pub slug: String,
    /// The reference that was asked for.
    pub reference: String,
    /// The version that it makes, or nothing.
    pub tag: String,
    /// Where it stands.
    pub status: Status,
    /// What was reported, `None` where the member was not there.
    pub logs: Option<String>,
    /// What was reported, `None` where the member was not there.
    pub error: Option<String>,
    /// How often it was handed out.
    pub claims: usize,
    /// How each report about it was answered.
    pub reports: Vec<u16>,
}

/// A refusal: status and text.
pub(super) type Refusal = (u16, &'static str);

const DATABASE: Refusal = (500, "database error");

/// Projects, builds, versions and keys.
#[derive(Debug, Default)]
pub(super) struct Rules {
    tokens: Vec<String>,
    projects: Vec<Project>,
    builds: Vec<Build>,
    /// Project, version, build.
    versions: Vec<(String, String, u64)>,
    odd: VecDeque<Value>,
    last: u64,
}

impl Rules {
    pub(super) fn allow(&mut self, token: &str) {
        self.tokens.push(token.to_owned());
    }

    pub(super) fn revoke(&mut self, token: &str) {
        self.tokens.retain(|t| t != token);
    }

    /// The value of an `Authorization` header. The word before the key is case-sensitive here.
    pub(super) fn may(&self, authorization: Option<&str>) -> bool {
        let token = authorization.and_then(|value| value.strip_prefix("Bearer "));
        token.is_some_and(|token| self.tokens.iter().any(|t| t == token))
    }

    pub(super) fn builds(&self) -> &[Build] {
        &self.builds
    }

    /// Whether it is new.
    pub(super) fn project(&mut self, project: Project) -> bool {
        let new = self.find(&project.slug).is_none();
        if new {
            self.projects.push(project);
        }
        new
    }

    /// Whether there was one. Its builds go with it.
    pub(super) fn delete(&mut self, slug: &str) -> bool {
        let before = self.projects.len();
        self.projects.retain(|project| project.slug != slug);
        self.builds.retain(|build| build.slug != slug);
        self.versions.retain(|(project, ..)| project != slug);
        self.projects.len() < before
    }

    pub(super) fn find(&self, slug: &str) -> Option<&Project> {
        self.projects.iter().find(|project| project.slug == slug)
    }

    pub(super) fn trigger(&mut self, slug: &str, trigger: Trigger) -> Option<u64> {
        self.find(slug)?;
        self.last += 1;
        self.builds.push(Build {
            id: self.last,
            slug: slug.to_owned(),
            reference: trigger.reference,
            tag: trigger.tag,
            status: Status::Pending,
            logs: None,
            error: None,
            claims: 0,
            reports: Vec::new(),
        });
        Some(self.last)
    }

    /// The next claim is this.
    pub(super) fn hand_out(&mut self, claim: Value) {
        self.odd.push_back(claim);
    }

    /// The oldest build that nobody has becomes running: a `GET` that changes something.
    pub(super) fn claim(&mut self) -> Option<String> {
        if let Some(claim) = self.odd.pop_front() {
            return Some(claim.to_string());
        }
        let build = self
            .builds
            .iter_mut()
            .find(|build| build.status == Status::Pending)?;
        build.status = Status::Running;
        build.claims += 1;
        let project = self.projects.iter().find(|p| p.slug == build.slug)?;
        let members = [
            // A number everywhere but here. It is the first member: an answer that is cut may still have it.
            ("id", &*build.id.to_string()),
            ("project_slug", &*project.slug),
            ("version", &*build.tag),
            ("source_url", &*project.source_url),
            ("ref", &*build.reference),
            ("docker_image", &*project.docker_image),
        ];
        let members = members.map(|(name, text)| format!("\"{name}\":{}", Value::from(text)));
        Some(format!("{{{}}}", members.join(",")))
    }

    /// A report: what was asked of the path, and the body.
    pub(super) fn report(&mut self, id: &str, body: &[u8]) -> Result<Value, Refusal> {
        let id: u64 = id.parse().map_err(|_| (400, "invalid build id"))?;
        let answer = self.report_on(id, body);
        if let Some(build) = self.builds.iter_mut().find(|build| build.id == id) {
            build
                .reports
                .push(answer.as_ref().map_or_else(|(status, _)| *status, |_| 200));
        }
        answer
    }

    fn report_on(&mut self, id: u64, body: &[u8]) -> Result<Value, Refusal> {
        let told = Told::read(body).ok_or((400, "invalid request body"))?;
        let status = match &*told.status {
            "success" => Status::Success,
            "failed" => Status::Failed,
            _ => return Err((400, "status must be success or failed")),
        };
        let build = self
            .builds
            .iter_mut()
            .find(|build| build.id == id)
            .ok_or((404, "build not found"))?;
        if build.status != Status::Running {
            return Err((409, "build is not in running state"));
        }
        build.status = status;
        build.logs = told.logs;
        build.error = told.error;
        let answer = json_of(build);
        if status == Status::Success && !build.tag.is_empty() {
            let version = (build.slug.clone(), build.tag.clone(), id);
            let same =
                |(slug, tag, _): &(String, String, u64)| (slug, tag) == (&version.0, &version.1);
            // The build is saved already when the version is found to exist.
            if self.versions.iter().any(same) {
                return Err(DATABASE);
            }
            self.versions.push(version);
        }
        Ok(answer)
    }

    /// Newest first. `None` without such a project.
    pub(super) fn list(&self, slug: &str, limit: usize, offset: usize) -> Option<Value> {
        self.find(slug)?;
        let of = self.builds.iter().rev().filter(|build| build.slug == slug);
        Some(of.skip(offset).take(limit).map(json_of).collect())
    }

    pub(super) fn build_of(&self, slug: &str, id: &str) -> Option<Value> {
        let id: u64 = id.parse().ok()?;
        let mut of = self.builds.iter();
        of.find(|build| build.slug == slug && build.id == id)
            .map(json_of)
    }

    pub(super) fn versions(&self, slug: &str) -> Value {
        let of = self.versions.iter().filter(|(project, ..)| project == slug);
        of.map(|(_, version, build)| {
            json!({"version": version, "build_id": build, "published": true, "is_latest": false})
        })
        .collect()
    }

    pub(super) fn projects(&self) -> Value {
        let all = self.projects.iter();
        all.map(|project| {
            let of = self.versions.iter().filter(|v| v.0 == project.slug);
            let mut value = json_of_project(project);
            value["versions"] = of.map(|(_, version, _)| version.clone()).collect();
            value["latest"] = "".into();
            value
        })
        .collect()
    }
}

/// The members that the server reads of a report; all others are ignored.
struct Told {
    status: String,
    error: Option<String>,
    logs: Option<String>,
}

impl Told {
    fn read(body: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(body).ok()?;
        let members = value.as_object()?;
        // A member that is not there is empty; one of another type is an error.
        let text = |name: &str| match members.get(name) {
            None | Some(Value::Null) => Some(None),
            Some(Value::String(text)) => Some(Some(text.clone())),
            Some(_) => None,
        };
        Some(Self {
            status: text("status")?.unwrap_or_default(),
            error: text("error")?,
            logs: text("logs")?,
        })
    }
}

/// A build as the server shows it everywhere but in a claim.
fn json_of(build: &Build) -> Value {
    let now = "2026-01-02T03:04:05Z";
    let mut value = json!({
        "id": build.id,
        "created_at": now,
        "updated_at": now,
        "project_id": 1,
        "ref": build.reference,
        "tag": build.tag,
        "status": build.status.word(),
    });
    for (name, text) in [("logs", &build.logs), ("error", &build.error)] {
        if let Some(text) = text.as_ref().filter(|text| !text.is_empty()) {
            value[name] = text.clone().into();
        }
    }
    if build.status != Status::Pending {
        value["started_at"] = now.into();
    }
    if build.status.is_final() {
        value["finished_at"] = now.into();
    }
    value
}

pub(super) fn json_of_project(project: &Project) -> Value {
    json!({
        "slug": project.slug,
        "name": project.slug,
        "source_url": project.source_url,
        "docker_image": project.docker_image,
    })
}

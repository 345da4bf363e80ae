//! What the values of a key are, and whether a value is one.
//!
//! A value is kept as it was said, not as what it means: `config show` repeats it. It is checked when it is read, so
//! that every mistake of a file is told at once, with its line. Paths become absolute here, for only here it is known
//! where they were said. A secret never stands in a message.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use bryo_agent::{HostPattern, ImagePattern, Listen};
use bryo_depot::CacheRule;
use bryo_model::{
    ByteSize, Cpus, Destination, EnvVar, ImageRef, Scheme, StopSignal, Weight, parse_duration,
};
use bryo_source::{HostRule, UrlPrefix};
use toml::de::DeValue;
use tracing_subscriber::filter::Targets;

use super::address::Address;
use crate::directories::absolute_image;

/// What the values of a key are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// True or false.
    Flag,
    /// A whole number from 1.
    Count,
    /// A whole number from 1 that fits into 32 bits.
    Small,
    /// Any text that is not empty.
    Text,
    /// One of these words.
    Word(&'static [&'static str]),
    /// Patterns of images.
    ImagePatterns,
    /// Patterns of hosts that a feed may name.
    HostPatterns,
    /// A file or a directory.
    Path,
    /// A length of time.
    Time,
    /// A number of bytes.
    Size,
    /// A share of processors.
    Cpus,
    /// A share under contention.
    Weight,
    /// A signal that ends programs.
    Signal,
    /// Addresses with ports.
    Destinations,
    /// Rules of `Cache-Control`.
    CacheRules,
    /// Ways to reach a repository.
    Protocols,
    /// Patterns of hosts, or networks.
    Hosts,
    /// The beginning of a repository's address.
    UrlPrefix,
    /// An image.
    Image,
    /// The host of a registry.
    Registry,
    /// The address of an HTTP server.
    Url,
    /// The address of a doc-thor server.
    Server,
    /// Where health is answered.
    Listen,
    /// What is logged.
    Log,
    /// Something that is not shown.
    Secret,
    /// The value of an environment variable, which may be empty.
    EnvValue,
    /// The name of an environment variable.
    Variable,
    /// The name of a credential of the service manager.
    Credential,
}

/// A value as it was said.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Flag(bool),
    Number(u64),
    Text(String),
    List(Vec<String>),
}

impl Value {
    /// The text, if it is one.
    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Flag(_) | Self::Number(_) | Self::List(_) => None,
        }
    }
}

impl std::fmt::Debug for Value {
    /// It may be a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

/// What a relative path starts from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Base<'a> {
    /// The directory of the file that says it, or the current one.
    pub(crate) dir: &'a Path,
    /// For `~/`.
    pub(crate) home: Option<&'a Path>,
}

const SPOKEN_TRUE: [&str; 5] = ["true", "yes", "on", "1", "y"];
const SPOKEN_FALSE: [&str; 5] = ["false", "no", "off", "0", "n"];

impl Kind {
    /// What a message says is wanted.
    fn wanted(self) -> String {
        match self {
            Self::Flag => "true or false".to_owned(),
            Self::Count | Self::Small => "a whole number from 1".to_owned(),
            Self::Text => "a text".to_owned(),
            Self::Word(words) => format!("one of {}", words.join(", ")),
            Self::ImagePatterns => {
                "a list of patterns (for example [\"registry.example.org/docs/*\"])".to_owned()
            }
            Self::HostPatterns => "a list of patterns (for example [\"*.example.org\"])".to_owned(),
            Self::Path => "a path".to_owned(),
            Self::Time => "a length of time (for example \"90s\", \"10m\" or \"2h\")".to_owned(),
            Self::Size => "a size (for example \"512m\" or \"2g\")".to_owned(),
            Self::Cpus => "a number of processors (for example 0.5 or 2)".to_owned(),
            Self::Weight => "a weight from 1 to 10000".to_owned(),
            Self::Signal => "a signal (for example \"TERM\")".to_owned(),
            Self::Destinations => {
                "a list of destinations (for example [\"10.0.0.0/8\"])".to_owned()
            }
            Self::CacheRules => {
                "a list of rules (for example [\"*.css: max-age=3600\"])".to_owned()
            }
            Self::Protocols => "a list of https, ssh, file and http".to_owned(),
            Self::Hosts => "a list of hosts (for example [\"git.example.org\"])".to_owned(),
            Self::UrlPrefix => {
                "the beginning of an address (for example \"https://git.example.org/org\")"
                    .to_owned()
            }
            Self::Image => "an image".to_owned(),
            Self::Registry => "a registry (for example \"docker.io\")".to_owned(),
            Self::Url | Self::Server => "an address (http:// or https://)".to_owned(),
            Self::Listen => "\"ADDRESS:PORT\", \"unix:/PATH\" or \"passed\"".to_owned(),
            Self::Log => "error, warn, info, debug, trace or off, or PART=LEVEL,...".to_owned(),
            Self::Secret => "a text".to_owned(),
            Self::EnvValue => "a text".to_owned(),
            Self::Variable => "the name of an environment variable".to_owned(),
            Self::Credential => "the name of a credential".to_owned(),
        }
    }

    /// The value that a file says.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub(crate) fn read(self, said: &DeValue<'_>, base: Base<'_>) -> Result<Value, String> {
        let wrong = |found: &str| format!("expected {}, found {found}", self.wanted());
        match (self, said) {
            (Self::Flag, DeValue::Boolean(flag)) => Ok(Value::Flag(*flag)),
            (
                Self::ImagePatterns
                | Self::HostPatterns
                | Self::Destinations
                | Self::CacheRules
                | Self::Protocols
                | Self::Hosts,
                DeValue::Array(items),
            ) => {
                let texts = items.iter().map(|item| match item.get_ref() {
                    DeValue::String(text) => Ok(text.to_string()),
                    other => Err(wrong(&format!("a list with {}", name_of(other)))),
                });
                self.list(texts.collect::<Result<_, _>>()?)
            }
            (
                Self::Count | Self::Small | Self::Time | Self::Size | Self::Cpus | Self::Weight,
                DeValue::Integer(number),
            ) => {
                let number = i128::from_str_radix(number.as_str(), number.radix())
                    .map_err(|_| wrong("a number that is too large"))?;
                self.text(&number.to_string(), base)
            }
            (Self::Cpus, DeValue::Float(number)) => self.text(number.as_str(), base),
            (
                Self::Flag
                | Self::ImagePatterns
                | Self::HostPatterns
                | Self::Destinations
                | Self::CacheRules
                | Self::Protocols
                | Self::Hosts
                | Self::Count
                | Self::Small,
                other,
            ) => Err(wrong(name_of(other))),
            (_, DeValue::String(text)) => self.text(text, base),
            (_, other) => Err(wrong(name_of(other))),
        }
    }

    /// The value that a variable or an option says.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub(crate) fn text(self, said: &str, base: Base<'_>) -> Result<Value, String> {
        let keep = || Value::Text(said.to_owned());
        let bad = || format!("{said:?} is not {}", self.wanted());
        let fits = |good: bool| if good { Ok(keep()) } else { Err(bad()) };
        match self {
            Self::Flag => {
                let lower = said.to_ascii_lowercase();
                if SPOKEN_TRUE.contains(&lower.as_str()) {
                    Ok(Value::Flag(true))
                } else if SPOKEN_FALSE.contains(&lower.as_str()) {
                    Ok(Value::Flag(false))
                } else {
                    Err(bad())
                }
            }
            Self::Count => said
                .parse()
                .ok()
                .filter(|n| *n > 0)
                .map(Value::Number)
                .ok_or_else(bad),
            Self::Small => {
                let number = said.parse::<u32>().ok().filter(|n| *n > 0);
                number.map(|n| Value::Number(n.into())).ok_or_else(bad)
            }
            Self::ImagePatterns
            | Self::HostPatterns
            | Self::Destinations
            | Self::CacheRules
            | Self::Protocols
            | Self::Hosts => {
                let items = said
                    .split(',')
                    .map(str::trim)
                    .filter(|item| !item.is_empty());
                self.list(items.map(str::to_owned).collect())
            }
            Self::UrlPrefix => parsed::<UrlPrefix>(said).map(|()| keep()),
            Self::Text => fits(!said.is_empty() && !said.contains(char::is_control)),
            Self::Word(words) => fits(words.contains(&said)),
            Self::Path => path(said, base).map(Value::Text),
            Self::Time => parse_duration(said)
                .map(|_| keep())
                .map_err(|e| e.to_string()),
            Self::Size => parsed::<ByteSize>(said).map(|()| keep()),
            Self::Cpus => parsed::<Cpus>(said).map(|()| keep()),
            Self::Weight => parsed::<Weight>(said).map(|()| keep()),
            Self::Signal => parsed::<StopSignal>(said).map(|()| keep()),
            Self::Image => {
                let image: ImageRef = said.parse().map_err(|e| format!("{e}"))?;
                Ok(Value::Text(absolute_image(image, base.dir).to_string()))
            }
            Self::Registry => {
                fits(format!("{said}/x").parse::<ImageRef>().is_ok_and(|image| {
                    matches!(image, ImageRef::Registry(_)) && !said.contains('/')
                }))
            }
            Self::Url => Address::parse(said).map(|a| Value::Text(a.text().to_owned())),
            Self::Server => {
                let address = Address::parse(said)?;
                if address.text().ends_with("/api/v1") {
                    return Err(format!("write {said:?} without /api/v1"));
                }
                Ok(Value::Text(address.text().to_owned()))
            }
            Self::Listen => listen(said).map(|_| keep()).ok_or_else(bad),
            Self::Log => fits(levels(said)),
            Self::Secret => secret(said).map(|()| keep()),
            Self::EnvValue => fits(!said.contains('\0')),
            Self::Variable => fits(EnvVar::new(said, "").is_ok()),
            // systemd.exec(5): a credential's name is a file's name.
            Self::Credential => {
                fits(!said.is_empty() && !said.contains('/') && !said.starts_with('.'))
            }
        }
    }

    fn list(self, items: Vec<String>) -> Result<Value, String> {
        for item in &items {
            match self {
                Self::Destinations => parsed::<Destination>(item)?,
                Self::CacheRules => drop(cache_rule(item)?),
                Self::Protocols => parsed::<Scheme>(item)?,
                Self::Hosts => parsed::<HostRule>(item)?,
                Self::ImagePatterns => parsed::<ImagePattern>(item)?,
                Self::HostPatterns => parsed::<HostPattern>(item)?,
                // No list.
                _ => {}
            }
        }
        Ok(Value::List(items))
    }
}

/// A secret that cannot be sent is none. The message does not repeat it.
///
/// # Errors
///
/// When it is empty or could not stand in a header.
pub(crate) fn secret(text: &str) -> Result<(), String> {
    if text.is_empty() {
        Err("the secret is empty".to_owned())
    } else if text.contains(char::is_control) || text.trim() != text {
        Err("the secret has control characters in it, or blanks around it".to_owned())
    } else {
        Ok(())
    }
}

/// `PATTERN: VALUE`, the header `Cache-Control` of some files.
///
/// # Errors
///
/// What is wrong with it.
pub(crate) fn cache_rule(text: &str) -> Result<CacheRule, String> {
    let (pattern, value) = text.split_once(':').ok_or_else(|| {
        format!("{text:?} is not PATTERN: VALUE (for example \"*.css: max-age=3600\")")
    })?;
    CacheRule::new(pattern.trim(), value).map_err(|e| e.to_string())
}

/// Where health is answered.
pub(crate) fn listen(text: &str) -> Option<Listen> {
    if text == "passed" {
        return Some(Listen::Passed);
    }
    match text.strip_prefix("unix:") {
        Some(path) if path.starts_with('/') => Some(Listen::Socket(PathBuf::from(path))),
        Some(_) => None,
        None => text.parse::<SocketAddr>().ok().map(Listen::Address),
    }
}

/// A bare word that is no level would be taken for a part with all its levels, and nothing else would be told.
fn levels(said: &str) -> bool {
    let level = |word: &str| matches!(word, "error" | "warn" | "info" | "debug" | "trace" | "off");
    let mut parts = said.split(',');
    parts.all(|part| level(part.split_once('=').map_or(part, |(_, level)| level)))
        && Targets::from_str(said).is_ok()
}

fn path(said: &str, base: Base<'_>) -> Result<String, String> {
    if said.is_empty() || said.contains('\0') {
        return Err("the path is empty".to_owned());
    }
    let path = match said.strip_prefix("~/") {
        Some(rest) => base
            .home
            .ok_or_else(|| format!("{said:?}: there is no home here"))?
            .join(rest),
        None => base.dir.join(said),
    };
    path.into_os_string()
        .into_string()
        .map_err(|path| format!("the path {} is not UTF-8", path.display()))
}

fn parsed<T>(text: &str) -> Result<(), String>
where
    T: FromStr<Err: std::fmt::Display>,
{
    text.parse::<T>().map(drop).map_err(|e| e.to_string())
}

fn name_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

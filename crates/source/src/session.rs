//! What surrounds git for one fetch: its configuration, its environment, its way out; all gone with it.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bryo_model::{Scheme, Secret};

use crate::activity::Activity;
use crate::credentials::{Credential, CredentialRule, store_line};
use crate::gateway::Gateway;
use crate::origin::{Origin, Ownership, Remote};
use crate::private::Private;
use crate::proxy::proxy_for;
use crate::ssh::{self, Ssh};
use crate::{Paths, SourceError};

/// Of the user that Bryo runs as, for http.
const OWN: [&str; 2] = ["HOME", "GIT_ASKPASS"];

/// One fetch.
#[derive(Debug)]
pub(crate) struct Session {
    /// The only configuration beside the command line's.
    pub(crate) config: PathBuf,
    pub(crate) env: Vec<(&'static str, OsString)>,
    pub(crate) activity: Arc<Activity>,
    gateway: Option<Gateway>,
    /// User and password for http. What git was told must not come back in a message.
    pub(crate) basic: Option<(String, Secret)>,
    /// How ssh is started, where it is.
    pub(crate) ssh: Option<Ssh>,
    /// Gone with the session.
    private: Option<Private>,
}

impl Session {
    pub(crate) async fn open(
        mirror: &Path,
        origin: &Origin,
        paths: &Paths,
    ) -> Result<Self, SourceError> {
        let mut session = Self {
            config: PathBuf::from("/dev/null"),
            env: Vec::new(),
            activity: Arc::new(Activity::new()),
            gateway: None,
            basic: None,
            ssh: None,
            private: None,
        };
        let Some(remote) = &origin.remote else {
            if origin.ownership == Ownership::DeclaredSafe {
                // Read by this git and by the upload-pack that it starts, which touch nothing but this one source.
                let safe = mirror.join("bryo-safe-directory");
                std::fs::write(&safe, "[safe]\n\tdirectory = *\n")
                    .map_err(SourceError::io(&safe))?;
                session.config = safe;
            }
            return Ok(session);
        };
        if remote.url.scheme() == Scheme::File {
            return Ok(session);
        }
        let root = remote.policy.private.clone();
        let private = Private::make(&root.unwrap_or_else(|| paths.private())).await?;
        // Where git and ssh look for what is the user's: nothing is there.
        session.env.push(("HOME", private.path().into()));
        match remote.url.scheme() {
            Scheme::Ssh => session.by_ssh(remote, &private).await?,
            Scheme::Https | Scheme::Http | Scheme::File => {
                session.by_http(remote, &private).await?;
            }
        }
        session.private = Some(private);
        Ok(session)
    }

    async fn by_ssh(&mut self, remote: &Remote, private: &Private) -> Result<(), SourceError> {
        let Remote { url, policy, .. } = remote;
        let rule = policy.credential(url);
        let ssh = match rule {
            None if policy.own_credentials => {
                self.inherit("HOME");
                ssh::own(policy, url).await?
            }
            rule => {
                let credential = rule.map(|rule| (rule.name.as_str(), &rule.credential));
                ssh::alone(policy, url, credential, private).await?
            }
        };
        self.env.push(("GIT_SSH_COMMAND", ssh.command().into()));
        let agent = ssh.agent.clone();
        self.env
            .extend(agent.map(|socket| ("SSH_AUTH_SOCK", socket)));
        self.ssh = Some(ssh);
        Ok(())
    }

    async fn by_http(&mut self, remote: &Remote, private: &Private) -> Result<(), SourceError> {
        let Remote {
            url,
            policy,
            budget,
        } = remote;
        let mut config = Config::default();
        // An empty helper forgets those before it.
        config.section("credential").set("helper", "");
        match policy.credential(url) {
            Some(rule) => {
                let (user, password) = password(remote, rule)?;
                let line = store_line(url, user, &password);
                let file = private.write("credentials", &line)?;
                self.basic = Some((user.to_owned(), password));
                let file = ssh::shell_quoted(&file.to_string_lossy());
                config.set("helper", &format!("store --file={file}"));
            }
            None if policy.own_credentials => OWN.into_iter().for_each(|name| self.inherit(name)),
            None => {}
        }
        config.section("http");
        // As a variable, for one of the caller's would be stronger than a configuration.
        self.env.extend(
            policy
                .ca_bundle
                .iter()
                .map(|bundle| ("GIT_SSL_CAINFO", bundle.into())),
        );
        let host = url.host().unwrap_or_default();
        match proxy_for(url.scheme(), &host, |name| std::env::var(name).ok()) {
            Some(proxy) => config.set("proxy", &proxy),
            None => {
                let gateway = Gateway::open(policy, budget, &self.activity)
                    .await
                    .map_err(SourceError::io(Path::new("127.0.0.1")))?;
                config.set("proxy", gateway.proxy().expose());
                self.gateway = Some(gateway);
            }
        }
        self.config = private.write("gitconfig", &Secret::new(config.text))?;
        Ok(())
    }

    /// The caller's value, if there is one.
    fn inherit(&mut self, name: &'static str) {
        self.env.retain(|(known, _)| *known != name);
        self.env
            .extend(std::env::var_os(name).map(|value| (name, value)));
    }

    /// What git wrote, without what nobody may read: a server may repeat a password in its refusal.
    pub(crate) fn masked(&self, stderr: &str) -> String {
        match &self.basic {
            Some((_, secret)) => stderr.replace(secret.expose(), "***"),
            None => stderr.to_owned(),
        }
    }

    /// Whether everything that arrives is counted on its way.
    pub(crate) fn counts(&self) -> bool {
        self.gateway.is_some()
    }

    /// Why git failed, if it was our doing.
    pub(crate) fn trouble(&self, origin: &Origin) -> Option<SourceError> {
        let trouble = self.gateway.as_ref()?.trouble()?;
        Some(trouble.told(origin.location.clone()))
    }

    /// The way out, for another client than git.
    pub(crate) fn take_gateway(&mut self) -> Option<Gateway> {
        self.gateway.take()
    }
}

fn password<'a>(
    remote: &Remote,
    rule: &'a CredentialRule,
) -> Result<(&'a str, Secret), SourceError> {
    let unusable = |why: String| SourceError::Credential {
        name: rule.name.clone(),
        location: remote.url.to_string(),
        why,
    };
    let Credential::Password { user, password } = &rule.credential else {
        return Err(unusable("it is for ssh".to_owned()));
    };
    let password = password.read().map_err(unusable)?;
    if password.is_empty() {
        return Err(unusable("it is empty".to_owned()));
    }
    Ok((user, password))
}

/// The text of a configuration of git.
#[derive(Default)]
struct Config {
    text: String,
}

impl Config {
    fn section(&mut self, name: &str) -> &mut Self {
        let _ = writeln!(self.text, "[{name}]");
        self
    }

    fn set(&mut self, name: &str, value: &str) {
        let value = value
            .replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('\n', "\\n");
        let _ = writeln!(self.text, "\t{name} = \"{value}\"");
    }
}

//! How git starts ssh: to which address, as whom, and whom it believes.
//!
//! The name is resolved and checked here, and ssh gets the address: `HostName` is where it connects to, `HostKeyAlias` the
//! name under which the server's key must be known. With a credential of the configuration nothing of the user's own ssh
//! counts; with the user's own credentials all of it does, as in a shell, but for asking questions.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bryo_model::{GitUrl, Secret};
use bryo_process::Program;
use tokio::net::TcpStream;

use crate::SourceError;
use crate::credentials::Credential;
use crate::policy::{NoAddress, SourcePolicy};
use crate::private::Private;

/// What ssh says about its configuration is short; a file that everybody could write to is not read for ever.
const MOST_CONFIGURATION: usize = 1 << 20;

/// Telling a configuration is no work, unless a `Match exec` makes it some.
const CONFIGURATION: Duration = Duration::from_secs(30);

/// How long an address is tried where a host has several.
const TRYING: Duration = Duration::from_secs(5);

/// The connection is given up when it cannot be made in half a minute or answers nothing for a minute.
const ALWAYS: [(&str, &str); 6] = [
    ("BatchMode", "yes"),
    ("ConnectTimeout", "30"),
    ("ServerAliveInterval", "15"),
    ("ServerAliveCountMax", "4"),
    ("ForwardAgent", "no"),
    ("ClearAllForwardings", "yes"),
];

/// What holds beside that where nothing of the user's counts.
const ALONE: [(&str, &str); 9] = [
    ("StrictHostKeyChecking", "yes"),
    ("GlobalKnownHostsFile", "/dev/null"),
    ("UpdateHostKeys", "no"),
    ("CheckHostIP", "no"),
    ("IdentitiesOnly", "yes"),
    ("PreferredAuthentications", "publickey"),
    ("ControlMaster", "no"),
    ("ControlPath", "none"),
    ("AddKeysToAgent", "no"),
];

/// Where a connection leads.
struct Route {
    /// The address to connect to; without one ssh finds it by itself, through a proxy of the user's.
    address: Option<SocketAddr>,
    alias: String,
}

/// How ssh is started.
#[derive(Debug)]
pub(crate) struct Ssh {
    /// Before the host.
    pub(crate) args: Vec<String>,
    /// `SSH_AUTH_SOCK`.
    pub(crate) agent: Option<std::ffi::OsString>,
}

impl Ssh {
    /// `GIT_SSH_COMMAND`, which a shell reads.
    pub(crate) fn command(&self) -> String {
        let mut command = "ssh".to_owned();
        for arg in &self.args {
            let _ = write!(command, " {}", shell_quoted(arg));
        }
        command
    }
}

/// As the user that Bryo runs as.
pub(crate) async fn own(policy: &SourcePolicy, url: &GitUrl) -> Result<Ssh, SourceError> {
    let told = configured(url).await;
    let find = |name: &str| {
        let value = told.iter().find(|(key, _)| key == name);
        value
            .map(|(_, value)| value.as_str())
            .filter(|v| *v != "none")
    };
    let host = find("hostname").map_or_else(|| url.host().unwrap_or_default(), str::to_owned);
    let port = find("port")
        .and_then(|port| port.parse().ok())
        .or(url.port());
    let elsewhere = find("proxyjump").or(find("proxycommand")).is_some();
    let mut route = if elsewhere {
        policy
            .check_name(&host, port.unwrap_or(22))
            .map_err(|why| refused(url, why))?;
        Route {
            address: None,
            alias: String::new(),
        }
    } else {
        route(policy, url, &host, port.unwrap_or(22)).await?
    };
    if let Some(alias) = find("hostkeyalias") {
        alias.clone_into(&mut route.alias);
    }
    let mut args: Vec<String> = ALWAYS
        .iter()
        .map(|(name, value)| format!("-o{name}={value}"))
        .collect();
    if let Some(address) = route.address {
        args.push(format!("-oHostName={}", address.ip()));
        args.push(format!("-oHostKeyAlias={}", route.alias));
    }
    Ok(Ssh {
        args,
        agent: std::env::var_os("SSH_AUTH_SOCK"),
    })
}

/// With a credential, or with none.
pub(crate) async fn alone(
    policy: &SourcePolicy,
    url: &GitUrl,
    credential: Option<(&str, &Credential)>,
    private: &Private,
) -> Result<Ssh, SourceError> {
    let (host, port) = (url.host().unwrap_or_default(), url.port().unwrap_or(22));
    let route = route(policy, url, &host, port).await?;
    let mut lines: Vec<(&str, String)> = Vec::new();
    if let Some(address) = route.address {
        lines.push(("HostName", address.ip().to_string()));
    }
    lines.push(("HostKeyAlias", route.alias));
    let own = ALWAYS.iter().chain(&ALONE);
    lines.extend(own.map(|(name, value)| (*name, (*value).to_owned())));
    let mut agent = None;
    let unusable = |name: &str, why: String| SourceError::Credential {
        name: name.to_owned(),
        location: url.to_string(),
        why,
    };
    let (mut identity, mut of_agent, mut known) =
        ("none".to_owned(), "none", "/dev/null".to_owned());
    match credential {
        None | Some((_, Credential::Password { .. })) => {}
        Some((name, Credential::SshKey { key, known_hosts })) => {
            let key = key.read().map_err(|why| unusable(name, why))?;
            // ssh takes no key without a line end.
            let key = Secret::new(format!("{}\n", key.expose().trim_end()));
            identity = quoted(&private.write("key", &key)?)?;
            known = copy(private, known_hosts, |why| unusable(name, why))?;
        }
        Some((
            name,
            Credential::SshAgent {
                socket,
                known_hosts,
            },
        )) => {
            if !socket.exists() {
                let why = format!("there is no ssh agent at {}", socket.display());
                return Err(unusable(name, why));
            }
            agent = Some(socket.clone().into_os_string());
            of_agent = "SSH_AUTH_SOCK";
            known = copy(private, known_hosts, |why| unusable(name, why))?;
        }
    }
    // Keys that only the agent has are among no files.
    if agent.is_some() {
        lines.retain(|(name, _)| *name != "IdentitiesOnly");
    }
    lines.push(("IdentityFile", identity));
    lines.push(("IdentityAgent", of_agent.to_owned()));
    lines.push(("UserKnownHostsFile", known));
    let mut text = String::new();
    for (name, value) in lines {
        let _ = writeln!(text, "{name} {value}");
    }
    let file = private.write("ssh_config", &Secret::new(text))?;
    Ok(Ssh {
        args: vec!["-F".to_owned(), file.to_string_lossy().into_owned()],
        agent,
    })
}

fn copy(
    private: &Private,
    known_hosts: &Path,
    unusable: impl Fn(String) -> SourceError,
) -> Result<String, SourceError> {
    let text = fs::read_to_string(known_hosts)
        .map_err(|e| unusable(format!("known-hosts: {}: {e}", known_hosts.display())))?;
    quoted(&private.write("known_hosts", &Secret::new(text))?)
}

/// A path as ssh_config(5) takes it.
fn quoted(path: &Path) -> Result<String, SourceError> {
    let text = path.to_string_lossy();
    if text.contains(['"', '\\', '\n']) || text.contains("${") {
        let why = std::io::Error::other("ssh takes no path with quotes, backslashes or ${ in it");
        return Err(SourceError::io(path)(why));
    }
    Ok(format!("\"{}\"", text.replace('%', "%%")))
}

/// A word of a shell.
pub(crate) fn shell_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn refused(url: &GitUrl, why: crate::Refusal) -> SourceError {
    SourceError::Refused {
        location: url.to_string(),
        why,
    }
}

async fn route(
    policy: &SourcePolicy,
    url: &GitUrl,
    host: &str,
    port: u16,
) -> Result<Route, SourceError> {
    let unreachable = |detail: String| SourceError::Unreachable {
        location: url.to_string(),
        detail,
    };
    let addresses = policy.admit(host, port).await.map_err(|why| match why {
        NoAddress::Refused(why) => refused(url, why),
        NoAddress::Unresolved(why) => {
            unreachable(format!("the name {host} cannot be resolved: {why}"))
        }
    })?;
    let mut address = addresses.first().copied();
    if addresses.len() > 1 {
        for one in &addresses {
            let tried = tokio::time::timeout(TRYING, TcpStream::connect(one)).await;
            if matches!(tried, Ok(Ok(_))) {
                address = Some(*one);
                break;
            }
        }
    }
    // As ssh itself writes hosts into known_hosts.
    let alias = if port == 22 {
        host.to_owned()
    } else {
        format!("[{host}]:{port}")
    };
    Ok(Route { address, alias })
}

/// What the user's own configuration says about this host: names in lower case, and values.
async fn configured(url: &GitUrl) -> Vec<(String, String)> {
    let host = url.host().unwrap_or_default();
    let mut ssh = Program::new("ssh").arg("-G");
    for name in ["HOME", "USER", "SSH_AUTH_SOCK"] {
        ssh = ssh.inherit(name);
    }
    let (Some(authority), Some(port)) = (url.authority(), url.port()) else {
        return Vec::new();
    };
    if authority.ends_with(&format!(":{port}")) {
        ssh = ssh.arg("-p").arg(port.to_string());
    }
    let to = match url.user() {
        Some(user) => format!("{user}@{host}"),
        None => host,
    };
    let told = ssh
        .arg("--")
        .arg(to)
        .finish(b"", MOST_CONFIGURATION, CONFIGURATION)
        .await;
    match told {
        Ok(done) if done.status.success() => parse(&String::from_utf8_lossy(&done.stdout)),
        // What is wrong with it, ssh tells again when git starts it.
        _ => Vec::new(),
    }
}

pub(crate) fn parse(text: &str) -> Vec<(String, String)> {
    let pair = |line: &str| {
        let (name, value) = line.split_once(' ')?;
        Some((name.to_ascii_lowercase(), value.trim().to_owned()))
    };
    text.lines().filter_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_shell_and_of_ssh() {
        assert_eq!(shell_quoted("a'b $(id)"), r"'a'\''b $(id)'");
        assert_eq!(quoted(Path::new("/a b%d")).unwrap(), "\"/a b%%d\"");
        assert!(quoted(Path::new("/a\"b")).is_err());
        assert!(quoted(Path::new("/${HOME}/x")).is_err());
    }

    #[test]
    fn what_ssh_tells_of_its_configuration() {
        let told = parse("hostname git.internal\nport 2222\nproxyjump none\nempty\n");
        assert_eq!(told[0], ("hostname".to_owned(), "git.internal".to_owned()));
        assert_eq!(told.len(), 3);
    }
}

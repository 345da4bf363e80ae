//! What a job needs for the world outside, given by the host's owner: certificates that it trusts, and proxies.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use bryo_model::EnvVar;
use bryo_sandbox::{Access, Mount};

use crate::settings::NetworkSettings;

/// Where the job finds the certificates.
pub(crate) const CERTIFICATES: &str = "/etc/bryo/ca-bundle.pem";

/// The variables by which TLS libraries and programs find them. Each of them takes this file instead of its own list.
const VARIABLES: [&str; 7] = [
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "GIT_SSL_CAINFO",
    "PIP_CERT",
    "CARGO_HTTP_CAINFO",
];

/// Copies the certificates into the attempt's directory.
///
/// A mount of the file itself would show its mode, and a job is nobody to the host: it may not be allowed to read it. And
/// the job must not see the file change while it runs.
pub(crate) fn copy_certificates(settings: &NetworkSettings, work: &Path) -> io::Result<()> {
    if let Some(from) = &settings.ca_bundle {
        let to = copied(work);
        fs::copy(from, &to)?;
        fs::set_permissions(&to, Permissions::from_mode(0o644))?;
    }
    Ok(())
}

/// The mount that shows them to the job.
pub(crate) fn certificates(settings: &NetworkSettings, work: &Path) -> Option<Mount> {
    settings.ca_bundle.as_ref().map(|_| Mount {
        host: copied(work),
        guest: PathBuf::from(CERTIFICATES),
        access: Access::ReadOnly,
    })
}

/// The variables that name them, for a job that has any.
pub(crate) fn certificate_variables(settings: &NetworkSettings) -> &[&'static str] {
    match settings.ca_bundle {
        Some(_) => &VARIABLES,
        None => &[],
    }
}

fn copied(work: &Path) -> PathBuf {
    work.join("ca-bundle.pem")
}

/// What of the proxies' addresses must not show: `user:password` and the password, where there is one that can be hidden.
pub(crate) fn passwords(proxy: &[EnvVar]) -> Vec<EnvVar> {
    let user_info = |var: &EnvVar| {
        let address = var
            .value()
            .split_once("://")
            .map_or(var.value(), |(_, rest)| rest);
        let authority = address.split('/').next().unwrap_or_default();
        authority.rsplit_once('@').map(|(user, _)| user.to_owned())
    };
    let mut all = Vec::new();
    for user in proxy.iter().filter_map(user_info) {
        let password = user
            .split_once(':')
            .map(|(_, password)| password.to_owned());
        // Less than this cannot be told from any other text.
        let parts = password
            .into_iter()
            .chain([user])
            .filter(|part| part.len() >= 4);
        all.extend(parts.filter_map(|part| EnvVar::new("PROXY", &part).ok()));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_readable_for_the_job_whatever_their_mode_is() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("own.pem");
        fs::write(&file, "x").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        let work = dir.path().join("work");
        fs::create_dir(&work).unwrap();
        let settings = NetworkSettings {
            ca_bundle: Some(file),
            ..NetworkSettings::default()
        };
        copy_certificates(&settings, &work).unwrap();
        let mount = certificates(&settings, &work).unwrap();
        let mode = fs::metadata(&mount.host).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644);
        assert_eq!(certificate_variables(&settings), VARIABLES);
        let none = NetworkSettings::default();
        copy_certificates(&none, &work).unwrap();
        assert!(certificates(&none, &work).is_none() && certificate_variables(&none).is_empty());
    }

    #[test]
    fn what_of_a_proxys_address_is_hidden() {
        let var = |value: &str| EnvVar::new("https_proxy", value).unwrap();
        let of = |value: &str| {
            let all = passwords(&[var(value)]);
            all.iter().map(|v| v.value().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(
            of("http://ana:s3cret@proxy:3128/x@y"),
            ["s3cret", "ana:s3cret"]
        );
        assert_eq!(of("ana:s3cret@proxy"), ["s3cret", "ana:s3cret"]);
        assert_eq!(of("http://proxy:3128"), [""; 0]);
        assert_eq!(of("http://a:b@proxy"), [""; 0]);
    }
}

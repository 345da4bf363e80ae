//! The certificates that a client believes.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use reqwest::ClientBuilder;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

/// So long are the system's certificates taken for what they were: who replaces them need not start anything anew.
const FRESH: Duration = Duration::from_secs(60);

/// Whom a client believes.
#[derive(Clone, Copy, Debug)]
pub enum Roots<'a> {
    /// Whom the system believes.
    System,
    /// These of a PEM file, and whom the system believes.
    AlsoOf(&'a Path),
    /// These of a PEM file and nobody else.
    OnlyOf(&'a Path),
}

/// The certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// The file cannot be read.
    #[error("could not read the certificates in {path:?}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What is in the file is something else.
    #[error("{path:?} cannot be read as PEM certificates ({why})")]
    NoPem {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// There is none in it.
    #[error("{0:?} holds no PEM certificate")]
    Empty(PathBuf),
    /// The system has certificates, and none of them is one.
    #[error(
        "none of the system's certificates can be used ({0}); install them: apt install ca-certificates (Debian), dnf install ca-certificates (Fedora)"
    )]
    System(String),
    /// The TLS library refuses.
    #[error("TLS cannot be set up")]
    Tls(#[from] rustls::Error),
}

/// The beginning of a client of HTTP/1.1 that believes these.
///
/// # Errors
///
/// Any [`RootsError`], each about the file that was named or about the system's certificates.
pub fn client(roots: Roots<'_>) -> Result<ClientBuilder, RootsError> {
    let store = match roots {
        Roots::System => system()?,
        Roots::AlsoOf(path) => {
            let mut store = RootCertStore::clone(&*system()?);
            add(&mut store, path)?;
            Arc::new(store)
        }
        Roots::OnlyOf(path) => {
            let mut store = RootCertStore::empty();
            add(&mut store, path)?;
            Arc::new(store)
        }
    };
    let mut tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(store)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(reqwest::Client::builder()
        .http1_only()
        .use_preconfigured_tls(tls))
}

fn add(store: &mut RootCertStore, path: &Path) -> Result<(), RootsError> {
    let pem = std::fs::read(path).map_err(|source| RootsError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    let broken = |why: String| RootsError::NoPem {
        path: path.to_owned(),
        why,
    };
    let mut none = true;
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|e| broken(e.to_string()))?;
        store.add(certificate).map_err(|e| broken(e.to_string()))?;
        none = false;
    }
    match none {
        true => Err(RootsError::Empty(path.to_owned())),
        false => Ok(()),
    }
}

/// The system's, as they were read last, while anybody has them.
static SYSTEM: Mutex<Option<(Instant, Weak<RootCertStore>)>> = Mutex::new(None);

fn system() -> Result<Arc<RootCertStore>, RootsError> {
    let mut known = SYSTEM.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((read, store)) = &*known
        && read.elapsed() < FRESH
        && let Some(store) = store.upgrade()
    {
        return Ok(store);
    }
    let store = Arc::new(read()?);
    *known = Some((Instant::now(), Arc::downgrade(&store)));
    Ok(store)
}

/// A system without any is one whose servers speak HTTP, or are believed for a file of their own.
fn read() -> Result<RootCertStore, RootsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut store = RootCertStore::empty();
    // Old stores have some that no library takes.
    let (valid, invalid) = store.add_parsable_certificates(found.certs);
    if valid == 0 && invalid > 0 {
        let whys: Vec<_> = found.errors.iter().map(ToString::to_string).collect();
        return Err(RootsError::System(match whys.is_empty() {
            true => format!("{invalid} of them"),
            false => whys.join(", "),
        }));
    }
    Ok(store)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority() -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["test".to_owned()]).unwrap();
        params.self_signed(&key).unwrap().pem()
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn a_file_of_certificates_is_one_or_is_refused() {
        let both = file(&(authority() + &authority()));
        let mut store = RootCertStore::empty();
        add(&mut store, both.path()).unwrap();
        assert_eq!(store.len(), 2);
        client(Roots::OnlyOf(both.path())).unwrap().build().unwrap();

        let refused = |text: &str| client(Roots::AlsoOf(file(text).path())).unwrap_err();
        assert!(matches!(refused(""), RootsError::Empty(_)));
        assert!(matches!(refused("no PEM"), RootsError::Empty(_)));
        let noise = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(matches!(refused(noise), RootsError::NoPem { .. }));
        let nowhere = Roots::OnlyOf(Path::new("/nowhere/ca.pem"));
        assert!(matches!(
            client(nowhere),
            Err(RootsError::Unreadable { .. })
        ));
    }

    #[test]
    fn clients_share_what_the_system_has() {
        let first = system().unwrap();
        assert!(Arc::ptr_eq(&first, &system().unwrap()));
        let own = file(&authority());
        drop(client(Roots::AlsoOf(own.path())).unwrap());
        assert_eq!(first.len(), system().unwrap().len());
    }
}

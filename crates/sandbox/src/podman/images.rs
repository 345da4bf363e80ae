//! Images in the user's Podman store.

use std::time::Duration;

use hyper::StatusCode;
use serde::Deserialize;
use tokio::io::AsyncRead;

use super::client::PodmanClient;
use super::error::RequestError;
use super::request::Call;
use crate::SandboxError;

/// Unpacking gigabytes takes minutes.
const LOADING: Duration = Duration::from_secs(30 * 60);

impl PodmanClient {
    /// Whether there is an image of this id or reference.
    ///
    /// # Errors
    ///
    /// When podman does not say.
    pub(crate) async fn image_exists(&self, image: &str) -> Result<bool, SandboxError> {
        let call = Call::get(format!("/images/{}/exists", escaped(image)));
        found(self.send(call).await)
            .map(|answer| answer.is_some())
            .map_err(|e| e.during("look for the image"))
    }

    /// Loads an `oci-archive`, which is sent as it is read, and gives the names or ids of what it held.
    ///
    /// The names of the archive's files must not begin with `./`. An image without the annotation
    /// `org.opencontainers.image.ref.name` is stored without a name and answers to its id.
    ///
    /// # Errors
    ///
    /// When the archive cannot be read, or podman does not take it.
    pub(crate) async fn load_image(
        &self,
        archive: impl AsyncRead + Send + 'static,
    ) -> Result<Vec<String>, SandboxError> {
        #[derive(Deserialize)]
        struct Loaded {
            #[serde(rename = "Names", default)]
            names: Vec<String>,
        }
        let call = Call::post("/images/load").tar(archive).within(LOADING);
        let load = async { self.send(call).await?.json::<Loaded>() };
        let loaded = load.await.map_err(|e| e.during("load the image"))?;
        Ok(loaded.names)
    }
}

fn found<T>(result: Result<T, RequestError>) -> Result<Option<T>, RequestError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e)
            if e.refusal()
                .is_some_and(|r| r.status == StatusCode::NOT_FOUND) =>
        {
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

/// A reference as part of a path. libpod takes its slashes as they are.
fn escaped(reference: &str) -> String {
    reference
        .bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'/' | b':' | b'@' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_as_paths() {
        let plain = "localhost/a-b_c:1.2@sha256:00ff";
        assert_eq!(escaped(plain), plain);
        assert_eq!(escaped("a?b c%"), "a%3Fb%20c%25");
    }
}
